//! A disclosure order that names accounts: which chats and devices custodians say these are.
//!
//! What is asked here opens nothing. Custodians resolved the accounts from their own statements of
//! members, and release by that; a chat more in the answer is refused there, a chat fewer is theirs to tell.

use super::api::HomeError;
use super::core::{Core, Fail};
use super::disclose::missing;
use futures::future::join_all;
use quorate_engine::authz::orders::Order;
use quorate_engine::custody::protocol::{
    CustodianReply, CustodianRequest, OrderAccountsRequest, OrderTold, Refusal,
};
use quorate_engine::quorum::NoQuorum;
use quorate_engine::types::{ChatId, CustodianId, OrderId};
use std::collections::{BTreeMap, BTreeSet};

/// Wait for custodians' answers, in milliseconds.
const ORDER_MS_MAX: u64 = 4_000;

/// What custodians say an order's accounts are.
pub(super) struct Accounts {
    /// Chats that at least one of them releases under the order.
    pub(super) chats: BTreeSet<ChatId>,
    /// Devices that a set of them which satisfies the policy says so of, as records name them.
    pub(super) devices: BTreeSet<String>,
    /// Who said so.
    pub(super) told: BTreeSet<CustodianId>,
}

/// Asks every custodian. Enough must release under the order to open anything at all.
pub(super) async fn ask(core: &Core, id: &OrderId, order: &Order) -> Result<Accounts, Fail> {
    let request = CustodianRequest::OrderAccounts(OrderAccountsRequest {
        home: core.config.home.clone(),
        deployment: core.config.deployment,
        order: *id,
    });
    let policy = &core.config.policy;
    let asked = policy.custodians().into_iter().map(|custodian| {
        let request = &request;
        async move {
            let told = core.custodians.ask(&custodian, request, ORDER_MS_MAX).await;
            (custodian, told)
        }
    });
    let (mut told, mut refused) = (BTreeMap::<CustodianId, OrderTold>::new(), Vec::new());
    let mut unreachable = BTreeSet::new();
    for (custodian, said) in join_all(asked).await {
        match said {
            Ok(CustodianReply::OrderAccounts(Some(said))) => drop(told.insert(custodian, said)),
            Ok(CustodianReply::OrderAccounts(None)) => refused.push((custodian, Refusal::Order)),
            Ok(_) => drop(unreachable.insert(custodian)),
            Err(e) => {
                tracing::debug!(%custodian, "no word on an order's accounts: {e}");
                unreachable.insert(custodian);
            }
        }
    }
    let answered: BTreeSet<CustodianId> = told.keys().cloned().collect();
    if !policy.satisfied_by(&answered) {
        let none = NoQuorum {
            answered,
            refused,
            lied: BTreeSet::new(),
            unreachable,
            pending: BTreeSet::new(),
            would_suffice: Vec::new(),
        };
        return Err(Fail::Home(missing(id, policy, &none)));
    }
    let devices: BTreeSet<_> = told.values().flat_map(|t| &t.devices).copied().collect();
    let believed = devices.into_iter().filter(|device| {
        let say = told.iter().filter(|(_, t)| t.devices.contains(device));
        policy.satisfied_by(&say.map(|(c, _)| c.clone()).collect())
    });
    let devices = believed.map(|d| d.to_string()).collect();
    let found: BTreeSet<ChatId> = told.values().flat_map(|t| &t.chats).copied().collect();
    let chats: BTreeSet<_> = found.difference(&order.scope.chats).copied().collect();
    // So many custodians cannot have resolved honestly; each of them has its own limit.
    let most = policy.custodians().len() * quorate_engine::custody::ORDER_CHATS_MAX;
    if chats.len() > most {
        return Err(Fail::Home(HomeError::Invalid {
            detail: format!(
                "order {id} leads to {} chats, {most} are possible",
                chats.len()
            ),
        }));
    }
    Ok(Accounts {
        chats,
        devices,
        told: answered,
    })
}
