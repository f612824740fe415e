//! Proposals and the decisions on them.

use super::{
    Context, Dependence, Floor, Officer, OfficerKey, OfficerRefusal, ProposalId, Roster, Statement,
    Waits, line,
};
use crate::authz::auditor::Auditor;
use crate::authz::envelope::Envelope;
use crate::types::{AuditorId, ChatId, CustodianId, KeyId, OfficerId, OrderId, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Longest life of a proposal, in milliseconds.
pub const PROPOSAL_LIFE_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// Most proposals open at once.
pub const PROPOSALS_OPEN_MAX: usize = 64;
/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// Something to decide on. Its id is the hash of its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Whose officers decide.
    pub custodian: CustodianId,
    /// Fresh for every proposal, so that the same act can be decided again.
    pub number: u64,
    /// What is to be done.
    pub act: Act,
    /// Why, for the log: 1 to 1,024 printable bytes.
    pub reason: String,
    /// The officer who proposes. Proposing is approving.
    pub by: OfficerId,
    /// Not to be decided from then on.
    pub expires_ms: WallMs,
}

/// What a quorum of officers can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// One officer more; the new key signs the proposal as well.
    AddOfficer {
        /// Who.
        officer: Officer,
    },
    /// One officer fewer. The officer's own approval does not count.
    RemoveOfficer {
        /// Who.
        officer: OfficerId,
    },
    /// A lost or stolen key makes place for a new one, which signs as well.
    /// The old key's approval does not count.
    ReplaceKey {
        /// Whose.
        officer: OfficerId,
        /// The new key.
        public: OfficerKey,
    },
    /// Another number of officers must agree.
    SetQuorum {
        /// How many.
        quorum: u8,
    },
    /// A stricter floor. There is no way down.
    RaiseFloor {
        /// The new floor; numbers below the one in force change nothing.
        floor: Floor,
    },
    /// Other waits, within what the code allows.
    SetWaits {
        /// Which, and how long.
        waits: Waits,
    },
    /// Deal under a policy.
    ApprovePolicy {
        /// Its canonical form, in hex.
        canonical: String,
        /// Entity and blocs of every custodian in it.
        members: BTreeMap<CustodianId, Dependence>,
    },
    /// End a freeze.
    Thaw {
        /// Which.
        scope: ThawScope,
    },
    /// Destroy shares for ever.
    Shred {
        /// 1 to 64.
        keys: Vec<ShredKey>,
    },
    /// Let an auditor read the log's entries and openings.
    AdmitAuditor {
        /// Who, and until when.
        auditor: Auditor,
    },
    /// An auditor reads them no more.
    DismissAuditor {
        /// Who.
        auditor: AuditorId,
    },
}

/// Which freeze ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThawScope {
    /// The one of everything.
    All,
    /// The one of a chat.
    Chat(ChatId),
}

/// One dealing of one chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShredKey {
    /// The chat.
    pub chat: ChatId,
    /// The dealing.
    pub key: KeyId,
}

/// Most keys one proposal may shred.
const SHRED_KEYS_MAX: usize = 64;

impl Act {
    /// Its name, for the log and for people.
    pub fn name(&self) -> &'static str {
        match self {
            Act::AddOfficer { .. } => "add_officer",
            Act::RemoveOfficer { .. } => "remove_officer",
            Act::ReplaceKey { .. } => "replace_key",
            Act::SetQuorum { .. } => "set_quorum",
            Act::RaiseFloor { .. } => "raise_floor",
            Act::SetWaits { .. } => "set_waits",
            Act::ApprovePolicy { .. } => "approve_policy",
            Act::Thaw { .. } => "thaw",
            Act::Shred { .. } => "shred",
            Act::AdmitAuditor { .. } => "admit_auditor",
            Act::DismissAuditor { .. } => "dismiss_auditor",
        }
    }

    /// The key that joins with it.
    fn joins(&self) -> Option<OfficerKey> {
        match self {
            Act::AddOfficer { officer } => Some(officer.public),
            Act::ReplaceKey { public, .. } => Some(*public),
            _ => None,
        }
    }

    /// The officer whose own approval does not count.
    fn concerned(&self) -> Option<&OfficerId> {
        match self {
            Act::RemoveOfficer { officer } | Act::ReplaceKey { officer, .. } => Some(officer),
            _ => None,
        }
    }
}

