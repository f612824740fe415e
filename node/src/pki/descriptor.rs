//! A cluster's public description, signed by its long-lived identity key.
//!
//! Entities exchange descriptors as JSON files and compare *fingerprints* out
//! of band. The fingerprint covers deployment, role, name and identity key, so
//! it stays the same when endpoints change or the CA is renewed; everything
//! else is covered by the identity key's signature. A higher `revision`
//! replaces a lower one, never the other way round.

use super::files::{self, Access, FileError};
use crate::config::ClusterRole;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{AUTHORITY_KEYS_MAX, AuthorityKey, AuthorityRecord};
use quorate_engine::crypto::labels;
use quorate_engine::types::{AuthorityId, CustodianId, DeploymentId, NodeId, codec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The descriptor format this build reads and writes.
pub const DESCRIPTOR_FORMAT: u32 = 1;
/// Bytes of a fingerprint: 160 bits resist second preimages with room to spare.
const FINGERPRINT_BYTES: usize = 20;
/// Longest free text (legal entity, provider, network), bytes.
const TEXT_BYTES_MAX: usize = 200;
/// Most endpoints in one descriptor.
const ENDPOINTS_MAX: usize = 32;

/// Why a descriptor is not believed.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not JSON of this shape.
    #[error("descriptor {path}: {reason}; ask its owner for the file `init` printed")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// Another format version.
    #[error(
        "descriptor {path}: format {got}, this build reads {DESCRIPTOR_FORMAT}; use a release that reads it"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The version found.
        got: u64,
    },
    /// A field that cannot be.
    #[error("descriptor of {id}: {what}")]
    Invalid {
        /// The cluster.
        id: String,
        /// What is wrong.
        what: String,
    },
    /// The signature is not by the identity key in it: changed after signing, or forged.
    #[error(
        "descriptor of {id}: the signature is not by its identity key; do not use it, ask its owner for a fresh copy"
    )]
    Signature {
        /// The cluster.
        id: String,
    },
}

/// An Ed25519 public key, hex in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Of a signing key.
    pub fn of(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }
    /// For verification; `None` when the bytes are no point of the curve.
    pub fn verifying(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&self.0).ok()
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            self.0.serialize(s)
        }
    }
}
impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if !d.is_human_readable() {
            return <[u8; 32]>::deserialize(d).map(Self);
        }
        let text = String::deserialize(d)?;
        let mut out = [0u8; 32];
        hex::decode_to_slice(&text, &mut out)
            .map_err(|_| serde::de::Error::custom("expected a public key, 64 hex characters"))?;
        Ok(Self(out))
    }
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The deployment.
    pub deployment: DeploymentId,
    /// What the cluster is.
    pub role: ClusterRole,
    /// Its name, unique in the deployment.
    pub id: String,
    /// Counts up with every change by its owner.
    pub revision: u64,
    /// Jurisdiction (ISO 3166 code or a name).
    pub jurisdiction: String,
    /// The legal entity that runs it.
    pub legal_entity: String,
    /// The provider its machines stand at.
    pub provider: String,
    /// The network they are reached through.
    pub network: String,
    /// Its CA's certificate, PEM.
    pub ca_pem: String,
    /// Its long-lived identity key.
    pub identity_key: PublicKey,
    /// Signs receipts and checkpoints; custodians have one.
    pub log_key: Option<PublicKey>,
    /// Cosigns others' checkpoints; custodians have one.
    pub witness_key: Option<PublicKey>,
    /// Peer addresses, `host:port`, by node id; an authority has none.
    pub endpoints: BTreeMap<NodeId, String>,
    /// What signs statements about people; authorities have them, and only they. Last, and absent
    /// where there are none, so that the signed bytes of all other descriptors stay as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statement_keys: Vec<AuthorityKey>,
    /// The identity key's own statements of those keys that followed the first, oldest first:
    /// custodians that know an authority take a new key on such a statement alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<Envelope>,
}

/// A descriptor whose signature was checked: holding one is the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    body: Body,
    signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    format: u32,
    descriptor: Body,
    signature: String,
}

impl std::ops::Deref for Descriptor {
    type Target = Body;
    fn deref(&self) -> &Body {
        &self.body
    }
}

fn signed_bytes(body: &Body) -> Vec<u8> {
    // The label first: a signature of something else never counts as one of these.
    let mut out = labels::SIGN_DESCRIPTOR.as_bytes().to_vec();
    out.push(0);
    out.extend_from_slice(&codec::encode(1, body));
    out
}

impl Descriptor {
    /// Signs `body` with its identity key.
    ///
    /// # Errors
    /// [`DescriptorError::Invalid`] when a field cannot be, or the key is another one.
    pub fn sign(body: Body, identity: &SigningKey) -> Result<Self, DescriptorError> {
        check(&body)?;
        if PublicKey::of(identity) != body.identity_key {
            return Err(invalid(
                &body,
                "signed with another key than the identity key it names",
            ));
        }
        let signature = identity.sign(&signed_bytes(&body)).to_bytes();
        Ok(Self { body, signature })
    }

