//! What officers sign: the first roster, proposals, decisions, orders. Each is
//! decided by `authz` on the rows of the moment; here it is kept and recorded.

use super::super::budget::ORDER_BUDGET;
use super::super::command::Officers;
use super::super::memberships;
use super::super::reply::Effect;
use super::super::rows::{self, ROSTER};
use super::super::view;
use super::{Draft, Run};
use crate::audit::{HexBytes, OpeningKind};
use crate::authz::envelope::Envelope;
use crate::authz::officers::{
    Context, Decision, OfficerRefusal, PROPOSALS_OPEN_MAX, ProposalId, ProposalOutcome,
    ProposalState, Roster, Statement, Subject, Verdict, decide, propose,
};
use crate::authz::orders::{self, OrderScope, OrderState};
use crate::types::kv::KvError;
use crate::types::{ChatId, OrderId};
use std::collections::BTreeSet;

type Answer = Result<Result<Effect, OfficerRefusal>, KvError>;

fn damaged(e: &OfficerRefusal) -> KvError {
    KvError(format!("a kept statement of officers is damaged: {e}"))
}

fn taken(detail: String) -> Effect {
    let carried = false;
    Effect::Decided { detail, carried }
}

impl Run<'_> {
    pub(super) fn officers(
        &mut self,
        draft: &mut Draft<'_>,
        c: &Officers,
    ) -> Result<Effect, KvError> {
        draft.entry.operator = Some(c.operator.mark());
        draft.entry.officer_statement = Some(HexBytes(c.statement.hash()));
        let custody = self.custody;
        let Some(deployment) = &custody.deployment else {
            return Ok(draft.refuse("this custodian serves no deployment yet"));
        };
        let at = Context {
            deployment,
            custodian: &custody.custodian,
            now_ms: draft.time_ms(),
        };
        let answer = match Statement::read(&c.statement) {
            Err(e) => Err(e),
            Ok(Statement::Bootstrap(_)) => self.bootstrap(&c.statement, &at)?,
            Ok(statement) => match view::roster(self.kv)? {
                None => Err(OfficerRefusal::NoRoster),
                Some(roster) => match statement {
                    Statement::Order(_) => self.order(draft, &c.statement, &at)?,
                    Statement::Proposal(_) => self.proposal(draft, &roster, &c.statement, &at)?,
                    _ => self.decision(draft, &roster, &c.statement, &at)?,
                },
            },
        };
        Ok(answer.unwrap_or_else(|e| draft.refuse(e.to_string())))
    }

    fn bootstrap(&mut self, envelope: &Envelope, at: &Context<'_>) -> Answer {
        if view::roster(self.kv)?.is_some() {
            return Ok(Err(OfficerRefusal::AlreadyBootstrapped));
        }
        let roster = match Roster::bootstrap(envelope, at) {
            Ok(roster) => roster,
            Err(e) => return Ok(Err(e)),
        };
        rows::put(self.kv, &[ROSTER], &roster)?;
        let (n, quorum) = (roster.officers().len(), roster.quorum());
        Ok(Ok(taken(format!(
            "{n} officers, {quorum} of them must agree"
        ))))
    }

    fn proposal(
        &mut self,
        draft: &mut Draft<'_>,
        roster: &Roster,
        envelope: &Envelope,
        at: &Context<'_>,
    ) -> Answer {
        let id = ProposalId(envelope.hash());
        draft.entry.proposal = Some(HexBytes(id.0));
        if view::proposal(self.kv, &id)?.is_some() {
            return Ok(Err(OfficerRefusal::Replayed));
        }
        let state = match propose(roster, envelope, at) {
            Ok(state) => state,
            Err(e) => return Ok(Err(e)),
        };
        let p = state.proposal().map_err(|e| damaged(&e))?;
        draft.entry.officer = Some(p.by);
        draft.entry.reason = Some(p.reason);
        draft.entry.acts.push(p.act.name().into());
        let open = view::proposals_open(self.kv, at.now_ms)?.len();
        if open >= PROPOSALS_OPEN_MAX {
            return Ok(Err(OfficerRefusal::TooMany(open)));
        }
        // Said now, not after the quorum signed.
        if let Err(why) = self.possible(draft, roster, &p.act) {
            return Ok(Err(OfficerRefusal::Act(why)));
        }
        self.settle(draft, roster, state).map(Ok)
    }

    fn decision(
        &mut self,
        draft: &mut Draft<'_>,
        roster: &Roster,
        envelope: &Envelope,
        at: &Context<'_>,
    ) -> Answer {
        let d = match Decision::verified(envelope, at) {
            Ok(d) => d,
            Err(e) => return Ok(Err(e)),
        };
        draft.entry.officer = Some(d.officer);
        draft.entry.reason = Some(d.reason.clone());
        let verdict = match d.verdict {
            Verdict::Approve => "approve",
            Verdict::Reject => "reject",
            Verdict::Withdraw => "withdraw",
        };
        draft.entry.acts.push(verdict.into());
        match d.subject {
            Subject::Order(id) => self.on_order(draft, roster, id, &d, at),
            Subject::Proposal(id) => {
                draft.entry.proposal = Some(HexBytes(id.0));
                let Some(state) = view::proposal(self.kv, &id)? else {
                    return Ok(Err(OfficerRefusal::Unknown(id.to_string())));
                };
                match decide(roster, &state, &d, at) {
                    Ok(next) => self.settle(draft, roster, next).map(Ok),
                    Err(e) => Ok(Err(e)),
                }
            }
        }
    }

    fn on_order(
        &mut self,
        draft: &mut Draft<'_>,
        roster: &Roster,
        id: OrderId,
        d: &Decision,
        at: &Context<'_>,
    ) -> Answer {
        draft.entry.order = Some(id);
        let Some(state) = view::order(self.kv, &id)? else {
            return Ok(Err(OfficerRefusal::Unknown(id.to_string())));
        };
        let next = match state.decide(roster, d, at) {
            Ok(next) => next,
            Err(e) => return Ok(Err(e)),
        };
        rows::put(self.kv, &rows::order_key(&id), &next)?;
        let status = next.status(roster, self.custody.cool_off_ms, at.now_ms);
        Ok(Ok(taken(format!("the order is {} here", status.name()))))
    }

    fn order(&mut self, draft: &mut Draft<'_>, envelope: &Envelope, at: &Context<'_>) -> Answer {
        let id = orders::order_id(envelope);
        draft.entry.order = Some(id);
        if view::order(self.kv, &id)?.is_some() {
            return Ok(Err(OfficerRefusal::Replayed));
        }
        let state: OrderState = match orders::submit(envelope, at) {
            Ok(state) => state,
            Err(e) => return Ok(Err(e)),
        };
        let order = state.order().map_err(|e| damaged(&e))?;
        draft.entry.officer = Some(state.submitter);
        draft.entry.reason = Some(order.reason);
        for chat in &order.scope.chats {
            draft.chat(chat);
        }
        for account in &order.scope.accounts {
            draft.open(OpeningKind::Account, account.0);
        }
        let chats = match self.chats_of(&order.scope)? {
            Ok(chats) => chats,
            Err(why) => return Ok(Err(OfficerRefusal::Order { what: "scope", why })),
        };
        if let Err(retry_ms) = ORDER_BUDGET.spend(self.kv, at.now_ms, 1)? {
            draft.refuse("the budget for orders is spent");
            return Ok(Ok(Effect::OverBudget { retry_ms }));
        }
        for chat in &chats {
            draft.chat(chat);
            self.kv.put(&rows::order_chat_key(&id, chat), &[])?;
        }
        rows::put(self.kv, &rows::order_key(&id), &state)?;
        Ok(Ok(taken(format!("order {id} is open here"))))
    }

    /// The chats that the scope's accounts lead to now. They stay the order's chats: what
    /// officers saw is what opens, whoever joins what later.
    fn chats_of(
        &mut self,
        scope: &OrderScope,
    ) -> Result<Result<BTreeSet<ChatId>, String>, KvError> {
        if scope.accounts.is_empty() {
            return Ok(Ok(BTreeSet::new()));
        }
        if !memberships::index(self.kv)? {
            return Ok(Err(
                "names accounts, whose former chats are being gathered here; submit it again, until it is taken".into(),
            ));
        }
        memberships::chats_of(self.kv, scope)
    }

    /// Keeps `state`, after carrying it out if its quorum stands.
    fn settle(
        &mut self,
        draft: &mut Draft<'_>,
        roster: &Roster,
        mut state: ProposalState,
    ) -> Result<Effect, KvError> {
        let id = state.id();
        let mut effect = taken(format!("proposal {id} is taken in"));
        if state.stands(roster).map_err(|e| damaged(&e))? {
            let act = state.proposal().map_err(|e| damaged(&e))?.act;
            let done = self.carry_out(draft, roster, &act)?;
            let failed = matches!(done, Effect::Refused { .. } | Effect::OverBudget { .. });
            (state.outcome, effect) = if failed {
                (ProposalOutcome::Failed, done)
            } else {
                let detail = format!("proposal {id} was carried out: {}", act.name());
                let carried = true;
                (
                    ProposalOutcome::Carried,
                    Effect::Decided { detail, carried },
                )
            };
            draft
                .entry
                .acts
                .push(if failed { "failed" } else { "carried" }.into());
        }
        let open = rows::proposal_open_key(state.expires_ms, &id);
        if state.outcome == ProposalOutcome::Open {
            self.kv.put(&open, &[])?;
        } else {
            self.kv.delete(&open)?;
        }
        rows::put(self.kv, &rows::proposal_key(&id), &state)?;
        Ok(effect)
    }
}
