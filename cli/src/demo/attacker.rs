//! What attackers have, really: the home's disks, the home's certificates, the
//! shares that custodians gave. Nothing here goes around the product; it is what
//! a thief or a superuser would write.

use super::failed;
use crate::exit::Failure;
use quorate_engine::authz::grant::GrantHash;
use quorate_engine::crypto::message::{self, RecordBinding};
use quorate_engine::crypto::seal::{
    Receiver, RecipientKey, ReleaseBinding, ShareBinding, release_info,
};
use quorate_engine::crypto::subkeys::{Subkeys, key_check_holds};
use quorate_engine::custody::protocol::{
    CustodianReply, CustodianRequest, KeyRef, Reason, ReleaseReply, ReleaseRequest, ShareResult,
};
use quorate_engine::home::read;
use quorate_engine::home::rows::{EpochRow, RecordRow};
use quorate_engine::policy::Policy;
use quorate_engine::sharing;
use quorate_engine::types::{
    ChatId, CustodianId, DeploymentId, EpochNo, HomeId, KeyId, MessageId, NodeId, RequestId, Share,
};
use quorate_node::config::Config;
use quorate_node::home::custodians::Custodians;
use quorate_node::home::shard::Clock;
use quorate_node::peer::{PeerClient, client::PeerClientOptions};
use quorate_node::pki::{CertSource, Descriptor, TrustStore};
use quorate_node::server;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Longest wait for a custodian, in milliseconds.
const ANSWER_MS_MAX: u64 = 10_000;
/// Chats and records read at a time.
const STEP: usize = 256;

/// One key as the home's disk has it: everything but the key.
pub struct Dealing {
    /// Chat and key id.
    pub key: KeyRef,
    /// Its epoch.
    pub epoch: EpochNo,
    /// The policy it was dealt under.
    pub policy: Policy,
    row: EpochRow,
}

/// What lies on a home node's disk.
#[derive(Default)]
pub struct Disk {
    /// Every key's dealing.
    pub dealings: BTreeMap<KeyId, Dealing>,
    /// Every sealed record.
    pub records: Vec<(ChatId, MessageId, RecordRow)>,
    deployment: DeploymentId,
}

impl Disk {
    /// Reads all of a stopped node's disk.
    pub fn read(config: &Path) -> Result<Self, Failure> {
        let config = Config::load(config).map_err(failed)?;
        let own = Descriptor::load(&config.trust.own).map_err(failed)?;
        let storage = server::open_storage(&config).map_err(failed)?;
        let mut disk = Self {
            deployment: config.deployment,
            ..Self::default()
        };
        for group in 0..config.groups() {
            let machine = server::machine(&own).map_err(failed)?;
            let open = storage.group(group, machine).map_err(failed)?;
            let copied = open.reader.view(|kv| disk.copy(kv)).map_err(failed)?;
            copied.map_err(failed)?;
        }
        storage.close().map_err(failed)?;
        Ok(disk)
    }

    fn copy(
        &mut self,
        kv: &dyn quorate_engine::types::kv::KvRead,
    ) -> Result<(), quorate_engine::types::kv::KvError> {
        let mut after = None;
        loop {
            let chats = read::chats(kv, after.as_ref(), STEP)?;
            for (chat, row) in &chats {
                let mut from = 0;
                while from < row.next {
                    let page = read::page(kv, chat, from, STEP)?;
                    let Some((last, _)) = page.last() else { break };
                    from = last + 1;
                    for (id, record) in page {
                        let key = KeyRef {
                            chat: *chat,
                            key_id: record.key_id,
                        };
                        if !self.dealings.contains_key(&key.key_id)
                            && let Some((epoch, row)) = read::epoch_of(kv, &key)?
                            && let Some((policy, _)) = read::policy(kv, &row.policy)?
                        {
                            let dealing = Dealing {
                                key,
                                epoch,
                                policy,
                                row,
                            };
                            self.dealings.insert(key.key_id, dealing);
                        }
                        self.records.push((*chat, id, record));
                    }
                }
            }
            match chats.last() {
                Some((last, _)) if chats.len() == STEP => after = Some(*last),
                _ => return Ok(()),
            }
        }
    }

    /// The newest dealing of a chat.
    pub fn dealing_of(&self, chat: &ChatId) -> Option<&Dealing> {
        let of = self.dealings.values().filter(|d| d.key.chat == *chat);
        of.max_by_key(|d| d.epoch)
    }

