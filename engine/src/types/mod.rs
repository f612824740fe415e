//! Words shared by every other module: identifiers, secrets, the codec, the
//! key-value border that replicated state is written through.

pub mod codec;
pub mod content;
pub mod ids;
pub mod kv;
pub mod secret;
pub mod structure;

pub use ids::{
    AccountId, AuditorId, AuthorityId, BlobId, ChatId, CustodianId, DeploymentId, DeviceId,
    EpochNo, GrantId, HomeId, IdError, KeyId, MessageId, NodeId, Nonce, OfficerId, OrderId,
    PolicyId, PublicKey, RequestId, Revision, ServiceId, SessionId, StatementHash,
};
pub use kv::{Kv, KvError, KvRead};
pub use secret::{DataKey, RootKey, Secret, Share, WrappingKey};
pub use structure::Structure;

/// Wall-clock time in milliseconds since the Unix epoch, as a leader stated it
/// when it proposed. Only replicated state uses it; leases use [`Mono`].
pub type WallMs = u64;

/// Milliseconds of a monotonic clock with an arbitrary start. Leases and
/// timers use this alone, so that a jump of the wall clock prolongs nothing.
pub type Mono = u64;

/// What a caller may conclude about the effect of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened and is durable.
    Done,
    /// It certainly did not happen and never will.
    NotDone,
    /// It may have happened; repeating it under the same key is safe.
    Unknown,
}
