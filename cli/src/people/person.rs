//! Whom a client acts for: a device's key, and what it signs.
//!
//! Grants are signed when they are needed and used again while they hold: one
//! for each set of chats and action. Naming more than a call needs would give
//! a home that is compromised meanwhile more than it needs.

use crate::deployment::read_limited;
use quorate_engine::api::registry::Statement;
use quorate_engine::authz::deletion::{Deletion, MandateRefusal, Whose};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{
    Action, ChatRange, Claims, GRANT_LIFE_S_MAX, Grant, GrantRefusal,
};
use quorate_engine::authz::identity::device_id;
use quorate_engine::authz::membership::{
    ChatChange, ChatGenesis, ChatPayload, ChatStatement, chat_id,
};
use quorate_engine::crypto::labels::SIGN_MEMBERSHIP;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{
    AccountId, ChatId, DeploymentId, DeviceId, EpochNo, GrantId, HomeId, MessageId, Nonce,
    PublicKey, StatementHash,
};
use quorate_node::pki::files::{self, Access, FileError};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Keys each custodian releases under one grant at most.
const CEILING: u32 = 4_096;
/// A grant begins so long before now, for clocks that differ, in seconds.
const BACKDATE_S: u64 = 60;
/// How long a grant holds from when it is signed, in seconds, unless it is to be shorter.
pub const GRANT_LIFE_S: u64 = GRANT_LIFE_S_MAX - BACKDATE_S;
/// A grant with less time left is signed anew, in seconds; with less than a quarter of its life,
/// where that is shorter.
const RENEW_S: u64 = 120;
/// Grants, and geneses, kept for use again.
const KEPT_MAX: usize = 4_096;
/// A home remembers idempotency keys so long, in seconds: seven days.
const KEY_LIFE_S: u64 = 7 * 24 * 60 * 60;

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// What a call asks of a grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wants {
    /// Read or write.
    pub write: bool,
    /// The chats, each once; none: lists, statements.
    pub chats: Vec<ChatId>,
    /// The first key epoch.
    pub from: EpochNo,
}

impl Wants {
    /// To read these chats.
    pub fn read(chats: Vec<ChatId>) -> Self {
        Self {
            write: false,
            chats,
            from: 0,
        }
    }
    /// To write in these chats.
    pub fn write(chats: Vec<ChatId>) -> Self {
        Self {
            write: true,
            chats,
            from: 0,
        }
    }
}

struct Kept {
    compact: Arc<str>,
    expires_s: u64,
}

/// A device of an account, at one home of one deployment.
pub struct Person {
    account: AccountId,
    device: DeviceId,
    key: SigningKey,
    deployment: DeploymentId,
    home: HomeId,
    life_s: AtomicU64,
    kept: Mutex<HashMap<Wants, Kept>>,
    founding: Founding,
}

impl std::fmt::Debug for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Person({}, device {})", self.account, self.device)
    }
}

impl Person {
    /// The device with this key, of `account`.
    pub fn new(
        account: AccountId,
        key: SigningKey,
        deployment: DeploymentId,
        home: HomeId,
    ) -> Arc<Self> {
        Arc::new(Self {
            account,
            device: device_id(&PublicKey(key.public())),
            key,
            deployment,
            home,
            life_s: AtomicU64::new(GRANT_LIFE_S),
            kept: Mutex::default(),
            founding: Founding::default(),
        })
    }

    /// The same, and geneses that are to outlive this process lie in `dir`.
    #[must_use]
    pub fn keeping(self: Arc<Self>, dir: PathBuf) -> Arc<Self> {
        let _ = self.founding.dir.set(dir);
        self
    }

    /// The same, and its grants hold so many seconds, at most [`GRANT_LIFE_S`].
    #[must_use]
    pub fn with_grant_life(self: Arc<Self>, seconds: u64) -> Arc<Self> {
        let seconds = seconds.clamp(1, GRANT_LIFE_S);
        self.life_s.store(seconds, Ordering::Relaxed);
        self
    }