    /// Reads and verifies JSON; `path` is for messages.
    ///
    /// # Errors
    /// [`DescriptorError`].
    pub fn from_json(text: &[u8], path: &Path) -> Result<Self, DescriptorError> {
        let parse = |e: serde_json::Error| DescriptorError::Parse {
            path: path.to_owned(),
            reason: e.to_string(),
        };
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        let head: Head = serde_json::from_slice(text).map_err(parse)?;
        if head.format != u64::from(DESCRIPTOR_FORMAT) {
            return Err(DescriptorError::Format {
                path: path.to_owned(),
                got: head.format,
            });
        }
        let form: FileForm = serde_json::from_slice(text).map_err(parse)?;
        let body = form.descriptor;
        check(&body)?;
        let mut signature = [0u8; 64];
        let forged = || DescriptorError::Signature {
            id: body.id.clone(),
        };
        hex::decode_to_slice(&form.signature, &mut signature).map_err(|_| forged())?;
        let key = body.identity_key.verifying().ok_or_else(forged)?;
        key.verify_strict(&signed_bytes(&body), &Signature::from_bytes(&signature))
            .map_err(|_| forged())?;
        Ok(Self { body, signature })
    }

    /// Reads and verifies a file.
    ///
    /// # Errors
    /// [`DescriptorError`].
    pub fn load(path: &Path) -> Result<Self, DescriptorError> {
        Self::from_json(&files::read(path)?, path)
    }

    /// The file form.
    pub fn to_json(&self) -> String {
        let form = FileForm {
            format: DESCRIPTOR_FORMAT,
            descriptor: self.body.clone(),
            signature: hex::encode(self.signature),
        };
        let mut text = serde_json::to_string_pretty(&form).expect("strings and numbers only");
        text.push('\n');
        text
    }

    /// Writes the file form, replacing what is there.
    ///
    /// # Errors
    /// [`DescriptorError::File`].
    pub fn save(&self, path: &Path) -> Result<(), DescriptorError> {
        Ok(files::replace(
            path,
            self.to_json().as_bytes(),
            Access::Public,
        )?)
    }

    /// The short form two people compare over another channel: ten groups of four hex digits.
    pub fn fingerprint(&self) -> String {
        let b = &self.body;
        let bound = codec::encode(1, &(b.deployment, b.role, &b.id, b.identity_key));
        let hash = blake3::derive_key(labels::DESCRIPTOR_FINGERPRINT, &bound);
        let text = hex::encode(&hash[..FINGERPRINT_BYTES]);
        let groups: Vec<&str> = (0..text.len() / 4)
            .map(|i| &text[i * 4..i * 4 + 4])
            .collect();
        groups.join("-")
    }

    /// Hash of the identity key, as policies name it.
    pub fn identity_hash(&self) -> [u8; 32] {
        blake3::derive_key(labels::IDENTITY_HASH, &self.body.identity_key.0)
    }

    /// The identity authority as custodians register it; `None` for other roles.
    pub fn authority(&self) -> Option<AuthorityRecord> {
        (self.body.role == ClusterRole::Authority).then(|| record(&self.body))
    }

    /// The custodian's name; `None` for other roles.
    pub fn custodian(&self) -> Option<CustodianId> {
        (self.body.role == ClusterRole::Custodian)
            .then(|| CustodianId::new(&self.body.id).expect("checked when it was read or signed"))
    }
}

fn invalid(body: &Body, what: impl Into<String>) -> DescriptorError {
    DescriptorError::Invalid {
        id: body.id.chars().take(40).collect(),
        what: what.into(),
    }
}

/// Of a body whose name was checked.
fn record(b: &Body) -> AuthorityRecord {
    AuthorityRecord {
        id: AuthorityId::new(&b.id).expect("checked when it was read or signed"),
        entity: b.legal_entity.clone(),
        jurisdiction: b.jurisdiction.clone(),
        identity_key: quorate_engine::types::PublicKey(b.identity_key.0),
        keys: b.statement_keys.clone(),
    }
}

fn check(b: &Body) -> Result<(), DescriptorError> {
    CustodianId::new(&b.id).map_err(|e| invalid(b, e.to_string()))?;
    for (name, text) in [
        ("jurisdiction", &b.jurisdiction),
        ("legal_entity", &b.legal_entity),
        ("provider", &b.provider),
        ("network", &b.network),
    ] {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(invalid(
                b,
                format!("{name} must be 1 to {TEXT_BYTES_MAX} bytes of plain text"),
            ));
        }
    }
    if b.endpoints.len() > ENDPOINTS_MAX {
        return Err(invalid(b, format!("more than {ENDPOINTS_MAX} endpoints")));
    }
    for (id, at) in &b.endpoints {
        let port = at.rsplit_once(':').map(|(_, p)| p.parse::<u16>());
        if *id == 0 || at.len() > TEXT_BYTES_MAX || !matches!(port, Some(Ok(_))) {
            return Err(invalid(b, format!("endpoint {id} is not host:port")));
        }
    }
    let keys = b.log_key.is_some() && b.witness_key.is_some();
    if b.role == ClusterRole::Custodian && !keys {
        return Err(invalid(b, "a custodian names its log_key and witness_key"));
    }
    if b.role == ClusterRole::Authority {
        record(b).check().map_err(|e| invalid(b, e.to_string()))?;
        if b.rotations.len() > AUTHORITY_KEYS_MAX {
            return Err(invalid(
                b,
                format!("more than {AUTHORITY_KEYS_MAX} rotations"),
            ));
        }
        if !b.endpoints.is_empty() || b.log_key.is_some() || b.witness_key.is_some() {
            return Err(invalid(
                b,
                "an authority has no nodes: endpoints, log_key and witness_key must be absent",
            ));
        }
    } else if !(b.statement_keys.is_empty() && b.rotations.is_empty()) {
        return Err(invalid(
            b,
            "only an authority has statement_keys and rotations",
        ));
    }
    super::ca::not_after(&b.ca_pem).map_err(|e| invalid(b, format!("ca_pem: {e}")))?;
    Ok(())
}
