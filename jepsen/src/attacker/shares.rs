//! How a thief with a custodian's disk and key file comes to its shares: the
//! key file opens the vault (`keys.vault`, see `docs/format.md`), the vault
//! holds the wrapping keys, and these open the 72 bytes of a wrapped share
//! wherever they lie near the chat they belong to: store, log, snapshot, or
//! blocks that were freed.

use super::{Target, VaultFile, read};
use quorate_engine::crypto::seal::ShareBinding;
use quorate_engine::crypto::{vault, wrap};
use quorate_engine::custody::keys::{Provider, SlotTable};
use quorate_engine::custody::{KeyKind, Place};
use quorate_engine::types::{
    CustodianId, DeploymentId, RootKey, Secret, Share, WrappingKey, codec,
};
use serde::Deserialize;
use std::path::Path;

/// How far from the chat's id a wrapped share may lie, in bytes. A row has
/// about 80 bytes between them, a command of the log may have more.
const NEAR: usize = 512;

/// A vault's format without slots and with them.
const FORMATS: [u8; 2] = [1, 2];

#[derive(Deserialize)]
struct Entry {
    kind: KeyKind,
    version: u32,
    #[serde(with = "serde_bytes")]
    locked: Vec<u8>,
}

/// The wrapping keys of one node's vault by version.
pub(super) fn wrapping_keys(
    dir: &Path,
    deployment: DeploymentId,
    custodian: &CustodianId,
    stolen: &VaultFile,
) -> Result<Vec<(u32, WrappingKey)>, String> {
    let bytes = read(dir, &stolen.vault)?;
    let text = read(dir, &stolen.key_file)?;
    let named = |why: String| format!("{}: {why}", stolen.vault.display());
    let mut unlock = [0; 32];
    hex::decode_to_slice(text.trim_ascii(), &mut unlock)
        .map_err(|e| format!("{}: {e}", stolen.key_file.display()))?;
    let unlock = Secret::take(&mut unlock);
    let (root, entries) = if bytes.first() == Some(&FORMATS[0]) {
        let entries: Vec<Entry> =
            codec::decode("key vault", FORMATS[0], &bytes).map_err(|e| named(e.to_string()))?;
        (RootKey(unlock), entries)
    } else {
        let (table, entries): (serde_bytes::ByteBuf, Vec<Entry>) =
            codec::decode("key vault", FORMATS[1], &bytes).map_err(|e| named(e.to_string()))?;
        let table = SlotTable::decode(&table).map_err(|e| named(e.to_string()))?;
        let slot = table.slots().find(|s| s.provider == Provider::KeyFile);
        let slot = slot.ok_or_else(|| named("no slot that a key file opens".into()))?;
        let place = Place {
            deployment,
            custodian: custodian.clone(),
        };
        let root = table.open(&place, stolen.node, slot.name.as_str(), &unlock);
        (root.map_err(|e| named(e.to_string()))?, entries)
    };
    let of_shares = entries.into_iter().filter(|e| e.kind == KeyKind::Wrapping);
    let open = |e: Entry| {
        let (node, kind) = (stolen.node, e.kind.as_str());
        let label = format!("{deployment}/{custodian}/{node}/{kind}/{}", e.version);
        let key = vault::unlock(&root, &label, &e.locked).map_err(|why| named(why.to_string()))?;
        Ok((e.version, WrappingKey(key)))
    };
    of_shares.map(open).collect()
}

/// Adds the shares that open near byte `at` of `bytes`, where the target's chat stands.
pub(super) fn around(
    bytes: &[u8],
    at: usize,
    deployment: DeploymentId,
    custodian: &CustodianId,
    target: &Target,
    keys: &[(u32, WrappingKey)],
    into: &mut Vec<Share>,
) {
    let binding = ShareBinding {
        deployment,
        custodian: custodian.clone(),
        chat: target.chat,
        key_id: target.key_id,
        policy: target.policy,
    };
    let last = bytes.len().saturating_sub(wrap::WRAPPED_LEN);
    for start in at.saturating_sub(NEAR)..=last.min(at + NEAR) {
        let Some(window) = bytes.get(start..start + wrap::WRAPPED_LEN) else {
            return;
        };
        for (version, key) in keys {
            if let Ok(share) = wrap::unwrap(key, *version, &binding, window)
                && !into.iter().any(|s| s.expose() == share.expose())
            {
                into.push(share);
            }
        }
    }
}
