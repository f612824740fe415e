//! Members of chats: who is in, in which role, and who may change that.
//!
//! ```text
//!  device ──┐                    ┌─ genesis ─▶ ChatId ─┐
//!  invite ──┴─ sign ─▶ Envelope ─┤                     ├─▶ MembershipDelta: the head,
//!           reads of one member ─┴─ advance ───────────┘   at most one member, one invite
//! ```
//!
//! A chat has as many members as it likes; a statement reads and changes a few
//! rows, so that a join among ten thousand costs what a join among two does.
//!
//! Roles. The creator and admins add, remove, invite, and name admins. Only
//! the creator demotes or removes an admin; once the creator left, admins do
//! that among themselves. Nobody but the creator ends the creator's membership.
//! The last one with an admin's rights leaves only an empty chat: among members
//! whom nobody can remove, a stolen device would read on for ever. In a public
//! chat anyone may join, also who was removed: what everyone may read needs no ban.

mod statement;
#[cfg(test)]
mod tests;

pub use statement::{
    ChatChange, ChatGenesis, ChatPayload, ChatStatement, Invite, MEMBERS_MAX, chat_id,
};

use super::chain::{Head, Misplaced, Source, Untimely, place, timely};
use super::envelope::{Envelope, EnvelopeError};
use super::standing::{DeviceStanding, Role};
use crate::crypto::labels::SIGN_MEMBERSHIP;
use crate::types::kv::KvError;
use crate::types::{
    AccountId, ChatId, DeploymentId, DeviceId, EpochNo, PublicKey, StatementHash, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most invites of a chat at one time.
pub const INVITES_MAX: u32 = 256;
/// Longest life of an invite, in milliseconds: 90 days.
pub const INVITE_LIFE_MS_MAX: u64 = 90 * 24 * 60 * 60 * 1000;

/// A member of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What the account may do.
    pub role: Role,
    /// The first key epoch it may read.
    pub from_epoch: EpochNo,
}

/// What a custodian keeps of a chat itself, whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatHead {
    /// The chat.
    pub chat: ChatId,
    /// The newest statement.
    pub head: Head,
    /// Whether anyone may join.
    pub public: bool,
    /// Whether its creator is still a member.
    pub creator: bool,
    /// Members, the creator and admins among them.
    pub members: u32,
    /// Of these, admins; the creator is none.
    pub admins: u32,
    /// Invites that were not revoked or used up.
    pub invites: u32,
}

/// What one statement changes: these rows and no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipDelta {
    /// The chat from now on.
    pub head: ChatHead,
    /// This account's membership from now on; `None` inside: it has none.
    pub member: Option<(AccountId, Option<Member>)>,
    /// This invite from now on; `None` inside: it counts no longer.
    pub invite: Option<(PublicKey, Option<Invite>)>,
}

/// What decisions about members read. Each asks for a few rows only.
pub trait MembershipReads {
    /// The membership of `account` in the chat.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    fn member(&self, account: &AccountId) -> Result<Option<Member>, KvError>;
    /// The invite with this key.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    fn invite(&self, key: &PublicKey) -> Result<Option<Invite>, KvError>;
    /// Where a device stood at `at_ms`; `then`: as if no later revocation were known.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    fn device(
        &self,
        account: &AccountId,
        device: &DeviceId,
        at_ms: WallMs,
        then: bool,
    ) -> Result<DeviceStanding, KvError>;
    /// The hash of statement `number` of the chat, if it stands here.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    fn standing(&self, number: u64) -> Result<Option<StatementHash>, KvError>;
}

/// What decisions about members depend on besides rows.
#[derive(Clone, Copy)]
pub struct MembershipContext<'a> {
    /// Signatures cover it.
    pub deployment: &'a DeploymentId,
    /// Entry time.
    pub now_ms: WallMs,
    /// How the statement came here.
    pub source: Source,
    /// Rows.
    pub reads: &'a dyn MembershipReads,
}

