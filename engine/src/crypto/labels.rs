//! Every domain-separation label of the engine, in one place and frozen.
//!
//! A label says what a key, a digest or a signature is for. Two uses under one
//! label would let a value made for the one be shown for the other, so labels
//! are distinct, none is the beginning of another (a test holds both), and a
//! change of meaning takes a new number at the end, never the old text.
//! Layouts are in `docs/format.md`.

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)+) => {
        $($(#[$doc])* pub const $name: &str = $text;)+
        /// All of them, for the tests and for the format page.
        pub const ALL: &[(&str, &str)] = &[$((stringify!($name), $text)),+];
    };
}

labels! {
    /// Subkey that seals records of a chat.
    SUBKEY_MESSAGE = "quorate/subkey/message/1";
    /// Subkey that wraps blob keys.
    SUBKEY_BLOB_WRAP = "quorate/subkey/blob-wrap/1";
    /// Subkey for a search index.
    SUBKEY_INDEX = "quorate/subkey/index/1";
    /// Subkey for keyed digests of content.
    SUBKEY_DIGEST = "quorate/subkey/digest/1";
    /// The value that commits to a data key; public, unlike the subkeys.
    KEY_CHECK = "quorate/subkey/check/1";
    /// Associated data of a sealed record.
    RECORD = "quorate/record/1";
    /// HPKE `info` of shares dealt to a custodian's sealing key.
    SEAL_DEAL = "quorate/seal/deal/1";
    /// HPKE `info` of shares released to a lease key.
    SEAL_RELEASE = "quorate/seal/release/1";
    /// HPKE exporter context of one share's key.
    SHARE_EXPORT = "quorate/share/export/1";
    /// Associated data of a share dealt to a custodian.
    SHARE_DEALT = "quorate/share/dealt/1";
    /// Associated data of a share released to a lease key.
    SHARE_RELEASED = "quorate/share/released/1";
    /// Associated data of a share at rest.
    SHARE_WRAPPED = "quorate/share/wrapped/1";
    /// Commitment to one leaf's share of one dealing.
    SHARE_COMMITMENT = "quorate/share/commitment/1";
    /// Hash of a sealing or lease public key.
    RECIPIENT_HASH = "quorate/recipient-hash/1";
    /// Key that vault entries are encrypted under, derived from the root key.
    VAULT_KEY = "quorate/vault/key/1";
    /// Associated data of a vault entry.
    VAULT_ENTRY = "quorate/vault/entry/1";
    /// Associated data of a blob key under `blob-wrap`.
    BLOB_KEY = "quorate/blob/key/1";
    /// Associated data of one chunk of a blob.
    BLOB_CHUNK = "quorate/blob/chunk/1";
    /// Associated data of a blob's manifest.
    BLOB_MANIFEST = "quorate/blob/manifest/1";
    /// A custodian's signed sealing-key statement.
    SIGN_SEALING_KEY = "quorate/sealing-key/1";
    /// A custodian's signed receipt of a release.
    SIGN_RECEIPT = "quorate/receipt/1";
    /// A cluster's signed descriptor.
    SIGN_DESCRIPTOR = "quorate/descriptor/1";
    /// The fingerprint of a descriptor that people compare.
    DESCRIPTOR_FINGERPRINT = "quorate/fingerprint/1";
    /// Hash of an identity key, as policies name custodians.
    IDENTITY_HASH = "quorate/identity-hash/1";
    /// A policy's id (its module keeps a copy: it may use `types` alone).
    POLICY_ID = "quorate/policy/1";
    /// A chat's id: the hash of its genesis.
    CHAT_GENESIS = "quorate/chat-genesis/1";
    /// What a repeated intent is recognised by.
    EPOCH_INTENT = "quorate/epoch-intent/1";
    /// Retired: hash of the authority, when a home's certificate was one. Stands in old logs.
    AUTHORITY_HOME = "quorate/authority/home/1";
    /// What a release's request id is bound to.
    REQUEST_BINDING = "quorate/release/binding/1";
    /// Names a wrapping key in the log without telling it.
    WRAPPING_FINGERPRINT = "quorate/wrapping/fingerprint/1";
    /// An account's id: the hash of its genesis.
    ACCOUNT_GENESIS = "quorate/account-genesis/1";
    /// A device's id: the hash of its public key.
    DEVICE_ID = "quorate/device-id/1";
    /// An officer's id: the hash of the officer's public key.
    OFFICER_ID = "quorate/officer-id/1";
    /// Hash of a statement of a chain, which its successor carries.
    STATEMENT_HASH = "quorate/statement-hash/1";
    /// A statement about an account or one of its devices.
    SIGN_ACCOUNT = "quorate/account/1";
    /// A statement about a chat's members.
    SIGN_MEMBERSHIP = "quorate/membership/1";
    /// A deletion, and the mandate that comes with it.
    SIGN_DELETION = "quorate/deletion/1";
    /// A proposal that a custodian's officers decide on, and their approvals.
    SIGN_OFFICER = "quorate/officer/1";
    /// A service credential's id: the hash of its public key.
    SERVICE_ID = "quorate/service-id/1";
    /// An auditor's id: the hash of the auditor's public key.
    AUDITOR_ID = "quorate/auditor-id/1";
    /// A disclosure order's id: the hash of its bytes.
    ORDER_ID = "quorate/order-id/1";
    /// A custodian's signed acknowledgement of the head of a chain.
    SIGN_HEAD = "quorate/head/1";
    /// An identity authority's signed statement of its own keys.
    SIGN_AUTHORITY = "quorate/authority-keys/1";
    /// Hash of the grant that is the authority of a release.
    AUTHORITY_GRANT = "quorate/authority/grant/1";
    /// Salts of one log entry, from its seed.
    LOG_SALT = "quorate/log/salt/1";
    /// Commitment to an account in the log.
    LOG_ACCOUNT = "quorate/log/account/1";
    /// Commitment to a device in the log.
    LOG_DEVICE = "quorate/log/device/1";
    /// Commitment to a chat in the log.
    LOG_CHAT = "quorate/log/chat/1";
    /// HPKE `info` of a custodian's root sealed to a key slot.
    KEYSLOT_SEAL = "quorate/keyslot/seal/1";
    /// HPKE exporter context of the key that a root is sealed under.
    KEYSLOT_EXPORT = "quorate/keyslot/export/1";
    /// Associated data of a root sealed to a key slot.
    KEYSLOT_ROOT = "quorate/keyslot/root/1";
    /// Key that authenticates a table of key slots, derived from the root key.
    KEYSLOT_TABLE = "quorate/keyslot/table/1";
    /// Commitment to one holder's share of a slot's secret.
    KEYSLOT_SHARE = "quorate/keyslot/share/1";
    /// Key of a holder's proof of possession, derived from the share.
    KEYSLOT_PROOF = "quorate/keyslot/proof/1";
    /// Key of a node's proof that it holds a key version, derived from that version.
    KEY_HELD = "quorate/key-held/1";
    /// Check on the text of a share file.
    KEYSLOT_TEXT = "quorate/keyslot/text/1";
    /// HPKE `info` of records sealed to the recipient of a disclosure order.
    SEAL_DISCLOSURE = "quorate/seal/disclosure/1";
    /// HPKE exporter context of the key that those records are sealed under.
    DISCLOSURE_EXPORT = "quorate/disclosure/export/1";
    /// Associated data of one of those records.
    DISCLOSURE_RECORD = "quorate/disclosure/record/1";
    /// Hash of what a disclosure's manifest lists.
    DISCLOSURE_HASH = "quorate/disclosure/hash/1";
    /// A home's signed manifest of one part of a disclosure.
    SIGN_DISCLOSURE = "quorate/disclosure/manifest/1";
    /// Salt of an account secret, from the account's id.
    ACCOUNT_SECRET_SALT = "quorate/account-secret/salt/1";
    /// Seed of an account secret's signing key, from the stretched passphrase.
    ACCOUNT_SECRET_KEY = "quorate/account-secret/key/1";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_none_begins_another() {
        for (i, (name, a)) in ALL.iter().enumerate() {
            assert!(a.starts_with("quorate/") && a.ends_with("/1"), "{name}");
            assert!(
                a.bytes().all(|b| b.is_ascii_lowercase()
                    || b.is_ascii_digit()
                    || b == b'/'
                    || b == b'-')
            );
            for (other, b) in &ALL[i + 1..] {
                assert!(!a.starts_with(b) && !b.starts_with(a), "{name} and {other}");
            }
        }
    }

    #[test]
    fn the_whole_table_is_frozen() {
        let text: String = ALL.iter().map(|(n, l)| format!("{n}={l}\n")).collect();
        assert_eq!(
            blake3::hash(text.as_bytes()).to_hex().as_str(),
            "9c2a38c06d857140edc40cb857e718b763e987ecf4fc3a5022885c4d449f7c53",
            "a label was changed or added: existing labels never change; for an addition, freeze the new table here"
        );
    }

    #[test]
    fn statements_are_signed_under_their_labels() {
        use crate::custody::protocol::{Receipt, SealingKeyStatement};
        use crate::types::{CustodianId, DeploymentId, RequestId};
        let custodian = CustodianId::new("ch").unwrap();
        let statement = SealingKeyStatement {
            custodian: custodian.clone(),
            version: 1,
            public: crate::crypto::seal::RecipientPublic(vec![]),
            expires_ms: 0,
            signature: vec![],
        };
        let receipt = Receipt {
            custodian,
            entry: 0,
            leaf: [0; 32],
            time_ms: 0,
            request: RequestId([0; 16]),
            signature: vec![],
        };
        let deployment = DeploymentId([0; 16]);
        for (bytes, label) in [
            (statement.signed_bytes(&deployment), SIGN_SEALING_KEY),
            (receipt.signed_bytes(&deployment), SIGN_RECEIPT),
        ] {
            assert!(bytes.starts_with(label.as_bytes()) && bytes[label.len()] == 0);
        }
    }
}
