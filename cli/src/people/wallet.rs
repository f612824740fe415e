//! A person's wallet: the device's key and what is known of its account.
//!
//! One directory, one file, `device.json`, mode 0600, replaced as a whole and
//! synced: whoever has it acts for the account until the device is revoked.
//! Under a passphrase the key in it is sealed; everything else is no secret.

use super::card::Card;
use super::person::Person;
use crate::exit::{Exit, Failure};
use quorate_engine::api::registry::Statement;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{
    AUTHORITIES_MAX, AccountChange, AccountPayload, account_id, device_id,
};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::crypto::vault;
use quorate_engine::custody::keys::{Passphrase, PassphraseParams};
use quorate_engine::types::{
    AccountId, AuthorityId, DeploymentId, DeviceId, HomeId, PublicKey, RootKey, Secret,
    StatementHash, WallMs,
};
use quorate_node::pki::files::{self, Access, FileError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The file in a wallet's directory.
pub const WALLET_FILE: &str = "device.json";
/// The format this build reads and writes.
const FORMAT: u64 = 1;
/// Statements kept; the oldest after the genesis go first.
const STATEMENTS_MAX: usize = 64;

/// 64 hex characters of a key. Only here, between a file and [`SigningKey`].
pub(super) struct SeedText(pub(super) Zeroizing<String>);

impl Serialize for SeedText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for SeedText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(d)?)))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum KeyForm {
    Seed(SeedText),
    Sealed {
        argon2id: PassphraseParams,
        locked: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: u64,
    name: String,
    deployment: DeploymentId,
    account: AccountId,
    enrolled: bool,
    authorities: BTreeSet<AuthorityId>,
    number: u64,
    hash: StatementHash,
    device: KeyForm,
    statements: Vec<Statement>,
    /// Sent to an identity authority, and not back yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    awaited: Option<(u64, StatementHash)>,
}

/// How the device's key lies in the file.
enum Key {
    Open(SigningKey),
    Sealed {
        argon2id: PassphraseParams,
        locked: Vec<u8>,
        /// Once the passphrase was given.
        open: Option<SigningKey>,
    },
}

/// A device of the account, as far as the wallet's statements say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownDevice {
    /// Its id.
    pub id: DeviceId,
    /// It may act before this time.
    pub expires_ms: WallMs,
    /// It was taken out for ever.
    pub revoked: bool,
}

/// A wallet that was read or made.
pub struct Wallet {
    /// Its directory.
    pub dir: PathBuf,
    /// What the person is called here.
    pub name: String,
    /// Where its signatures count.
    pub deployment: DeploymentId,
    /// The account.
    pub account: AccountId,
    /// The custodians know the account and this device.
    pub enrolled: bool,
    /// Who attests the person.
    pub authorities: BTreeSet<AuthorityId>,
    /// Number and hash of the account's newest statement, as far as known here.
    pub head: (u64, StatementHash),
    statements: Vec<Envelope>,
    awaited: Option<(u64, StatementHash)>,
    key: Key,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wallet({}, account {})", self.name, self.account)
    }
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Usage,
        "wallet",
        format!("{}: {what}", path.display()),
        "put back a copy of it, or move the directory away and log in anew",
    )
}

fn file(e: &FileError) -> Failure {
    let next = match e {
        FileError::Mode { path, .. } => format!("run chmod 600 {}", path.display()),
        _ => "check the file and the disk it is on".to_owned(),
    };
    Failure::new(Exit::Usage, "wallet", e.to_string(), next)
}

/// What an entry of the vault in the file is bound to.
fn label(account: &AccountId) -> String {
    format!("wallet-device/1/{account}")
}