/// Why a statement about a chat's members is refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipRefusal {
    /// Malformed, or a signature does not hold.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Not the next of its chain.
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    /// Made at a time that does not count.
    #[error(transparent)]
    Untimely(#[from] Untimely),
    /// A genesis where a statement belongs, or the other way round.
    #[error("expected {0}")]
    Expected(&'static str),
    /// For another deployment.
    #[error("the chat belongs to deployment {0}")]
    Deployment(DeploymentId),
    /// About another chat.
    #[error("the statement is about chat {0}")]
    OtherChat(ChatId),
    /// The device may not act for the account.
    #[error("device {device} does not act for account {account}: {why}")]
    Device {
        /// The account that acts.
        account: AccountId,
        /// Its device.
        device: DeviceId,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Someone who has to sign did not.
    #[error("the statement also needs the signature of {0}")]
    Unsigned(&'static str),
    /// The account that acts is no member.
    #[error("account {0} is not in the chat")]
    NotAMember(AccountId),
    /// The account's role is too small for this.
    #[error("this takes {0}; ask one")]
    Role(&'static str),
    /// The account is a member already.
    #[error("account {0} is in the chat already; change its role instead")]
    AlreadyMember(AccountId),
    /// It has that role.
    #[error("account {0} has that role already")]
    SameRole(AccountId),
    /// Nobody is made creator.
    #[error("the creator is who founded the chat; name an admin instead")]
    OneCreator,
    /// Removing oneself is leaving.
    #[error("to go oneself is to leave; sign that")]
    LeaveInstead,
    /// Nobody with an admin's rights would be left.
    #[error(
        "the last with an admin's rights cannot go while others are in the chat; name another admin first"
    )]
    LastAdmin,
    /// Too many members or invites.
    #[error("a chat has at most {limit} {what}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: u32,
    },
    /// The invite does not count.
    #[error("the invite {0}; ask for another")]
    Invite(&'static str),
    /// Everyone left.
    #[error("everyone left the chat, and nobody could manage who joins; found another")]
    Empty,
    /// The chat is not public.
    #[error("the chat is not public; joining takes an invite")]
    NotPublic,
    /// It is so already.
    #[error("the chat is so already")]
    SamePublic,
}

impl MembershipRefusal {
    /// A name that does not change, for metrics, log entries and clients.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Envelope(_) => "envelope",
            Self::Misplaced(Misplaced::Fork { .. }) => "fork",
            Self::Misplaced(Misplaced::Behind { .. }) => "behind",
            Self::Misplaced(Misplaced::AlreadyApplied { .. }) => "already_applied",
            Self::Untimely(_) => "untimely",
            Self::Expected(_) => "wrong_kind",
            Self::Deployment(_) => "other_deployment",
            Self::OtherChat(_) => "other_chat",
            Self::Device { .. } => "device",
            Self::Unsigned(_) => "unsigned",
            Self::NotAMember(_) => "not_a_member",
            Self::Role(_) => "role",
            Self::AlreadyMember(_) => "already_member",
            Self::SameRole(_) => "same_role",
            Self::OneCreator => "one_creator",
            Self::LeaveInstead => "leave_instead",
            Self::LastAdmin => "last_admin",
            Self::Full { .. } => "full",
            Self::Invite(_) => "invite",
            Self::Empty => "empty",
            Self::NotPublic => "not_public",
            Self::SamePublic => "same_public",
        }
    }
}

/// A decision, or the store failed under it.
pub type Decided = Result<Result<MembershipDelta, MembershipRefusal>, KvError>;

/// Leaves with a refusal that is not the store's fault.
macro_rules! refuse {
    ($e:expr) => {
        return Ok(Err($e.into()))
    };
}
/// Like `?` for the inner of two results.
macro_rules! or_refuse {
    ($e:expr) => {
        match $e {
            Ok(value) => value,
            Err(e) => refuse!(e),
        }
    };
}

