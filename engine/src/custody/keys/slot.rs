//! What a node stores about its root: a table of slots.

use super::tree::HolderTree;
use crate::crypto::keyslot::{self, KeyslotError, SealedRoot, SlotBinding};
use crate::crypto::seal::{PUBLIC_LEN, RecipientKey, RecipientPublic};
use crate::custody::Place;
use crate::types::codec::{self, CodecError};
use crate::types::{CustodianId, NodeId, RootKey, Secret};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

/// Format version of a table of slots.
const TABLE_VERSION: u8 = 1;
/// Most slots of one node.
pub const SLOTS_MAX: usize = 8;
/// Longest table, in bytes.
pub const TABLE_BYTES_MAX: usize = 64 << 10;
/// Longest unlock key as a token wraps it, in bytes.
pub const TOKEN_WRAPPED_BYTES_MAX: usize = 256;
/// Longest name of a token's key, in bytes.
const TOKEN_LABEL_BYTES_MAX: usize = 64;
/// Shortest passphrase, in bytes.
pub const PASSPHRASE_BYTES_MIN: usize = 12;
/// Longest passphrase, in bytes.
pub const PASSPHRASE_BYTES_MAX: usize = 1 << 10;

/// Why a table or slot is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The bytes.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Does not open, or parameters out of bounds.
    #[error(transparent)]
    Keyslot(#[from] KeyslotError),
    /// Well formed and not possible.
    #[error("key slots: {0}")]
    Invalid(String),
    /// No such slot.
    #[error("there is no key slot {slot}; the slots are: {known}")]
    NoSlot {
        /// The name asked for.
        slot: String,
        /// The names there are.
        known: String,
    },
    /// The table was changed by somebody who had not the root.
    #[error(
        "the table of key slots was altered outside this program: restore keys.vault from before, or restore this node as a new one"
    )]
    Altered,
}

/// Argon2id as it was chosen for one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseParams {
    /// Random.
    pub salt: [u8; 16],
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PassphraseParams {
    /// RFC 9106's second recommendation (64 MiB, three passes, four lanes) with a fresh salt.
    pub fn recommended<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut salt = [0; 16];
        rng.fill_bytes(&mut salt);
        Self {
            salt,
            memory_kib: 64 << 10,
            passes: 3,
            lanes: 4,
        }
    }

    /// The unlock key of `passphrase`.
    ///
    /// # Errors
    /// [`KeyslotError::Argon`] when the parameters are out of bounds.
    pub fn derive(&self, passphrase: &[u8]) -> Result<Secret<32>, KeyslotError> {
        keyslot::passphrase_key(
            passphrase,
            &self.salt,
            self.memory_kib,
            self.passes,
            self.lanes,
        )
    }
}

/// Shares as one ceremony dealt them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareParams {
    /// The ceremony; every share carries it.
    pub ceremony: [u8; 16],
    /// Who must come together.
    pub tree: HolderTree,
    /// To each holder's share, in the tree's order.
    pub commitments: Vec<[u8; 32]>,
}

/// An unlock key as a token wraps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenParams {
    /// The AES key on the token.
    pub key_label: String,
    /// The unlock key under it.
    #[serde(with = "serde_bytes")]
    pub wrapped: Vec<u8>,
}

/// Where a slot's unlock key comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provider {
    /// A file with the unlock key in hex. For development.
    KeyFile,
    /// A person's passphrase.
    Passphrase(PassphraseParams),
    /// Several persons' shares.
    Shares(ShareParams),
    /// A PKCS#11 token.
    Token(TokenParams),
}

