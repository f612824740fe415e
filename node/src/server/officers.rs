//! What the operator plane shows of officers and orders.

use crate::custodian::{Custodian, OrderHere, Seen};
use crate::http::operator::{OperatorError, OperatorResult};
use quorate_engine::api::officers::{
    AuditorView, ChatScope, EpochView, OfficerView, OfficersView, OrderDetail, OrderView,
    OrdersView, ProposalView, RosterView,
};
use quorate_engine::api::registry::Statement;
use quorate_engine::authz::auditor::Auditor;
use quorate_engine::authz::identity::RECOVERY_WAIT_MS;
use quorate_engine::authz::officers::{ProposalId, ProposalState, Roster};
use quorate_engine::authz::orders::{OrderState, OrderStatus};
use quorate_engine::custody::ChatEpochs;
use quorate_engine::types::{OrderId, Outcome, WallMs};

/// What a store that cannot be read now suggests to wait, in milliseconds.
const AGAIN_MS: u64 = 1_000;

fn unread(detail: String) -> OperatorError {
    OperatorError::Unavailable {
        detail,
        retry_ms: AGAIN_MS,
        outcome: Outcome::NotDone,
    }
}

fn roster_view(roster: &Roster) -> RosterView {
    let one = |(id, o): (&_, &quorate_engine::authz::officers::Officer)| OfficerView {
        id: ToString::to_string(id),
        name: o.name.clone(),
        public: o.public.to_string(),
    };
    RosterView {
        quorum: roster.quorum(),
        officers: roster.officers().iter().map(one).collect(),
    }
}

fn auditor_view(a: &Auditor) -> AuditorView {
    AuditorView {
        id: a.id().to_string(),
        name: a.name.clone(),
        public: a.public.to_string(),
        expires_ms: a.expires_ms,
    }
}

fn proposal_view(p: &ProposalState) -> ProposalView {
    ProposalView {
        id: p.id().to_string(),
        statement: Statement::from(&p.envelope),
        outcome: p.outcome,
        expires_ms: p.expires_ms,
        approvals: p.approvals.iter().map(ToString::to_string).collect(),
        rejections: p.rejections.iter().map(ToString::to_string).collect(),
    }
}

fn order_view(o: &OrderState, status: OrderStatus) -> OrderView {
    let at = |(id, at): (&_, &WallMs)| (ToString::to_string(id), *at);
    let why = |(id, why): (&_, &String)| (ToString::to_string(id), why.clone());
    OrderView {
        id: o.id().to_string(),
        statement: Statement::from(&o.envelope),
        status,
        submitter: o.submitter.to_string(),
        submitted_ms: o.submitted_ms,
        expires_ms: o.expires_ms,
        approvals: o.approvals.iter().map(at).collect(),
        rejections: o.rejections.iter().map(why).collect(),
        executed: o.executed,
    }
}

fn scope_view(c: &ChatEpochs) -> ChatScope {
    let epoch = |e: &quorate_engine::authz::orders::ScopedEpoch| EpochView {
        epoch: e.epoch,
        key: e.key.to_string(),
        from_ms: e.from_ms,
        to_ms: e.to_ms,
        closed: e.closed,
    };
    ChatScope {
        chat: c.chat.to_string(),
        epochs: c.epochs.iter().map(epoch).collect(),
        more: c.more,
    }
}

fn here(o: &OrderHere, now_ms: WallMs) -> OrderView {
    let status = o.state.status(&o.roster, Custodian::cool_off_ms(), now_ms);
    order_view(&o.state, status)
}

pub(super) fn officers(c: &Custodian) -> OperatorResult<OfficersView> {
    let place = c.place();
    let seen = c.officers().map_err(unread)?;
    let (roster, proposals) = &seen.value;
    let own = Custodian::floor();
    let raised = roster.as_ref().and_then(Roster::floor);
    let waits = roster.as_ref().map(Roster::waits).unwrap_or_default();
    Ok(OfficersView {
        deployment: place.deployment.to_string(),
        custodian: place.custodian.to_string(),
        position: seen.position,
        floor: raised.map_or(own, |f| f.higher(&own)),
        cool_off_ms: waits.cool_off_ms.unwrap_or(0).max(Custodian::cool_off_ms()),
        recovery_wait_ms: waits.recovery_ms.unwrap_or(RECOVERY_WAIT_MS),
        roster: roster.as_ref().map(roster_view),
        proposals: proposals.iter().map(proposal_view).collect(),
        auditors: c
            .auditors()
            .map_err(unread)?
            .iter()
            .map(auditor_view)
            .collect(),
    })
}

pub(super) fn proposal(c: &Custodian, id: &ProposalId) -> OperatorResult<Option<ProposalView>> {
    let found = c.proposal(id).map_err(unread)?;
    Ok(found.as_ref().map(proposal_view))
}

pub(super) fn orders(c: &Custodian) -> OperatorResult<OrdersView> {
    let seen = c.orders().map_err(unread)?;
    let (roster, orders) = &seen.value;
    // Orders are taken in from a roster on, and rosters never go.
    let shown = roster.iter().flat_map(|roster| {
        orders.iter().map(|o| {
            let status = o.status(roster, Custodian::cool_off_ms(), seen.now_ms);
            order_view(o, status)
        })
    });
    Ok(OrdersView {
        position: seen.position,
        orders: shown.collect(),
    })
}

pub(super) fn order(c: &Custodian, id: &OrderId) -> OperatorResult<Option<OrderDetail>> {
    let found: Option<Seen<OrderHere>> = c.order(id).map_err(unread)?;
    Ok(found.map(|seen| OrderDetail {
        position: seen.position,
        order: here(&seen.value, seen.now_ms),
        scope: seen.value.scope.iter().map(scope_view).collect(),
    }))
}
