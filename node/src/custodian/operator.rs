//! What operators of this custodian do and see: plain methods, for the
//! operator plane to expose. Who the operator is was proven by a certificate of
//! the cluster's own CA before.

use super::Custodian;
use super::consensus::{SubmitError, view};
use crate::http::operator::{self as http, OperatorError};
use quorate_engine::authz::RELEASE_AUTHORITY;
use quorate_engine::custody::protocol::{FreezeScope, KeyRef};
use quorate_engine::custody::{
    self, ApprovePolicy, Command, Effect, EraseOpenings, Freeze, FreezeRow, KeyKind, Operator,
    Overview, Shred, ShredOutcome, Thaw,
};
use quorate_engine::types::kv::Position;
use quorate_engine::types::{ChatId, NodeId, Outcome};

/// What `status` says as long as checkpoints are not published.
pub const COSIGNATURES: &str = "not required: log publication is not built yet";

/// A change that was made and recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded<T = ()> {
    /// Index of the log entry.
    pub entry: u64,
    /// Where it was committed.
    pub position: Position,
    /// Whether anything changed; `false`: it was so already.
    pub changed: bool,
    /// What it led to.
    pub value: T,
}

/// Why an operator's change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorProblem {
    /// Another node leads.
    #[error("this node does not lead")]
    NotLeader {
        /// The one that does, when known.
        leader: Option<NodeId>,
    },
    /// Nothing was done; later it may work.
    #[error("{reason}")]
    Busy {
        /// Why.
        reason: String,
        /// Suggested wait, in milliseconds.
        retry_ms: u64,
    },
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// It may have been done; repeating is safe.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Not allowed in this state, and recorded as refused.
    #[error("{0}")]
    Refused(String),
}

impl From<SubmitError> for OperatorProblem {
    fn from(e: SubmitError) -> Self {
        match e {
            SubmitError::NotLeader { leader } => Self::NotLeader { leader },
            SubmitError::Busy(reason) => Self::Busy {
                reason,
                retry_ms: super::RETRY_MS,
            },
            SubmitError::Invalid(reason) => Self::Invalid(reason),
            SubmitError::Unknown(reason) => Self::Unknown(reason),
        }
    }
}

impl From<OperatorProblem> for OperatorError {
    fn from(e: OperatorProblem) -> Self {
        match e {
            OperatorProblem::NotLeader { leader } => Self::NotLeader { leader },
            OperatorProblem::Busy { reason, retry_ms } => Self::Unavailable {
                detail: reason,
                retry_ms,
                outcome: Outcome::NotDone,
            },
            OperatorProblem::Invalid(why) => Self::Invalid(why),
            OperatorProblem::Refused(why) => Self::Refused(why),
            OperatorProblem::Unknown(detail) => Self::Unavailable {
                detail,
                retry_ms: super::RETRY_MS,
                outcome: Outcome::Unknown,
            },
        }
    }
}

impl From<http::Operator> for Operator {
    /// Whoever the operator plane let in, as the log names it.
    fn from(by: http::Operator) -> Self {
        Self {
            name: by.name,
            certificate: by.certificate,
        }
    }
}

/// A custodian as this node sees it.
#[derive(Clone, Debug)]
pub struct CustodianStatus {
    /// Log, key versions in use, shares held, policies, voters.
    pub overview: Overview,
    /// Freezes in force.
    pub freezes: Vec<(FreezeScope, FreezeRow)>,
    /// Whether this node answers homes.
    pub serves: bool,
    /// Wrapping versions loaded here.
    pub wrapping_loaded: Vec<u32>,
    /// Sealing versions loaded here.
    pub sealing_loaded: Vec<u32>,
    /// What a release is authorised by.
    pub release_authority: &'static str,
    /// What cosignatures are required.
    pub cosignatures: &'static str,
    /// Things to act on.
    pub warnings: Vec<String>,
}

impl Custodian {
    pub(super) async fn record(
        &self,
        command: Command,
    ) -> Result<Recorded<Effect>, OperatorProblem> {
        let committed = self.submit(command).await?;
        let position = committed.position();
        let applied = committed.into_value();
        match applied.effect {
            Effect::Refused { reason } => Err(OperatorProblem::Refused(reason)),
            Effect::OverBudget { retry_ms } => Err(OperatorProblem::Busy {
                reason: "the budget is spent".into(),
                retry_ms,
            }),
            effect => Ok(Recorded {
                entry: applied.entry.index,
                position,
                changed: effect != Effect::Unchanged,
                value: effect,
            }),
        }
    }

    /// Records a restriction, and confirms it once no share that it forbids can leave any more.
    pub(super) async fn restrict(
        &self,
        command: Command,
    ) -> Result<Recorded<Effect>, OperatorProblem> {
        let recorded = self.record(command).await?;
        self.0.gate.confirmed(recorded.position.term).await;
        Ok(recorded)
    }

    async fn plain(&self, command: Command) -> Result<Recorded, OperatorProblem> {
        let r = self.record(command).await?;
        Ok(Recorded {
            entry: r.entry,
            position: r.position,
            changed: r.changed,
            value: (),
        })
    }

    /// Stops releases in `scope`: when this returns, none that was committed before leaves any more. Works even while the leader's clock is off.
    ///
    /// # Errors
    /// [`OperatorProblem`].
    pub async fn freeze(
        &self,
        operator: Operator,
        scope: FreezeScope,
        reason: String,
    ) -> Result<Recorded, OperatorProblem> {
        let r = self
            .restrict(Command::Freeze(Freeze {
                operator,
                reason,
                scope,
            }))
            .await?;
        Ok(Recorded {
            entry: r.entry,
            position: r.position,
            changed: r.changed,
            value: (),
        })
    }

