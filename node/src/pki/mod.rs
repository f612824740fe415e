//! Who is who: certificates, descriptors, trust.
//!
//! ```text
//!  entity::init ─▶ ca.crt, identity.key, descriptor.json, node-N/{node.crt, node.key, root.key, config.toml}
//!  descriptor ──(fingerprint compared out of band)──▶ trust/ ─▶ TrustStore ─▶ tls::{server, client}
//! ```
//!
//! Every entity is its own certificate authority. A certificate counts only
//! under the CA in the descriptor of the very cluster its SAN URI names, so a
//! custodian cannot mint itself a home. Nothing here falls back: TLS 1.3, both
//! sides authenticated, and on the peer plane the hybrid key exchange of
//! draft-ietf-tls-ecdhe-mlkem (X25519MLKEM768) or nothing.

pub mod attest;
pub mod ca;
pub mod descriptor;
pub mod entity;
pub mod files;
pub mod identity;
pub mod rotate;
pub mod tls;
pub mod trust;
pub mod verify;

#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;

pub use ca::{Authority, Issued, PkiError};
pub use descriptor::{Descriptor, DescriptorError};
pub use entity::Entity;
pub use identity::{CertIdentity, CertRole, IdentityError};
pub use rotate::CertSource;
pub use trust::{TrustError, TrustStore};
