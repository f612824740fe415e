//! Watching replicated state: every row that is written or removed becomes a
//! fact, a digest of the whole state is kept, and what is written is searched
//! for secrets that may never be there.

use super::facts::{Fact, Said, Subject};
use super::record::Recorder;
use super::world::DEPLOYMENT;
use quorate_engine::audit::{Entry, Log, entry_bytes};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{AccountChange, AccountPayload, account_id, device_id};
use quorate_engine::authz::membership::{ChatChange, ChatPayload, chat_id};
use quorate_engine::authz::officers::{self, OfficerKey, Statement, Verdict};
use quorate_engine::authz::orders::order_id;
use quorate_engine::crypto::labels::SIGN_OFFICER;
use quorate_engine::custody::protocol::KeyRef;
use quorate_engine::custody::{Command, LinkRow, Proposal, ShareRow, TABLES, Tombstone};
use quorate_engine::home::read;
use quorate_engine::home::rows::{self, DealingRow, EpochRow, IdempotencyRow, RecordRow, table};
use quorate_engine::types::codec;
use quorate_engine::types::kv::{Kv, KvError, KvRead, MemKv, Row};
use quorate_engine::types::{ChatId, CustodianId, KeyId, MessageId, OfficerId};

/// One changed row: key, value after, whether there was one before.
pub type Change = (Vec<u8>, Option<Vec<u8>>, bool);

/// A store that keeps a digest and, when asked to, a list of changes.
pub struct Watched<'a> {
    kv: &'a mut MemKv,
    digest: &'a mut [u8; 32],
    keep: bool,
    changes: Vec<Change>,
}

impl<'a> Watched<'a> {
    /// Watches `kv`.
    pub fn new(kv: &'a mut MemKv, digest: &'a mut [u8; 32], keep: bool) -> Self {
        Self {
            kv,
            digest,
            keep,
            changes: Vec::new(),
        }
    }
    /// What changed, in order.
    pub fn finish(self) -> Vec<Change> {
        self.changes
    }
    /// The digest is the exclusive or of all rows' hashes, so it costs the changed rows only.
    fn flip(&mut self, key: &[u8], value: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&(key.len() as u64).to_le_bytes())
            .update(key)
            .update(value);
        for (a, b) in self.digest.iter_mut().zip(hasher.finalize().as_bytes()) {
            *a ^= b;
        }
    }
}

impl KvRead for Watched<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(key)
    }
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Row>, KvError> {
        self.kv.scan(from, to, limit, reverse)
    }
}

impl Kv for Watched<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        let old = self.kv.get(key)?;
        if let Some(old) = &old {
            self.flip(key, old);
        }
        self.flip(key, value);
        if self.keep {
            self.changes
                .push((key.to_vec(), Some(value.to_vec()), old.is_some()));
        }
        self.kv.put(key, value)
    }
    fn delete(&mut self, key: &[u8]) -> Result<(), KvError> {
        if let Some(old) = self.kv.get(key)? {
            self.flip(key, &old);
            if self.keep {
                self.changes.push((key.to_vec(), None, true));
            }
        }
        self.kv.delete(key)
    }
}

/// The first byte of a custodian's table.
pub fn custody_table(name: &str) -> u8 {
    let found = TABLES.iter().find(|(_, n)| *n == name);
    found.expect("the table is listed under its name").0
}

/// Whose state it is.
pub enum Side {
    /// A home shard.
    Home,
    /// A custodian.
    Custodian(CustodianId),
}

impl Side {
    /// Whether it is a home shard.
    pub fn is_home(&self) -> bool {
        matches!(self, Side::Home)
    }