/// Whether a device of `account` that may act signed.
fn acting(
    account: &AccountId,
    device: &DeviceId,
    at_ms: WallMs,
    signers: &BTreeSet<[u8; 32]>,
    ctx: &MembershipContext<'_>,
) -> Result<Result<(), MembershipRefusal>, KvError> {
    let vouched = ctx.source == Source::Vouched;
    let standing = ctx.reads.device(account, device, at_ms, vouched)?;
    let why = match standing {
        DeviceStanding::Live { public } if signers.contains(&public) => return Ok(Ok(())),
        DeviceStanding::Live { .. } => refuse!(MembershipRefusal::Unsigned("the device it names")),
        DeviceStanding::Expired => "its record ran out; renew it",
        DeviceStanding::Revoked => "it was revoked",
        DeviceStanding::Unknown => "it is not known here; bring the account's statements first",
    };
    Ok(Err(MembershipRefusal::Device {
        account: *account,
        device: *device,
        why,
    }))
}

/// Founds a chat. Its creator is the first member.
///
/// # Errors
/// [`KvError`] when the store fails; refusals are inside.
pub fn genesis(envelope: &Envelope, ctx: &MembershipContext<'_>) -> Decided {
    let ChatPayload::Genesis(g) = or_refuse!(envelope.read("chat statement")) else {
        refuse!(MembershipRefusal::Expected("the genesis of a chat"))
    };
    let signers = or_refuse!(envelope.signers(SIGN_MEMBERSHIP, ctx.deployment));
    if g.deployment != *ctx.deployment {
        refuse!(MembershipRefusal::Deployment(g.deployment));
    }
    or_refuse!(timely(g.created_ms, 0, ctx.now_ms, ctx.source, false));
    or_refuse!(acting(&g.creator, &g.device, g.created_ms, &signers, ctx)?);
    let head = ChatHead {
        chat: chat_id(envelope),
        head: Head {
            number: 0,
            hash: StatementHash(envelope.hash()),
            at_ms: g.created_ms,
        },
        public: g.public,
        creator: true,
        members: 1,
        admins: 0,
        invites: 0,
    };
    let creator = Member {
        role: Role::Creator,
        from_epoch: 0,
    };
    Ok(Ok(MembershipDelta {
        head,
        member: Some((g.creator, Some(creator))),
        invite: None,
    }))
}

/// What the next statement of a chat's chain changes.
///
/// # Errors
/// [`KvError`] when the store fails; refusals are inside.
pub fn advance(chat: &ChatHead, envelope: &Envelope, ctx: &MembershipContext<'_>) -> Decided {
    let ChatPayload::Statement(s) = or_refuse!(envelope.read("chat statement")) else {
        refuse!(MembershipRefusal::Expected("a later statement of a chat"))
    };
    let signers = or_refuse!(envelope.signers(SIGN_MEMBERSHIP, ctx.deployment));
    if s.chat != chat.chat {
        refuse!(MembershipRefusal::OtherChat(s.chat));
    }
    let standing = ctx.reads.standing(s.number)?;
    let hash = StatementHash(envelope.hash());
    let placed = place(&chat.head, s.number, s.previous, hash, standing);
    if matches!(
        placed,
        Err(Misplaced::AlreadyApplied { .. } | Misplaced::Behind { .. })
    ) {
        or_refuse!(placed);
    }
    // Before a fork is believed: a contradiction signed by a stranger proves nothing.
    or_refuse!(acting(&s.account, &s.device, s.at_ms, &signers, ctx)?);
    let actor = ctx.reads.member(&s.account)?;
    if actor.is_none() && !matches!(s.change, ChatChange::Join { .. }) {
        refuse!(MembershipRefusal::NotAMember(s.account));
    }
    or_refuse!(placed);
    let before_ms = chat.head.at_ms;
    or_refuse!(timely(s.at_ms, before_ms, ctx.now_ms, ctx.source, false));
    let mut next = *chat;
    next.head = Head {
        number: s.number,
        hash,
        at_ms: s.at_ms,
    };
    let mut delta = MembershipDelta {
        head: next,
        member: None,
        invite: None,
    };
    let step = Step {
        s: &s,
        actor,
        signers: &signers,
        reads: ctx.reads,
    };
    Ok(step.change(&mut delta)?.map(|()| delta))
}

