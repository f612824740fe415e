//! Disclosure orders: what a court may ask for, and how a custodian's officers
//! decide on it.
//!
//! ```text
//!  submit ─▶ open ─ approvals ─▶ approved ─ cool-off ─▶ releasable ─▶ executed
//!              │                    │
//!              └─ reject, withdraw, expiry, an approving officer who left ─▶ nothing is released
//! ```
//!
//! An order's id is the hash of its bytes, the same at every custodian. Every
//! custodian decides alone: at least two of its officers, never the submitter.
//! Where an order stands is computed from who decided what and when, against
//! the roster of the moment; nothing says "approved" that could go stale.

use super::envelope::Envelope;
use super::officers::{
    Context, Decision, DocumentHash, OfficerKey, OfficerRefusal, Roster, Statement, Subject,
    Verdict, line, within_life,
};
use crate::crypto::labels;
use crate::types::{AccountId, ChatId, EpochNo, KeyId, OfficerId, OrderId, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Shortest time between the approval that completes the quorum and the first release.
pub const COOL_OFF_MS_MIN: u64 = 60 * 60 * 1000;
/// Longest life of an order, in milliseconds.
pub const ORDER_LIFE_MS_MAX: u64 = 90 * 24 * 60 * 60 * 1000;
/// Fewest approvals, whatever the roster's quorum.
pub const APPROVALS_MIN: usize = 2;
/// Most chats, and most accounts, of one order.
pub const SCOPE_MAX: usize = 64;
/// Longest text field, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Longest recipient key, in bytes.
pub const RECIPIENT_BYTES_MAX: usize = 2048;
/// Longest time a key epoch counts as running, in milliseconds.
pub const EPOCH_RUN_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;

/// An order, as the submitter signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The court or authority.
    pub issuer: String,
    /// The law and file number it rests on.
    pub legal_basis: String,
    /// BLAKE3 of the document that was served.
    pub document_hash: DocumentHash,
    /// Whose and which records.
    pub scope: OrderScope,
    /// Why, in a line.
    pub reason: String,
    /// The submitter's public key; signs the order and decides on it nowhere.
    pub submitted_by: OfficerKey,
    /// Nothing is released from then on.
    pub expires_ms: WallMs,
    /// The key that results are sealed to, in hex.
    pub recipient: String,
}

/// What an order covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderScope {
    /// Chats, up to [`SCOPE_MAX`]: what anybody wrote there.
    #[serde(default)]
    pub chats: BTreeSet<ChatId>,
    /// Accounts, up to [`SCOPE_MAX`]: what they wrote, in the chats that they are or were members of.
    #[serde(default)]
    pub accounts: BTreeSet<AccountId>,
    /// Records from here on, Unix milliseconds.
    pub from_ms: WallMs,
    /// Records before this.
    pub to_ms: WallMs,
}

/// The id of the order in `envelope`: the hash of its bytes.
pub fn order_id(envelope: &Envelope) -> OrderId {
    OrderId(blake3::derive_key(
        labels::ORDER_ID,
        envelope.payload.as_bytes(),
    ))
}

/// Where an order stands at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderStatus {
    /// Approvals are missing.
    Open {
        /// How many.
        missing: usize,
    },
    /// Approved; nothing is released before this time.
    CoolingOff {
        /// Unix milliseconds.
        until_ms: WallMs,
    },
    /// Shares may be released.
    Releasable,
    /// Shares were released; more may be until it expires.
    Executed,
    /// So many are against it that the quorum cannot stand.
    Rejected,
    /// Taken back by its submitter.
    Withdrawn,
    /// Its time is over.
    Expired,
}

impl OrderStatus {
    /// Its name for people and the log.
    pub fn name(&self) -> &'static str {
        match self {
            OrderStatus::Open { .. } => "open",
            OrderStatus::CoolingOff { .. } => "cooling_off",
            OrderStatus::Releasable => "releasable",
            OrderStatus::Executed => "executed",
            OrderStatus::Rejected => "rejected",
            OrderStatus::Withdrawn => "withdrawn",
            OrderStatus::Expired => "expired",
        }
    }

    /// Whether shares may go out.
    pub fn releases(&self) -> bool {
        matches!(self, OrderStatus::Releasable | OrderStatus::Executed)
    }
}

