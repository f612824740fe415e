//! Deletion statements: a device says which messages are to go, and gives its
//! home a mandate to fetch the keys of their epochs, so that what stays can be
//! written anew.
//!
//! ```text
//!  Mandate::read ─▶ Mandate ─▶ decide(standing, time) ─▶ decide_key(member, chat, epoch) ─▶ one key
//!   refuses form               all of it inside `apply`
//! ```
//!
//! A custodian knows no messages. It decides about what it knows: the device,
//! the account's place in the chat, the epochs, the time. That the messages are
//! the account's own, and lie in the epochs named, the home checks before it
//! takes the statement in. So a mandate opens nothing that a grant of the same
//! device would not; it opens less, later, and without the device.
//!
//! Not here: how often an epoch was released and to which lease keys, and
//! budgets, which are counted in the custodian's state; and the rewriting itself.

mod refusal;

pub use refusal::MandateRefusal;

use super::chain::STATEMENT_AHEAD_MS_MAX;
use super::envelope::Envelope;
use super::standing::{DeviceStanding, MemberStanding, Role};
use crate::crypto::labels::SIGN_DELETION;
use crate::crypto::sign::SigningKey;
use crate::types::{
    AccountId, ChatId, DeploymentId, DeviceId, EpochNo, HomeId, MessageId, Nonce, StatementHash,
    WallMs,
};
use serde::{Deserialize, Serialize};

/// Most key epochs of one statement.
pub const DELETION_EPOCHS_MAX: usize = 16;
/// Most messages of one statement: its payload stays within an envelope's.
pub const DELETION_MESSAGES_MAX: usize = 512;
/// How often each custodian releases one epoch under one mandate at most, the first time included.
pub const MANDATE_RELEASES_MAX: usize = 8;
/// A mandate ends so long after its statement was made: the shred horizon, in milliseconds.
pub const MANDATE_LIFE_MS: u64 = 24 * 60 * 60 * 1000;

/// Whose messages a statement names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// The account's own, from any of its devices: any member may sign.
    Own,
    /// Anybody's: an admin or the creator of the chat must sign.
    Anyone,
}

/// What a deletion statement says, field by field as its payload has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// The deployment it is good for.
    pub deployment: DeploymentId,
    /// The only home that may show it.
    pub home: HomeId,
    /// The chat.
    pub chat: ChatId,
    /// Whose device signs.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
    /// Whose messages.
    pub whose: Whose,
    /// 1 to [`DELETION_MESSAGES_MAX`], ascending; never 0, the chat's profile.
    pub messages: Vec<MessageId>,
    /// The key epochs they are sealed under: 1 to [`DELETION_EPOCHS_MAX`], ascending.
    pub epochs: Vec<EpochNo>,
    /// When it was made, Unix milliseconds.
    pub at_ms: WallMs,
    /// So that no two statements are one.
    pub nonce: Nonce,
}

fn ascending<T: PartialOrd>(items: &[T], max: usize) -> bool {
    (1..=max).contains(&items.len()) && items.windows(2).all(|w| w[0] < w[1])
}

impl Deletion {
    /// Signs it with the key of its device.
    ///
    /// # Errors
    /// [`MandateRefusal::Form`] when nobody would accept it.
    pub fn sign(&self, key: &SigningKey) -> Result<Envelope, MandateRefusal> {
        self.check()?;
        Ok(Envelope::sign(
            SIGN_DELETION,
            &self.deployment,
            self,
            &[key],
        ))
    }

    /// When its mandate ends.
    pub fn ends_ms(&self) -> WallMs {
        self.at_ms.saturating_add(MANDATE_LIFE_MS)
    }

    fn check(&self) -> Result<(), MandateRefusal> {
        let messages = ascending(&self.messages, DELETION_MESSAGES_MAX) && self.messages[0] > 0;
        if messages && ascending(&self.epochs, DELETION_EPOCHS_MAX) {
            Ok(())
        } else {
            Err(MandateRefusal::Form)
        }
    }
}

