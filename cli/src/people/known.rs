//! Whom this client believes, and whether a statement is *done*.
//!
//! A statement took effect when no authorised set of custodians is left that
//! does not know it: when the signed heads that verify are from a set that
//! blocks every policy. What lets somebody in has to be known to a set that
//! satisfies every policy, too, or nothing can be read.

use crate::deployment::read_limited;
use crate::exit::{Exit, Failure};
use quorate_engine::api::StatementAcks;
use quorate_engine::authz::chain::ChainId;
use quorate_engine::custody::protocol::SignedHead;
use quorate_engine::policy::{Policy, load};
use quorate_engine::types::{CustodianId, DeploymentId, StatementHash};
use quorate_node::config::{ClusterRole, Config};
use quorate_node::custodian::facts;
use quorate_node::embedded::layout::Layout;
use quorate_node::pki::{Descriptor, TrustStore};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most sets of custodians that are named where something is missing.
const SETS_SHOWN_MAX: usize = 4;

/// The custodians' log keys and the policies keys are dealt under, as this client was told.
#[derive(Clone, Debug)]
pub struct Known {
    deployment: DeploymentId,
    log_keys: BTreeMap<CustodianId, [u8; 32]>,
    policies: Vec<Policy>,
}

/// A statement as the custodians took it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// No authorised set is left that does not know it.
    pub done: bool,
    /// A set that satisfies every policy knows it.
    pub sufficient: bool,
    /// Custodians whose signed word verifies.
    pub believed: Vec<String>,
    /// Custodians that did not take it, with code and reason.
    pub refused: Vec<(String, String, String)>,
    /// Custodians that did not answer.
    pub unreachable: Vec<String>,
    /// Sets of custodians whose word would make it done.
    pub would_do: Vec<Vec<String>>,
}

/// What to do where descriptors are missing or wrong.
pub const TRUST_NEXT: &str = "name a directory with the descriptors of the home and of every custodian and policy.toml, as --trust DIR";

fn unusable(what: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, "trust", what.to_string(), TRUST_NEXT)
}

/// The descriptors of a deployment that one hand laid out, and its policy file.
///
/// # Errors
/// [`Failure`] naming the file.
pub fn trust_of_layout(layout: &Layout) -> Result<(Arc<TrustStore>, PathBuf), Failure> {
    let place = layout.home().nodes.first();
    let place = place.ok_or_else(|| unusable("layout.toml names no home node"))?;
    let config = Config::load(&place.config).map_err(unusable)?;
    let trust = TrustStore::load(&config.trust.own, &config.trust.dir).map_err(unusable)?;
    Ok((trust, config.trust.policy.unwrap_or_default()))
}

/// The descriptors (`*.json`) in a directory, whose fingerprints somebody compared.
///
/// # Errors
/// [`Failure`] naming the file.
pub fn trust_of_dir(dir: &Path) -> Result<Arc<TrustStore>, Failure> {
    let entries = std::fs::read_dir(dir).map_err(|e| Failure::file("read", dir, &e))?;
    let (mut home, mut others) = (None, Vec::new());
    for entry in entries {
        let path = entry.map_err(|e| Failure::file("read", dir, &e))?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let d = Descriptor::load(&path).map_err(unusable)?;
        match d.role {
            ClusterRole::Home if home.is_some() => {
                let what = format!("{} holds descriptors of two homes", dir.display());
                return Err(unusable(what));
            }
            ClusterRole::Home => home = Some(d),
            _ => others.push(d),
        }
    }
    let none = || unusable(format!("{} holds no home's descriptor", dir.display()));
    TrustStore::of(home.ok_or_else(none)?, others).map_err(unusable)
}

impl Known {
    /// Of a deployment that one hand laid out: everybody's files are here.
    ///
    /// # Errors
    /// [`Failure`] naming the file.
    pub fn of_layout(layout: &Layout) -> Result<Self, Failure> {
        let (trust, policy) = trust_of_layout(layout)?;
        Self::of(&trust, trust.own(), &policy)
    }

