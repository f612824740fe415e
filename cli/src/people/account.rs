//! Accounts: founding one, and every later change, until custodians signed that they know it.

use super::known::{Judged, Known};
use super::person::now_ms;
use super::registry::Registry;
use super::wallet::Wallet;
use crate::deployment::read_limited;
use crate::exit::{Exit, Failure};
use quorate_engine::api::registry::{Account, Statement};
use quorate_engine::api::{StatementAck, StatementAcks};
use quorate_engine::authz::chain::{ChainId, STATEMENT_AGE_MS_MAX};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{
    AUTHORITIES_MAX, AccountChange, AccountGenesis, AccountPayload, AccountStatement,
    DEVICE_LIFE_MS_MAX,
};
use quorate_engine::crypto::labels::SIGN_ACCOUNT;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::keys::Passphrase;
use quorate_engine::types::{
    AccountId, AuthorityId, DeploymentId, Nonce, PublicKey, Secret, StatementHash,
};
use quorate_node::embedded::layout::Layout;
use quorate_node::pki::Entity;
use quorate_node::pki::files::{self, Access};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// A genesis that is older is signed anew when a login goes on, in milliseconds.
const GENESIS_AGE_MS_MAX: u64 = STATEMENT_AGE_MS_MAX / 2;
/// The format of request files.
const REQUEST_FORMAT: u32 = 1;

fn wrong(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "account",
        what.to_string(),
        "nothing was changed; correct it and run the command again",
    )
}

/// When a device's record that begins now ends at the latest.
pub fn record_ends_ms() -> u64 {
    now_ms() + DEVICE_LIFE_MS_MAX
}

/// The genesis of an account whose first device has this key, signed by it.
///
/// # Errors
/// When the authorities are none or too many.
pub fn found(
    deployment: &DeploymentId,
    authorities: BTreeSet<AuthorityId>,
    key: &SigningKey,
) -> Result<Envelope, Failure> {
    if !(1..=AUTHORITIES_MAX).contains(&authorities.len()) {
        return Err(Failure::usage(
            format!(
                "an account has 1 to {AUTHORITIES_MAX} identity authorities, not {}",
                authorities.len()
            ),
            "name each with --authority NAME; two of different entities, so that the account can be recovered",
        ));
    }
    let created_ms = now_ms();
    let genesis = AccountPayload::Genesis(AccountGenesis {
        deployment: *deployment,
        authorities,
        device: PublicKey(key.public()),
        expires_ms: created_ms + DEVICE_LIFE_MS_MAX,
        secret: None,
        created_ms,
        nonce: Nonce(rand::random()),
    });
    Ok(Envelope::sign(SIGN_ACCOUNT, deployment, &genesis, &[key]))
}

/// The statement after `head` of the wallet's account, signed with `keys`.
pub fn statement(
    wallet: &Wallet,
    (number, previous): (u64, StatementHash),
    change: AccountChange,
    keys: &[&SigningKey],
) -> Envelope {
    let statement = AccountPayload::Statement(AccountStatement {
        account: wallet.account,
        number: number + 1,
        previous,
        at_ms: now_ms(),
        change,
    });
    Envelope::sign(SIGN_ACCOUNT, &wallet.deployment, &statement, keys)
}

/// What a home showed does not follow what is known here.
pub fn not_linked(what: String) -> Failure {
    Failure::new(
        Exit::Conflict,
        "chain",
        format!("the account's statements do not link: {what}"),
        "nothing was taken in; look again, and at `quorate identity card` of an authority if it stays so",
    )
}

/// Number and hash of `statement`, if it is the wallet's account's next after `head` and rightly signed.
///
/// # Errors
/// When it is not.
pub fn follows(
    wallet: &Wallet,
    head: (u64, StatementHash),
    statement: &Envelope,
) -> Result<(u64, StatementHash), Failure> {
    let payload = statement.read("account statement");
    let AccountPayload::Statement(s) = payload.map_err(|e| not_linked(e.to_string()))? else {
        return Err(not_linked("a second genesis".into()));
    };
    if (s.account, s.number, s.previous) != (wallet.account, head.0 + 1, head.1) {
        return Err(not_linked(format!(
            "statement {} after {}",
            s.number, head.0
        )));
    }
    let signed = statement.signers(SIGN_ACCOUNT, &wallet.deployment);
    signed.map_err(|e| not_linked(e.to_string()))?;
    Ok((s.number, StatementHash(statement.hash())))
}