/// What a decision is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A proposal, by the hash of its bytes.
    Proposal(ProposalId),
    /// An order, by the hash of its bytes.
    Order(OrderId),
}

/// What an officer says to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes.
    Approve,
    /// No. Also takes an approval of one's own back, as long as nothing was done.
    Reject,
    /// Whoever made it takes it back.
    Withdraw,
}

/// One officer's signed decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Whose officer decides.
    pub custodian: CustodianId,
    /// On what.
    pub subject: Subject,
    /// How.
    pub verdict: Verdict,
    /// The officer; signs alone.
    pub officer: OfficerId,
    /// Why: 1 to 1,024 printable bytes.
    pub reason: String,
}

impl Decision {
    /// Reads a decision and checks that the officer it names signed it, alone.
    /// Says nothing about whether that is an officer here.
    ///
    /// # Errors
    /// [`OfficerRefusal`].
    pub fn verified(envelope: &Envelope, at: &Context<'_>) -> Result<Self, OfficerRefusal> {
        let Statement::Decision(d) = Statement::read(envelope)? else {
            return Err(OfficerRefusal::Type("decision of an officer"));
        };
        at.meant(&d.custodian)?;
        let signed = at.signer(envelope)?.id();
        if signed != d.officer {
            let named = d.officer;
            return Err(OfficerRefusal::NotTheSigner { named, signed });
        }
        reason(&d.reason)?;
        Ok(d)
    }
}

fn reason(text: &str) -> Result<(), OfficerRefusal> {
    if line(text, REASON_BYTES_MAX) {
        return Ok(());
    }
    let why = format!("the reason must be 1 to {REASON_BYTES_MAX} printable bytes");
    Err(OfficerRefusal::Act(why))
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProposalOutcome {
    /// Nothing yet; decided by nobody once it has expired.
    Open,
    /// The quorum stood and it was done.
    Carried,
    /// The quorum stood and it could not be done.
    Failed,
    /// So many are against it that the quorum cannot stand.
    Rejected,
    /// Taken back by the proposer.
    Withdrawn,
}

/// A proposal and where it stands. Kept under its id for ever, so that the
/// same bytes are never decided twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalState {
    /// As it was signed.
    pub envelope: Envelope,
    /// Who proposed.
    pub by: OfficerId,
    /// From then on it is void.
    pub expires_ms: WallMs,
    /// Who is for it, the proposer included.
    pub approvals: BTreeSet<OfficerId>,
    /// Who is against it.
    pub rejections: BTreeSet<OfficerId>,
    /// What became of it.
    pub outcome: ProposalOutcome,
}

impl ProposalState {
    /// Its id.
    pub fn id(&self) -> ProposalId {
        ProposalId(self.envelope.hash())
    }

    /// What it asks for.
    ///
    /// # Errors
    /// Never for a state that [`propose`] made.
    pub fn proposal(&self) -> Result<Proposal, OfficerRefusal> {
        match Statement::read(&self.envelope)? {
            Statement::Proposal(p) => Ok(p),
            _ => Err(OfficerRefusal::Type("proposal")),
        }
    }

    /// Whether enough of the present officers are for it.
    ///
    /// # Errors
    /// As [`ProposalState::proposal`].
    pub fn stands(&self, roster: &Roster) -> Result<bool, OfficerRefusal> {
        let p = self.proposal()?;
        let for_it = roster.count(&self.approvals, p.act.concerned());
        Ok(self.outcome == ProposalOutcome::Open && for_it >= roster.quorum())
    }

    /// Whether it takes decisions at `now_ms`.
    pub fn open(&self, now_ms: WallMs) -> bool {
        self.outcome == ProposalOutcome::Open && now_ms < self.expires_ms
    }
}