/// An order at one custodian. Kept under its id for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    /// As it was signed.
    pub envelope: Envelope,
    /// Who submitted it.
    pub submitter: OfficerId,
    /// Entry time of the submission.
    pub submitted_ms: WallMs,
    /// Nothing is released from then on.
    pub expires_ms: WallMs,
    /// Approvals and the entry time of each.
    pub approvals: BTreeMap<OfficerId, WallMs>,
    /// Officers against it, with their reasons.
    pub rejections: BTreeMap<OfficerId, String>,
    /// Taken back at.
    pub withdrawn_ms: Option<WallMs>,
    /// Log entry of the first release.
    pub executed: Option<u64>,
}

/// Takes an order in. The caller refuses an id it has seen before.
///
/// # Errors
/// [`OfficerRefusal`].
pub fn submit(envelope: &Envelope, at: &Context<'_>) -> Result<OrderState, OfficerRefusal> {
    let Statement::Order(order) = Statement::read(envelope)? else {
        return Err(OfficerRefusal::Type("disclosure order"));
    };
    let signed = at.signer(envelope)?;
    if signed != order.submitted_by {
        let (named, signed) = (order.submitted_by.id(), signed.id());
        return Err(OfficerRefusal::NotTheSigner { named, signed });
    }
    check(&order)?;
    within_life(order.expires_ms, ORDER_LIFE_MS_MAX, at)?;
    Ok(OrderState {
        envelope: envelope.clone(),
        submitter: signed.id(),
        submitted_ms: at.now_ms,
        expires_ms: order.expires_ms,
        approvals: BTreeMap::new(),
        rejections: BTreeMap::new(),
        withdrawn_ms: None,
        executed: None,
    })
}

fn check(order: &Order) -> Result<(), OfficerRefusal> {
    let bad = |what, why: &str| {
        let why = why.to_owned();
        Err(OfficerRefusal::Order { what, why })
    };
    for (what, text) in [
        ("issuer", &order.issuer),
        ("legal basis", &order.legal_basis),
        ("reason", &order.reason),
    ] {
        if !line(text, TEXT_BYTES_MAX) {
            return bad(what, "must be 1 to 1024 printable bytes");
        }
    }
    let scope = &order.scope;
    if scope.chats.is_empty() && scope.accounts.is_empty() {
        return bad("scope", "names no chat and no account");
    }
    if scope.chats.len() > SCOPE_MAX || scope.accounts.len() > SCOPE_MAX {
        return bad(
            "scope",
            "names more than 64 chats or accounts; make several orders",
        );
    }
    if scope.from_ms >= scope.to_ms {
        return bad("scope", "ends before it begins");
    }
    match hex::decode(&order.recipient) {
        Ok(key) if (32..=RECIPIENT_BYTES_MAX).contains(&key.len()) => Ok(()),
        _ => bad(
            "recipient",
            "must be a public key of 32 to 2048 bytes in hex",
        ),
    }
}

impl OrderState {
    /// Its id.
    pub fn id(&self) -> OrderId {
        order_id(&self.envelope)
    }

    /// What it asks for.
    ///
    /// # Errors
    /// Never for a state that [`submit`] made.
    pub fn order(&self) -> Result<Order, OfficerRefusal> {
        match Statement::read(&self.envelope)? {
            Statement::Order(order) => Ok(order),
            _ => Err(OfficerRefusal::Type("disclosure order")),
        }
    }

    /// Where it stands. Waits the longest of `cool_off_ms`, what officers set, and [`COOL_OFF_MS_MIN`].
    pub fn status(&self, roster: &Roster, cool_off_ms: u64, now_ms: WallMs) -> OrderStatus {
        if self.withdrawn_ms.is_some() {
            return OrderStatus::Withdrawn;
        }
        if now_ms >= self.expires_ms {
            return OrderStatus::Expired;
        }
        let needed = roster.quorum().max(APPROVALS_MIN);
        let may = roster.count(roster.officers().keys(), Some(&self.submitter));
        let against = roster.count(self.rejections.keys(), Some(&self.submitter));
        if against > 0 && may - against < needed {
            return OrderStatus::Rejected;
        }
        // Only those of present officers; the latest one needed starts the cool-off.
        let mut times: Vec<_> = self
            .approvals
            .iter()
            .filter(|(id, _)| roster.has(id) && **id != self.submitter)
            .map(|(_, at)| *at)
            .collect();
        times.sort_unstable();
        let Some(complete_ms) = times.get(needed - 1) else {
            let missing = needed - times.len();
            return OrderStatus::Open { missing };
        };
        let set_ms = roster.waits().cool_off_ms.unwrap_or(0);
        let cool_off_ms = cool_off_ms.max(set_ms).max(COOL_OFF_MS_MIN);
        let until_ms = complete_ms.saturating_add(cool_off_ms);
        if now_ms < until_ms {
            return OrderStatus::CoolingOff { until_ms };
        }
        match self.executed {
            None => OrderStatus::Releasable,
            Some(_) => OrderStatus::Executed,
        }
    }

