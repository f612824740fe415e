//! Share stores and releases, asked of one custodian as a home node asks.
//!
//! The peer plane believes nobody without a home's certificate, and only where
//! one hand laid everything out ([`Layout`]) is a home node's at hand. So this
//! acts *as* a node of the home, over one connection a peer as that node has,
//! and what it stores are shares that no home knows of: orphans that stay at the
//! custodian, as `quorate bench` says before it begins.
//!
//! A release takes a grant of somebody who is in the key's chat, and an account
//! has a budget. So people are made for it, enrolled by the deployment's own
//! authority at that custodian, each with a chat and a grant of their own.

use super::{Case, Done, WARM_UP, spread};
use crate::client::ClientError;
use crate::exit::{Exit, Failure};
use crate::people::account::{Hands, found};
use crate::people::{Person, Wants};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use quorate_engine::authz::grant::GrantHash;
use quorate_engine::authz::identity::account_id;
use quorate_engine::crypto::seal::{
    Receiver, RecipientKey, ReleaseBinding, Sender, ShareBinding, deal_info, release_info,
};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::{
    CustodianReply, CustodianRequest, KEYS_PER_REQUEST_MAX, KeyRef, Reason, ReleaseReply,
    ReleaseRequest, SealSession, SealedItem, ShareResult, StatementRequest, StoreOutcome,
    StoreRequest,
};
use quorate_engine::policy::load;
use quorate_engine::sharing::{commitment, commitment_holds};
use quorate_engine::types::{
    ChatId, CustodianId, DeploymentId, EpochNo, HomeId, KeyId, NodeId, PolicyId, RequestId,
    SessionId, Share,
};
use quorate_node::config::Config;
use quorate_node::custodian::facts;
use quorate_node::embedded::layout::Layout;
use quorate_node::home::custodians::Custodians;
use quorate_node::home::shard::Clock;
use quorate_node::peer::{PeerClient, client::PeerClientOptions};
use quorate_node::pki::{CertSource, TrustStore};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// Keys stored before releases are measured, at least; they are released again and again.
const RELEASED_KEYS: usize = 4_096;
/// Keys one account is released before the next one asks: what a custodian's budget allows at once.
const KEYS_PER_ACCOUNT: i64 = 2_048;
/// Accounts made for each second of releases.
const ACCOUNTS_PER_SECOND: u64 = 48;
/// Fewest and most accounts made.
const ACCOUNTS: (u64, u64) = (64, 4_096);
/// Accounts in the making at once.
const ACCOUNTS_AT_ONCE: usize = 32;
/// Longest wait for one answer, in milliseconds; as long as a home waits for a store.
const ANSWER_MS_MAX: u64 = 3_000;
/// Requests in flight on the one connection.
const IN_FLIGHT_MAX: usize = 2_048;

/// A node of the home, and the custodian it asks.
pub struct HomeNode {
    custodians: Custodians,
    custodian: CustodianId,
    log_key: [u8; 32],
    deployment: DeploymentId,
    home: HomeId,
    node: NodeId,
    policy: PolicyId,
    layout: Layout,
    sender: Sender,
    session: SealSession,
    lease_key: RecipientKey,
    batch: usize,
}

fn unusable(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "bench_peer_plane",
        what.to_string(),
        "the deployment must be one that `quorate dev` or `quorate deploy init` laid out, and running",
    )
}

fn fresh<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut out);
    out
}

