//! A custodian's officers: who they are, and what they decide together.
//!
//! ```text
//!  bootstrap (every first officer signs) ─▶ Roster
//!  proposal ─▶ ProposalState ─ decision ─ decision ─▶ the quorum stands ─▶ carried out, once
//! ```
//!
//! An approval names the hash of the very bytes it approves, so a proposal
//! that was edited has none. Approvals are counted against the roster of the
//! moment: those of an officer who left do not count. Everything here takes
//! the present state and gives the next one or a refusal; `custody` keeps it.

mod floor;
mod proposal;
mod roster;

pub use floor::{Dependence, FLOOR_MAX, Floor, FloorRefusal};
pub(super) use proposal::within_life;
pub use proposal::{
    Act, Decision, PROPOSAL_LIFE_MS_MAX, PROPOSALS_OPEN_MAX, Proposal, ProposalOutcome,
    ProposalState, ShredKey, Subject, ThawScope, Verdict, decide, propose,
};
pub use roster::{
    Bootstrap, NAME_BYTES_MAX, OFFICERS_MAX, OFFICERS_MIN, Officer, RETIRED_MAX, Roster,
    WAIT_MS_MAX, Waits, quorum_max,
};

use super::envelope::{Envelope, EnvelopeError};
use super::orders::Order;
use crate::crypto::labels;
use crate::types::{CustodianId, DeploymentId, OfficerId, WallMs};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

macro_rules! hex32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                let mut out = [0; 32];
                hex::decode_to_slice(s, &mut out)
                    .map_err(|_| "expected 64 hex characters".to_owned())?;
                Ok(Self(out))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex32!(
    /// An officer's Ed25519 public key.
    OfficerKey
);
hex32!(
    /// A proposal: the hash of its signed bytes.
    ProposalId
);
hex32!(
    /// The hash of a document that is kept elsewhere.
    DocumentHash
);

impl OfficerKey {
    /// The officer this key belongs to.
    pub fn id(&self) -> OfficerId {
        OfficerId(blake3::derive_key(labels::OFFICER_ID, &self.0))
    }
}

/// Everything signed under [`labels::SIGN_OFFICER`]. The type stands inside
/// the signed bytes, so that no statement passes for another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Statement {
    /// The first roster.
    Bootstrap(Bootstrap),
    /// Something to decide on.
    Proposal(Proposal),
    /// An officer's decision on a proposal or an order.
    Decision(Decision),
    /// A disclosure order.
    Order(Order),
}

impl Statement {
    /// What `envelope` says; nothing about who signed it.
    ///
    /// # Errors
    /// [`OfficerRefusal::Envelope`].
    pub fn read(envelope: &Envelope) -> Result<Self, OfficerRefusal> {
        Ok(envelope.read("officers' statement")?)
    }
}

/// What a decision depends on beside the roster.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The deployment.
    pub deployment: &'a DeploymentId,
    /// The custodian that decides.
    pub custodian: &'a CustodianId,
    /// Entry time.
    pub now_ms: WallMs,
}

impl Context<'_> {
    pub(super) fn meant(&self, custodian: &CustodianId) -> Result<(), OfficerRefusal> {
        if custodian == self.custodian {
            return Ok(());
        }
        Err(OfficerRefusal::OtherCustodian {
            named: custodian.clone(),
            here: self.custodian.clone(),
        })
    }

    pub(super) fn signers(&self, envelope: &Envelope) -> Result<Vec<OfficerKey>, OfficerRefusal> {
        let keys = envelope.signers(labels::SIGN_OFFICER, self.deployment)?;
        Ok(keys.into_iter().map(OfficerKey).collect())
    }

    /// The one key that signed.
    pub(super) fn signer(&self, envelope: &Envelope) -> Result<OfficerKey, OfficerRefusal> {
        match self.signers(envelope)?.as_slice() {
            [one] => Ok(*one),
            more => Err(OfficerRefusal::Signers(more.len())),
        }
    }
}