    /// The account.
    pub fn account(&self) -> AccountId {
        self.account
    }
    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }
    /// The deployment its signatures count in.
    pub fn deployment(&self) -> &DeploymentId {
        &self.deployment
    }

    /// A grant for `wants` that holds for two minutes more at least, or a quarter of its life.
    ///
    /// # Errors
    /// [`GrantRefusal`] when nobody would accept it: too many chats.
    pub fn grant(&self, wants: &Wants) -> Result<Arc<str>, GrantRefusal> {
        let now_s = now_ms() / 1000;
        let life_s = self.life_s.load(Ordering::Relaxed);
        let renew_s = RENEW_S.min(life_s.div_ceil(4));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = kept.get(wants).filter(|k| now_s + renew_s < k.expires_s) {
            return Ok(held.compact.clone());
        }
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, k| now_s + renew_s < k.expires_s);
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
        }
        let not_before_s = now_s.saturating_sub(BACKDATE_S);
        let expires_s = not_before_s + BACKDATE_S + life_s;
        let range = |chat: &ChatId| ChatRange {
            chat: *chat,
            from: wants.from,
            to: None,
        };
        let claims = Claims {
            account: self.account,
            deployment: self.deployment,
            home: self.home.clone(),
            actions: vec![if wants.write {
                Action::Write
            } else {
                Action::Read
            }],
            chats: wants.chats.iter().map(range).collect(),
            ceiling: CEILING,
            not_before_s,
            expires_s,
            id: GrantId(rand::random()),
        };
        let compact: Arc<str> = Grant::sign(self.device, &self.key, claims)?
            .compact()
            .into();
        let row = Kept {
            compact: compact.clone(),
            expires_s,
        };
        kept.insert(wants.clone(), row);
        Ok(compact)
    }

    /// Signs exactly these claims, whatever their time; kept for nothing.
    ///
    /// # Errors
    /// [`GrantRefusal`] when nobody would accept the form.
    pub fn sign_grant(&self, claims: Claims) -> Result<String, GrantRefusal> {
        let grant = Grant::sign(self.device, &self.key, claims)?;
        Ok(grant.compact().to_owned())
    }

    /// Uses `grant` no more: it was refused.
    pub fn forget(&self, grant: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, k| &*k.compact != grant);
    }

    /// The genesis under an idempotency key: the one that was signed for it before, else a
    /// fresh one. A chat's id is its genesis's hash, so one key gives one chat. With `keep`
    /// it is written down first, for whoever repeats the key after this process.
    ///
    /// # Errors
    /// As the disk does.
    pub fn genesis_for(
        &self,
        key: &str,
        public: bool,
        keep: bool,
    ) -> Result<(ChatId, Envelope), FileError> {
        let known = self.founding.find(key, keep);
        let ours = known.filter(|statement| {
            let read = statement.read("genesis of a chat");
            let holds = statement.signers(SIGN_MEMBERSHIP, &self.deployment).is_ok();
            holds
                && matches!(read, Ok(ChatPayload::Genesis(g))
                    if g.device == self.device && g.creator == self.account && g.public == public)
        });
        if let Some(statement) = ours {
            return Ok((chat_id(&statement), statement));
        }
        let (chat, statement) = self.found_chat(public);
        self.founding.put(key, &statement, keep)?;
        Ok((chat, statement))
    }

    /// Signs another genesis under this key next time: this one grew too old.
    pub fn forget_genesis(&self, key: &str) {
        self.founding.forget(key);
    }

    /// Founds a chat: its id and the signed genesis.
    pub fn found_chat(&self, public: bool) -> (ChatId, Envelope) {
        let genesis = ChatPayload::Genesis(ChatGenesis {
            deployment: self.deployment,
            creator: self.account,
            device: self.device,
            public,
            created_ms: now_ms(),
            nonce: Nonce(rand::random()),
        });
        let signed = self.sign(&genesis, None);
        (chat_id(&signed), signed)
    }

    /// The statement after `head` of `chat`; a join by an invite is signed with its key, too.
    pub fn chat_statement(
        &self,
        chat: ChatId,
        (number, previous): (u64, StatementHash),
        change: ChatChange,
        invite: Option<&SigningKey>,
    ) -> Envelope {
        let statement = ChatPayload::Statement(ChatStatement {
            chat,
            number: number + 1,
            previous,
            at_ms: now_ms(),
            account: self.account,
            device: self.device,
            change,
        });
        self.sign(&statement, invite)
    }

    /// Says which messages are to be deleted, and that their epochs may be opened for that.
    ///
    /// # Errors
    /// [`MandateRefusal`] when nobody would accept the form: too many messages or epochs.
    pub fn deletion(
        &self,
        chat: ChatId,
        whose: Whose,
        messages: &BTreeSet<MessageId>,
        epochs: &BTreeSet<EpochNo>,
    ) -> Result<Envelope, MandateRefusal> {
        let deletion = Deletion {
            deployment: self.deployment,
            home: self.home.clone(),
            chat,
            account: self.account,
            device: self.device,
            whose,
            messages: messages.iter().copied().collect(),
            epochs: epochs.iter().copied().collect(),
            at_ms: now_ms(),
            nonce: Nonce(rand::random()),
        };
        deletion.sign(&self.key)
    }

    fn sign(&self, payload: &ChatPayload, also: Option<&SigningKey>) -> Envelope {
        let keys: Vec<_> = std::iter::once(&self.key).chain(also).collect();
        Envelope::sign(SIGN_MEMBERSHIP, &self.deployment, payload, &keys)
    }
}

