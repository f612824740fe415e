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
    ChatId, CustodianId, DeploymentId, KeyId, PolicyId, RootKey, Secret, Share, WrappingKey, codec,
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

/// What names a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Dealing {
    pub(super) chat: ChatId,
    pub(super) key_id: KeyId,
    pub(super) policy: PolicyId,
}

/// First byte of a share's row key.
const ROW: u8 = 0x10;
/// How far before its row's value a key may lie: within one page of the store, in bytes.
const PAGE: usize = 16 << 10;

/// Shares in a custodian's log and store, without being told of any. Both have,
/// behind one another: chat (32), key epoch, policy (32), commitment (32),
/// the wrapped share behind its length. In the log the key id (16) stands before
/// the policy; in the store the wrapping version stands before the length, and
/// the key id is the row's key in the same page.
pub(super) fn discover(
    bytes: &[u8],
    deployment: DeploymentId,
    custodian: &CustodianId,
    keys: &[(u32, WrappingKey)],
) -> Vec<(Dealing, Share)> {
    let mut out = Vec::new();
    let last = bytes.len().saturating_sub(wrap::WRAPPED_LEN);
    for at in 128..last {
        if keys.is_empty() || usize::from(bytes[at]) != wrap::WRAPPED_LEN {
            continue;
        }
        let wrapped = &bytes[at + 1..=at + wrap::WRAPPED_LEN];
        let mut attempt = |chat: &[u8], key_id: &[u8], policy: &[u8], version, key| {
            let (Ok(chat), Ok(key_id), Ok(policy)) =
                (chat.try_into(), key_id.try_into(), policy.try_into())
            else {
                return;
            };
            let binding = ShareBinding {
                deployment,
                custodian: custodian.clone(),
                chat: ChatId(chat),
                key_id: KeyId(key_id),
                policy: PolicyId(policy),
            };
            if let Ok(share) = wrap::unwrap(key, version, &binding, wrapped) {
                let (chat, key_id, policy) = (binding.chat, binding.key_id, binding.policy);
                out.push((
                    Dealing {
                        chat,
                        key_id,
                        policy,
                    },
                    share,
                ));
            }
        };
        for (version, key) in keys {
            // An epoch takes 1, 3 or 5 bytes.
            for epoch in [1, 3, 5] {
                let key_at = at - 80;
                let Some(chat_at) = key_at.checked_sub(epoch + 32) else {
                    continue;
                };
                attempt(
                    &bytes[chat_at..chat_at + 32],
                    &bytes[key_at..key_at + 16],
                    &bytes[at - 64..at - 32],
                    *version,
                    key,
                );
            }
            // Versions above 250 take more bytes; no custodian of a test has so many.
            if *version > 250 || u32::from(bytes[at - 1]) != *version {
                continue;
            }
            let before = &bytes[at.saturating_sub(PAGE)..at - 65];
            for epoch in [1, 3, 5] {
                let Some(chat_at) = before.len().checked_sub(epoch + 32) else {
                    continue;
                };
                for id in before.windows(17).filter(|w| w[0] == ROW) {
                    attempt(
                        &before[chat_at..chat_at + 32],
                        &id[1..],
                        &bytes[at - 65..at - 33],
                        *version,
                        key,
                    );
                }
            }
        }
    }
    out
}
