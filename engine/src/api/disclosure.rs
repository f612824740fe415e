//! The operator plane's JSON of a disclosure order's execution, and what its
//! recipient checks.
//!
//! A result comes in parts: so much of one chat each. Every part has a manifest
//! of all its records and of every key that was opened for it, signed by the
//! home. The parts of a chat follow each other from its beginning to its end,
//! so none can be left out or added, and each record is sealed to its place.

use super::Content;
use super::registry::Statement;
use crate::audit::HexBytes;
use crate::authz::envelope::Envelope;
use crate::authz::officers::Statement as Signed;
use crate::authz::orders::{Order, order_id};
use crate::crypto::disclosure::{PartBinding, PartReceiver, hash};
use crate::crypto::labels;
use crate::crypto::seal::{RecipientKey, RecipientPublic};
use crate::types::{
    ChatId, CustodianId, DeploymentId, EpochNo, HomeId, KeyId, MessageId, OrderId, Revision, WallMs,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most records in one part; also bounds the keys that are asked for at once.
pub const PART_RECORDS_MAX: usize = 256;
/// Sealed bytes of records in one part; the record that goes over it ends the part.
pub const PART_BYTES_MAX: usize = 2 << 20;
/// Most records looked at for one part, in the order's dates or not.
pub const PART_LOOKED_AT_MAX: usize = 8192;
/// Longest signed part as JSON, in bytes.
pub const PART_JSON_BYTES_MAX: usize = 16 << 20;

/// `POST /v1/orders/{order}/execute`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecuteOrder {
    /// The order, as its submitter signed it.
    pub statement: Statement,
    /// One chat of its scope, hex; none: the part that lists the chats of the order's accounts.
    pub chat: Option<ChatId>,
    /// Message to begin at; 0 is the chat's profile.
    pub from: MessageId,
}

/// The manifest of the first part of a result whose order names accounts: which chats custodians
/// say these lead to. A part for each of them follows, and one for each chat that the order names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The home.
    pub home: HomeId,
    /// The order.
    pub order: OrderId,
    /// When it was made, by the home's clock.
    pub made_ms: WallMs,
    /// The chats that at least one custodian says so of.
    pub chats: BTreeSet<ChatId>,
    /// The custodians that said so.
    pub told: BTreeSet<CustodianId>,
}

/// Whose records of a chat a part holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordsOf {
    /// Everybody's: the order names the chat.
    #[default]
    Everybody,
    /// Those that a device of the order's accounts wrote, and nobody else's: the order names accounts.
    Accounts,
}

/// Of every manifest, of whichever kind: who signed it, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBy {
    /// The home.
    pub home: HomeId,
    /// When it was made, by the home's clock.
    pub made_ms: WallMs,
}

/// One part, not yet signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// A [`Manifest`] as JSON: the very text that is signed.
    pub manifest: String,
    /// Base64 of the encapsulation to the recipient.
    pub encapsulated: String,
    /// Base64 of each sealed record, in the manifest's order.
    pub records: Vec<String>,
}

/// The answer to [`ExecuteOrder`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedPart {
    /// What is signed.
    pub part: Part,
    /// Base64 of the certificate (DER) of the home's node that signed.
    pub certificate: String,
    /// Base64 of its ECDSA P-256 signature (ASN.1) over [`signed_bytes`].
    pub signature: String,
}

/// What a part holds, and what was opened for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The home.
    pub home: HomeId,
    /// The order.
    pub order: OrderId,
    /// The chat.
    pub chat: ChatId,
    /// Whose records it holds.
    #[serde(default)]
    pub records_of: RecordsOf,
    /// Whether this home holds the chat at all.
    pub held: bool,
    /// The first message that was looked at.
    pub from: MessageId,
    /// Where the next part begins; `None`: the chat ends here.
    pub next: Option<MessageId>,
    /// When it was made, by the home's clock.
    pub made_ms: WallMs,
    /// Hash of the encapsulation.
    pub encapsulated: HexBytes<32>,
    /// Every key that was opened.
    pub opened: Vec<OpenedEpoch>,
    /// Epochs with records in the order's dates that are not disclosed.
    pub withheld: Vec<WithheldEpoch>,
    /// Every record, in order of message.
    pub records: Vec<Listed>,
}

/// A key epoch that was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenedEpoch {
    /// Its number in the chat.
    pub epoch: EpochNo,
    /// The dealing.
    pub key: KeyId,
    /// The custodians whose shares opened it, and the entry of each one's log.
    pub releases: Vec<(CustodianId, u64)>,
}

/// A key epoch whose records in scope are not disclosed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithheldEpoch {
    /// Its number in the chat.
    pub epoch: EpochNo,
    /// The dealing.
    pub key: KeyId,
    /// Why.
    pub why: Withheld,
    /// How many records of this part it has in the order's dates.
    pub records: usize,
}

