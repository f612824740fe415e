//! Wallets: files that are refused, and what is never shown.

use super::*;
use quorate_engine::authz::identity::AccountGenesis;
use quorate_engine::crypto::labels::SIGN_ACCOUNT;
use quorate_engine::types::Nonce;
use std::os::unix::fs::PermissionsExt;

const D: DeploymentId = DeploymentId([1; 16]);

fn key() -> SigningKey {
    SigningKey::from_seed(&Secret::take(&mut [0xa7; 32]))
}

fn wallet(dir: &Path) -> Wallet {
    let genesis = AccountPayload::Genesis(AccountGenesis {
        deployment: D,
        authorities: [AuthorityId::new("id-ee").unwrap()].into(),
        device: PublicKey(key().public()),
        expires_ms: 1000,
        secret: None,
        created_ms: 1,
        nonce: Nonce([5; 16]),
    });
    let signed = Envelope::sign(SIGN_ACCOUNT, &D, &genesis, &[&key()]);
    Wallet::new(dir, "anna", signed, key()).unwrap()
}

#[test]
fn it_comes_back_as_it_was_and_only_its_owner_reads_it() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("w");
    let mut w = wallet(&dir);
    assert!(!Wallet::exists(&dir));
    assert_eq!(Wallet::load(&dir).unwrap_err().code, "no_wallet");
    w.enrolled = true;
    w.save().unwrap();
    let path = dir.join(WALLET_FILE);
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&dir)), (0o600, 0o700));
    let again = Wallet::load(&dir).unwrap();
    assert!(again.enrolled && again.account == w.account && again.head == w.head);
    assert_eq!(again.key().unwrap().public(), key().public());
    assert_eq!(again.devices().len(), 1);
    for mode in [0o640, 0o604] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let e = Wallet::load(&dir).unwrap_err();
        assert!(e.next.starts_with("run chmod 600 "), "{e}");
        assert!(!e.to_string().contains("a7a7"), "{e}");
    }
}

#[test]
fn broken_files_are_refused_and_their_content_is_not_shown() {
    let tmp = tempfile::tempdir().unwrap();
    let w = wallet(tmp.path());
    w.save().unwrap();
    let path = tmp.path().join(WALLET_FILE);
    let good = std::fs::read_to_string(&path).unwrap();
    assert!(good.contains("a7a7"));
    let seed = "a7".repeat(32);
    let changes = [
        ("\"format\":1", "\"format\":2"),
        ("\"format\":1", &*format!("\"format\":\"{seed}\"")),
        ("\"enrolled\":false", &*format!("\"enrolled\":\"{seed}\"")),
        ("\"name\":", "\"more\":1,\"name\":"),
        (&*seed, &seed[..60]),
        (&*w.account.to_string(), &*"0".repeat(64)),
    ];
    for (from, to) in changes {
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let e = Wallet::load(tmp.path()).unwrap_err();
        assert!(!e.to_string().contains("a7a7"), "{from}: {e}");
    }
}

#[test]
fn nothing_of_the_key_is_printed() {
    let tmp = tempfile::tempdir().unwrap();
    let text = format!("{:?}", wallet(tmp.path()));
    assert!(!text.contains("a7a7") && !text.contains("167"), "{text}");
}

#[test]
fn under_a_passphrase_the_key_is_not_in_the_file() {
    let tmp = tempfile::tempdir().unwrap();
    let mut w = wallet(tmp.path());
    let passphrase = |t: &str| Passphrase(Zeroizing::new(t.as_bytes().to_vec()));
    w.seal(&passphrase("correct horse battery")).unwrap();
    w.save().unwrap();
    let text = std::fs::read_to_string(tmp.path().join(WALLET_FILE)).unwrap();
    assert!(!text.contains("a7a7"));
    let mut again = Wallet::load(tmp.path()).unwrap();
    assert!(again.is_sealed() && again.key().is_err());
    let e = again.open(&passphrase("correct horse bat")).unwrap_err();
    assert_eq!(e.code, "wallet_passphrase");
    again.open(&passphrase("correct horse battery")).unwrap();
    assert_eq!(again.key().unwrap().public(), key().public());
}