/// Geneses by idempotency key: those of this process, and files of a wallet.
#[derive(Default)]
struct Founding {
    dir: OnceLock<PathBuf>,
    swept: OnceLock<()>,
    recent: Mutex<HashMap<String, Envelope>>,
}

impl Founding {
    fn recent(&self) -> std::sync::MutexGuard<'_, HashMap<String, Envelope>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        // At most 64 characters, so at most 128 of a file's name.
        let name = format!("{}.json", hex::encode(key));
        self.dir.get().map(|dir| dir.join(name))
    }

    fn find(&self, key: &str, keep: bool) -> Option<Envelope> {
        if let Some(known) = self.recent().get(key) {
            return Some(known.clone());
        }
        let path = self.path(key).filter(|_| keep)?;
        let bytes = read_limited(&path).ok()?;
        Some(Envelope::from(
            &serde_json::from_slice::<Statement>(&bytes).ok()?,
        ))
    }

    fn put(&self, key: &str, statement: &Envelope, keep: bool) -> Result<(), FileError> {
        if let Some(path) = self.path(key).filter(|_| keep) {
            let dir = path.parent().unwrap_or(&path);
            files::make_dir(dir)?;
            self.swept.get_or_init(|| sweep(dir));
            let text = serde_json::to_vec(&Statement::from(statement)).unwrap_or_default();
            files::replace(&path, &text, Access::Public)?;
        }
        let mut recent = self.recent();
        if recent.len() >= KEPT_MAX {
            recent.clear();
        }
        recent.insert(key.to_owned(), statement.clone());
        Ok(())
    }

    fn forget(&self, key: &str) {
        self.recent().remove(key);
        if let Some(path) = self.path(key) {
            // One that stays is refused for its age again, and forgotten again.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes geneses whose keys nobody repeats any more.
fn sweep(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|m| m.modified());
        let age = modified.ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age.as_secs() > KEY_LIFE_S) {
            // What cannot be removed is tried again next time.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_engine::types::Secret;

    fn person() -> Arc<Person> {
        let key = SigningKey::from_seed(&Secret::take(&mut [0xa7; 32]));
        let home = HomeId::new("ae").unwrap();
        Person::new(AccountId([1; 32]), key, DeploymentId([2; 16]), home)
    }

    #[test]
    fn one_grant_for_each_set_of_chats_until_it_is_refused() {
        let p = person();
        let read = Wants::read(vec![ChatId([3; 32])]);
        let first = p.grant(&read).unwrap();
        assert_eq!(p.grant(&read).unwrap(), first);
        let grant = Grant::parse(&first).unwrap();
        let public = SigningKey::from_seed(&Secret::take(&mut [0xa7; 32])).public();
        grant.verify(&public).unwrap();
        let claims = grant.claims();
        assert_eq!((claims.account, claims.home.as_str()), (p.account(), "ae"));
        assert_eq!((claims.chats.len(), claims.chats[0].to), (1, None));
        let now_s = now_ms() / 1000;
        assert!(claims.not_before_s < now_s && claims.expires_s > now_s + 12 * 60);
        assert!(grant.allows(Action::Read) && !grant.allows(Action::Write));
        let write = p.grant(&Wants::write(vec![ChatId([3; 32])])).unwrap();
        assert!(Grant::parse(&write).unwrap().allows(Action::Write));
        p.forget(&first);
        assert_ne!(p.grant(&read).unwrap(), first);
        assert_eq!(
            p.grant(&Wants::write(vec![ChatId([3; 32])])).unwrap(),
            write
        );
        let many = (0..65).map(|n| ChatId([n; 32])).collect();
        assert!(p.grant(&Wants::read(many)).is_err());
    }

    #[test]
    fn a_short_grant_is_signed_anew_before_it_ends() {
        let p = person().with_grant_life(4);
        let read = Wants::read(vec![ChatId([3; 32])]);
        let first = p.grant(&read).unwrap();
        let claims = Grant::parse(&first).unwrap().claims().clone();
        let now_s = now_ms() / 1000;
        assert!(claims.expires_s <= now_s + 4 && claims.expires_s + 2 > now_s);
        assert_eq!(claims.expires_s - claims.not_before_s, BACKDATE_S + 4);
        let mut kept = p.kept.lock().unwrap();
        kept.get_mut(&read).unwrap().expires_s = now_s + 1;
        drop(kept);
        assert_ne!(p.grant(&read).unwrap(), first);
        let longest = person().with_grant_life(u64::MAX).grant(&read).unwrap();
        let claims = Grant::parse(&longest).unwrap().claims().clone();
        assert_eq!(claims.expires_s - claims.not_before_s, GRANT_LIFE_S_MAX);
    }

    #[test]
    fn nothing_of_the_key_is_printed() {
        let text = format!("{:?}", person());
        assert!(!text.contains("a7a7") && !text.contains("167"), "{text}");
    }

    #[test]
    fn one_key_gives_one_chat_also_to_the_next_process() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("founded");
        let p = person().keeping(dir.clone());
        let (chat, _) = p.genesis_for("k 1", false, true).unwrap();
        assert_eq!(p.genesis_for("k 1", false, true).unwrap().0, chat);
        assert_ne!(p.genesis_for("k 2", false, true).unwrap().0, chat);
        let (passing, _) = p.genesis_for("k 3", false, false).unwrap();
        assert_eq!(p.genesis_for("k 3", false, false).unwrap().0, passing);
        let next = person().keeping(dir.clone());
        assert_eq!(next.genesis_for("k 1", false, true).unwrap().0, chat);
        assert_ne!(next.genesis_for("k 3", false, false).unwrap().0, passing);
        // A public chat is another one, and so is one whose file was changed.
        assert_ne!(next.genesis_for("k 1", true, true).unwrap().0, chat);
        let (chat, _) = next.genesis_for("k 4", false, true).unwrap();
        let path = dir.join(format!("{}.json", hex::encode("k 4")));
        let text = std::fs::read_to_string(&path).unwrap();
        let other = text.replacen("created_ms\\\":1", "created_ms\\\":2", 1);
        assert_ne!(other, text);
        std::fs::write(&path, other).unwrap();
        let last = person().keeping(dir);
        assert_ne!(last.genesis_for("k 4", false, true).unwrap().0, chat);
        let (chat, _) = last.genesis_for("k 4", false, true).unwrap();
        last.forget_genesis("k 4");
        assert_ne!(last.genesis_for("k 4", false, true).unwrap().0, chat);
    }

    #[test]
    fn statements_hold_and_follow_their_head() {
        let p = person();
        let (chat, genesis) = p.found_chat(true);
        let signers = genesis.signers(SIGN_MEMBERSHIP, p.deployment()).unwrap();
        assert_eq!(signers.len(), 1);
        assert_eq!(chat, chat_id(&genesis));
        let head = (0, StatementHash(genesis.hash()));
        let invite = SigningKey::from_seed(&Secret::take(&mut [9; 32]));
        let joined = p.chat_statement(chat, head, ChatChange::Leave, Some(&invite));
        assert_eq!(
            joined
                .signers(SIGN_MEMBERSHIP, p.deployment())
                .unwrap()
                .len(),
            2
        );
        let ChatPayload::Statement(s) = joined.read("statement").unwrap() else {
            panic!("a statement")
        };
        assert_eq!((s.number, s.previous, s.chat), (1, head.1, chat));
    }
}
