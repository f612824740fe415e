//! Which custodians publish logs where, and the keys that their words are verified with.

use crate::deployment::Deployment;
use crate::exit::Failure;
use crate::people::known;
use quorate_engine::audit::publish::{VerifierKey, log_vkey, witness_vkey};
use quorate_engine::types::{CustodianId, DeploymentId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// One custodian's log.
#[derive(Clone, Debug)]
pub struct LogPlace {
    /// Whose.
    pub custodian: CustodianId,
    /// `https://HOST:PORT` of each node's audit plane; none where they are not known here.
    pub endpoints: Vec<String>,
    /// The CA its planes are verified under, PEM.
    pub ca_pem: String,
    /// What its checkpoints are signed with.
    pub log: VerifierKey,
    /// What it cosigns others' checkpoints with.
    pub witness: VerifierKey,
}

/// The logs of a deployment.
#[derive(Clone, Debug)]
pub struct Logs {
    /// The deployment.
    pub deployment: DeploymentId,
    /// By custodian.
    pub places: BTreeMap<CustodianId, LogPlace>,
}

impl Logs {
    /// What descriptors, compared by people, say of the custodians, and where `client.toml` says they publish.
    ///
    /// # Errors
    /// When descriptors are not known or are wrong.
    pub fn of(deployment: &Deployment, trust: Option<&Path>) -> Result<Self, Failure> {
        let store = deployment.trust(trust)?.ok_or_else(|| {
            Failure::usage(
                "the custodians' descriptors are not known here",
                known::TRUST_NEXT,
            )
        })?;
        let id = store.own().deployment;
        let mut places = BTreeMap::new();
        for (custodian, d) in store.custodians() {
            let (Some(log), Some(witness)) = (d.log_key, d.witness_key) else {
                continue;
            };
            let endpoints = deployment.file.audit.get(custodian.as_str());
            let place = LogPlace {
                log: log_vkey(&id, &custodian, log.0),
                witness: witness_vkey(&id, &custodian, witness.0),
                endpoints: endpoints.cloned().unwrap_or_default(),
                ca_pem: d.ca_pem.clone(),
                custodian: custodian.clone(),
            };
            places.insert(custodian, place);
        }
        let deployment = id;
        Ok(Self { deployment, places })
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, name: &str) -> Result<&LogPlace, Failure> {
        let found = self.places.values().find(|p| p.custodian.as_str() == name);
        found.ok_or_else(|| {
            let all: Vec<_> = self.places.keys().map(CustodianId::as_str).collect();
            Failure::usage(
                format!("no custodian {name:?} is known here"),
                format!("the custodians are: {}", all.join(", ")),
            )
        })
    }

    /// A log policy (C2SP tlog-policy) that believes these logs once so many custodians cosigned. A
    /// custodian does not cosign its own log.
    ///
    /// # Errors
    /// When more are asked for than there are others.
    pub fn policy_text(&self, quorum: usize) -> Result<String, Failure> {
        let others = self.places.len().saturating_sub(1);
        if quorum > others {
            return Err(Failure::usage(
                format!("{quorum} cosignatures, where {others} others could cosign"),
                format!("choose 0 to {others}"),
            ));
        }
        let mut out = format!("# Logs of deployment {}\n", self.deployment);
        for place in self.places.values() {
            let url = place.endpoints.first().map_or("", String::as_str);
            let _ = writeln!(out, "{}", format!("log {} {url}", place.log).trim_end());
        }
        for place in self.places.values() {
            let _ = writeln!(out, "witness {} {}", place.custodian, place.witness);
        }
        if quorum == 0 {
            out.push_str("quorum none\n");
            return Ok(out);
        }
        let names: Vec<_> = self.places.keys().map(CustodianId::as_str).collect();
        let _ = writeln!(out, "group custodians {quorum} {}", names.join(" "));
        out.push_str("quorum custodians\n");
        Ok(out)
    }
}