    /// Of a directory with descriptors (`*.json`), whose fingerprints somebody compared, and `policy.toml`.
    ///
    /// # Errors
    /// [`Failure`] naming the file.
    pub fn of_dir(dir: &Path) -> Result<Self, Failure> {
        let trust = trust_of_dir(dir)?;
        Self::of(&trust, trust.own(), &dir.join("policy.toml"))
    }

    fn of(trust: &TrustStore, home: &Descriptor, policy: &Path) -> Result<Self, Failure> {
        let text =
            read_limited(policy).map_err(|e| Failure::file("read the policy file", policy, &e))?;
        let file = load(&String::from_utf8_lossy(&text), &facts(trust, home)).map_err(unusable)?;
        let key = |(id, d): (CustodianId, Arc<Descriptor>)| Some((id, d.log_key?.0));
        Ok(Self {
            deployment: home.deployment,
            log_keys: trust.custodians().into_iter().filter_map(key).collect(),
            policies: file.policies.into_values().map(|n| n.policy).collect(),
        })
    }

    /// Nobody: every word counts as none.
    pub fn none() -> Self {
        Self {
            deployment: DeploymentId::default(),
            log_keys: BTreeMap::new(),
            policies: Vec::new(),
        }
    }

    /// The deployment.
    pub fn deployment(&self) -> &DeploymentId {
        &self.deployment
    }

    /// The custodians.
    pub fn custodians(&self) -> impl Iterator<Item = &CustodianId> {
        self.log_keys.keys()
    }

    /// Counts what custodians said to the statement that `chain` should end with.
    /// A word that does not verify, or is about another statement, counts as none.
    pub fn judge(
        &self,
        chain: ChainId,
        (number, hash): (u64, StatementHash),
        said: &StatementAcks,
    ) -> Judged {
        let mut believed = BTreeSet::new();
        let mut refused = said.refused.clone();
        for ack in &said.acks {
            let why = match self.holds(chain, ack) {
                Some(_) if ack.number != number || ack.hash != hash.to_string() => Some((
                    "other_head",
                    format!("its chain ends with number {}", ack.number),
                )),
                Some(custodian) => {
                    believed.insert(custodian);
                    None
                }
                None => Some(("signature", "its signature does not hold".to_owned())),
            };
            if let Some((code, reason)) = why {
                refused.push((ack.custodian.clone(), code.to_owned(), reason));
            }
        }
        let each = |is: &dyn Fn(&Policy) -> bool| {
            !self.policies.is_empty() && self.policies.iter().all(is)
        };
        let without =
            |p: &Policy| -> BTreeSet<_> { p.custodians().difference(&believed).cloned().collect() };
        let would_do = self.would_do(&believed);
        Judged {
            done: each(&|p| !p.satisfied_by(&without(p))),
            sufficient: each(&|p| p.satisfied_by(&believed)),
            believed: believed.iter().map(ToString::to_string).collect(),
            refused,
            unreachable: said.unreachable.clone(),
            would_do,
        }
    }

    fn holds(
        &self,
        chain: ChainId,
        ack: &quorate_engine::api::StatementAck,
    ) -> Option<CustodianId> {
        let custodian = CustodianId::new(&ack.custodian).ok()?;
        let mut hash = [0; 32];
        hex::decode_to_slice(&ack.hash, &mut hash).ok()?;
        let head = SignedHead {
            custodian: custodian.clone(),
            chain,
            number: ack.number,
            hash,
            entry: ack.entry,
            time_ms: ack.time_ms,
            signature: hex::decode(&ack.signature).ok()?,
        };
        let key = self.log_keys.get(&custodian)?;
        let holds = head.verify(&self.deployment, &custodian, &chain, key);
        holds.is_ok().then_some(custodian)
    }