/// A deletion statement of valid form. Whether its device signed it,
/// [`Mandate::decide`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mandate {
    deletion: Deletion,
    envelope: Envelope,
}

/// Where a mandate is shown: what does not depend on the key asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The deployment this custodian serves.
    pub deployment: &'a DeploymentId,
    /// The home whose certificate the request came under.
    pub home: &'a HomeId,
    /// The statement's device, as a device of the statement's account.
    pub device: DeviceStanding,
    /// Entry time.
    pub now_ms: WallMs,
}

impl Mandate {
    /// Reads a statement.
    ///
    /// # Errors
    /// [`MandateRefusal::Form`].
    pub fn read(envelope: &Envelope) -> Result<Self, MandateRefusal> {
        let form = |_| MandateRefusal::Form;
        let deletion: Deletion = envelope.read("deletion statement").map_err(form)?;
        deletion.check()?;
        Ok(Self {
            deletion,
            envelope: envelope.clone(),
        })
    }

    /// What it says.
    pub fn deletion(&self) -> &Deletion {
        &self.deletion
    }

    /// The statement, as it was signed.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Names it in log entries, receipts and sealed shares.
    pub fn id(&self) -> StatementHash {
        StatementHash(self.envelope.hash())
    }

    /// Decides about the mandate as a whole.
    ///
    /// # Errors
    /// [`MandateRefusal`], the first that holds in the order of [`MandateRefusal::ALL`].
    pub fn decide(&self, shown: &Shown<'_>) -> Result<(), MandateRefusal> {
        let d = &self.deletion;
        let refuse = |hit: bool, why| if hit { Err(why) } else { Ok(()) };
        refuse(
            d.deployment != *shown.deployment,
            MandateRefusal::OtherDeployment,
        )?;
        refuse(d.home != *shown.home, MandateRefusal::OtherHome)?;
        let public = match shown.device {
            DeviceStanding::Live { public } => public,
            DeviceStanding::Unknown => return Err(MandateRefusal::DeviceUnknown),
            DeviceStanding::Expired => return Err(MandateRefusal::DeviceExpired),
            DeviceStanding::Revoked => return Err(MandateRefusal::DeviceRevoked),
        };
        let signers = self.envelope.signers(SIGN_DELETION, shown.deployment);
        let signed = signers.is_ok_and(|keys| keys.len() == 1 && keys.contains(&public));
        refuse(!signed, MandateRefusal::Signature)?;
        let latest_ms = shown.now_ms.saturating_add(STATEMENT_AHEAD_MS_MAX);
        refuse(d.at_ms > latest_ms, MandateRefusal::NotYetValid)?;
        refuse(shown.now_ms >= d.ends_ms(), MandateRefusal::HorizonOver)
    }

    /// Decides about one key epoch of one chat, after [`Mandate::decide`]. `member`: the
    /// statement's account in its chat.
    ///
    /// # Errors
    /// [`MandateRefusal`], the first that holds in the order of [`MandateRefusal::ALL`].
    pub fn decide_key(
        &self,
        member: MemberStanding,
        chat: &ChatId,
        epoch: EpochNo,
    ) -> Result<(), MandateRefusal> {
        let d = &self.deletion;
        if d.chat != *chat {
            return Err(MandateRefusal::ChatNotNamed);
        }
        if d.epochs.binary_search(&epoch).is_err() {
            return Err(MandateRefusal::EpochNotNamed);
        }
        match member {
            MemberStanding::UnknownChat => Err(MandateRefusal::ChatUnknown),
            MemberStanding::Forked => Err(MandateRefusal::ChatForked),
            MemberStanding::NotMember => Err(MandateRefusal::NotMember),
            MemberStanding::Member { role, .. }
                if d.whose == Whose::Anyone && role < Role::Admin =>
            {
                Err(MandateRefusal::RoleMissing)
            }
            MemberStanding::Member { from_epoch, .. } if epoch < from_epoch => {
                Err(MandateRefusal::EpochBeforeMembership)
            }
            MemberStanding::Member { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
