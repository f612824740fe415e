//! What a custodian counts. Labels are outcomes and reasons, never keys, chats or people.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use quorate_engine::custody::Overview;
use quorate_engine::custody::protocol::{Refusal, ReleaseReply, ShareResult, StoreOutcome};
use quorate_engine::types::{CustodianId, NodeId};

const STORES: &str = "quorate_custodian_stores_total";
const RELEASES: &str = "quorate_custodian_releases_total";
const REFUSALS: &str = "quorate_custodian_refusals_total";
const REQUESTS: &str = "quorate_custodian_requests_total";
const STATEMENTS: &str = "quorate_custodian_statements_total";
const BEHIND: &str = "quorate_custodian_chains_behind";
const FORKED: &str = "quorate_custodian_chains_forked";
const BATCH: &str = "quorate_custodian_commands_per_proposal";
const LOG_SIZE: &str = "quorate_custodian_log_entries";
const FREEZES: &str = "quorate_custodian_freezes";
const LIVE: &str = "quorate_custodian_shares";
const SEALING_EXPIRES: &str = "quorate_custodian_sealing_key_expires_seconds";
const REWRAPPED: &str = "quorate_custodian_rewrapped_total";
const REWRAP_LEFT: &str = "quorate_custodian_shares_under_old_versions";
const UNLOCKED: &str = "quorate_custodian_unlocked";
const CLOCK_OFF: &str = "quorate_custodian_clock_off_seconds";

pub(super) fn describe() {
    describe_counter!(STORES, "Shares offered, by outcome");
    describe_counter!(RELEASES, "Shares released");
    describe_counter!(REFUSALS, "Shares refused to a release, by reason");
    describe_counter!(REQUESTS, "Requests of homes, by kind and result");
    describe_counter!(
        STATEMENTS,
        "Statements about accounts and chats, by chain and outcome"
    );
    describe_gauge!(BEHIND, "Chains known to be longer at another custodian");
    describe_gauge!(
        FORKED,
        "Chains in which two statements of one number were signed"
    );
    describe_histogram!(BATCH, "Commands that shared one proposal");
    describe_gauge!(LOG_SIZE, "Entries in the log");
    describe_gauge!(FREEZES, "Freezes in force");
    describe_gauge!(LIVE, "Shares held");
    describe_gauge!(SEALING_EXPIRES, "Unix time the sealing key in use expires");
    describe_gauge!(
        UNLOCKED,
        "1 when the node's keys are loaded, 0 when it is locked"
    );
    describe_counter!(REWRAPPED, "Shares wrapped anew after a rotation");
    describe_gauge!(REWRAP_LEFT, "Shares still under former wrapping versions");
    describe_gauge!(CLOCK_OFF, "This clock's distance from its peers' median");
}

/// Counts for one node: several custodians share the process in an embedded deployment.
#[derive(Clone)]
pub(super) struct Figures {
    cluster: String,
    node: String,
}

macro_rules! of {
    ($kind:ident, $self:ident, $name:expr $(, $label:literal => $value:expr)*) => {
        $kind!($name, "cluster" => $self.cluster.clone(), "node" => $self.node.clone() $(, $label => $value)*)
    };
}

impl Figures {
    pub(super) fn new(cluster: &CustodianId, node: NodeId) -> Self {
        Self {
            cluster: cluster.to_string(),
            node: node.to_string(),
        }
    }

    pub(super) fn batch(&self, commands: usize) {
        of!(histogram, self, BATCH).record(commands as f64);
    }

    pub(super) fn request(&self, kind: &'static str, result: &'static str) {
        of!(counter, self, REQUESTS, "kind" => kind, "result" => result).increment(1);
    }

    /// `code` is one of the engine's refusal codes, or `stands`.
    pub(super) fn statement(&self, chain: &'static str, code: String) {
        of!(counter, self, STATEMENTS, "chain" => chain, "outcome" => code).increment(1);
    }

    pub(super) fn chains(&self, behind: usize, forked: usize) {
        of!(gauge, self, BEHIND).set(behind as f64);
        of!(gauge, self, FORKED).set(forked as f64);
    }

    pub(super) fn clock_off(&self, off_ms: u64) {
        of!(gauge, self, CLOCK_OFF).set(off_ms as f64 / 1e3);
    }

    pub(super) fn stored(&self, outcomes: &[StoreOutcome]) {
        for outcome in outcomes {
            let text = match outcome {
                StoreOutcome::Stored => "stored",
                StoreOutcome::AlreadyStored => "already_stored",
                StoreOutcome::Conflict => "conflict",
                StoreOutcome::Tombstoned => "tombstoned",
                StoreOutcome::BadShare => "bad_share",
                StoreOutcome::PolicyNotApproved => "policy_not_approved",
                StoreOutcome::SealingKeyGone => "sealing_key_gone",
            };
            of!(counter, self, STORES, "outcome" => text).increment(1);
        }
    }

    pub(super) fn released(&self, reply: &ReleaseReply) {
        for share in &reply.shares {
            match share {
                ShareResult::Share { .. } => of!(counter, self, RELEASES).increment(1),
                ShareResult::Refused(reason) => {
                    of!(counter, self, REFUSALS, "reason" => code(reason)).increment(1);
                }
            }
        }
    }

    pub(super) fn rewrapped(&self, shares: u32) {
        of!(counter, self, REWRAPPED).increment(shares.into());
    }

    pub(super) fn unlocked(&self, open: bool) {
        of!(gauge, self, UNLOCKED).set(if open { 1.0 } else { 0.0 });
    }

    pub(super) fn state(&self, view: &Overview) {
        of!(gauge, self, LOG_SIZE).set(view.log_size as f64);
        of!(gauge, self, FREEZES).set(view.freezes as f64);
        let held: u64 = view.live.iter().map(|(_, n)| n).sum();
        of!(gauge, self, LIVE).set(held as f64);
        of!(gauge, self, REWRAP_LEFT).set(view.under_former_versions() as f64);
        of!(gauge, self, SEALING_EXPIRES).set(view.sealing_expires_ms.unwrap_or(0) as f64 / 1e3);
    }
}

/// A label of its own for each reason, and no numbers in it.
pub(super) fn code(reason: &Refusal) -> String {
    match reason {
        Refusal::NotHeld => "not_held",
        Refusal::Tombstoned => "tombstoned",
        Refusal::Frozen => "frozen",
        Refusal::WrongChat => "wrong_chat",
        Refusal::RequestMismatch => "request_mismatch",
        Refusal::NotAuthorised => "another_homes_key",
        Refusal::Grant(why) => return format!("grant_{}", why.code()),
        Refusal::AccountBudget { .. } => "account_budget",
        Refusal::HomeNodeBudget { .. } => "home_node_budget",
        Refusal::OverallBudget { .. } => "overall_budget",
        Refusal::Damaged => "damaged",
        Refusal::Order => "order_not_in_force",
        Refusal::Mandate(why) => return format!("mandate_{}", why.code()),
    }
    .into()
}
