//! The registry plane's JSON: what identity authorities bring to a custodian,
//! and what it shows them of the accounts that rely on them.

use crate::authz::envelope::{Envelope, Signature};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Largest body on the registry plane, in bytes.
pub const REGISTRY_BODY_BYTES_MAX: usize = 32 << 10;

/// A signed statement: the very text that was signed, and by whom. `docs/format.md` has the layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// JSON, as text.
    pub payload: String,
    /// By distinct keys.
    pub signatures: Vec<StatementSignature>,
}

/// One signature of a [`Statement`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatementSignature {
    /// Ed25519 public key, 64 hex characters.
    pub key: String,
    /// Ed25519 signature, 128 hex characters.
    pub signature: String,
}

impl From<&Statement> for Envelope {
    fn from(s: &Statement) -> Self {
        let signature = |s: &StatementSignature| Signature {
            key: s.key.clone(),
            signature: s.signature.clone(),
        };
        Self {
            payload: s.payload.clone(),
            signatures: s.signatures.iter().map(signature).collect(),
        }
    }
}

impl From<&Envelope> for Statement {
    fn from(e: &Envelope) -> Self {
        let signature = |s: &Signature| StatementSignature {
            key: s.key.clone(),
            signature: s.signature.clone(),
        };
        Self {
            payload: e.payload.clone(),
            signatures: e.signatures.iter().map(signature).collect(),
        }
    }
}

/// A custodian's signed word that its chain of an account ends here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountHead {
    /// The account, hex.
    pub account: String,
    /// The custodian.
    pub custodian: String,
    /// Number of the last statement; the genesis is 0.
    pub number: u64,
    /// Hash of it, hex.
    pub hash: String,
    /// Entry of the custodian's log.
    pub entry: u64,
    /// Entry time, Unix milliseconds.
    pub time_ms: u64,
    /// Ed25519 by the log key in the custodian's descriptor, hex.
    pub signature: String,
}

/// `GET /v1/accounts/{account}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Hex id.
    pub id: String,
    /// Number of the last statement; the genesis is 0.
    pub number: u64,
    /// Hash of it, hex: what the next statement carries as `previous`.
    pub hash: String,
    /// Two statements of one number were signed: nothing changes until officers acted.
    pub forked: bool,
    /// The authorities the account relies on.
    pub authorities: Vec<String>,
    /// Every device it ever had.
    pub devices: Vec<AccountDevice>,
    /// Whether an account secret is set.
    pub secret: bool,
    /// A recovery in its wait.
    pub recovery: Option<AccountRecovery>,
}

/// A device of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountDevice {
    /// Hex id: the hash of its key.
    pub id: String,
    /// Its Ed25519 key, hex.
    pub public: String,
    /// When it was added, Unix milliseconds.
    pub added_ms: u64,
    /// It may act before this time.
    pub expires_ms: u64,
    /// When it was revoked, if it was.
    pub revoked_ms: Option<u64>,
}

/// A recovery in its wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountRecovery {
    /// The key of the device that is to be added, hex.
    pub public: String,
    /// When it began here, Unix milliseconds.
    pub begun_ms: u64,
}