    /// Tells what the changes mean.
    pub fn facts(
        &self,
        cluster: usize,
        entry: &[u8],
        kv: &MemKv,
        changes: &[Change],
        recorder: &mut Recorder,
    ) {
        for (key, value, before) in changes {
            for bytes in value.iter().chain([key]) {
                if let Some(what) = recorder.secret_in(bytes) {
                    recorder.fact(Fact::Secret { cluster, what });
                }
            }
            match self {
                Side::Home => home_row(kv, key, value.as_deref(), recorder),
                Side::Custodian(id) => custodian_row(id, key, value.as_deref(), *before, recorder),
            }
        }
        if let Side::Custodian(id) = self {
            let log = Log::load(kv).expect("the log loads");
            let head = custody_table("log-entry");
            let grown = changes
                .iter()
                .filter(|(k, v, b)| k[0] == head && v.is_some() && !b)
                .count() as u64;
            let proposal = Proposal::decode(entry);
            let commands = proposal.as_ref().map_or(0, |p| p.commands.len() as u64);
            let before = log.size() - grown;
            for (at, stamped) in (before..).zip(proposal.iter().flat_map(|p| &p.commands)) {
                if let Command::Officers(c) = &stamped.command {
                    officers_said(id, kv, at, &c.statement, recorder);
                }
            }
            recorder.fact(Fact::LogGrew {
                custodian: id.clone(),
                commands,
                before,
                after: log.size(),
            });
        }
    }
}

