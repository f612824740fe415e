//! Officers and disclosure orders on one node: what was handed in is proposed,
//! what stands is read. Everything is decided in `apply`.

use super::Custodian;
use super::consensus::view;
use super::operator::{OperatorProblem, Recorded};
use quorate_engine::audit::Log;
use quorate_engine::authz::auditor::Auditor;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{Floor, ProposalId, ProposalState, Roster};
use quorate_engine::authz::orders::{COOL_OFF_MS_MIN, OrderState};
use quorate_engine::custody::{self, ChatEpochs, Command, Effect, Officers, Operator, Place};
use quorate_engine::types::kv::{KvError, KvRead};
use quorate_engine::types::{OrderId, WallMs};

/// What is read of officers and orders, and when that is true.
#[derive(Clone, Debug)]
pub struct Seen<T> {
    /// Entries in the log.
    pub position: u64,
    /// The time that statements are judged by: the log's newest, or this node's clock if it is later.
    pub now_ms: WallMs,
    /// What was read.
    pub value: T,
}

/// An order, the roster it is judged by, and what it would open here.
#[derive(Clone, Debug)]
pub struct OrderHere {
    /// The order.
    pub state: OrderState,
    /// Who the officers are.
    pub roster: Roster,
    /// Every chat and epoch that would open.
    pub scope: Vec<ChatEpochs>,
}

impl Custodian {
    /// Which custodian of which deployment this is.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// The floor this build's custodians have before officers raise it.
    pub fn floor() -> Floor {
        Floor::default()
    }

    /// How long an approved order waits at this build's custodians, in milliseconds.
    pub fn cool_off_ms() -> u64 {
        COOL_OFF_MS_MIN
    }

    /// Takes what officers signed in; what became of it, in words. When this returns, no share
    /// that it forbids leaves any more.
    ///
    /// # Errors
    /// [`OperatorProblem`]; what officers' rules refuse is recorded as refused.
    pub async fn hand_in(
        &self,
        operator: Operator,
        statement: Envelope,
    ) -> Result<Recorded<String>, OperatorProblem> {
        let command = Command::Officers(Officers {
            operator,
            statement,
        });
        let within = command.within_limits();
        within.map_err(OperatorProblem::Invalid)?;
        let r = self.restrict(command).await;
        // It may have carried a thaw.
        self.0.restrictions.send_modify(|n| *n += 1);
        let r = r?;
        let Effect::Decided { detail, .. } = r.value else {
            let why = format!("the statement was answered by {:?}", r.value);
            return Err(OperatorProblem::Unknown(why));
        };
        Ok(Recorded {
            entry: r.entry,
            position: r.position,
            changed: r.changed,
            value: detail,
        })
    }

    fn seen<T>(
        &self,
        read: impl Fn(&dyn KvRead, WallMs) -> Result<T, KvError>,
    ) -> Result<Seen<T>, String> {
        let clock_ms = self.now();
        let read = |kv: &dyn KvRead| {
            let log = Log::load(kv)?;
            let now_ms = log.time_for(clock_ms);
            Ok(Seen {
                position: log.size(),
                now_ms,
                value: read(kv, now_ms)?,
            })
        };
        view(&*self.0.consensus, read).map_err(|e| e.to_string())
    }

    /// The officers, if there are any, and the proposals that take decisions.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    pub fn officers(&self) -> Result<Seen<(Option<Roster>, Vec<ProposalState>)>, String> {
        self.seen(|kv, now_ms| Ok((custody::roster(kv)?, custody::proposals_open(kv, now_ms)?)))
    }

    /// The auditors that the officers admitted.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    pub fn auditors(&self) -> Result<Vec<Auditor>, String> {
        Ok(self.seen(|kv, _| custody::auditors(kv))?.value)
    }

    /// One proposal, whatever became of it.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    pub fn proposal(&self, id: &ProposalId) -> Result<Option<ProposalState>, String> {
        let seen = self.seen(|kv, _| custody::proposal(kv, id))?;
        Ok(seen.value)
    }

    /// Every order submitted here, and the roster they are judged by.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    pub fn orders(&self) -> Result<Seen<(Option<Roster>, Vec<OrderState>)>, String> {
        self.seen(|kv, _| Ok((custody::roster(kv)?, custody::orders(kv)?)))
    }

    /// One order, and what it would open here.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    pub fn order(&self, id: &OrderId) -> Result<Option<Seen<OrderHere>>, String> {
        let seen = self.seen(|kv, _| {
            // Orders are taken in from a roster on, and rosters never go.
            let (Some(state), Some(roster)) = (custody::order(kv, id)?, custody::roster(kv)?)
            else {
                return Ok(None);
            };
            let order = state.order().map_err(|e| KvError(e.to_string()))?;
            let scope = custody::order_scope(kv, &order)?;
            Ok(Some(OrderHere {
                state,
                roster,
                scope,
            }))
        })?;
        Ok(seen.value.map(|value| Seen {
            position: seen.position,
            now_ms: seen.now_ms,
            value,
        }))
    }
}