/// Why an epoch is not disclosed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Withheld {
    /// It is still being written; released once its successor is stored.
    StillWritten,
    /// So many custodians destroyed their share that nothing opens it any more.
    Destroyed,
    /// By so many custodians' clocks it is not of the order's dates, or not yet over, or by their
    /// statements of members no account's of the order, that the others do not suffice.
    OutsideThere,
}

/// One record of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its number in the chat.
    pub message: MessageId,
    /// Its revision.
    pub revision: Revision,
    /// The epoch it was sealed under.
    pub epoch: EpochNo,
    /// When it was last written: what the order's dates are compared with.
    pub written_ms: WallMs,
    /// Hash of the record as it is sealed to the recipient.
    pub sealed: HexBytes<32>,
}

/// What is in a sealed record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosed {
    /// The chat.
    pub chat: ChatId,
    /// Its number there; 0 is the chat's profile.
    pub message: MessageId,
    /// Its revision.
    pub revision: Revision,
    /// When it was first written.
    pub sent_ms: WallMs,
    /// When it was last edited.
    pub edited_ms: Option<WallMs>,
    /// Device that wrote it first.
    pub device: String,
    /// What it says.
    pub content: Content,
}

/// Why an order cannot be executed, or a result is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisclosureError {
    /// The order.
    #[error("the order: {0}")]
    Order(String),
    /// A part is not what it should be.
    #[error("part {part}: {why}")]
    Part {
        /// Its number, from 1.
        part: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Something is missing.
    #[error("the result is not whole: {0}")]
    Missing(String),
}

/// What a home's node signs.
pub fn signed_bytes(deployment: &DeploymentId, manifest: &str) -> Vec<u8> {
    let mut out = labels::SIGN_DISCLOSURE.as_bytes().to_vec();
    out.push(0);
    out.extend_from_slice(&deployment.0);
    out.extend_from_slice(manifest.as_bytes());
    out
}

/// The order in `paper`, its id, and whom results are sealed to. Its submitter signed it.
///
/// # Errors
/// [`DisclosureError::Order`].
pub fn read_order(
    paper: &Envelope,
    deployment: &DeploymentId,
) -> Result<(OrderId, Order, RecipientPublic), DisclosureError> {
    let wrong = |e: &dyn std::fmt::Display| DisclosureError::Order(e.to_string());
    let signers = paper.signers(labels::SIGN_OFFICER, deployment);
    let signers = signers.map_err(|e| wrong(&e))?;
    let order = match Signed::read(paper).map_err(|e| wrong(&e))? {
        Signed::Order(order) => order,
        _ => return Err(wrong(&"the statement is another")),
    };
    if !signers.contains(&order.submitted_by.0) {
        return Err(wrong(&"it is not signed by the submitter it names"));
    }
    let recipient = hex::decode(&order.recipient).map_err(|e| wrong(&e))?;
    let recipient = RecipientPublic(recipient);
    let usable = recipient.validate();
    usable.map_err(|e| {
        wrong(&format_args!(
            "its recipient's key cannot be sealed to ({e}); a new order is needed, with a key of `quorate order recipient-key`"
        ))
    })?;
    Ok((order_id(paper), order, recipient))
}

/// The first part of a result whose order names accounts.
///
/// # Errors
/// [`DisclosureError`], when it is none, or of another order.
pub fn read_listing(
    id: &OrderId,
    deployment: &DeploymentId,
    part: &Part,
) -> Result<Listing, DisclosureError> {
    let wrong = |why: String| DisclosureError::Part { part: 1, why };
    let listing: Listing = serde_json::from_str(&part.manifest).map_err(|e| {
        wrong(format!(
            "the list of the accounts' chats cannot be read: {e}"
        ))
    })?;
    if listing.order != *id || listing.deployment != *deployment {
        return Err(wrong(format!("it is of order {}", listing.order)));
    }
    if !part.records.is_empty() {
        return Err(wrong("it lists chats, and has records".into()));
    }
    Ok(listing)
}