impl HomeNode {
    /// Becomes the first node of the home laid out in `dir`, and opens a seal
    /// session to `custodian` (without one: the first custodian laid out).
    ///
    /// # Errors
    /// [`Failure`], when the deployment was not laid out by one hand or the custodian does not answer.
    pub async fn of(
        dir: &Path,
        custodian: Option<&str>,
        batch: usize,
    ) -> Result<Arc<Self>, Failure> {
        if !dir.join("layout.toml").exists() {
            return Err(Failure::usage(
                format!(
                    "{} has no layout.toml: its home's certificates are not here",
                    dir.display()
                ),
                "share stores and releases can be measured only in a deployment that one hand laid out for tests",
            ));
        }
        let layout = Layout::load(dir).map_err(unusable)?;
        let name = match custodian {
            Some(name) => name,
            None => layout.clusters.get(1).map_or("", |c| c.name.as_str()),
        };
        let custodian = CustodianId::new(name).map_err(unusable)?;
        let place = layout.home().nodes.first();
        let place = place.ok_or_else(|| unusable("layout.toml names no home node"))?;
        let config = Config::load(&place.config).map_err(unusable)?;
        let trust = TrustStore::load(&config.trust.own, &config.trust.dir).map_err(unusable)?;
        let certs =
            CertSource::load("peer", &config.tls.cert, &config.tls.key).map_err(unusable)?;
        let descriptor = trust.custodians().remove(&custodian).ok_or_else(|| {
            let known: Vec<_> = trust
                .custodians()
                .into_keys()
                .map(|c| c.to_string())
                .collect();
            Failure::usage(
                format!("the home knows no custodian {custodian}"),
                format!("its custodians are {}", known.join(", ")),
            )
        })?;
        let log_key = descriptor.log_key.map(|k| k.0);
        let policy = policy(&config, &trust, &custodian)?;
        let options = PeerClientOptions {
            in_flight_max: IN_FLIGHT_MAX,
        };
        let client = PeerClient::new(trust, certs, options);
        let custodians = Custodians::new(config.deployment, Arc::new(client), Clock::default());
        let statement = custodians.sealing_key(&custodian).await.map_err(unusable)?;
        let info = deal_info(&config.deployment, &custodian, statement.version);
        let (sender, encapsulated) =
            Sender::new(&statement.public, &info, &mut rand::rng()).map_err(unusable)?;
        Ok(Arc::new(Self {
            custodians,
            log_key: log_key
                .ok_or_else(|| unusable("the custodian's descriptor has no log key"))?,
            deployment: config.deployment,
            home: HomeId::new(&config.cluster).map_err(unusable)?,
            node: config.node,
            policy,
            layout,
            sender,
            session: SealSession {
                id: SessionId(fresh()),
                custodian: custodian.clone(),
                version: statement.version,
                expires_ms: statement.expires_ms,
                encapsulated,
            },
            custodian,
            lease_key: RecipientKey::generate(&mut rand::rng()),
            batch,
        }))
    }

    /// What a person should know before this runs.
    pub fn warning(&self) -> String {
        format!(
            "acting as home {} node {}: writes real shares that no home knows of to custodian {}; they stay there, and so do the accounts made for releases",
            self.home, self.node, self.custodian
        )
    }

    async fn ask(&self, request: &CustodianRequest) -> Result<CustodianReply, ClientError> {
        let asked = self.custodians.ask(&self.custodian, request, ANSWER_MS_MAX);
        asked.await.map_err(|e| ClientError::Unknown {
            detail: e.to_string(),
        })
    }

    fn malformed(&self, detail: impl Into<String>) -> ClientError {
        ClientError::Malformed {
            path: format!("custodian {}", self.custodian),
            detail: detail.into(),
        }
    }

    fn place(&self, chat: ChatId, key_id: KeyId) -> ShareBinding {
        ShareBinding {
            deployment: self.deployment,
            custodian: self.custodian.clone(),
            chat,
            key_id,
            policy: self.policy,
        }
    }

    fn item(&self, chat: ChatId, epoch: EpochNo) -> SealedItem {
        let key_id = KeyId(fresh());
        let share = Share::generate(&mut rand::rng());
        let place = self.place(chat, key_id);
        let sealed = self.sender.seal(&place, None, fresh(), &share);
        SealedItem {
            chat,
            epoch,
            key_id,
            policy: self.policy,
            commitment: commitment(&key_id, &self.custodian, &share),
            sealed,
            expires_ms: None,
        }
    }

    /// Stores shares of `count` fresh keys of `chat` in one request.
    async fn store(&self, chat: ChatId, count: usize) -> Result<Vec<Stored>, ClientError> {
        let epochs = 0..EpochNo::try_from(count).unwrap_or(EpochNo::MAX);
        let items: Vec<_> = epochs.map(|epoch| self.item(chat, epoch)).collect();
        let keys = items.iter().map(|i| Stored {
            key: KeyRef {
                chat: i.chat,
                key_id: i.key_id,
            },
            commitment: i.commitment,
        });
        let keys = keys.collect();
        let request = CustodianRequest::Store(StoreRequest {
            home: self.home.clone(),
            deployment: self.deployment,
            session: self.session.clone(),
            items,
        });
        match self.ask(&request).await? {
            CustodianReply::Store(outcomes)
                if outcomes.len() == count
                    && outcomes.iter().all(|o| {
                        matches!(o, StoreOutcome::Stored | StoreOutcome::AlreadyStored)
                    }) =>
            {
                Ok(keys)
            }
            CustodianReply::Store(outcomes) => {
                Err(self.malformed(format!("shares were not taken: {:?}", outcomes.first())))
            }
            other => Err(self.malformed(format!("a store was answered by {other:?}"))),
        }
    }