/// Number and hash that the registry's account ends with.
///
/// # Errors
/// When the custodian's answer is not one.
pub fn head_of(account: &Account) -> Result<(u64, StatementHash), Failure> {
    let hash = account.hash.parse();
    let hash = hash.map_err(|e| wrong(format!("the custodian's head of the account: {e}")))?;
    Ok((account.number, hash))
}

/// An opened identity authority's statement key.
///
/// # Errors
/// When its directory has none.
pub fn statement_key(authority: &Entity) -> Result<SigningKey, Failure> {
    let key = authority.statement_key().map_err(wrong)?;
    Ok(SigningKey::from_seed(&Secret::take(&mut key.to_bytes())))
}

/// The identity authorities of a deployment that one hand laid out, and its custodians.
pub struct Hands {
    authorities: Vec<(AuthorityId, Entity)>,
    /// The custodians' registry planes.
    pub registry: Registry,
    /// Whom to believe.
    pub known: Known,
}

impl Hands {
    /// Opens them.
    ///
    /// # Errors
    /// [`Failure`] naming the directory.
    pub fn of(layout: &Layout) -> Result<Self, Failure> {
        let Some(first) = layout.authorities.first() else {
            return Err(Failure::usage(
                format!(
                    "the deployment in {} has no identity authority",
                    layout.dir.display()
                ),
                "make one whose topology names an [[authority]]; without one nobody can log in",
            ));
        };
        let mut authorities = Vec::new();
        for place in &layout.authorities {
            let id = AuthorityId::new(&place.name).map_err(wrong)?;
            authorities.push((id, Entity::open(&place.dir).map_err(wrong)?));
        }
        Ok(Self {
            authorities,
            registry: Registry::of_layout(layout, &first.dir)?,
            known: Known::of_layout(layout)?,
        })
    }

    /// All of them, as an account names them.
    pub fn ids(&self) -> BTreeSet<AuthorityId> {
        let ids = self.authorities.iter().map(|(id, _)| id.clone());
        ids.take(AUTHORITIES_MAX).collect()
    }

    /// Has `count` of the authorities in `of` sign.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn sign(
        &self,
        statement: &mut Envelope,
        of: &BTreeSet<AuthorityId>,
        count: usize,
    ) -> Result<(), Failure> {
        let known = self.authorities.iter().filter(|(id, _)| of.contains(id));
        let known: Vec<_> = known.take(count).collect();
        if known.len() < count {
            return Err(wrong(format!(
                "it takes {count} of the account's authorities, and {} are here",
                known.len()
            )));
        }
        for (_, authority) in known {
            let key = statement_key(authority)?;
            statement.add(SIGN_ACCOUNT, self.known.deployment(), &key);
        }
        Ok(())
    }
}

/// Logs a person in at a deployment that one hand laid out: makes the wallet in `dir`, founds
/// the account and has it enrolled. Goes on where it was interrupted.
///
/// # Errors
/// [`Failure`]; the wallet stays, and the same command goes on with it.
pub async fn log_in(
    layout: &Layout,
    dir: &Path,
    name: &str,
    passphrase: Option<&Passphrase>,
) -> Result<(Wallet, Judged), Failure> {
    let hands = Hands::of(layout)?;
    let mut wallet = match Wallet::exists(dir) {
        true => unfinished(dir, passphrase)?,
        false => {
            let key = SigningKey::generate(&mut rand::rng());
            let genesis = found(&layout.deployment, hands.ids(), &key)?;
            let mut wallet = Wallet::new(dir, name, genesis, key)?;
            if let Some(passphrase) = passphrase {
                wallet.seal(passphrase)?;
            }
            wallet.save()?;
            wallet
        }
    };
    let mut genesis = genesis_of(&wallet)?.clone();
    hands.sign(&mut genesis, &wallet.authorities.clone(), 1)?;
    let said = hands.registry.tell(None, &genesis).await;
    let judged = hands
        .known
        .judge(ChainId::Account(wallet.account), wallet.head, &said);
    judged.must_be_done("the enrolment", true)?;
    wallet.enrolled = true;
    wallet.save()?;
    Ok((wallet, judged))
}