impl Wallet {
    /// A wallet of a new account, that nobody was told of yet. Nothing is written.
    ///
    /// # Errors
    /// When `genesis` is none.
    pub fn new(
        dir: &Path,
        name: &str,
        genesis: Envelope,
        key: SigningKey,
    ) -> Result<Self, Failure> {
        let path = dir.join(WALLET_FILE);
        let read = genesis.read("account statement");
        let AccountPayload::Genesis(g) = read.map_err(|e| bad(&path, e))? else {
            return Err(bad(&path, "an account begins with its genesis"));
        };
        Ok(Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            deployment: g.deployment,
            account: account_id(&genesis),
            enrolled: false,
            authorities: g.authorities,
            head: (0, StatementHash(genesis.hash())),
            statements: vec![genesis],
            awaited: None,
            key: Key::Open(key),
        })
    }

    /// A wallet of another device of `of`'s account, with this key.
    pub fn beside(of: &Self, dir: &Path, key: SigningKey) -> Self {
        Self {
            dir: dir.to_owned(),
            name: of.name.clone(),
            deployment: of.deployment,
            account: of.account,
            enrolled: false,
            authorities: of.authorities.clone(),
            head: of.head,
            statements: of.statements.clone(),
            awaited: None,
            key: Key::Open(key),
        }
    }

    /// A wallet with the key that is to become a device of the card's account, whose statements are not here.
    pub fn asking(dir: &Path, name: &str, card: &Card, key: SigningKey) -> Self {
        Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            deployment: card.deployment,
            account: card.account,
            enrolled: false,
            authorities: card.authorities.clone(),
            head: card.head(),
            statements: Vec::new(),
            awaited: None,
            key: Key::Open(key),
        }
    }

    /// Whether a wallet is in `dir`.
    pub fn exists(dir: &Path) -> bool {
        dir.join(WALLET_FILE).exists()
    }

    /// Reads the wallet in `dir`.
    ///
    /// # Errors
    /// [`Failure`]: none there, others may read it, or it is not as it was written.
    pub fn load(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(WALLET_FILE);
        let text = match files::read_secret(&path) {
            Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let what = format!("no wallet in {}", dir.display());
                return Err(crate::client::no_wallet(what));
            }
            other => other.map_err(|e| file(&e))?,
        };
        Self::parse(dir, &text).map_err(|what| bad(&path, what))
    }

    /// Errors never show what stands in the file.
    fn parse(dir: &Path, text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        let place = |e: serde_json::Error| {
            format!(
                "not as this version writes it, at line {} column {}",
                e.line(),
                e.column()
            )
        };
        let head: Head = serde_json::from_slice(text).map_err(place)?;
        if head.format != FORMAT {
            return Err(format!(
                "format {}, this build reads {FORMAT}; use a release that reads it",
                head.format
            ));
        }
        let form: Form = serde_json::from_slice(text).map_err(place)?;
        let statements: Vec<_> = form.statements.iter().map(Envelope::from).collect();
        // A wallet of a recovery has none of them.
        let founds = statements
            .first()
            .is_none_or(|g| account_id(g) == form.account);
        let last = statements.last().is_none_or(|s| s.hash() == form.hash.0);
        if !founds || !last {
            return Err("the account's statements do not belong to its id".into());
        }
        if !(1..=AUTHORITIES_MAX).contains(&form.authorities.len()) {
            return Err("an account has 1 to 8 authorities".into());
        }
        let key = match form.device {
            KeyForm::Seed(seed) => {
                let mut bytes = Zeroizing::new([0u8; 32]);
                hex::decode_to_slice(seed.0.as_bytes(), bytes.as_mut())
                    .map_err(|_| "the device's key is not 64 hex characters")?;
                Key::Open(SigningKey::from_seed(&Secret::take(&mut bytes)))
            }
            KeyForm::Sealed { argon2id, locked } => Key::Sealed {
                argon2id,
                locked: hex::decode(&locked).map_err(|_| "the sealed key is not hex")?,
                open: None,
            },
        };
        Ok(Self {
            dir: dir.to_owned(),
            name: form.name,
            deployment: form.deployment,
            account: form.account,
            enrolled: form.enrolled,
            authorities: form.authorities,
            head: (form.number, form.hash),
            statements,
            awaited: form.awaited,
            key,
        })
    }

    /// Writes it to its directory, over the one that is there.
    ///
    /// # Errors
    /// As the disk does.
    pub fn save(&self) -> Result<(), Failure> {
        let device = match &self.key {
            Key::Open(key) => {
                let mut digits = Zeroizing::new([0u8; 64]);
                hex::encode_to_slice(key.seed().expose(), digits.as_mut())
                    .expect("64 characters hold 32 bytes");
                let text = Zeroizing::new(String::from_utf8_lossy(digits.as_ref()).into_owned());
                KeyForm::Seed(SeedText(text))
            }
            Key::Sealed {
                argon2id, locked, ..
            } => KeyForm::Sealed {
                argon2id: argon2id.clone(),
                locked: hex::encode(locked),
            },
        };
        let form = Form {
            format: FORMAT,
            name: self.name.clone(),
            deployment: self.deployment,
            account: self.account,
            enrolled: self.enrolled,
            authorities: self.authorities.clone(),
            number: self.head.0,
            hash: self.head.1,
            device,
            statements: self.statements.iter().map(Statement::from).collect(),
            awaited: self.awaited,
        };
        // Large enough from the start: growing would leave copies of the key behind.
        let room = self.statements.iter().map(|s| 2 * s.payload.len() + 8_192);
        let mut text = Zeroizing::new(Vec::with_capacity(16_384 + room.sum::<usize>()));
        serde_json::to_writer(&mut *text, &form)
            .map_err(|_| bad(&self.dir, "the wallet cannot be written as JSON"))?;
        files::make_dir(&self.dir)
            .and_then(|()| files::replace(&self.dir.join(WALLET_FILE), &text, Access::Secret))
            .map_err(|e| file(&e))
    }

    /// Seals the device's key under `passphrase` from now on. Nothing is written.
    ///
    /// # Errors
    /// When the key was not opened, or the machine cannot do Argon2id.
    pub fn seal(&mut self, passphrase: &Passphrase) -> Result<(), Failure> {
        let seed = self.key()?.seed();
        let argon2id = PassphraseParams::recommended(&mut rand::rng());
        let root = self.root(&argon2id, passphrase)?;
        let locked = vault::lock(&root, &label(&self.account), rand::random(), &seed);
        self.key = Key::Sealed {
            argon2id,
            locked,
            open: Some(SigningKey::from_seed(&seed)),
        };
        Ok(())
    }

    fn root(
        &self,
        argon2id: &PassphraseParams,
        passphrase: &Passphrase,
    ) -> Result<RootKey, Failure> {
        let root = argon2id.derive(&passphrase.0);
        root.map(RootKey)
            .map_err(|e| bad(&self.dir.join(WALLET_FILE), e))
    }

    /// Whether a passphrase is needed before the device can sign.
    pub fn is_sealed(&self) -> bool {
        matches!(self.key, Key::Sealed { open: None, .. })
    }

    /// Opens the device's key.
    ///
    /// # Errors
    /// When `passphrase` is not the one.
    pub fn open(&mut self, passphrase: &Passphrase) -> Result<(), Failure> {
        let Key::Sealed {
            argon2id, locked, ..
        } = &self.key
        else {
            return Ok(());
        };
        let root = self.root(argon2id, passphrase)?;
        let seed = vault::unlock(&root, &label(&self.account), locked).map_err(|_| {
            Failure::new(
                Exit::Usage,
                "wallet_passphrase",
                format!(
                    "the passphrase does not open the wallet in {}",
                    self.dir.display()
                ),
                "try again; without it the way back is `quorate recover begin`",
            )
        })?;
        if let Key::Sealed { open, .. } = &mut self.key {
            *open = Some(SigningKey::from_seed(&seed));
        }
        Ok(())
    }

    /// The device's key.
    ///
    /// # Errors
    /// When it is sealed and was not opened.
    pub fn key(&self) -> Result<&SigningKey, Failure> {
        match &self.key {
            Key::Open(key)
            | Key::Sealed {
                open: Some(key), ..
            } => Ok(key),
            Key::Sealed { .. } => Err(Failure::usage(
                format!("the wallet in {} is sealed", self.dir.display()),
                "give its passphrase",
            )),
        }
    }

    /// The device's id.
    ///
    /// # Errors
    /// As [`Self::key`].
    pub fn device(&self) -> Result<DeviceId, Failure> {
        Ok(device_id(&PublicKey(self.key()?.public())))
    }

    /// Whom a client of `home` acts for.
    ///
    /// # Errors
    /// As [`Self::key`].
    pub fn person(&self, home: HomeId) -> Result<Arc<Person>, Failure> {
        let key = SigningKey::from_seed(&self.key()?.seed());
        let person = Person::new(self.account, key, self.deployment, home);
        Ok(person.keeping(self.dir.join("founded")))
    }

    /// Remembers that `statement` went to an identity authority.
    pub fn await_back(&mut self, number: u64, statement: &Envelope) {
        self.awaited = Some((number, StatementHash(statement.hash())));
    }

    /// Waits for the same statement as another wallet of the account.
    pub fn awaited_like(&mut self, number: u64, hash: StatementHash) {
        self.awaited = Some((number, hash));
    }

    /// The hash of the statement that is to come back.
    pub fn awaits(&self) -> Option<StatementHash> {
        self.awaited.map(|(_, hash)| hash)
    }

    /// Its number; 0 is the genesis.
    pub fn awaited_number(&self) -> u64 {
        self.awaited.map_or(0, |(number, _)| number)
    }

    /// The statement that was awaited came back, and the custodians know it.
    pub fn finish(&mut self, statement: &Envelope) {
        let number = self.awaited_number();
        self.keep(number, statement);
        self.awaited = None;
        // The device of a recovery that begins counts only once it is finished.
        let begins = matches!(statement.read("account statement"), Ok(AccountPayload::Statement(s))
            if matches!(s.change, AccountChange::RecoverBegin { .. }));
        self.enrolled |= !begins;
    }

    /// The account goes on from here, as somebody who knows wrote.
    pub fn follow(&mut self, card: &Card) {
        if card.number > self.head.0 {
            self.head = card.head();
            // Those between are not here: what is here no longer ends with the head.
            self.statements.clear();
            self.authorities = card.authorities.clone();
        }
    }

    /// Whether an account secret is set, as far as the statements here say.
    pub fn has_secret(&self) -> bool {
        let mut set = false;
        for statement in &self.statements {
            match statement.read("account statement") {
                Ok(AccountPayload::Genesis(g)) => set = g.secret.is_some(),
                Ok(AccountPayload::Statement(s)) => {
                    if let AccountChange::SetSecret { public } = s.change {
                        set = public.is_some();
                    }
                }
                Err(_) => {}
            }
        }
        set
    }

    /// Keeps a statement that the custodians took, if it is a later one.
    pub fn keep(&mut self, number: u64, statement: &Envelope) {
        if number <= self.head.0 {
            return;
        }
        self.head = (number, StatementHash(statement.hash()));
        if self.statements.is_empty() {
            return;
        }
        self.statements.push(statement.clone());
        if self.statements.len() > STATEMENTS_MAX {
            self.statements.remove(1);
        }
        if let Ok(AccountPayload::Statement(s)) = statement.read("account statement")
            && let AccountChange::SetAuthorities { authorities } = s.change
        {
            self.authorities = authorities;
        }
    }

    /// The account's genesis, unless the wallet came from a recovery.
    pub fn genesis(&self) -> Option<&Envelope> {
        self.statements.first()
    }

    /// The account's devices, as far as the statements here say.
    pub fn devices(&self) -> Vec<KnownDevice> {
        let mut all: BTreeMap<DeviceId, KnownDevice> = BTreeMap::new();
        let live = |public: &PublicKey, expires_ms| {
            let id = device_id(public);
            let device = KnownDevice {
                id,
                expires_ms,
                revoked: false,
            };
            (id, device)
        };
        for statement in &self.statements {
            match statement.read("account statement") {
                Ok(AccountPayload::Genesis(g)) => {
                    all.extend([live(&g.device, g.expires_ms)]);
                }
                Ok(AccountPayload::Statement(s)) => match s.change {
                    AccountChange::AddDevice { public, expires_ms }
                    | AccountChange::RecoverFinish { public, expires_ms } => {
                        all.extend([live(&public, expires_ms)]);
                    }
                    AccountChange::Renew { device, expires_ms } => {
                        if let Some(d) = all.get_mut(&device) {
                            d.expires_ms = expires_ms;
                        }
                    }
                    AccountChange::Revoke { device } => {
                        if let Some(d) = all.get_mut(&device) {
                            d.revoked = true;
                        }
                    }
                    _ => {}
                },
                Err(_) => {}
            }
        }
        all.into_values().collect()
    }
}

#[cfg(test)]
#[path = "wallet_tests.rs"]
mod tests;