    /// Has the shares of `keys` released under `grant`; `check` opens every one and verifies the receipt.
    async fn release(&self, grant: &str, keys: &[Stored], check: bool) -> Result<(), ClientError> {
        let request = RequestId(fresh());
        let asked = CustodianRequest::Release(ReleaseRequest {
            request,
            home: self.home.clone(),
            node: self.node,
            deployment: self.deployment,
            lease_key: self.lease_key.public(),
            reason: Reason::Drill,
            grant: grant.to_owned(),
            keys: keys.iter().map(|k| k.key).collect(),
        });
        let CustodianReply::Release(reply) = self.ask(&asked).await? else {
            return Err(self.malformed("a release was answered by something else"));
        };
        let all = reply.shares.len() == keys.len()
            && reply
                .shares
                .iter()
                .all(|s| matches!(s, ShareResult::Share { .. }));
        if !all {
            return Err(self.malformed(format!("not all shares came: {:?}", reply.shares.first())));
        }
        match check {
            true => self.verify(&request, grant, keys, &reply),
            false => Ok(()),
        }
    }

    fn verify(
        &self,
        request: &RequestId,
        grant: &str,
        keys: &[Stored],
        reply: &ReleaseReply,
    ) -> Result<(), ClientError> {
        let bad = |e: &dyn std::fmt::Display| self.malformed(e.to_string());
        let receipt = &reply.receipt;
        let verified = receipt.verify(&self.deployment, &self.custodian, request, &self.log_key);
        verified.map_err(|e| bad(&e))?;
        let info = release_info(&self.deployment, &self.custodian);
        let receiver =
            Receiver::new(&self.lease_key, &reply.encapsulated, &info).map_err(|e| bad(&e))?;
        let binding = ReleaseBinding {
            authority: GrantHash::of(grant).0,
            node: self.node,
            lease_key: self.lease_key.public().hash(),
        };
        for (stored, result) in keys.iter().zip(&reply.shares) {
            let ShareResult::Share { sealed } = result else {
                continue;
            };
            let KeyRef { chat, key_id } = stored.key;
            let share = receiver.open(&self.place(chat, key_id), Some(&binding), sealed);
            let share = share.map_err(|e| bad(&e))?;
            if !commitment_holds(&key_id, &self.custodian, &share, &stored.commitment) {
                return Err(bad(&"a released share does not match its commitment"));
            }
        }
        Ok(())
    }

    /// Somebody with a chat at the custodian, and `count` keys in it.
    async fn reader(&self, hands: &Hands, count: usize) -> Result<Reader, Failure> {
        let key = SigningKey::generate(&mut rand::rng());
        let authorities = hands.ids();
        let mut genesis = found(&self.deployment, authorities.clone(), &key)?;
        hands.sign(&mut genesis, &authorities, 1)?;
        let account = account_id(&genesis);
        hands.registry.found_at(&self.custodian, &genesis).await?;
        let person = Person::new(account, key, self.deployment, self.home.clone());
        let (chat, statement) = person.found_chat(false);
        let request = CustodianRequest::ChatStatement(StatementRequest {
            home: self.home.clone(),
            deployment: self.deployment,
            statement,
        });
        match self.ask(&request).await? {
            CustodianReply::Statement(Ok(_)) => {}
            other => {
                let what = format!("a chat's genesis was answered by {other:?}");
                return Err(self.malformed(what).into());
            }
        }
        let keys = self.store(chat, count).await?;
        let grant = person.grant(&Wants::read(vec![chat]));
        Ok(Reader {
            grant: grant.map_err(unusable)?,
            keys,
            left: AtomicI64::new(KEYS_PER_ACCOUNT),
        })
    }
}