/// Why officers' statements are not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfficerRefusal {
    /// Malformed, unsigned, or a signature does not hold.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A statement of another type was expected.
    #[error("this is no {0}; sign the right statement")]
    Type(&'static str),
    /// It was signed for another custodian.
    #[error(
        "the statement is for custodian {named}, this is {here}; every custodian's officers sign for themselves"
    )]
    OtherCustodian {
        /// In the statement.
        named: CustodianId,
        /// Here.
        here: CustodianId,
    },
    /// A roster exists; it changes by its own quorum only.
    #[error(
        "this custodian has officers already; its roster changes by their quorum (`quorate approve`)"
    )]
    AlreadyBootstrapped,
    /// No roster exists.
    #[error("this custodian has no officers yet; begin with `quorate officer bootstrap`")]
    NoRoster,
    /// Too few or too many officers.
    #[error("{0} officers; 2 to 16 are allowed: one alone could act unseen")]
    OfficerCount(usize),
    /// Zero, one, or more approvals than can be had.
    #[error(
        "a quorum of {quorum} with {officers} officers; 2 to {max} are allowed, so that nobody acts alone and one lost key locks nobody out"
    )]
    Quorum {
        /// Asked for.
        quorum: u8,
        /// How many there are.
        officers: usize,
        /// The most allowed.
        max: usize,
    },
    /// A name is empty, too long, not printable, or used twice.
    #[error("an officer's name must be 1 to 64 printable bytes and nobody else's here: {0:?}")]
    Name(String),
    /// A key is an officer's now or was once.
    #[error(
        "officer {0} is or was in the roster; keys never come back: make a fresh one (`quorate officer init-key`)"
    )]
    KeyUsed(OfficerId),
    /// The key that joins did not sign.
    #[error("the new key {0} did not sign; its holder signs too, to show possession")]
    Possession(OfficerId),
    /// Not an officer of this custodian, or not any more.
    #[error("{0} is no officer of this custodian")]
    NotAnOfficer(OfficerId),
    /// More signatures than one, or of others than the statement names.
    #[error("a decision carries the signature of the officer it names and no other; it has {0}")]
    Signers(usize),
    /// The statement names another officer than the one who signed.
    #[error("the statement names officer {named}, {signed} signed it")]
    NotTheSigner {
        /// Named.
        named: OfficerId,
        /// Signed.
        signed: OfficerId,
    },
    /// The officer decided before.
    #[error("officer {0} has decided on this already; every officer counts once")]
    Twice(OfficerId),
    /// It ran out.
    #[error("it expired at {expires_ms}, entry time is {now_ms}; make a new one")]
    Expired {
        /// When.
        expires_ms: WallMs,
        /// Entry time.
        now_ms: WallMs,
    },
    /// It would live too long.
    #[error("it would expire in {life_ms} ms; at most {max_ms} ms are allowed")]
    Life {
        /// From now.
        life_ms: u64,
        /// Most.
        max_ms: u64,
    },
    /// The same bytes were seen before, whatever became of them.
    #[error("this very statement was submitted before; make a new one with another number")]
    Replayed,
    /// There is nothing of this id.
    #[error(
        "nothing of the id {0} is to be decided here; any change of the bytes changes the id and voids approvals"
    )]
    Unknown(String),
    /// It was decided, withdrawn or carried out.
    #[error("it is {0} and takes no further decision")]
    Closed(&'static str),
    /// The one who made it is no officer any more.
    #[error("officer {0}, who proposed it, has left; propose it again")]
    ProposerGone(OfficerId),
    /// Too many are open.
    #[error("{0} proposals are open; decide or withdraw some")]
    TooMany(usize),
    /// What it asks for is not possible.
    #[error("{0}")]
    Act(String),
    /// Under the custodian's own floor.
    #[error(transparent)]
    Floor(#[from] FloorRefusal),
    /// The submitter of an order may not decide on it.
    #[error("officer {0} submitted the order and may not decide on it; two others must")]
    Submitter(OfficerId),
    /// An order is not what an order must be.
    #[error("the order's {what} {why}")]
    Order {
        /// Which field.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

pub(super) fn line(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;
