//! What makes a well-formed configuration a usable one.

use super::{CLUSTER_NODES_MAX, CONFIG_FORMAT, ClusterRole, Config, KeyProvider, SHARDS_MAX};
use quorate_engine::custody::protocol::KEYS_PER_REQUEST_MAX;
use quorate_engine::types::CustodianId;
use std::collections::BTreeSet;

/// One thing that is wrong: the key, what is wrong with it, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}; {todo}")]
pub struct Problem {
    /// Dotted key in the file.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub todo: String,
}

fn problem(key: &str, what: impl Into<String>, todo: impl Into<String>) -> Problem {
    Problem {
        key: key.into(),
        what: what.into(),
        todo: todo.into(),
    }
}

/// Looks at `format` alone, so that a newer file is called newer and not full of unknown keys.
pub(super) fn format_first(text: &str) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: Option<toml::Value>,
    }
    let Ok(head) = toml::from_str::<Format>(text) else {
        return Ok(()); // The full parse says it better.
    };
    match head.format {
        None => Err(format!(
            "format: missing; begin the file with `format = {CONFIG_FORMAT}`"
        )),
        Some(toml::Value::Integer(n)) if n == i64::from(CONFIG_FORMAT) => Ok(()),
        Some(other) => Err(format!(
            "format: {other}, this build reads {CONFIG_FORMAT}; use the release that wrote the file, or `init` a new one"
        )),
    }
}

/// Everything that is wrong with `c`.
pub(super) fn problems(c: &Config) -> Vec<Problem> {
    let mut out = Vec::new();
    if CustodianId::new(&c.cluster).is_err() {
        out.push(problem(
            "cluster",
            format!("{:?} is not a name", c.cluster),
            "use 1 to 32 of a-z, 0-9 and '-', starting with a letter",
        ));
    }
    if c.node == 0 {
        out.push(problem("node", "0 is not a node id", "number nodes from 1"));
    }
    nodes(c, &mut out);
    role(c, &mut out);
    keys(c, &mut out);
    raft(c, &mut out);
    limits(c, &mut out);
    out
}

fn nodes(c: &Config, out: &mut Vec<Problem>) {
    if c.nodes.len() > CLUSTER_NODES_MAX {
        out.push(problem(
            "nodes",
            format!("{} nodes, at most {CLUSTER_NODES_MAX}", c.nodes.len()),
            "three or five nodes are usual; add learners later",
        ));
    }
    let ids: BTreeSet<_> = c.nodes.iter().map(|n| n.id).collect();
    if ids.len() != c.nodes.len() {
        out.push(problem(
            "nodes",
            "an id appears twice",
            "give every node its own id",
        ));
    }
    let addresses: BTreeSet<_> = c.nodes.iter().map(|n| &n.peer).collect();
    if addresses.len() != c.nodes.len() {
        out.push(problem(
            "nodes",
            "two nodes have one address",
            "give every node its own peer address",
        ));
    }
    for n in &c.nodes {
        let port = n.peer.rsplit_once(':').map(|(_, p)| p.parse::<u16>());
        if n.id == 0 || !matches!(port, Some(Ok(_))) {
            out.push(problem(
                "nodes",
                format!("id {} with peer {:?}", n.id, n.peer),
                "ids start at 1 and peer is host:port",
            ));
        }
    }
}

fn role(c: &Config, out: &mut Vec<Problem>) {
    match c.role {
        ClusterRole::Home => {
            if c.listen.client.is_none() {
                out.push(problem(
                    "listen.client",
                    "missing",
                    "a home serves clients: set addr:port",
                ));
            }
            if c.tls.client_cert.is_none() || c.tls.client_key.is_none() {
                out.push(problem(
                    "tls.client_cert, tls.client_key",
                    "missing",
                    "a home needs a server certificate for its client plane",
                ));
            }
            if c.trust.policy.is_none() {
                out.push(problem(
                    "trust.policy",
                    "missing",
                    "name the policy file keys are dealt under",
                ));
            }
            for (key, set) in [
                ("listen.registry", c.listen.registry.is_some()),
                ("listen.audit", c.listen.audit.is_some()),
                ("webhook", c.webhook.is_some()),
            ] {
                if set {
                    out.push(problem(
                        key,
                        "only a custodian has this",
                        "remove it, or set role = \"custodian\"",
                    ));
                }
            }
        }
        ClusterRole::Authority => out.push(problem(
            "role",
            "an identity authority runs no node",
            "use `quorate identity`, or set role = \"custodian\" or \"home\"",
        )),
        ClusterRole::Custodian => {
            for (key, set) in [
                ("listen.client", c.listen.client.is_some()),
                ("tls.client_cert", c.tls.client_cert.is_some()),
                ("tls.client_key", c.tls.client_key.is_some()),
                ("home", c.home.is_some()),
            ] {
                if set {
                    out.push(problem(
                        key,
                        "only a home has this",
                        "remove it, or set role = \"home\"",
                    ));
                }
            }
            if c.keys.log_key.is_none() || c.keys.witness_key.is_none() {
                out.push(problem(
                    "keys.log_key, keys.witness_key",
                    "missing",
                    "a custodian signs receipts and checkpoints: name the key files",
                ));
            }
        }
    }
    if let Some(h) = &c.home {
        let mut range = |key, v, min, max| range(out, key, v, min, max);
        range("home.shards", h.shards.into(), 1, SHARDS_MAX.into());
        range("home.lease_age_s_max", h.lease_age_s_max, 1, 3_600);
        range(
            "home.lease_count_max",
            h.lease_count_max as u64,
            16,
            1 << 20,
        );
        range("home.thin_wait_ms", h.thin_wait_ms, 50, 60_000);
    }
}