fn genesis_of(wallet: &Wallet) -> Result<&Envelope, Failure> {
    let recovering = || {
        Failure::usage(
            format!(
                "the wallet in {} waits for a recovery",
                wallet.dir.display()
            ),
            "finish it with `quorate recover finish`",
        )
    };
    wallet.genesis().ok_or_else(recovering)
}

/// The wallet of a login that was interrupted.
fn unfinished(dir: &Path, passphrase: Option<&Passphrase>) -> Result<Wallet, Failure> {
    let mut wallet = Wallet::load(dir)?;
    if wallet.enrolled {
        return Err(Failure::new(
            Exit::Conflict,
            "already_logged_in",
            format!(
                "{} is logged in already, with the wallet in {}",
                wallet.name,
                dir.display()
            ),
            "use it, or log in under another --name",
        ));
    }
    if let Some(passphrase) = passphrase {
        wallet.open(passphrase)?;
    }
    refresh(&mut wallet)?;
    Ok(wallet)
}

/// Signs a genesis that would be refused for its age anew. The account's id changes with it.
fn refresh(wallet: &mut Wallet) -> Result<(), Failure> {
    let Ok(AccountPayload::Genesis(g)) = genesis_of(wallet)?.read("account statement") else {
        return Err(wrong("the wallet's account has no genesis"));
    };
    if now_ms().saturating_sub(g.created_ms) < GENESIS_AGE_MS_MAX {
        return Ok(());
    }
    let key = SigningKey::from_seed(&wallet.key()?.seed());
    let genesis = found(&wallet.deployment, wallet.authorities.clone(), &key)?;
    *wallet = Wallet::new(&wallet.dir, &wallet.name, genesis, key)?;
    wallet.save()
}

/// A statement on its way to an identity authority and back, as a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    format: u32,
    /// What the person is called, for who signs.
    pub name: String,
    /// Where it counts.
    pub deployment: DeploymentId,
    /// About this account; absent: it founds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    statement: Statement,
    /// What the custodians signed, once an authority brought it to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acks: Vec<StatementAck>,
}

impl Request {
    /// For `statement`.
    pub fn new(
        name: &str,
        deployment: DeploymentId,
        account: Option<AccountId>,
        statement: &Envelope,
    ) -> Self {
        Self {
            format: REQUEST_FORMAT,
            name: name.to_owned(),
            deployment,
            account,
            statement: Statement::from(statement),
            acks: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let bytes = read_limited(path).map_err(|e| Failure::file("read", path, &e))?;
        let wrong = |e: &dyn std::fmt::Display| {
            Failure::usage(
                format!("{} is no request of this version: {e}", path.display()),
                "ask for the file that `quorate login` or `quorate device` wrote",
            )
        };
        let request: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
        if request.format != REQUEST_FORMAT {
            return Err(wrong(&format!("format {}", request.format)));
        }
        request.payload()?;
        Ok(request)
    }

    /// Writes it to `path`, over what is there.
    ///
    /// # Errors
    /// As the disk does.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec(self).map_err(wrong)?;
        files::replace(path, &text, Access::Public).map_err(wrong)
    }

    /// The statement.
    pub fn statement(&self) -> Envelope {
        Envelope::from(&self.statement)
    }

    /// The statement, signed by others since, and what custodians said to it.
    pub fn answered(&mut self, statement: &Envelope, acks: Vec<StatementAck>) {
        self.statement = Statement::from(statement);
        self.acks = acks;
    }

    /// Puts a signature of `key` under it.
    pub fn sign(&mut self, key: &SigningKey) {
        let mut statement = self.statement();
        let public = hex::encode(key.public());
        if statement.signatures.iter().all(|s| s.key != public) {
            statement.add(SIGN_ACCOUNT, &self.deployment, key);
        }
        self.statement = Statement::from(&statement);
    }