/// One statement against the rows before it.
struct Step<'a> {
    s: &'a ChatStatement,
    actor: Option<Member>,
    signers: &'a BTreeSet<[u8; 32]>,
    reads: &'a dyn MembershipReads,
}

type Stepped = Result<Result<(), MembershipRefusal>, KvError>;

impl Step<'_> {
    fn manages(&self) -> Result<(), MembershipRefusal> {
        match self.actor {
            Some(m) if m.role >= Role::Admin => Ok(()),
            _ => Err(MembershipRefusal::Role("an admin")),
        }
    }

    /// Whether the actor may take rights from `other`.
    fn outranks(&self, other: Member, chat: &ChatHead) -> Result<(), MembershipRefusal> {
        self.manages()?;
        let by_creator = self.actor.is_some_and(|a| a.role == Role::Creator);
        match other.role {
            Role::Member => Ok(()),
            Role::Admin if by_creator || !chat.creator => Ok(()),
            Role::Admin => Err(MembershipRefusal::Role("the creator")),
            Role::Creator => Err(MembershipRefusal::Role("the creator's own word")),
        }
    }

    fn change(&self, delta: &mut MembershipDelta) -> Stepped {
        match &self.s.change {
            ChatChange::Add {
                account,
                role,
                from_epoch,
            } => {
                or_refuse!(self.manages());
                if *role == Role::Creator {
                    refuse!(MembershipRefusal::OneCreator);
                }
                self.enter(delta, account, *role, *from_epoch)
            }
            ChatChange::Remove { account } => {
                let Some(member) = self.reads.member(account)? else {
                    refuse!(MembershipRefusal::NotAMember(*account))
                };
                if *account == self.s.account {
                    refuse!(MembershipRefusal::LeaveInstead);
                }
                or_refuse!(self.outranks(member, &delta.head));
                Ok(go(delta, account, member))
            }
            ChatChange::SetRole { account, role } => self.set_role(delta, account, *role),
            ChatChange::Leave => match self.actor {
                Some(member) => Ok(go(delta, &self.s.account, member)),
                None => Ok(Err(MembershipRefusal::NotAMember(self.s.account))),
            },
            ChatChange::Invite { key, invite } => self.invite(delta, key, invite),
            ChatChange::RevokeInvite { key } => {
                or_refuse!(self.manages());
                if self.reads.invite(key)?.is_none() {
                    refuse!(MembershipRefusal::Invite("is not there"));
                }
                delta.head.invites = delta.head.invites.saturating_sub(1);
                delta.invite = Some((*key, None));
                Ok(Ok(()))
            }
            ChatChange::Join { invite, from_epoch } => {
                self.join(delta, invite.as_ref(), *from_epoch)
            }
            ChatChange::SetPublic { public } => {
                or_refuse!(self.manages());
                if delta.head.public == *public {
                    refuse!(MembershipRefusal::SamePublic);
                }
                delta.head.public = *public;
                Ok(Ok(()))
            }
        }
    }

    fn enter(
        &self,
        delta: &mut MembershipDelta,
        account: &AccountId,
        role: Role,
        from_epoch: EpochNo,
    ) -> Stepped {
        if self.reads.member(account)?.is_some() {
            refuse!(MembershipRefusal::AlreadyMember(*account));
        }
        if delta.head.members >= MEMBERS_MAX {
            let (what, limit) = ("members", MEMBERS_MAX);
            refuse!(MembershipRefusal::Full { what, limit });
        }
        delta.head.members += 1;
        delta.head.admins += u32::from(role == Role::Admin);
        delta.member = Some((*account, Some(Member { role, from_epoch })));
        Ok(Ok(()))
    }

    fn set_role(&self, delta: &mut MembershipDelta, account: &AccountId, role: Role) -> Stepped {
        let Some(member) = self.reads.member(account)? else {
            refuse!(MembershipRefusal::NotAMember(*account))
        };
        or_refuse!(self.manages());
        match (member.role, role) {
            (Role::Creator, _) | (_, Role::Creator) => refuse!(MembershipRefusal::OneCreator),
            (had, wanted) if had == wanted => refuse!(MembershipRefusal::SameRole(*account)),
            (Role::Member, _) => delta.head.admins += 1,
            (Role::Admin, _) => {
                // An admin may lay its own rights down.
                if *account != self.s.account {
                    or_refuse!(self.outranks(member, &delta.head));
                }
                delta.head.admins = delta.head.admins.saturating_sub(1);
                if leaderless(&delta.head) {
                    refuse!(MembershipRefusal::LastAdmin);
                }
            }
        }
        delta.member = Some((*account, Some(Member { role, ..member })));
        Ok(Ok(()))
    }

    fn invite(&self, delta: &mut MembershipDelta, key: &PublicKey, invite: &Invite) -> Stepped {
        or_refuse!(self.manages());
        if self.reads.invite(key)?.is_some() {
            refuse!(MembershipRefusal::Invite("is there already"));
        }
        let life = invite.expires_ms.checked_sub(self.s.at_ms);
        if !matches!(life, Some(1..=INVITE_LIFE_MS_MAX)) {
            refuse!(MembershipRefusal::Invite(
                "lives too long or not at all; 90 days are allowed"
            ));
        }
        if invite.uses == 0 {
            refuse!(MembershipRefusal::Invite("could never be used"));
        }
        if delta.head.invites >= INVITES_MAX {
            let (what, limit) = ("invites", INVITES_MAX);
            refuse!(MembershipRefusal::Full { what, limit });
        }
        delta.head.invites += 1;
        delta.invite = Some((*key, Some(*invite)));
        Ok(Ok(()))
    }

    fn join(
        &self,
        delta: &mut MembershipDelta,
        key: Option<&PublicKey>,
        from_epoch: EpochNo,
    ) -> Stepped {
        if delta.head.members == 0 {
            refuse!(MembershipRefusal::Empty);
        }
        let Some(key) = key else {
            if !delta.head.public {
                refuse!(MembershipRefusal::NotPublic);
            }
            return self.enter(delta, &self.s.account, Role::Member, from_epoch);
        };
        let Some(invite) = self.reads.invite(key)? else {
            refuse!(MembershipRefusal::Invite(
                "was revoked, used up, or never there"
            ))
        };
        if !self.signers.contains(&key.0) {
            refuse!(MembershipRefusal::Unsigned("the invite"));
        }
        if self.s.at_ms >= invite.expires_ms {
            refuse!(MembershipRefusal::Invite("ran out"));
        }
        if from_epoch < invite.from_epoch {
            refuse!(MembershipRefusal::Invite("begins with a later epoch"));
        }
        or_refuse!(self.enter(delta, &self.s.account, Role::Member, from_epoch)?);
        let left = Invite {
            uses: invite.uses - 1,
            ..invite
        };
        if left.uses == 0 {
            delta.head.invites = delta.head.invites.saturating_sub(1);
        }
        delta.invite = Some((*key, (left.uses > 0).then_some(left)));
        Ok(Ok(()))
    }
}

/// Others would be left, and nobody with an admin's rights.
fn leaderless(chat: &ChatHead) -> bool {
    chat.members > 0 && chat.admins == 0 && !chat.creator
}

fn go(
    delta: &mut MembershipDelta,
    account: &AccountId,
    member: Member,
) -> Result<(), MembershipRefusal> {
    delta.head.members = delta.head.members.saturating_sub(1);
    match member.role {
        Role::Creator => delta.head.creator = false,
        Role::Admin => delta.head.admins = delta.head.admins.saturating_sub(1),
        Role::Member => {}
    }
    if leaderless(&delta.head) {
        return Err(MembershipRefusal::LastAdmin);
    }
    delta.member = Some((*account, None));
    Ok(())
}
