//! A service credential in a file: a program's key, which appends for accounts and reads nothing.

use super::now_ms;
use super::wallet::SeedText;
use crate::exit::{Exit, Failure};
use quorate_engine::authz::service::{
    SERVICE_LIFE_S_MAX, ServiceClaims, ServiceRefusal, ServiceToken, service_id,
};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{
    AccountId, ChatId, DeploymentId, HomeId, PublicKey, Secret, ServiceId,
};
use quorate_node::pki::files::{self, Access};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// Format of the file.
const FORMAT: u64 = 1;
/// A token begins so long before now, for clocks that differ, in seconds.
const BACKDATE_S: u64 = 60;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: u64,
    name: String,
    deployment: DeploymentId,
    home: HomeId,
    service: ServiceId,
    accounts: Option<BTreeSet<AccountId>>,
    expires_ms: u64,
    seed: SeedText,
}

/// A service credential.
pub struct ServiceFile {
    /// What it is called.
    pub name: String,
    /// Where it counts.
    pub deployment: DeploymentId,
    /// The home it is enrolled at.
    pub home: HomeId,
    /// For whom it may write; `None`: for everybody.
    pub accounts: Option<BTreeSet<AccountId>>,
    /// It counts until then.
    pub expires_ms: u64,
    key: SigningKey,
}

impl ServiceFile {
    /// A fresh key; nobody knows it yet.
    pub fn new(
        name: String,
        (deployment, home): (DeploymentId, HomeId),
        accounts: Option<BTreeSet<AccountId>>,
        expires_ms: u64,
    ) -> Self {
        Self {
            name,
            deployment,
            home,
            accounts,
            expires_ms,
            key: SigningKey::generate(&mut rand::rng()),
        }
    }

    /// Its public part.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.public())
    }
    /// Its id.
    pub fn id(&self) -> ServiceId {
        service_id(&self.public())
    }

    /// Reads one from a file that only its owner may read.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = files::read_secret(path).map_err(|e| unusable(&e))?;
        let bad = |what: &str| unusable(&format!("{}: {what}", path.display()));
        // Errors never show what stands in the file.
        let form: Form = serde_json::from_slice(&text)
            .map_err(|e| bad(&format!("not a service credential, at line {}", e.line())))?;
        if form.format != FORMAT {
            return Err(bad("of another format; use a release that reads it"));
        }
        let mut seed = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(form.seed.0.as_bytes(), seed.as_mut())
            .map_err(|_| bad("the key is not 64 hex characters"))?;
        let read = Self {
            name: form.name,
            deployment: form.deployment,
            home: form.home,
            accounts: form.accounts,
            expires_ms: form.expires_ms,
            key: SigningKey::from_seed(&Secret::take(&mut seed)),
        };
        match read.id() == form.service {
            true => Ok(read),
            false => Err(bad("the key is not the one it says")),
        }
    }

    /// Writes it to a new file, mode 0600.
    ///
    /// # Errors
    /// [`Failure`]; also when the file is there already.
    pub fn create(&self, path: &Path) -> Result<(), Failure> {
        let form = Form {
            format: FORMAT,
            name: self.name.clone(),
            deployment: self.deployment,
            home: self.home.clone(),
            service: self.id(),
            accounts: self.accounts.clone(),
            expires_ms: self.expires_ms,
            seed: SeedText(Zeroizing::new(hex::encode(self.key.seed().expose()))),
        };
        // Large enough from the start: growing would leave copies of the key behind.
        let mut text = Zeroizing::new(Vec::with_capacity(32 << 10));
        serde_json::to_writer(&mut *text, &form)
            .map_err(|e| unusable(&format!("it cannot be written: {e}")))?;
        files::create(path, &text, Access::Secret).map_err(|e| unusable(&e))
    }

    /// The account that is meant: `given`, or the only one it names.
    ///
    /// # Errors
    /// When it names none or several, or not this one.
    pub fn account(&self, given: Option<AccountId>) -> Result<AccountId, Failure> {
        let named = self.accounts.iter().flatten();
        match (given, named.clone().count()) {
            (None, 1) => Ok(*named.clone().next().expect("counted")),
            (None, _) => Err(Failure::usage(
                "the service credential is not for one account alone",
                "say for whom with --for ACCOUNT",
            )),
            (Some(id), n) if n == 0 || named.clone().any(|a| *a == id) => Ok(id),
            (Some(id), _) => Err(Failure::usage(
                format!("the service credential is not for account {id}"),
                "give an account that it was issued for",
            )),
        }
    }

    /// It, at work for `account`.
    pub fn at_work(self, account: AccountId) -> Service {
        Service {
            file: self,
            account,
        }
    }
}

fn unusable(what: &dyn fmt::Display) -> Failure {
    Failure::new(
        Exit::Usage,
        "service_file",
        what.to_string(),
        "give the file that `quorate home service-credential issue --out` wrote",
    )
}

/// A program that appends for an account.
pub struct Service {
    file: ServiceFile,
    account: AccountId,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({})", self.file.id())
    }
}

impl Service {
    /// The account.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// A token for appending to these chats, for some minutes.
    ///
    /// # Errors
    /// [`ServiceRefusal`] when nobody would accept it: no chat, or too many.
    pub fn token(&self, chats: &[ChatId]) -> Result<String, ServiceRefusal> {
        let not_before_s = (now_ms() / 1000).saturating_sub(BACKDATE_S);
        let claims = ServiceClaims {
            account: self.account,
            deployment: self.file.deployment,
            home: self.file.home.clone(),
            chats: chats.to_vec(),
            not_before_s,
            expires_s: not_before_s + SERVICE_LIFE_S_MAX,
        };
        let token = ServiceToken::sign(&self.file.key, claims)?;
        Ok(token.compact().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written_and_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("import.json");
        let (one, two) = (AccountId([1; 32]), AccountId([2; 32]));
        let place = (DeploymentId([3; 16]), HomeId::new("ae").unwrap());
        let made = ServiceFile::new("nightly".into(), place, Some([one].into()), 7);
        made.create(&path).unwrap();
        assert!(made.create(&path).is_err(), "it is there already");
        let read = ServiceFile::load(&path).unwrap();
        assert_eq!(
            (read.id(), read.accounts.clone()),
            (made.id(), made.accounts)
        );
        assert_eq!(read.account(None).unwrap(), one);
        assert!(read.account(Some(two)).is_err());
        let token = read.at_work(one).token(&[ChatId([4; 32])]).unwrap();
        let token = ServiceToken::parse(&token).unwrap();
        assert_eq!(token.claims().account, one);
        assert!(token.claims().not_before_s < now_ms() / 1000);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(ServiceFile::load(&path).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
        assert!(ServiceFile::load(&path).is_err());
    }
}