/// What a paper of officers says, if whom it names signed it.
fn officers_said(
    custodian: &CustodianId,
    kv: &MemKv,
    entry: u64,
    paper: &Envelope,
    recorder: &mut Recorder,
) {
    let signers = paper.signers(SIGN_OFFICER, &DEPLOYMENT).unwrap_or_default();
    let signers: Vec<OfficerId> = signers.into_iter().map(|k| OfficerKey(k).id()).collect();
    let (order, said) = match Statement::read(paper) {
        Ok(Statement::Bootstrap(b)) if b.custodian == *custodian => {
            let officers = b.officers.iter().map(|o| o.public.id()).collect();
            let custodian = custodian.clone();
            return recorder.fact(Fact::Officers {
                custodian,
                officers,
            });
        }
        Ok(Statement::Order(o)) if signers == [o.submitted_by.id()] => {
            let asked = Said::Asked {
                by: o.submitted_by.id(),
                chats: o.scope.chats,
                from_ms: o.scope.from_ms,
                to_ms: o.scope.to_ms,
                expires_ms: o.expires_ms,
            };
            (order_id(paper), asked)
        }
        Ok(Statement::Decision(d)) if signers == [d.officer] && d.custodian == *custodian => {
            let officers::Subject::Order(order) = d.subject else {
                return;
            };
            let said = match d.verdict {
                Verdict::Approve => Said::For(d.officer),
                Verdict::Reject => Said::Against(d.officer),
                Verdict::Withdraw => Said::TakenBack(d.officer),
            };
            (order, said)
        }
        _ => return,
    };
    let bytes = entry_bytes(kv, entry).expect("memory does not fail");
    let json = bytes.and_then(|b| Entry::from_json(&b).ok());
    if let Some(Entry { time_ms, .. }) = json {
        recorder.fact(Fact::Ordered {
            custodian: custodian.clone(),
            entry,
            time_ms,
            order,
            said,
        });
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a key of a known shape")
}

fn home_row(kv: &MemKv, key: &[u8], value: Option<&[u8]>, recorder: &mut Recorder) {
    match (key[0], value) {
        (table::EPOCH, Some(value)) => {
            let row: EpochRow = rows::decode(key, value).expect("applied rows decode");
            let of = KeyRef {
                chat: ChatId(array(&key[1..33])),
                key_id: row.key_id,
            };
            let leaves = row
                .leaves
                .iter()
                .map(|l| (l.custodian.clone(), l.commitment))
                .collect();
            recorder.fact(Fact::Dealt { key: of, leaves });
            if row.opened_ms.is_some() {
                let found = read::policy(kv, &row.policy).expect("memory does not fail");
                let (policy, margins) = found.expect("a dealing's policy is known");
                recorder.fact(Fact::Opened {
                    key: of,
                    margin: policy.margin_of(&row.acked()),
                    acked: row.acked(),
                    wanted: usize::from(margins.write_margin),
                    required: margins.require_margin,
                    thin: row.thin,
                });
            }
        }
        (table::DEALING, Some(value)) => {
            let row: DealingRow = rows::decode(key, value).expect("applied rows decode");
            if row.abandoned_ms.is_some() {
                recorder.fact(Fact::Abandoned {
                    key_id: KeyId(array(&key[1..17])),
                });
            }
        }
        (table::RECORD, value) => {
            let (chat, id) = (
                ChatId(array(&key[1..33])),
                MessageId::from_be_bytes(array(&key[33..41])),
            );
            match value {
                Some(value) => {
                    let row: RecordRow = rows::decode(key, value).expect("applied rows decode");
                    recorder.fact(Fact::Record {
                        chat,
                        id,
                        revision: row.revision,
                    });
                }
                None => recorder.fact(Fact::RecordGone { chat, id }),
            }
        }
        (table::IDEMPOTENCY, Some(value)) => {
            let row: IdempotencyRow = rows::decode(key, value).expect("applied rows decode");
            let from = 34 + usize::from(key[33]);
            recorder.fact(Fact::Remembered {
                chat: ChatId(array(&key[1..33])),
                idempotency: String::from_utf8_lossy(&key[from..]).into_owned(),
                id: row.id,
                revision: row.revision,
            });
        }
        _ => {}
    }
}

fn custodian_row(
    id: &CustodianId,
    key: &[u8],
    value: Option<&[u8]>,
    before: bool,
    recorder: &mut Recorder,
) {
    let custodian = id.clone();
    if key[0] == custody_table("statement")
        && let Some(value) = value
        && !before
    {
        let row: LinkRow = codec::decode("statement", 1, value).expect("applied rows decode");
        if let Some((subject, value)) = says(key[1] == 0, &row) {
            recorder.fact(Fact::Stands {
                custodian: custodian.clone(),
                entry: row.entry,
                subject,
                value,
            });
        }
    } else if key[0] == custody_table("tombstone") {
        let key_id = KeyId(array(&key[1..17]));
        recorder.fact(match value {
            Some(value) => {
                let stone: Tombstone =
                    codec::decode("tombstone", 1, value).expect("applied rows decode");
                Fact::Stone {
                    custodian,
                    key_id,
                    entry: stone.entry,
                }
            }
            None => Fact::StoneGone { custodian, key_id },
        });
    } else if key[0] == custody_table("share")
        && let Some(value) = value
        && !before
    {
        let row: ShareRow = codec::decode("share row", 1, value).expect("applied rows decode");
        let key = KeyRef {
            chat: row.chat,
            key_id: KeyId(array(&key[1..17])),
        };
        recorder.fact(Fact::Held {
            custodian,
            key,
            commitment: row.commitment,
            epoch: row.epoch,
            stored_ms: row.stored_ms,
        });
    }
}

/// What a statement says of whom, of those that people here sign.
fn says(of_account: bool, row: &LinkRow) -> Option<(Subject, Option<u64>)> {
    let envelope = &row.envelope;
    let one = if of_account {
        match envelope.read("statement").expect("applied statements read") {
            AccountPayload::Genesis(g) => {
                let device = Subject::Device(account_id(envelope), device_id(&g.device));
                (device, Some(g.expires_ms))
            }
            AccountPayload::Statement(s) => match s.change {
                AccountChange::AddDevice { public, expires_ms } => {
                    let device = Subject::Device(s.account, device_id(&public));
                    (device, Some(expires_ms))
                }
                AccountChange::Revoke { device } => (Subject::Device(s.account, device), None),
                _ => return None,
            },
        }
    } else {
        match envelope.read("statement").expect("applied statements read") {
            ChatPayload::Genesis(g) => (Subject::Member(chat_id(envelope), g.creator), Some(0)),
            ChatPayload::Statement(s) => match s.change {
                ChatChange::Add {
                    account,
                    from_epoch,
                    ..
                } => {
                    let member = Subject::Member(s.chat, account);
                    (member, Some(u64::from(from_epoch)))
                }
                ChatChange::Remove { account } => (Subject::Member(s.chat, account), None),
                _ => return None,
            },
        }
    };
    Some(one)
}