    /// The state after one more decision.
    ///
    /// An approval may be taken back by a rejection, also after a release:
    /// nothing more goes out then. A rejection is final for its officer.
    ///
    /// # Errors
    /// [`OfficerRefusal`]; the state does not change then.
    pub fn decide(
        &self,
        roster: &Roster,
        d: &Decision,
        at: &Context<'_>,
    ) -> Result<Self, OfficerRefusal> {
        if d.subject != Subject::Order(self.id()) {
            return Err(OfficerRefusal::Unknown(format!("{:?}", d.subject)));
        }
        match self.status(roster, 0, at.now_ms) {
            OrderStatus::Withdrawn => return Err(OfficerRefusal::Closed("withdrawn")),
            OrderStatus::Rejected => return Err(OfficerRefusal::Closed("rejected")),
            OrderStatus::Expired => {
                return Err(OfficerRefusal::Expired {
                    expires_ms: self.expires_ms,
                    now_ms: at.now_ms,
                });
            }
            _ => {}
        }
        let mut next = self.clone();
        if d.verdict == Verdict::Withdraw {
            if d.officer != self.submitter {
                let (named, signed) = (self.submitter, d.officer);
                return Err(OfficerRefusal::NotTheSigner { named, signed });
            }
            next.withdrawn_ms = Some(at.now_ms);
            return Ok(next);
        }
        if d.officer == self.submitter {
            return Err(OfficerRefusal::Submitter(d.officer));
        }
        if !roster.has(&d.officer) {
            return Err(OfficerRefusal::NotAnOfficer(d.officer));
        }
        if self.rejections.contains_key(&d.officer) {
            return Err(OfficerRefusal::Twice(d.officer));
        }
        if d.verdict == Verdict::Reject {
            next.approvals.remove(&d.officer);
            next.rejections.insert(d.officer, d.reason.clone());
        } else if next.approvals.insert(d.officer, at.now_ms).is_some() {
            return Err(OfficerRefusal::Twice(d.officer));
        }
        Ok(next)
    }
}

/// One key epoch of a chat as a custodian sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredEpoch {
    /// Its number in the chat.
    pub epoch: EpochNo,
    /// Entry time of its store.
    pub stored_ms: WallMs,
    /// The dealing.
    pub key: KeyId,
}

/// A key epoch that an order's scope includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopedEpoch {
    /// Its number in the chat.
    pub epoch: EpochNo,
    /// The dealing.
    pub key: KeyId,
    /// When it counts as begun: when it was stored here.
    pub from_ms: WallMs,
    /// When it counts as ended: when its successor was stored, at most seven days later.
    pub to_ms: WallMs,
    /// Whether its successor is stored. Until then it is not released: what
    /// is being written under it now is nobody's past yet.
    pub closed: bool,
}

/// `epoch`, if it overlaps `scope`'s dates. `next_ms`: when the chat's next
/// epoch was stored, also if it was destroyed since.
///
/// A share that came after its successor's ran before that one: for at most
/// seven days, nobody here can say since when.
pub fn in_scope(
    epoch: &StoredEpoch,
    next_ms: Option<WallMs>,
    scope: &OrderScope,
) -> Option<ScopedEpoch> {
    let at = epoch.stored_ms;
    let longest = at.saturating_add(EPOCH_RUN_MS_MAX);
    let (from_ms, to_ms) = match next_ms {
        None => (at, longest),
        Some(next) if next < at => (next.saturating_sub(EPOCH_RUN_MS_MAX), next),
        Some(next) => (at, next.max(at + 1).min(longest)),
    };
    let overlaps = from_ms < scope.to_ms && to_ms > scope.from_ms;
    overlaps.then_some(ScopedEpoch {
        epoch: epoch.epoch,
        key: epoch.key,
        from_ms,
        to_ms,
        closed: next_ms.is_some(),
    })
}

#[cfg(test)]
mod tests;
