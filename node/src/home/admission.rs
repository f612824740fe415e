//! Whether a caller's grant lets it do what it asks for, at the node that does it.
//!
//! Custodians decide again, each on its own, when keys are asked of them; this
//! is for what needs no custodian: reading and writing under a lease.

use super::api::{Caller, HomeError};
use super::core::{Core, Fail};
use super::directory::Who;
use super::shard::Shard;
use quorate_engine::authz::grant::{
    Action, Grant, GrantHash, GrantRefusal, KnownGrants, Shown, decide_grant, decide_key,
};
use quorate_engine::authz::service::{ServiceRefusal, ServiceShown, ServiceToken, decide_service};
use quorate_engine::authz::standing::{DeviceStanding, MemberStanding, Role};
use quorate_engine::home;
use quorate_engine::types::{AccountId, ChatId, EpochNo, PublicKey, ServiceId};
use std::sync::Arc;

/// A caller that was let in.
#[derive(Clone, Debug)]
pub struct Admitted {
    grant: Arc<Grant>,
    public: PublicKey,
    member: Option<(ChatId, MemberStanding)>,
}

pub(super) fn denied(why: GrantRefusal) -> Fail {
    Fail::Home(HomeError::Denied {
        why,
        detail: why.to_string(),
    })
}

impl Admitted {
    /// The grant.
    pub(super) fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }

    /// The account.
    pub(super) fn account(&self) -> AccountId {
        self.grant.claims().account
    }

    /// The key of its device.
    pub(super) fn public(&self) -> PublicKey {
        self.public
    }

    /// The device, as idempotency rows and records name it.
    pub(super) fn device(&self) -> String {
        self.grant.device().to_string()
    }

    /// Whether the grant and the membership cover this epoch of the chat.
    ///
    /// # Errors
    /// [`HomeError::Denied`].
    pub(super) fn may(&self, chat: &ChatId, epoch: EpochNo) -> Result<(), Fail> {
        let member = match &self.member {
            Some((of, standing)) if of == chat => *standing,
            _ => MemberStanding::UnknownChat,
        };
        decide_key(&self.grant, member, chat, epoch).map_err(denied)
    }
}

/// Whether a grant names a chat.
///
/// # Errors
/// [`HomeError::Denied`].
pub(super) fn names(grant: &Grant, chat: &ChatId) -> Result<(), Fail> {
    let named = grant.claims().chats.iter().any(|c| c.chat == *chat);
    named
        .then_some(())
        .ok_or_else(|| denied(GrantRefusal::ChatNotGranted))
}

/// Lets a caller in, or says why not. Of `chat` it must be a member, and the grant must name it.
pub(super) async fn admit(
    core: &Core,
    caller: &Caller,
    action: Action,
    chat: Option<ChatId>,
) -> Result<Admitted, Fail> {
    admit_under(core, read(core, caller)?, action, chat).await
}

/// A grant that is remembered spares a signature check, and decides nothing: whoever asks again
/// is asked about anew.
fn read(core: &Core, caller: &Caller) -> Result<Arc<Grant>, Fail> {
    let hash = GrantHash::of(&caller.grant);
    core.grants.read(&caller.grant, &hash).map_err(denied)
}

async fn admit_under(
    core: &Core,
    grant: Arc<Grant>,
    action: Action,
    chat: Option<ChatId>,
) -> Result<Admitted, Fail> {
    let claims = grant.claims();
    // What needs no custodian comes first: a stale grant costs them nothing.
    let unless_device = Shown {
        deployment: &core.config.deployment,
        home: &core.config.home,
        device: DeviceStanding::Live { public: [0; 32] },
        signature_holds: true,
        action,
        now_ms: core.clock.wall(),
    };
    decide_grant(&grant, &unless_device).map_err(denied)?;
    if let Some(chat) = &chat {
        names(&grant, chat)?;
    }
    let who = Who {
        account: claims.account,
        device: *grant.device(),
        chat,
    };
    let standing = core.directory.standing(core, who).await?;
    let holds = core.grants.verify(&grant, &standing.public);
    holds.map_err(denied)?;
    // Which role it is says nothing of keys.
    let role = Role::Member;
    let member = chat
        .zip(standing.from_epoch)
        .map(|(chat, from_epoch)| (chat, MemberStanding::Member { role, from_epoch }));
    Ok(Admitted {
        grant,
        public: PublicKey(standing.public),
        member,
    })
}

/// Who appends messages.
#[derive(Clone, Debug)]
pub enum Author {
    /// Somebody's device, under a grant.
    Person(Admitted),
    /// A service credential. No key is asked of custodians on its behalf.
    Service(ServiceId),
}

impl Author {
    /// As idempotency rows and records name it.
    pub(super) fn device(&self) -> String {
        match self {
            Self::Person(who) => who.device(),
            Self::Service(id) => id.to_string(),
        }
    }

    /// Whether it may write in this epoch of the chat. A service was let in for the chat, and
    /// writes in whichever epoch is dealt for it.
    ///
    /// # Errors
    /// [`HomeError::Denied`].
    pub(super) fn may(&self, chat: &ChatId, epoch: EpochNo) -> Result<(), Fail> {
        match self {
            Self::Person(who) => who.may(chat, epoch),
            Self::Service(_) => Ok(()),
        }
    }

    /// Whether it is a service.
    pub(super) fn is_service(&self) -> bool {
        matches!(self, Self::Service(_))
    }

    /// Whether what is refused to the one is refused to the other.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Person(a), Self::Person(b)) => a.grant() == b.grant(),
            (Self::Service(a), Self::Service(b)) => a == b,
            _ => false,
        }
    }
}

/// Lets somebody append to a chat: under a grant, or with a service credential.
pub(super) async fn author(
    core: &Core,
    shard: &Shard,
    caller: &Caller,
    chat: ChatId,
) -> Result<Author, Fail> {
    match read(core, caller) {
        Ok(grant) => {
            let admitted = admit_under(core, grant, Action::Write, Some(chat)).await;
            admitted.map(Author::Person)
        }
        Err(Fail::Home(HomeError::Denied {
            why: GrantRefusal::ServiceCredential,
            ..
        })) => serve(core, shard, caller, &chat).await.map(Author::Service),
        Err(e) => Err(e),
    }
}

/// Lets a service append. Members are those this home knows of: what it writes it could forge as
/// well, and nothing is opened for it.
async fn serve(
    core: &Core,
    shard: &Shard,
    caller: &Caller,
    chat: &ChatId,
) -> Result<ServiceId, Fail> {
    let refused = |why: ServiceRefusal| {
        let detail = why.to_string();
        Fail::Home(HomeError::Service { why, detail })
    };
    let token = ServiceToken::parse(&caller.grant).map_err(refused)?;
    // An operator's word that it ended counts from the moment it was confirmed.
    shard.read_index().await?;
    let (service, account) = (*token.service(), token.claims().account);
    let (row, member) = shard.view(|kv| {
        let row = home::read::service(kv, &service)?;
        Ok((row, home::read::member(kv, chat, &account)?.is_some()))
    })?;
    let shown = ServiceShown {
        deployment: &core.config.deployment,
        home: &core.config.home,
        key: row.as_ref().map(|row| (&row.key, row.ended_ms)),
        chat,
        member,
        now_ms: core.clock.wall(),
    };
    decide_service(&token, &shown).map_err(refused)?;
    Ok(service)
}