/// A new proposal, signed by the proposer, any further officers who agree at
/// once, and a key that joins. The caller refuses an id it has seen before.
///
/// # Errors
/// [`OfficerRefusal`].
pub fn propose(
    roster: &Roster,
    envelope: &Envelope,
    at: &Context<'_>,
) -> Result<ProposalState, OfficerRefusal> {
    let Statement::Proposal(p) = Statement::read(envelope)? else {
        return Err(OfficerRefusal::Type("proposal"));
    };
    at.meant(&p.custodian)?;
    reason(&p.reason)?;
    within_life(p.expires_ms, PROPOSAL_LIFE_MS_MAX, at)?;
    let mut signed: BTreeSet<_> = at.signers(envelope)?.iter().map(OfficerKey::id).collect();
    if let Some(key) = p.act.joins()
        && !signed.remove(&key.id())
    {
        return Err(OfficerRefusal::Possession(key.id()));
    }
    if let Some(stranger) = signed.iter().find(|id| !roster.has(id)) {
        return Err(OfficerRefusal::NotAnOfficer(*stranger));
    }
    if !roster.has(&p.by) {
        return Err(OfficerRefusal::NotAnOfficer(p.by));
    }
    match signed.first() {
        None => return Err(OfficerRefusal::Signers(0)),
        Some(other) if !signed.contains(&p.by) => {
            let (named, signed) = (p.by, *other);
            return Err(OfficerRefusal::NotTheSigner { named, signed });
        }
        Some(_) => {}
    }
    // What cannot be done is said now, not after the quorum signed.
    roster.after(&p.act)?;
    if let Act::Shred { keys } = &p.act
        && !(1..=SHRED_KEYS_MAX).contains(&keys.len())
    {
        let why = format!(
            "{} keys to shred; 1 to {SHRED_KEYS_MAX} are allowed",
            keys.len()
        );
        return Err(OfficerRefusal::Act(why));
    }
    Ok(ProposalState {
        envelope: envelope.clone(),
        by: p.by,
        expires_ms: p.expires_ms,
        approvals: signed,
        rejections: BTreeSet::new(),
        outcome: ProposalOutcome::Open,
    })
}

pub(in crate::authz) fn within_life(
    expires_ms: WallMs,
    max_ms: u64,
    at: &Context<'_>,
) -> Result<(), OfficerRefusal> {
    let now_ms = at.now_ms;
    if expires_ms <= now_ms {
        return Err(OfficerRefusal::Expired { expires_ms, now_ms });
    }
    let life_ms = expires_ms - now_ms;
    if life_ms > max_ms {
        return Err(OfficerRefusal::Life { life_ms, max_ms });
    }
    Ok(())
}

/// The state after one more decision. Whether the quorum stands then is
/// [`ProposalState::stands`].
///
/// # Errors
/// [`OfficerRefusal`]; the state does not change then.
pub fn decide(
    roster: &Roster,
    state: &ProposalState,
    d: &Decision,
    at: &Context<'_>,
) -> Result<ProposalState, OfficerRefusal> {
    if d.subject != Subject::Proposal(state.id()) {
        return Err(OfficerRefusal::Unknown(format!("{:?}", d.subject)));
    }
    if !roster.has(&d.officer) {
        return Err(OfficerRefusal::NotAnOfficer(d.officer));
    }
    match state.outcome {
        ProposalOutcome::Open => {}
        ProposalOutcome::Carried => return Err(OfficerRefusal::Closed("carried out")),
        ProposalOutcome::Failed => return Err(OfficerRefusal::Closed("failed")),
        ProposalOutcome::Rejected => return Err(OfficerRefusal::Closed("rejected")),
        ProposalOutcome::Withdrawn => return Err(OfficerRefusal::Closed("withdrawn")),
    }
    if !state.open(at.now_ms) {
        return Err(OfficerRefusal::Expired {
            expires_ms: state.expires_ms,
            now_ms: at.now_ms,
        });
    }
    if !roster.has(&state.by) {
        return Err(OfficerRefusal::ProposerGone(state.by));
    }
    let mut next = state.clone();
    match d.verdict {
        Verdict::Approve => {
            if state.rejections.contains(&d.officer) || !next.approvals.insert(d.officer) {
                return Err(OfficerRefusal::Twice(d.officer));
            }
        }
        Verdict::Reject => {
            next.approvals.remove(&d.officer);
            if !next.rejections.insert(d.officer) {
                return Err(OfficerRefusal::Twice(d.officer));
            }
            let concerned = next.proposal()?.act.concerned().copied();
            let may = roster.count(roster.officers().keys(), concerned.as_ref());
            let against = roster.count(&next.rejections, concerned.as_ref());
            if may - against < roster.quorum() {
                next.outcome = ProposalOutcome::Rejected;
            }
        }
        Verdict::Withdraw if d.officer == state.by => next.outcome = ProposalOutcome::Withdrawn,
        Verdict::Withdraw => {
            let (named, signed) = (state.by, d.officer);
            return Err(OfficerRefusal::NotTheSigner { named, signed });
        }
    }
    Ok(next)
}
