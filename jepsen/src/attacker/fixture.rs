//! A deployment of three custodians made by hand: vaults, key files and images
//! as nodes leave them, to be stolen in different sets.

use super::*;
use crate::checker::simulate::Random;
use crate::checker::testing::Directory;
use quorate_engine::crypto::seal::ShareBinding;
use quorate_engine::crypto::{vault, wrap};
use quorate_engine::custody::keys::{Provider, SlotPublic, SlotTable};
use quorate_engine::custody::{KeyKind, Place};
use quorate_engine::sharing::split;
use quorate_engine::types::{RootKey, WrappingKey, codec};
use rand_core::{TryCryptoRng, TryRng};
use serde_json::{Value as Json, json};
use std::convert::Infallible;

struct Weak(Random);

impl TryRng for Weak {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.bits() as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.bits())
    }
    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        dst.fill_with(|| self.0.bits() as u8);
        Ok(())
    }
}
impl TryCryptoRng for Weak {}

fn secret(byte: u8) -> Secret<32> {
    Secret::from_slice(&[byte; 32]).unwrap()
}

#[derive(serde::Serialize)]
struct Entry {
    kind: KeyKind,
    version: u32,
    #[serde(with = "serde_bytes")]
    locked: Vec<u8>,
}

/// Stands in messages.
pub(crate) const CANARY: &str = "canary 5b0c1f6e2d";
/// The custodians; two of them may open a key.
pub(crate) const NAMES: [&str; 3] = ["at", "ch", "de"];

/// Writes images, vaults and key files, and gives `attack.json` for the custodians in `stolen`.
pub(crate) fn deployment(dir: &Directory, stolen: &[&str]) -> Json {
    let mut rng = Weak(Random(7));
    let (deployment, chat) = (DeploymentId([1; 16]), ChatId([0xc4; 32]));
    let (key_id, policy) = (KeyId([3; 16]), PolicyId([4; 32]));
    let leaf = |name: &&str| Structure::Leaf(CustodianId::new(name).unwrap());
    let structure = Structure::Gate {
        threshold: 2,
        children: NAMES.iter().map(leaf).collect(),
    };
    let mut key = [0; 32];
    rng.try_fill_bytes(&mut key).unwrap();
    let core = [&[0; 64], &key[..], &[0; 64]].concat();
    dir.write("images/home.core", core);
    let key = DataKey(Secret::take(&mut key));
    let check = key_check(&key);
    dir.write(
        "images/home.img",
        [b"sealed records and ", &check[..]].concat(),
    );
    for (i, (custodian, share)) in split(&structure, &key, &mut rng)
        .unwrap()
        .into_iter()
        .enumerate()
    {
        let i = i as u8;
        let place = Place {
            deployment,
            custodian: custodian.clone(),
        };
        let (unlock, root, wrapping) = (secret(10 + i), RootKey(secret(20 + i)), secret(30 + i));
        let slot = SlotPublic::new(
            CustodianId::new("key-file").unwrap(),
            Provider::KeyFile,
            &unlock,
        );
        let table = SlotTable::seal(&place, 1, 1, &[slot], &root, &mut rng).unwrap();
        let entry = Entry {
            kind: KeyKind::Wrapping,
            version: 3,
            locked: vault::lock(
                &root,
                &format!("{deployment}/{custodian}/1/wrapping/3"),
                [9; 24],
                &wrapping,
            ),
        };
        let file = codec::encode(
            2,
            &(serde_bytes::ByteBuf::from(table.encode()), vec![entry]),
        );
        dir.write(&format!("{custodian}/keys.vault"), file);
        dir.write(
            &format!("{custodian}/key"),
            hex::encode([10 + i; 32]) + "\n",
        );
        let binding = ShareBinding {
            deployment,
            custodian: custodian.clone(),
            chat,
            key_id,
            policy,
        };
        let wrapped = wrap::wrap(&WrappingKey(wrapping), 3, &binding, [7; 24], &share);
        let junk = [0xaa; 1000];
        // As the log has it, and for the last custodian as the store does.
        let log = [
            &chat.0[..],
            &[5],
            &key_id.0,
            &policy.0,
            &[0; 32],
            &[72],
            &wrapped,
        ]
        .concat();
        let row = [
            &[0x10][..],
            &key_id.0,
            &junk,
            &chat.0,
            &[5],
            &policy.0,
            &[0; 32],
            &[3, 72],
            &wrapped,
        ]
        .concat();
        let image = [&junk[..], if i == 2 { &row } else { &log }, &junk].concat();
        dir.write(&format!("images/{custodian}.img"), image);
    }
    let custodian = |name: &&str| {
        json!({
            "name": name, "custodian": name, "files": [format!("images/{name}.img")],
            "vaults": [{"node": 1, "vault": format!("{name}/keys.vault"), "key_file": format!("{name}/key")}],
        })
    };
    let home = json!({"name": "home", "files": ["images/home.img"]});
    let sites: Vec<Json> = stolen.iter().map(custodian).chain([home]).collect();
    json!({
        "deployment": deployment, "canaries": [CANARY], "sites": sites,
        "targets": [{"chat": chat, "key_id": key_id, "policy": policy, "structure": structure, "check": hex::encode(check)}],
    })
}
