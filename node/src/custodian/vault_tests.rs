//! The vault: locked and open, slots that come and go, damage.

use super::*;
use quorate_engine::types::{CustodianId, DeploymentId};
use std::os::unix::fs::PermissionsExt;

fn place() -> Place {
    Place {
        deployment: DeploymentId([1; 16]),
        custodian: CustodianId::new("ch").unwrap(),
    }
}
fn secret(byte: u8) -> Secret<32> {
    Secret::take(&mut [byte; 32])
}
fn open(dir: &Path, node: NodeId, root: u8) -> Result<Vault, VaultProblem> {
    Vault::open(dir, &place(), node, secret(root))
}

#[test]
fn keys_survive_reopening_and_are_gone_when_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let mut v = open(dir.path(), 1, 9).unwrap();
    assert_eq!(v.keys().count(), 0);
    v.keep(KeyKind::Wrapping, 1, secret(0xa1)).unwrap();
    v.keep(KeyKind::Sealing, 1, secret(0xb2)).unwrap();
    v.keep(KeyKind::Wrapping, 1, secret(0xa1)).unwrap();
    assert!(matches!(
        v.keep(KeyKind::Wrapping, 1, secret(0xff)),
        Err(VaultProblem::Taken { .. })
    ));
    let v = open(dir.path(), 1, 9).unwrap();
    let held: Vec<_> = v.keys().map(|(k, n, s)| (k, n, s.expose()[0])).collect();
    assert_eq!(
        held,
        [(KeyKind::Sealing, 1, 0xb2), (KeyKind::Wrapping, 1, 0xa1)]
    );
    let file = dir.path().join(VAULT_FILE);
    let bytes = std::fs::read(&file).unwrap();
    for byte in [0xa1, 0xb2] {
        assert!(
            !bytes.windows(8).any(|w| w == [byte; 8]),
            "never in the clear"
        );
    }
    let mut v = v;
    v.destroy(KeyKind::Sealing, 1).unwrap();
    let v = open(dir.path(), 1, 9).unwrap();
    assert!(v.get(KeyKind::Sealing, 1).is_none() && v.get(KeyKind::Wrapping, 1).is_some());
}

#[test]
fn another_root_another_node_or_an_open_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut v = open(dir.path(), 1, 9).unwrap();
    v.keep(KeyKind::Wrapping, 1, secret(1)).unwrap();
    for (node, root) in [(1, 8), (2, 9)] {
        let e = open(dir.path(), node, root).map(|_| ()).unwrap_err();
        assert!(matches!(e, VaultProblem::Slot(_)), "{e}");
    }
    let file = dir.path().join(VAULT_FILE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let e = open(dir.path(), 1, 9).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("chmod 600"), "{e}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&file, &bytes).unwrap();
    assert!(matches!(
        open(dir.path(), 1, 9),
        Err(VaultProblem::Damaged { .. })
    ));
}

#[test]
fn a_failed_write_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut v = open(dir.path(), 1, 9).unwrap();
    v.path = dir.path().join("missing").join(VAULT_FILE);
    assert!(v.keep(KeyKind::Wrapping, 1, secret(1)).is_err());
    assert_eq!(v.keys().count(), 0);
    let slot = SlotPublic::new(
        CustodianId::new("x").unwrap(),
        Provider::KeyFile,
        &secret(2),
    );
    assert!(v.put_slot(slot).is_err() && v.slots().count() == 1);
}

#[test]
fn a_vault_without_slots_becomes_one_with_a_new_root() {
    let dir = tempfile::tempdir().unwrap();
    let old = RootKey(secret(9));
    let label = format!("{}/ch/1/wrapping/1", place().deployment);
    let entry = Entry {
        kind: KeyKind::Wrapping,
        version: 1,
        locked: seal::lock(&old, &label, [1; 24], &secret(0xa1)),
    };
    let file = dir.path().join(VAULT_FILE);
    let bytes = codec::encode(FORMAT_WITHOUT_SLOTS, &vec![entry]);
    files::create(&file, &bytes, Access::Secret).unwrap();
    assert!(matches!(
        open(dir.path(), 1, 8),
        Err(VaultProblem::WrongRoot { .. })
    ));
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing was changed");
    for _ in 0..2 {
        let v = open(dir.path(), 1, 9).unwrap();
        assert_eq!(v.get(KeyKind::Wrapping, 1).unwrap().expose()[0], 0xa1);
        assert!(
            v.decrypted(&old).is_err(),
            "what stood in the key file opens nothing by itself"
        );
    }
}

#[test]
fn slots_come_and_go_and_each_time_the_old_ones_open_old_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let slot = |name: &str, key: u8| {
        SlotPublic::new(
            CustodianId::new(name).unwrap(),
            Provider::KeyFile,
            &secret(key),
        )
    };
    let load = || Vault::load(dir.path(), &place(), 1).unwrap();
    assert!(load().is_new());
    let mut v = open(dir.path(), 1, 9).unwrap();
    v.keep(KeyKind::Wrapping, 1, secret(0xa1)).unwrap();
    v.put_slot(slot("emergency", 3)).unwrap();
    let file = dir.path().join(VAULT_FILE);
    let image = std::fs::read(&file).unwrap();
    for (name, key) in [(KEY_FILE_SLOT, 9), ("emergency", 3)] {
        let mut v = load();
        assert!(!v.is_open() && v.keys().count() == 0 && v.get(KeyKind::Wrapping, 1).is_none());
        assert!(matches!(
            v.keep(KeyKind::Wrapping, 2, secret(1)),
            Err(VaultProblem::Locked)
        ));
        assert!(matches!(
            v.put_slot(slot("eve", 6)),
            Err(VaultProblem::Locked)
        ));
        assert_eq!(v.check(name, &secret(key)).unwrap(), 1);
        assert!(!v.is_open(), "a check keeps nothing");
        assert!(v.check(name, &secret(1)).is_err());
        v.unlock(name, &secret(key)).unwrap();
        assert_eq!(v.get(KeyKind::Wrapping, 1).unwrap().expose()[0], 0xa1);
        v.lock();
        assert!(!v.is_open() && v.keys().count() == 0);
    }
    v.put_slot(slot("emergency", 4)).unwrap();
    v.remove_slot(KEY_FILE_SLOT).unwrap();
    assert!(
        matches!(v.remove_slot("emergency"), Err(VaultProblem::Slot(_))),
        "the last one stays"
    );
    let new = std::fs::read(&file).unwrap();
    assert!(load().unlock("emergency", &secret(3)).is_err());
    load().unlock("emergency", &secret(4)).unwrap();
    std::fs::write(&file, &image).unwrap();
    let mut old = load();
    old.unlock("emergency", &secret(3)).unwrap();
    let root = old.open.as_ref().unwrap().root();
    std::fs::write(&file, &new).unwrap();
    assert!(
        load().decrypted(&root).is_err(),
        "the old root opens nothing of the new file"
    );
}