    /// How many records open with these shares, of those under `dealing`. Everything is
    /// tried that the shares allow; what they give is compared with the key's check.
    pub fn open(&self, dealing: &Dealing, shares: &[(CustodianId, Share)]) -> usize {
        let of: Vec<_> = shares.iter().map(|(c, s)| (c.clone(), s)).collect();
        let Ok(key) = sharing::combine(dealing.policy.structure(), &of) else {
            return 0;
        };
        if !key_check_holds(&key, &dealing.row.check) {
            return 0;
        }
        let keys = Subkeys::derive(&key);
        let under = |(_, _, r): &&(ChatId, MessageId, RecordRow)| r.key_id == dealing.key.key_id;
        let open = |(chat, id, row): &(ChatId, MessageId, RecordRow)| {
            let place = RecordBinding {
                deployment: self.deployment,
                chat: *chat,
                message: *id,
                revision: row.revision,
                key_id: row.key_id,
                kind: row.kind,
            };
            message::open(&keys, &place, &row.sealed).ok()
        };
        self.records.iter().filter(under).filter_map(open).count()
    }
}

/// What one custodian gave, or why not.
pub type Given = (CustodianId, Result<Share, String>);

/// Root at the home: its certificate and key, its list of custodians, its network.
pub struct Root {
    custodians: Custodians,
    trust: Arc<TrustStore>,
    deployment: DeploymentId,
    /// The home.
    pub home: HomeId,
    node: NodeId,
}

impl Root {
    /// Takes a home node's files over.
    pub fn of(config: &Path) -> Result<Self, Failure> {
        let config = Config::load(config).map_err(failed)?;
        let trust = TrustStore::load(&config.trust.own, &config.trust.dir).map_err(failed)?;
        let certs = CertSource::load("peer", &config.tls.cert, &config.tls.key).map_err(failed)?;
        let client = PeerClient::new(trust.clone(), certs, PeerClientOptions::default());
        Ok(Self {
            custodians: Custodians::new(config.deployment, Arc::new(client), Clock::default()),
            trust,
            deployment: config.deployment,
            home: HomeId::new(&config.cluster).map_err(failed)?,
            node: config.node,
        })
    }

    /// The deployment.
    pub fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// Every custodian the home knows.
    pub fn custodians(&self) -> Vec<CustodianId> {
        self.trust.custodians().into_keys().collect()
    }

    /// Asks each of `custodians` for its share of a key under `grant`, as the home would.
    pub async fn ask(
        &self,
        custodians: &[CustodianId],
        dealing: &Dealing,
        grant: &str,
    ) -> Vec<Given> {
        let mut out = Vec::with_capacity(custodians.len());
        for custodian in custodians {
            out.push((
                custodian.clone(),
                self.ask_one(custodian, dealing, grant).await,
            ));
        }
        out
    }

    async fn ask_one(
        &self,
        custodian: &CustodianId,
        dealing: &Dealing,
        grant: &str,
    ) -> Result<Share, String> {
        let lease_key = RecipientKey::generate(&mut rand::rng());
        let mut request = [0; RequestId::LEN];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut request);
        let asked = CustodianRequest::Release(ReleaseRequest {
            request: RequestId(request),
            home: self.home.clone(),
            node: self.node,
            deployment: self.deployment,
            lease_key: lease_key.public(),
            reason: Reason::Read,
            grant: grant.to_owned(),
            keys: vec![dealing.key],
        });
        let reply = self.custodians.ask(custodian, &asked, ANSWER_MS_MAX).await;
        match reply.map_err(|e| e.to_string())? {
            CustodianReply::Release(reply) => {
                self.opened(custodian, dealing, grant, &lease_key, &reply)
            }
            other => Err(format!("{other:?}").chars().take(200).collect()),
        }
    }

    fn opened(
        &self,
        custodian: &CustodianId,
        dealing: &Dealing,
        grant: &str,
        lease_key: &RecipientKey,
        reply: &ReleaseReply,
    ) -> Result<Share, String> {
        let sealed = match reply.shares.first() {
            Some(ShareResult::Share { sealed }) => sealed,
            Some(ShareResult::Refused(why)) => return Err(why.to_string()),
            None => return Err("an empty answer".into()),
        };
        let info = release_info(&self.deployment, custodian);
        let receiver = Receiver::new(lease_key, &reply.encapsulated, &info);
        let binding = ReleaseBinding {
            authority: GrantHash::of(grant).0,
            node: self.node,
            lease_key: lease_key.public().hash(),
        };
        let place = ShareBinding {
            deployment: self.deployment,
            custodian: custodian.clone(),
            chat: dealing.key.chat,
            key_id: dealing.key.key_id,
            policy: dealing.policy.id(),
        };
        let receiver = receiver.map_err(|e| e.to_string())?;
        let share = receiver.open(&place, Some(&binding), sealed);
        share.map_err(|e| e.to_string())
    }
}

/// The shares among what was given.
pub fn shares(given: Vec<Given>) -> (Vec<(CustodianId, Share)>, Vec<(CustodianId, String)>) {
    let (mut shares, mut refused) = (Vec::new(), Vec::new());
    for (custodian, result) in given {
        match result {
            Ok(share) => shares.push((custodian, share)),
            Err(why) => refused.push((custodian, why)),
        }
    }
    (shares, refused)
}
