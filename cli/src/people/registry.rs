//! Custodians' registry planes, as an identity authority reaches them.
//!
//! Only an authority's certificate is let in there, so only who has its
//! directory gets here: the authority itself, or everybody in a deployment
//! that one hand laid out.

use crate::client::{Client, ClientError, ClientOptions};
use crate::exit::{Exit, Failure};
use futures::future::join_all;
use quorate_engine::api::registry::{Account, AccountHead, Statement};
use quorate_engine::api::{StatementAck, StatementAcks};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::types::{AccountId, CustodianId};
use quorate_node::embedded::layout::Layout;
use quorate_node::pki::{CertSource, TrustStore, tls};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Attempts of a request: it outlives elections.
const ATTEMPTS_MAX: u32 = 12;
/// A custodian that has just started may not have taken in its authorities yet.
const UNKNOWN_WAIT: Duration = Duration::from_secs(20);
/// Between two looks whether it has.
const UNKNOWN_POLL: Duration = Duration::from_millis(500);

/// A client of every custodian's registry plane.
pub struct Registry {
    custodians: BTreeMap<CustodianId, Client>,
}

fn unusable(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "registry",
        what.to_string(),
        "name the authority's own directory, made by `quorate identity init`, with every custodian's descriptor trusted",
    )
}

impl Registry {
    /// As the authority in `dir`, at `addresses` (`https://HOST:PORT` of each node).
    ///
    /// # Errors
    /// [`Failure`] naming the file or the address.
    pub fn of(dir: &Path, addresses: &BTreeMap<CustodianId, Vec<String>>) -> Result<Self, Failure> {
        let trust =
            TrustStore::load(&dir.join("descriptor.json"), &dir.join("trust")).map_err(unusable)?;
        let (certificate, key) = (dir.join("authority.crt"), dir.join("authority.key"));
        let source = CertSource::load("authority", &certificate, &key).map_err(unusable)?;
        let options = ClientOptions {
            attempts_max: ATTEMPTS_MAX,
            ..ClientOptions::default()
        };
        let mut custodians = BTreeMap::new();
        for (custodian, endpoints) in addresses {
            if !trust.custodians().contains_key(custodian) {
                let what = format!("the authority does not trust a custodian {custodian}");
                return Err(unusable(what));
            }
            let tls = tls::registry_client(&trust, &source, custodian.clone());
            let client = Client::registry(endpoints, tls, options);
            let client = client.map_err(|e| unusable(format!("registry of {custodian}: {e}")))?;
            custodians.insert(custodian.clone(), client);
        }
        Ok(Self { custodians })
    }

    /// As an authority of a deployment that one hand laid out.
    ///
    /// # Errors
    /// [`Failure`] naming the file.
    pub fn of_layout(layout: &Layout, authority: &Path) -> Result<Self, Failure> {
        let mut addresses = BTreeMap::new();
        for cluster in layout.clusters.iter().skip(1) {
            let custodian = CustodianId::new(&cluster.name).map_err(unusable)?;
            let nodes = cluster.nodes.iter().filter_map(|n| n.registry);
            addresses.insert(custodian, nodes.map(|a| format!("https://{a}")).collect());
        }
        Self::of(authority, &addresses)
    }

    /// Brings `statement`, the genesis of an account or the next about `account`, to every custodian at once.
    pub async fn tell(&self, account: Option<&AccountId>, statement: &Envelope) -> StatementAcks {
        let path = match account {
            None => "/v1/accounts".to_owned(),
            Some(account) => format!("/v1/accounts/{account}/statements"),
        };
        let each = self.custodians.iter().map(|(custodian, client)| {
            let path = &path;
            async move { (custodian, tell_one(client, path, statement).await) }
        });
        let mut out = StatementAcks {
            acks: Vec::new(),
            refused: Vec::new(),
            unreachable: Vec::new(),
        };
        for (custodian, answer) in join_all(each).await {
            match answer {
                Ok(head) => out.acks.push(StatementAck {
                    custodian: custodian.to_string(),
                    number: head.number,
                    hash: head.hash,
                    entry: head.entry,
                    time_ms: head.time_ms,
                    signature: head.signature,
                }),
                Err(ClientError::Problem(p)) if p.status < 500 => {
                    out.refused.push((custodian.to_string(), p.code, p.detail));
                }
                Err(e) => {
                    tracing::info!(%custodian, "no word on a statement: {e}");
                    out.unreachable.push(custodian.to_string());
                }
            }
        }
        out
    }

    /// Brings the genesis of an account to one custodian alone.
    ///
    /// # Errors
    /// [`ClientError`], for a custodian that is not known here too.
    pub async fn found_at(
        &self,
        custodian: &CustodianId,
        genesis: &Envelope,
    ) -> Result<AccountHead, ClientError> {
        let client = self.custodians.get(custodian);
        let client = client.ok_or_else(|| ClientError::NotSent {
            detail: format!("the registry plane of {custodian} is not known here"),
        })?;
        tell_one(client, "/v1/accounts", genesis).await
    }

    /// The account, as the custodian with the longest chain of it holds it.
    ///
    /// # Errors
    /// [`Failure`] when no custodian shows it.
    pub async fn account(&self, account: &AccountId) -> Result<Account, Failure> {
        let path = format!("/v1/accounts/{account}");
        let each = self.custodians.values().map(|c| c.get::<Account>(&path));
        let (mut best, mut last) = (None::<Account>, None);
        for answer in join_all(each).await {
            match answer {
                Ok(seen) if best.as_ref().is_none_or(|b| b.number < seen.number) => {
                    best = Some(seen);
                }
                Ok(_) => {}
                Err(e) => last = Some(e),
            }
        }
        match (best, last) {
            (Some(account), _) => Ok(account),
            (None, Some(e)) => Err(e.into()),
            (None, None) => Err(unusable("no custodian's registry plane is known")),
        }
    }
}

async fn tell_one(
    client: &Client,
    path: &str,
    statement: &Envelope,
) -> Result<AccountHead, ClientError> {
    let until = Instant::now() + UNKNOWN_WAIT;
    let body = Statement::from(statement);
    loop {
        match client.post::<_, AccountHead>(path, &body).await {
            Err(ClientError::Problem(p))
                if p.code == "unknown_authority" && Instant::now() < until =>
            {
                tokio::time::sleep(UNKNOWN_POLL).await;
            }
            other => return other,
        }
    }
}