    /// A smallest set of custodians without which nothing opens under any policy.
    pub fn smallest_blocking(&self) -> BTreeSet<CustodianId> {
        let blocks = |set: &BTreeSet<CustodianId>| {
            self.policies.iter().all(|p| {
                let rest = p.custodians().difference(set).cloned().collect();
                !p.satisfied_by(&rest)
            })
        };
        let sets = self.policies.iter().flat_map(Policy::minimal_blocking_sets);
        let smallest = sets.filter(blocks).min_by_key(BTreeSet::len);
        smallest.unwrap_or_else(|| self.custodians().cloned().collect())
    }

    /// What is missing until the first policy that is not blocked yet is.
    fn would_do(&self, believed: &BTreeSet<CustodianId>) -> Vec<Vec<String>> {
        for policy in &self.policies {
            let mut missing: Vec<BTreeSet<CustodianId>> = policy
                .minimal_blocking_sets()
                .into_iter()
                .map(|set| set.difference(believed).cloned().collect())
                .collect();
            if missing.iter().any(BTreeSet::is_empty) {
                continue;
            }
            missing.sort_by_key(BTreeSet::len);
            let mut least: Vec<BTreeSet<CustodianId>> = Vec::new();
            for set in missing {
                if !least.iter().any(|l| l.is_subset(&set)) {
                    least.push(set);
                }
            }
            let words = |s: &BTreeSet<CustodianId>| s.iter().map(ToString::to_string).collect();
            return least.iter().take(SETS_SHOWN_MAX).map(words).collect();
        }
        Vec::new()
    }
}

impl Judged {
    /// What people see of it, where it is not done.
    pub fn missing(&self) -> String {
        let mut out = String::new();
        for (custodian, code, reason) in &self.refused {
            let _ = write!(out, "\n  {custodian} refused ({code}): {reason}");
        }
        if !self.unreachable.is_empty() {
            let _ = write!(out, "\n  no answer: {}", self.unreachable.join(", "));
        }
        if !self.would_do.is_empty() {
            let sets: Vec<_> = self.would_do.iter().map(|s| s.join(" + ")).collect();
            let _ = write!(out, "\n  would do: {}", sets.join("; "));
        }
        out
    }