fn range(out: &mut Vec<Problem>, key: &str, v: u64, min: u64, max: u64) {
    if !(min..=max).contains(&v) {
        out.push(problem(
            key,
            format!("{v}"),
            format!("choose {min} to {max}"),
        ));
    }
}

fn keys(c: &Config, out: &mut Vec<Problem>) {
    if let Some(r) = &c.keys.rotation {
        if c.role == ClusterRole::Home {
            out.push(problem(
                "keys.rotation",
                "only a custodian has this",
                "remove it, or set role = \"custodian\"",
            ));
        }
        // A sealing version lives six days; its successor must be there well before its end.
        range(out, "keys.rotation.sealing_h", r.sealing_h, 1, 120);
        range(out, "keys.rotation.wrapping_days", r.wrapping_days, 1, 365);
        range(
            out,
            "keys.rotation.rewraps_s_max",
            r.rewraps_s_max as u64,
            1,
            KEYS_PER_REQUEST_MAX as u64,
        );
    }
    if c.keys.provider == KeyProvider::KeyFile && c.keys.key_file.is_none() {
        out.push(problem(
            "keys.key_file",
            "missing",
            "name the file, or choose another keys.provider",
        ));
    }
    if (c.keys.provider == KeyProvider::Pkcs11) != c.keys.pkcs11.is_some() {
        out.push(problem(
            "keys.pkcs11",
            "must be there exactly when keys.provider is pkcs11",
            "give module, token, key and pin_file, or choose another keys.provider",
        ));
    }
    if c.role == ClusterRole::Home && c.keys.provider != KeyProvider::KeyFile {
        out.push(problem(
            "keys.provider",
            format!("{} at a home", c.keys.provider.as_str()),
            "only custodians have keys that people unlock: set key-file",
        ));
    }
}

fn raft(c: &Config, out: &mut Vec<Problem>) {
    let r = &c.raft;
    if r.heartbeat_ms == 0 || r.election_ms_min < r.heartbeat_ms.saturating_mul(2) {
        out.push(problem(
            "raft.election_ms_min",
            format!("{} with heartbeat_ms {}", r.election_ms_min, r.heartbeat_ms),
            "an election waits for at least two heartbeats, or leaders fall to one lost packet",
        ));
    }
    if r.election_ms_max <= r.election_ms_min || r.election_ms_max > 60_000 {
        out.push(problem(
            "raft.election_ms_max",
            format!(
                "{} with election_ms_min {}",
                r.election_ms_max, r.election_ms_min
            ),
            "must be larger than election_ms_min and at most 60000",
        ));
    }
    if r.snapshot_entries == 0 || r.keep_entries > 10_000_000 {
        out.push(problem(
            "raft.snapshot_entries, raft.keep_entries",
            format!("{}, {}", r.snapshot_entries, r.keep_entries),
            "snapshot_entries is at least 1, keep_entries at most 10000000",
        ));
    }
}

fn limits(c: &Config, out: &mut Vec<Problem>) {
    let l = &c.limits;
    let mut range = |key, v, min, max| range(out, key, v, min, max);
    range(
        "limits.client_in_flight_max",
        l.client_in_flight_max as u64,
        1,
        1 << 16,
    );
    range(
        "limits.peer_in_flight_max",
        l.peer_in_flight_max as u64,
        16,
        1 << 16,
    );
    range("limits.cert_warn_days", l.cert_warn_days, 1, 365);
}