/// The policy shares are stored under: the home's first that deals to `custodian`.
fn policy(
    config: &Config,
    trust: &TrustStore,
    custodian: &CustodianId,
) -> Result<PolicyId, Failure> {
    let path = config.trust.policy.clone().unwrap_or_default();
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Failure::file("read the policy file", &path, &e))?;
    let file = load(&text, &facts(trust, trust.own())).map_err(unusable)?;
    let found = file
        .policies
        .into_values()
        .find(|named| named.policy.custodians().contains(custodian));
    found
        .map(|named| named.policy.id())
        .ok_or_else(|| unusable(format!("no policy of the home deals to {custodian}")))
}

struct Stored {
    key: KeyRef,
    commitment: [u8; 32],
}

/// Stores of `batch` fresh shares a request.
pub struct ShareStores(pub Arc<HomeNode>);

impl Case for ShareStores {
    fn name(&self) -> &'static str {
        "share stores"
    }
    fn operation(&self, _client: usize, _n: usize) -> BoxFuture<'_, Result<Done, ClientError>> {
        Box::pin(async move {
            let chat = ChatId(fresh());
            let stored = self.0.store(chat, self.0.batch).await?;
            Ok(Done {
                items: stored.len() as u64,
                last: false,
            })
        })
    }
}

/// Releases of `batch` keys a request. Each client's first answers are
/// verified and opened as a home would; of later ones the shares are counted,
/// because on one machine the client's work would be taken from the custodian.
pub struct Releases {
    home: Arc<HomeNode>,
    readers: Vec<Reader>,
    /// Who asks now.
    current: AtomicUsize,
}

/// Somebody who has keys released.
struct Reader {
    grant: Arc<str>,
    keys: Vec<Stored>,
    /// What is left of the account's budget.
    left: AtomicI64,
}

impl Releases {
    /// Makes the people and stores the shares that are to be released to them in `seconds`.
    ///
    /// # Errors
    /// As the custodian does.
    pub async fn prepare(home: Arc<HomeNode>, seconds: u64) -> Result<Self, Failure> {
        let hands = Hands::of(&home.layout)?;
        let accounts = seconds.saturating_mul(ACCOUNTS_PER_SECOND);
        let accounts = accounts.clamp(ACCOUNTS.0, ACCOUNTS.1) as usize;
        let each = home
            .batch
            .max(RELEASED_KEYS / accounts)
            .min(KEYS_PER_REQUEST_MAX);
        let making = (0..accounts).map(|_| home.reader(&hands, each));
        let readers = stream::iter(making).buffer_unordered(ACCOUNTS_AT_ONCE);
        let readers = readers.try_collect().await?;
        Ok(Self {
            home,
            readers,
            current: AtomicUsize::new(0),
        })
    }

    /// Somebody who may still have `batch` keys; `None` when everybody's budget is spent.
    fn reader(&self, batch: usize) -> Option<&Reader> {
        let batch = i64::try_from(batch).unwrap_or(i64::MAX);
        loop {
            let at = self.current.load(Ordering::Relaxed);
            let reader = self.readers.get(at)?;
            if reader.left.fetch_sub(batch, Ordering::Relaxed) >= batch {
                return Some(reader);
            }
            let _ = self
                .current
                .compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Case for Releases {
    fn name(&self) -> &'static str {
        "releases"
    }
    fn operation(&self, client: usize, n: usize) -> BoxFuture<'_, Result<Done, ClientError>> {
        Box::pin(async move {
            let batch = self.home.batch;
            let Some(reader) = self.reader(batch) else {
                return Ok(Done {
                    items: 0,
                    last: true,
                });
            };
            let places = (reader.keys.len() - batch + 1) as u64;
            let from = (spread(client, n) % places) as usize;
            let keys = &reader.keys[from..from + batch];
            self.home.release(&reader.grant, keys, n < WARM_UP).await?;
            Ok(Done {
                items: batch as u64,
                last: false,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deployment_of_many_hands_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("client.toml"), "").unwrap();
        let refused = HomeNode::of(dir.path(), Some("ch"), 1).await;
        let e = refused.err().expect("no certificate of a home is there");
        assert!(
            e.exit == Exit::Usage && e.what.contains("layout.toml"),
            "{e}"
        );
    }
}