    /// Fails unless it is done, and sufficient where it lets somebody in.
    ///
    /// # Errors
    /// [`Failure`]: what is missing and what to do.
    pub fn must_be_done(&self, what: &str, lets_in: bool) -> Result<(), Failure> {
        if self.done && (self.sufficient || !lets_in) {
            return Ok(());
        }
        let conflict = ["fork", "forked", "behind", "other_head"];
        let conflicting = |r: &(String, String, String)| conflict.contains(&r.1.as_str());
        let (exit, code, next) = if self.refused.iter().any(conflicting) {
            (
                Exit::Conflict,
                "statement_conflict",
                "somebody changed it at the same moment: look at it and run the command again",
            )
        } else if self.refused.is_empty() {
            (
                Exit::Unavailable,
                "statement_not_done",
                "custodians that were away take it from the others once they are back: run the command again then",
            )
        } else {
            (
                Exit::Denied,
                "statement_refused",
                "the reasons above say what is missing",
            )
        };
        let took = match self.believed.is_empty() {
            true => "no custodian's word for it holds".to_owned(),
            false => format!(
                "only {} have signed that they know it",
                self.believed.join(", ")
            ),
        };
        let what = format!("{what} is not done: {took}{}", self.missing());
        Err(Failure::new(exit, code, what, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_engine::api::StatementAck;
    use quorate_engine::audit::EntryRef;
    use quorate_engine::crypto::sign::SigningKey;
    use quorate_engine::types::{ChatId, Secret, Structure};

    const NAMES: [&str; 4] = ["br", "ch", "is", "sg"];

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::take(&mut [n; 32]))
    }
    fn id(name: &str) -> CustodianId {
        CustodianId::new(name).unwrap()
    }

    /// Three of four: any two block.
    fn known() -> Known {
        let structure = Structure::Gate {
            threshold: 3,
            children: NAMES.iter().map(|n| Structure::Leaf(id(n))).collect(),
        };
        let identities = NAMES.iter().map(|n| (id(n), [n.as_bytes()[0]; 32]));
        let log_key = |(n, name): (usize, &&str)| (id(name), key(n as u8).public());
        Known {
            deployment: DeploymentId([1; 16]),
            log_keys: NAMES.iter().enumerate().map(log_key).collect(),
            policies: vec![Policy::new(structure, identities.collect()).unwrap()],
        }
    }

    fn ack(n: usize, chain: ChainId, head: (u64, [u8; 32])) -> StatementAck {
        let entry = EntryRef {
            index: 7,
            leaf: [0; 32],
            time_ms: 9,
        };
        let d = DeploymentId([1; 16]);
        let head = SignedHead::sign(&d, id(NAMES[n]), chain, head, &entry, &key(n as u8));
        StatementAck {
            custodian: NAMES[n].to_owned(),
            number: head.number,
            hash: hex::encode(head.hash),
            entry: head.entry,
            time_ms: head.time_ms,
            signature: hex::encode(&head.signature),
        }
    }

    fn said(acks: Vec<StatementAck>) -> StatementAcks {
        StatementAcks {
            acks,
            refused: Vec::new(),
            unreachable: Vec::new(),
        }
    }

    #[test]
    fn done_is_what_a_blocking_set_signed() {
        let (known, chain) = (known(), ChainId::Chat(ChatId([5; 32])));
        let head = (3, [8; 32]);
        let wanted = (3, StatementHash([8; 32]));
        let of = |n: &[usize]| n.iter().map(|n| ack(*n, chain, head)).collect();
        let one = known.judge(chain, wanted, &said(of(&[1])));
        assert!(!one.done && !one.sufficient);
        assert_eq!(one.would_do.len(), 3);
        assert!(one.would_do.iter().all(|s| s.len() == 1));
        let two = known.judge(chain, wanted, &said(of(&[1, 2])));
        assert!(two.done && !two.sufficient && two.would_do.is_empty());
        assert!(two.must_be_done("it", false).is_ok());
        let e = two.must_be_done("it", true).unwrap_err();
        assert_eq!(
            (e.exit, e.code.as_str()),
            (Exit::Unavailable, "statement_not_done")
        );
        let three = known.judge(chain, wanted, &said(of(&[0, 1, 2])));
        assert!(three.done && three.sufficient);
        // One custodian's word counts once.
        let twice = known.judge(chain, wanted, &said(of(&[1, 1, 1])));
        assert!(!twice.done);
    }

    #[test]
    fn words_that_do_not_hold_count_as_none() {
        let (known, chain) = (known(), ChainId::Chat(ChatId([5; 32])));
        let wanted = (3, StatementHash([8; 32]));
        let good = ack(0, chain, (3, [8; 32]));
        let other_chain = ack(1, ChainId::Chat(ChatId([6; 32])), (3, [8; 32]));
        let other_head = ack(2, chain, (3, [9; 32]));
        let mut forged = ack(3, chain, (3, [8; 32]));
        forged.time_ms += 1;
        let mut stranger = ack(3, chain, (3, [8; 32]));
        stranger.custodian = "xx".into();
        let all = vec![good, other_chain, other_head, forged, stranger];
        let judged = known.judge(chain, wanted, &said(all));
        assert_eq!(judged.believed, ["br"]);
        assert!(!judged.done && judged.refused.len() == 4, "{judged:?}");
        let e = judged.must_be_done("it", false).unwrap_err();
        assert_eq!(e.exit, Exit::Conflict, "{e}");
        assert!(e.what.contains("is refused (other_head)"), "{e}");
        // Nobody is believed where no policy is known.
        let blind = Known {
            policies: Vec::new(),
            ..known
        };
        let judged = blind.judge(chain, wanted, &said(vec![ack(0, chain, (3, [8; 32]))]));
        assert!(!judged.done && !judged.sufficient);
    }
}
