//! Whether a caller's grant lets it do what it asks for, at the node that does it.
//!
//! Custodians decide again, each on its own, when keys are asked of them; this
//! is for what needs no custodian: reading and writing under a lease.

use super::api::{Caller, HomeError};
use super::core::{Core, Fail};
use super::directory::Who;
use quorate_engine::authz::grant::{
    Action, Grant, GrantHash, GrantRefusal, KnownGrants, Shown, decide_grant, decide_key,
};
use quorate_engine::authz::standing::{DeviceStanding, MemberStanding, Role};
use quorate_engine::types::{AccountId, ChatId, EpochNo, PublicKey};
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
    // A grant that is remembered spares a signature check, and decides nothing: whoever asks
    // again is asked about anew.
    let hash = GrantHash::of(&caller.grant);
    let grant = core.grants.read(&caller.grant, &hash).map_err(denied)?;
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