    /// What it says; its signatures hold, and it is about the account it names.
    ///
    /// # Errors
    /// When one does not.
    pub fn payload(&self) -> Result<AccountPayload, Failure> {
        let statement = self.statement();
        let payload: AccountPayload = statement.read("account statement").map_err(wrong)?;
        let signed = statement.signers(SIGN_ACCOUNT, &self.deployment);
        signed.map_err(wrong)?;
        let (account, deployment) = match &payload {
            AccountPayload::Genesis(g) => (None, g.deployment),
            AccountPayload::Statement(s) => (Some(s.account), self.deployment),
        };
        if account != self.account || deployment != self.deployment {
            return Err(wrong(
                "the request and the statement in it name different accounts",
            ));
        }
        Ok(payload)
    }

    /// What custodians said to it, to be judged.
    pub fn said(&self) -> StatementAcks {
        StatementAcks {
            acks: self.acks.clone(),
            refused: Vec::new(),
            unreachable: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: DeploymentId = DeploymentId([1; 16]);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::take(&mut [n; 32]))
    }

    fn authorities() -> BTreeSet<AuthorityId> {
        [AuthorityId::new("id-ee").unwrap()].into()
    }

    #[test]
    fn a_request_carries_what_was_signed_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("request.json");
        let genesis = found(&D, authorities(), &key(1)).unwrap();
        let mut request = Request::new("anna", D, None, &genesis);
        request.sign(&key(2));
        request.sign(&key(2));
        request.save(&path).unwrap();
        let back = Request::load(&path).unwrap();
        assert_eq!(back.statement().signatures.len(), 2);
        assert_eq!(back.statement().payload, genesis.payload);
        let good = std::fs::read_to_string(&path).unwrap();
        let changes = [
            ("\"format\":1", "\"format\":2"),
            ("id-ee", "id-jp"),
            ("01010101", "02020202"),
        ];
        for (from, to) in changes {
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            assert!(Request::load(&path).is_err(), "{from}");
        }
    }

    #[test]
    fn a_statement_follows_its_head_signed_and_in_its_own_account_only() {
        let tmp = tempfile::tempdir().unwrap();
        let genesis = found(&D, authorities(), &key(1)).unwrap();
        let wallet = Wallet::new(tmp.path(), "anna", genesis, key(1)).unwrap();
        let next = |at, by: &[&SigningKey]| statement(&wallet, at, AccountChange::Veto, by);
        let one = next(wallet.head, &[&key(1)]);
        let head = follows(&wallet, wallet.head, &one).unwrap();
        assert_eq!(head, (1, StatementHash(one.hash())));
        let two = next(head, &[&key(2)]);
        assert_eq!(follows(&wallet, head, &two).unwrap().0, 2);
        assert!(
            follows(&wallet, wallet.head, &two).is_err(),
            "one is missing"
        );
        assert!(follows(&wallet, head, &one).is_err(), "again");
        let mut bent = two.clone();
        bent.payload = bent.payload.replace("veto", "veto ");
        assert!(follows(&wallet, head, &bent).is_err());
        let mut forged = two.clone();
        forged.signatures[0].signature = one.signatures[0].signature.clone();
        assert!(follows(&wallet, head, &forged).is_err());
        let genesis = wallet.genesis().unwrap();
        assert!(follows(&wallet, head, genesis).is_err());
    }

    #[test]
    fn a_genesis_that_grew_old_is_signed_anew_with_the_same_key() {
        let tmp = tempfile::tempdir().unwrap();
        let genesis = found(&D, authorities(), &key(1)).unwrap();
        let AccountPayload::Genesis(mut g) = genesis.read("account statement").unwrap() else {
            panic!("a genesis")
        };
        g.created_ms -= GENESIS_AGE_MS_MAX + 1;
        let old = Envelope::sign(SIGN_ACCOUNT, &D, &AccountPayload::Genesis(g), &[&key(1)]);
        let mut wallet = Wallet::new(tmp.path(), "anna", old, key(1)).unwrap();
        let before = wallet.account;
        refresh(&mut wallet).unwrap();
        assert_ne!(wallet.account, before);
        assert_eq!(wallet.key().unwrap().public(), key(1).public());
        let fresh = wallet.account;
        refresh(&mut wallet).unwrap();
        assert_eq!(wallet.account, fresh);
        wallet.enrolled = true;
        wallet.save().unwrap();
        let e = unfinished(tmp.path(), None).unwrap_err();
        assert_eq!(e.code, "already_logged_in");
        assert!(found(&D, BTreeSet::new(), &key(1)).is_err());
    }
}