    /// Resumes releases in `scope`.
    ///
    /// # Errors
    /// [`OperatorProblem`].
    pub async fn thaw(
        &self,
        operator: Operator,
        scope: FreezeScope,
        reason: String,
    ) -> Result<Recorded, OperatorProblem> {
        self.plain(Command::Thaw(Thaw {
            operator,
            reason,
            scope,
        }))
        .await
    }

    /// Destroys shares for ever; one outcome per key, in order. When this returns, no
    /// release of them that was committed before leaves any more.
    ///
    /// # Errors
    /// [`OperatorProblem`].
    pub async fn shred(
        &self,
        operator: Operator,
        keys: Vec<KeyRef>,
        reason: String,
    ) -> Result<Recorded<Vec<ShredOutcome>>, OperatorProblem> {
        let command = Command::Shred(Shred {
            operator,
            reason,
            keys,
        });
        let r = self.restrict(command).await?;
        let Effect::Shredded(value) = r.value else {
            let why = format!("the shred was answered by {:?}", r.value);
            return Err(OperatorProblem::Unknown(why));
        };
        let destroyed = |o: &ShredOutcome| *o == ShredOutcome::Destroyed;
        Ok(Recorded {
            entry: r.entry,
            position: r.position,
            changed: value.iter().any(destroyed),
            value,
        })
    }

    /// Allows dealings under a policy, given in canonical form.
    ///
    /// # Errors
    /// [`OperatorProblem`].
    pub async fn approve_policy(
        &self,
        operator: Operator,
        canonical: Vec<u8>,
        reason: String,
    ) -> Result<Recorded, OperatorProblem> {
        self.plain(Command::ApprovePolicy(ApprovePolicy {
            operator,
            reason,
            canonical,
        }))
        .await
    }

    /// Erases the salts and values behind former log entries; how many.
    ///
    /// # Errors
    /// [`OperatorProblem`].
    pub async fn erase_openings(
        &self,
        operator: Operator,
        entries: Vec<u64>,
        chat: Option<ChatId>,
        reason: String,
    ) -> Result<Recorded<u32>, OperatorProblem> {
        let command = Command::EraseOpenings(EraseOpenings {
            operator,
            reason,
            entries,
            chat,
        });
        let r = self.record(command).await?;
        let value = match r.value {
            Effect::Erased(n) => n,
            _ => 0,
        };
        Ok(Recorded {
            entry: r.entry,
            position: r.position,
            changed: value > 0,
            value,
        })
    }

    /// Brings the next version of a key into use now; its number.
    ///
    /// # Errors
    /// [`OperatorProblem::Refused`] with what is missing.
    pub async fn rotate_key(&self, kind: KeyKind) -> Result<u32, OperatorProblem> {
        let lead = self.0.consensus.lead();
        if !lead.is_leader {
            return Err(OperatorProblem::NotLeader {
                leader: lead.leader,
            });
        }
        self.next_version(kind)
            .await
            .map_err(OperatorProblem::Refused)
    }

    /// The version of `kind` in use, and for how many milliseconds it has been.
    pub(super) fn version_age(&self, kind: KeyKind) -> Result<Option<(u32, u64)>, String> {
        let row = view(&*self.0.consensus, |kv| {
            let version = custody::version_in_use(kv, kind)?;
            let row = version
                .map(|v| custody::key_version(kv, kind, v))
                .transpose()?;
            Ok(version.zip(row.flatten()))
        });
        let row = row.map_err(|e| e.to_string())?;
        Ok(row.map(|(v, row)| (v, self.now().saturating_sub(row.since_ms))))
    }

    /// This custodian as this node sees it.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    pub fn status(&self) -> Result<CustodianStatus, String> {
        let (overview, freezes, forks) = view(&*self.0.consensus, |kv| {
            Ok((
                custody::overview(kv)?,
                custody::freezes(kv)?,
                custody::forks(kv)?,
            ))
        })
        .map_err(|e| e.to_string())?;
        let ring = self.ring();
        let clock = self.clock_state();
        let mut warnings = vec![format!("release authority: {RELEASE_AUTHORITY}")];
        if clock.alone {
            warnings.push("one node only: its clock cannot be checked against others".into());
        }
        if clock.out() {
            warnings.push(format!(
                "clock {} ms off its peers' median: no timed command is proposed; set the clock",
                clock.off_ms
            ));
        }
        warnings.extend(self.key_warnings());
        warnings.extend(self.rewrap_warnings(&overview));
        match overview.sealing_expires_ms {
            None => warnings.push("no sealing key in use: homes cannot deal to it".into()),
            Some(at) if at <= self.now() => {
                warnings.push("the sealing key has expired: homes cannot deal to it".into());
            }
            Some(_) => {}
        }
        for (chain, fork) in forks {
            warnings.push(format!(
                "{chain:?} forked at statement {}: nothing in it changes until officers settled it",
                fork.number
            ));
        }
        if overview.policies.is_empty() {
            warnings.push("no policy is approved: stores are refused".into());
        }
        Ok(CustodianStatus {
            serves: self.serves(),
            wrapping_loaded: ring.versions(KeyKind::Wrapping),
            sealing_loaded: ring.versions(KeyKind::Sealing),
            release_authority: RELEASE_AUTHORITY,
            cosignatures: COSIGNATURES,
            overview,
            freezes,
            warnings,
        })
    }
}