/// The result in `parts`, opened with the recipient's key: the listing if the order names accounts,
/// then each chat's parts in order, from its beginning to its end. Whoever calls this has verified each part's signature.
///
/// # Errors
/// [`DisclosureError`], at the first thing that is not as it should be: nothing of such a result
/// is given out.
pub fn open_result(
    (id, order): (&OrderId, &Order),
    deployment: &DeploymentId,
    parts: &[Part],
    key: &RecipientKey,
) -> Result<(Vec<Manifest>, Vec<Disclosed>), DisclosureError> {
    let (mut manifests, mut out) = (Vec::<Manifest>::new(), Vec::new());
    let mut ended = BTreeSet::new();
    let mut listing = None;
    let mut rest = parts;
    if !order.scope.accounts.is_empty() {
        let Some((first, others)) = parts.split_first() else {
            return Err(DisclosureError::Missing("it has no part".into()));
        };
        listing = Some(read_listing(id, deployment, first)?);
        rest = others;
    }
    let mut chats = order.scope.chats.clone();
    chats.extend(listing.iter().flat_map(|l| &l.chats));
    for (n, part) in rest.iter().enumerate() {
        let n = n + 1 + parts.len() - rest.len();
        let wrong = |why: String| DisclosureError::Part { part: n, why };
        let manifest: Manifest = serde_json::from_str(&part.manifest)
            .map_err(|e| wrong(format!("the manifest cannot be read: {e}")))?;
        if manifest.order != *id || manifest.deployment != *deployment {
            return Err(wrong(format!("it is of order {}", manifest.order)));
        }
        if listing.as_ref().is_some_and(|l| l.home != manifest.home) {
            return Err(wrong(format!("it is home {}'s", manifest.home)));
        }
        let expected = match manifests.last() {
            Some(before) if before.home != manifest.home => {
                return Err(wrong(format!("it is home {}'s", manifest.home)));
            }
            Some(Manifest {
                chat,
                next: Some(next),
                ..
            }) => (*chat, *next),
            _ => (manifest.chat, 0),
        };
        let fresh = chats.contains(&manifest.chat) && !ended.contains(&manifest.chat);
        if (manifest.chat, manifest.from) != expected || !fresh {
            let (chat, from) = (manifest.chat, manifest.from);
            return Err(wrong(format!(
                "chat {chat} from message {from} is out of order: a part is missing, doubled or not of this result"
            )));
        }
        let named = order.scope.chats.contains(&manifest.chat);
        if named != (manifest.records_of == RecordsOf::Everybody) {
            let chat = manifest.chat;
            return Err(wrong(format!(
                "it says other than the order whose records of chat {chat} are in scope"
            )));
        }
        if manifest.next.is_none() {
            ended.insert(manifest.chat);
        }
        out.extend(open_part(order, &manifest, part, key).map_err(wrong)?);
        manifests.push(manifest);
    }
    if let Some(chat) = chats.iter().find(|c| !ended.contains(*c)) {
        let why = format!("the end of chat {chat} is not there");
        return Err(DisclosureError::Missing(why));
    }
    Ok((manifests, out))
}

fn open_part(
    order: &Order,
    m: &Manifest,
    part: &Part,
    key: &RecipientKey,
) -> Result<Vec<Disclosed>, String> {
    if m.next.is_some_and(|next| next <= m.from) {
        return Err("it ends before it begins".into());
    }
    if part.records.len() != m.records.len() || m.records.len() > PART_RECORDS_MAX {
        let (listed, there) = (m.records.len(), part.records.len());
        return Err(format!("{there} records, {listed} are listed"));
    }
    let encapsulated = STANDARD.decode(&part.encapsulated);
    let encapsulated = encapsulated.map_err(|e| format!("the encapsulation: {e}"))?;
    if hash(&encapsulated) != m.encapsulated.0 {
        return Err("the encapsulation is not the one that was signed".into());
    }
    let at = PartBinding {
        deployment: m.deployment,
        home: m.home.clone(),
        order: m.order,
        chat: m.chat,
        from: m.from,
    };
    let receiver = PartReceiver::new(key, at, &encapsulated).map_err(|e| e.to_string())?;
    let mut last = None;
    let mut out = Vec::with_capacity(m.records.len());
    for (listed, sealed) in m.records.iter().zip(&part.records) {
        let message = listed.message;
        let of = |why: &str| format!("message {message}: {why}");
        let before = last.replace(message);
        if message < m.from
            || m.next.is_some_and(|next| message >= next)
            || before.is_some_and(|b| b >= message)
        {
            return Err(of("is listed out of order"));
        }
        let scope = &order.scope;
        if listed.written_ms < scope.from_ms || listed.written_ms >= scope.to_ms {
            return Err(of("is outside the order's dates"));
        }
        if !m.opened.iter().any(|e| e.epoch == listed.epoch) {
            return Err(of("its epoch is not listed as opened"));
        }
        let sealed = STANDARD.decode(sealed).map_err(|e| of(&e.to_string()))?;
        if hash(&sealed) != listed.sealed.0 {
            return Err(of("is not the record that was signed"));
        }
        let plain = receiver.open(message, listed.revision, &sealed);
        let plain =
            plain.map_err(|_| of("does not open: it was sealed to another key or place"))?;
        let record: Disclosed = serde_json::from_slice(&plain).map_err(|e| of(&e.to_string()))?;
        let said = (record.chat, record.message, record.revision);
        if said != (m.chat, message, listed.revision)
            || record.edited_ms.unwrap_or(record.sent_ms) != listed.written_ms
        {
            return Err(of("says another place than the manifest"));
        }
        out.push(record);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
