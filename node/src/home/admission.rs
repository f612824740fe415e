//! Whether a caller's grant lets it do what it asks for, at the node that does it.
//!
//! Custodians decide again, each on its own, when keys are asked of them; this
//! is for what needs no custodian: reading and writing under a lease.

use super::api::{Caller, HomeError};
use super::core::{Core, Fail};
use super::directory::Who;
use quorate_engine::authz::grant::{
    Action, Grant, GrantHash, GrantRefusal, Shown, decide_grant, decide_key,
};
use quorate_engine::authz::standing::{DeviceStanding, MemberStanding};
use quorate_engine::types::{AccountId, ChatId, EpochNo, PublicKey};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Grants remembered as verified.
const VERIFIED_MAX: usize = 16_384;

/// Grants whose signature was found good, with the key it is good for. They save a signature
/// check, and decide nothing: whoever asks again is asked about anew.
#[derive(Default)]
pub struct Verified(Mutex<HashMap<[u8; 32], (Arc<Grant>, [u8; 32])>>);

impl Verified {
    fn get(&self, hash: &GrantHash) -> Option<(Arc<Grant>, [u8; 32])> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&hash.0).cloned()
    }

    fn put(&self, grant: Arc<Grant>, public: [u8; 32]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= VERIFIED_MAX {
            known.clear();
        }
        known.insert(grant.hash().0, (grant, public));
    }
}

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
    let known = core.verified.get(&GrantHash::of(&caller.grant));
    let (grant, verified_for) = match known {
        Some((grant, public)) => (grant, Some(public)),
        None => (Arc::new(Grant::parse(&caller.grant).map_err(denied)?), None),
    };
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
    if verified_for != Some(standing.public) {
        grant.verify(&standing.public).map_err(denied)?;
        core.verified.put(grant.clone(), standing.public);
    }
    let member = chat
        .zip(standing.member)
        .map(|(chat, (role, from_epoch))| (chat, MemberStanding::Member { role, from_epoch }));
    Ok(Admitted {
        grant,
        public: PublicKey(standing.public),
        member,
    })
}