impl Provider {
    /// As configurations, status and messages name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::Passphrase(_) => "passphrase",
            Self::Shares(_) => "shares",
            Self::Token(_) => "pkcs11",
        }
    }

    /// Whether people must come before it opens.
    pub fn needs_people(&self) -> bool {
        matches!(self, Self::Passphrase(_) | Self::Shares(_))
    }

    fn bytes(&self) -> Vec<u8> {
        codec::encode(TABLE_VERSION, self)
    }

    fn check(&self) -> Result<(), SlotError> {
        let invalid = |what: String| Err(SlotError::Invalid(what));
        match self {
            Self::KeyFile => Ok(()),
            // Deriving checks its bounds itself, before any work.
            Self::Passphrase(_) => Ok(()),
            Self::Shares(p) if p.commitments.len() != p.tree.holders().len() => {
                invalid("there is not one commitment for each holder".into())
            }
            Self::Shares(_) => Ok(()),
            Self::Token(p) => {
                let label = p.key_label.len();
                if label == 0 || label > TOKEN_LABEL_BYTES_MAX {
                    return invalid(format!("a token key's name of {label} bytes"));
                }
                match p.wrapped.len() {
                    0 => invalid("nothing is wrapped by the token".into()),
                    n if n > TOKEN_WRAPPED_BYTES_MAX => {
                        invalid(format!("{n} bytes wrapped by a token"))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// A slot without its root: public, the same on every node of the custodian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPublic {
    /// Its name.
    pub name: CustodianId,
    /// Where its unlock key comes from.
    pub provider: Provider,
    /// The public half of its unlock key.
    pub public: RecipientPublic,
}

impl SlotPublic {
    /// A slot that `unlock_key` opens.
    pub fn new(name: CustodianId, provider: Provider, unlock_key: &Secret<32>) -> Self {
        let public = RecipientKey::from_seed(unlock_key).public();
        Self {
            name,
            provider,
            public,
        }
    }

    /// Whether `unlock_key` is this slot's.
    pub fn is_of(&self, unlock_key: &Secret<32>) -> bool {
        RecipientKey::from_seed(unlock_key).public() == self.public
    }

    /// For another node of the same custodian.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(TABLE_VERSION, self)
    }

    /// Reads [`Self::encode`].
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SlotError> {
        bounded(bytes)?;
        let out: Self = codec::decode("key slot", TABLE_VERSION, bytes)?;
        out.check()?;
        Ok(out)
    }

    fn check(&self) -> Result<(), SlotError> {
        if self.public.0.len() != PUBLIC_LEN {
            let len = self.public.0.len();
            return Err(SlotError::Invalid(format!("a public key of {len} bytes")));
        }
        self.public.validate().map_err(KeyslotError::from)?;
        self.provider.check()
    }
}

/// A slot with the root sealed to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Everything but the root.
    pub of: SlotPublic,
    /// The root.
    pub root: SealedRoot,
}

fn bounded(bytes: &[u8]) -> Result<(), SlotError> {
    match bytes.len() {
        n if n > TABLE_BYTES_MAX => Err(SlotError::Invalid(format!(
            "{n} bytes, at most {TABLE_BYTES_MAX}"
        ))),
        _ => Ok(()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Body {
    generation: u32,
    slots: Vec<Slot>,
}

/// All slots of one node, with a tag under the root.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SlotTable {
    body: Body,
    tag: [u8; 32],
}

impl SlotTable {
    /// Reads [`Self::encode`].
    ///
    /// # Errors
    /// [`SlotError`]; nothing of it is believed before a root has confirmed the tag.
    pub fn decode(bytes: &[u8]) -> Result<Self, SlotError> {
        bounded(bytes)?;
        let (body, tag): (Body, [u8; 32]) = codec::decode("key slots", TABLE_VERSION, bytes)?;
        let out = Self { body, tag };
        let n = out.body.slots.len();
        if n > SLOTS_MAX {
            return Err(SlotError::Invalid(format!(
                "{n} slots, at most {SLOTS_MAX}"
            )));
        }
        for (i, slot) in out.body.slots.iter().enumerate() {
            slot.of.check()?;
            if out.body.slots[..i]
                .iter()
                .any(|s| s.of.name == slot.of.name)
            {
                return Err(SlotError::Invalid(format!("slot {} twice", slot.of.name)));
            }
        }
        Ok(out)
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(TABLE_VERSION, &(&self.body, &self.tag))
    }

    /// Seals `root` to every one of `slots`, as generation `generation` of this node's root.
    ///
    /// # Errors
    /// [`SlotError`] for too many, none, a name twice, or a slot that is wrong.
    pub fn seal<R: CryptoRng + ?Sized>(
        place: &Place,
        node: NodeId,
        generation: u32,
        slots: &[SlotPublic],
        root: &RootKey,
        rng: &mut R,
    ) -> Result<Self, SlotError> {
        if slots.is_empty() {
            return Err(SlotError::Invalid("a node needs one slot at least".into()));
        }
        let mut body = Body {
            generation,
            slots: Vec::new(),
        };
        for of in slots {
            of.check()?;
            let mut nonce = [0; 24];
            rng.fill_bytes(&mut nonce);
            let provider = of.provider.bytes();
            let at = binding(place, node, generation, of, &provider);
            let root = keyslot::seal_root(&of.public, &at, root, nonce, rng)?;
            body.slots.push(Slot {
                of: of.clone(),
                root,
            });
        }
        let tag = keyslot::table_tag(root, &codec::encode(TABLE_VERSION, &body));
        let out = Self { body, tag };
        Self::decode(&out.encode())
    }

    /// Opens the root through one slot, and checks the table with it.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn open(
        &self,
        place: &Place,
        node: NodeId,
        slot: &str,
        unlock_key: &Secret<32>,
    ) -> Result<RootKey, SlotError> {
        let slot = self.slot(slot)?;
        let provider = slot.of.provider.bytes();
        let at = binding(place, node, self.body.generation, &slot.of, &provider);
        let key = RecipientKey::from_seed(unlock_key);
        let root = keyslot::open_root(&key, &at, &slot.root)?;
        let table = codec::encode(TABLE_VERSION, &self.body);
        match keyslot::table_holds(&root, &table, &self.tag) {
            true => Ok(root),
            false => Err(SlotError::Altered),
        }
    }

    /// This table with one slot of another.
    #[cfg(test)]
    pub(super) fn with_slot_of(&self, other: &Self, name: &str) -> Self {
        let mut out = self.clone();
        let from = other.slot(name).unwrap().clone();
        let at = out
            .body
            .slots
            .iter()
            .position(|s| s.of.name == from.of.name);
        out.body.slots[at.unwrap()] = from;
        out
    }

    /// One slot.
    ///
    /// # Errors
    /// [`SlotError::NoSlot`].
    pub fn slot(&self, name: &str) -> Result<&Slot, SlotError> {
        let found = self.body.slots.iter().find(|s| s.of.name.as_str() == name);
        found.ok_or_else(|| SlotError::NoSlot {
            slot: name.chars().take(80).collect(),
            known: match self.body.slots.as_slice() {
                [] => "none".into(),
                some => some
                    .iter()
                    .map(|s| s.of.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        })
    }

    /// All slots without their roots.
    pub fn slots(&self) -> impl Iterator<Item = &SlotPublic> {
        self.body.slots.iter().map(|s| &s.of)
    }

    /// Which root of this node it is.
    pub fn generation(&self) -> u32 {
        self.body.generation
    }

    /// Whether there is no slot: nothing was set up yet.
    pub fn is_empty(&self) -> bool {
        self.body.slots.is_empty()
    }
}

fn binding<'a>(
    place: &'a Place,
    node: NodeId,
    generation: u32,
    of: &'a SlotPublic,
    provider: &'a [u8],
) -> SlotBinding<'a> {
    SlotBinding {
        deployment: &place.deployment,
        custodian: &place.custodian,
        node,
        slot: of.name.as_str(),
        generation,
        provider,
    }
}
