//! The canonical form of a policy, and its id.
//!
//! ```text
//! policy   = version (1 byte, 1) node
//! node     = 0x00 name-length (1) name identity-key-hash (32)        a custodian
//!          | 0x01 threshold (1) child-count (1) node × child-count   a gate
//! id       = SHA-256("quorate/policy/1" 0x00 policy)
//! ```
//!
//! Children stand by the smallest custodian below them, margins are left out,
//! and there is one encoding for each policy: what does not encode back to the
//! same bytes is refused. SHA-256, so that auditors recompute ids with what they
//! have. Its own few lines rather than `types::codec`, because a hostile tree
//! must not choose how deep a generic decoder recurses.

use super::sets;
use crate::sharing::{GATES_DEPTH_MAX, ThresholdError, ValidThreshold};
use crate::types::ids::IdError;
use crate::types::{CustodianId, PolicyId, Structure};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Most custodians in one policy.
pub const POLICY_CUSTODIANS_MAX: usize = 64;
/// Most gates on the way from the root to a custodian, the root included.
pub const POLICY_GATES_DEPTH_MAX: usize = 4;
/// Most minimal authorised sets, and most minimal blocking sets, that a policy
/// may have: planning and analysis walk them.
pub const POLICY_SETS_MAX: u64 = 20_000;
/// Longest canonical form: every custodian with a full name below gates of its own, in bytes.
pub const POLICY_BYTES_MAX: usize =
    1 + POLICY_CUSTODIANS_MAX * (1 + 1 + 32 + 32 + POLICY_GATES_DEPTH_MAX * 3);

const FORMAT_VERSION: u8 = 1;
const ID_LABEL: &[u8] = b"quorate/policy/1\0";
const LEAF: u8 = 0;
const GATE: u8 = 1;

const _: () = assert!(POLICY_GATES_DEPTH_MAX <= GATES_DEPTH_MAX);

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A gate's threshold and members do not go together.
    #[error("a gate is impossible: {0}")]
    Threshold(#[from] ThresholdError),
    /// One custodian alone could open.
    #[error(
        "one custodian alone could open: the root needs a threshold of 2 or more members; raise it"
    )]
    OneOpensAlone,
    /// A custodian stands twice.
    #[error("custodian {0} stands twice; name each custodian once")]
    CustodianTwice(CustodianId),
    /// Over [`POLICY_CUSTODIANS_MAX`].
    #[error("{0} custodians; a policy has at most {POLICY_CUSTODIANS_MAX}")]
    TooManyCustodians(usize),
    /// Over [`POLICY_GATES_DEPTH_MAX`].
    #[error("nested more than {POLICY_GATES_DEPTH_MAX} gates deep; flatten it")]
    TooDeep,
    /// Over [`POLICY_SETS_MAX`].
    #[error(
        "{authorised} minimal authorised and {blocking} minimal blocking sets; at most \
         {POLICY_SETS_MAX} of each can be planned with: use fewer custodians, or blocs"
    )]
    TooManySets {
        /// Minimal authorised sets.
        authorised: u64,
        /// Minimal blocking sets.
        blocking: u64,
    },
    /// A custodian of the tree without an identity key.
    #[error("no identity key is known for custodian {0}; import its descriptor first")]
    NoIdentity(CustodianId),
    /// An identity key of somebody not in the tree.
    #[error("an identity key is given for {0}, which is not in the policy")]
    StrayIdentity(CustodianId),
    /// Two custodians with one identity key are one custodian.
    #[error("custodians {0} and {1} have the same identity key: they are one custodian")]
    SameIdentity(CustodianId, CustodianId),
    /// Over [`POLICY_BYTES_MAX`].
    #[error("{0} bytes; a canonical policy has at most {POLICY_BYTES_MAX}")]
    TooLong(usize),
    /// Bytes of another format version.
    #[error("policy format version {0}, this build reads {FORMAT_VERSION}")]
    Version(u8),
    /// Bytes that end early, go on too long or say something impossible.
    #[error("not a canonical policy: {what} at byte {at}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A custodian's name that is none.
    #[error("not a canonical policy: {0}")]
    Name(#[from] IdError),
    /// A valid policy in another order or encoding than the canonical one.
    #[error("not a canonical policy: members out of order")]
    NotCanonical,
}

/// Sorts every gate's children by the smallest custodian below them.
pub(super) fn sorted(structure: Structure) -> Result<Structure, PolicyError> {
    sort(structure, POLICY_GATES_DEPTH_MAX).map(|(_, node)| node)
}

/// The smallest custodian below a node, and the node in order. A gate without
/// children is refused here because it has no place in the order.
fn sort(node: Structure, gates_left: usize) -> Result<(CustodianId, Structure), PolicyError> {
    match node {
        Structure::Leaf(id) => Ok((id.clone(), Structure::Leaf(id))),
        Structure::Gate {
            threshold,
            children,
        } => {
            ValidThreshold::new(usize::from(threshold), children.len())?;
            let gates_left = gates_left.checked_sub(1).ok_or(PolicyError::TooDeep)?;
            let mut keyed = children
                .into_iter()
                .map(|child| sort(child, gates_left))
                .collect::<Result<Vec<_>, _>>()?;
            keyed.sort_by(|a, b| a.0.cmp(&b.0));
            let smallest = keyed.first().map(|(id, _)| id.clone());
            let smallest = smallest.ok_or(ThresholdError::NoShares)?;
            let children = keyed.into_iter().map(|(_, child)| child).collect();
            Ok((
                smallest,
                Structure::Gate {
                    threshold,
                    children,
                },
            ))
        }
    }
}

/// Everything that needs no facts about the world. Thresholds and depth were
/// checked while sorting.
pub(super) fn check(
    structure: &Structure,
    identities: &BTreeMap<CustodianId, [u8; 32]>,
) -> Result<(), PolicyError> {
    match structure {
        Structure::Gate { threshold, .. } if *threshold >= 2 => {}
        _ => return Err(PolicyError::OneOpensAlone),
    }
    let mut leaves = structure.leaves();
    if leaves.len() > POLICY_CUSTODIANS_MAX {
        return Err(PolicyError::TooManyCustodians(leaves.len()));
    }
    leaves.sort_unstable();
    if let Some(pair) = leaves.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(PolicyError::CustodianTwice(pair[0].clone()));
    }
    let mut by_key = BTreeMap::new();
    for id in &leaves {
        let key = identities
            .get(*id)
            .ok_or_else(|| PolicyError::NoIdentity((*id).clone()))?;
        if let Some(other) = by_key.insert(key, *id) {
            return Err(PolicyError::SameIdentity(other.clone(), (*id).clone()));
        }
    }
    if let Some(stray) = identities.keys().find(|id| !leaves.contains(id)) {
        return Err(PolicyError::StrayIdentity(stray.clone()));
    }
    let (authorised, blocking) = sets::count(structure);
    if authorised > POLICY_SETS_MAX || blocking > POLICY_SETS_MAX {
        return Err(PolicyError::TooManySets {
            authorised,
            blocking,
        });
    }
    Ok(())
}

pub(super) fn encode(
    structure: &Structure,
    identities: &BTreeMap<CustodianId, [u8; 32]>,
) -> Vec<u8> {
    let mut out = vec![FORMAT_VERSION];
    encode_node(structure, identities, &mut out);
    out
}

fn encode_node(node: &Structure, identities: &BTreeMap<CustodianId, [u8; 32]>, out: &mut Vec<u8>) {
    let byte = |n: usize| {
        u8::try_from(n).expect("checked: names have at most 32 bytes, gates at most 255 members")
    };
    match node {
        Structure::Leaf(id) => {
            out.extend([LEAF, byte(id.as_str().len())]);
            out.extend(id.as_str().as_bytes());
            out.extend(identities[id]);
        }
        Structure::Gate {
            threshold,
            children,
        } => {
            out.extend([GATE, *threshold, byte(children.len())]);
            for child in children {
                encode_node(child, identities, out);
            }
        }
    }
}

pub(super) fn id_of(canonical: &[u8]) -> PolicyId {
    let mut hasher = Sha256::new();
    hasher.update(ID_LABEL);
    hasher.update(canonical);
    PolicyId(hasher.finalize().into())
}

type Decoded = (Structure, BTreeMap<CustodianId, [u8; 32]>);

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, PolicyError> {
    if bytes.len() > POLICY_BYTES_MAX {
        return Err(PolicyError::TooLong(bytes.len()));
    }
    let mut reader = Reader { bytes, at: 0 };
    match reader.byte()? {
        FORMAT_VERSION => {}
        other => return Err(PolicyError::Version(other)),
    }
    let mut identities = BTreeMap::new();
    let structure = decode_node(&mut reader, POLICY_GATES_DEPTH_MAX, &mut identities)?;
    if reader.at != bytes.len() {
        return Err(reader.malformed("bytes left over"));
    }
    Ok((structure, identities))
}

fn decode_node(
    reader: &mut Reader<'_>,
    gates_left: usize,
    identities: &mut BTreeMap<CustodianId, [u8; 32]>,
) -> Result<Structure, PolicyError> {
    match reader.byte()? {
        LEAF => {
            let len = usize::from(reader.byte()?);
            let name = std::str::from_utf8(reader.take(len)?)
                .map_err(|_| reader.malformed("a name that is not UTF-8"))?;
            let id = CustodianId::new(name)?;
            let key = reader.take(32)?.try_into().expect("32 bytes were taken");
            if identities.insert(id.clone(), key).is_some() {
                return Err(PolicyError::CustodianTwice(id));
            }
            Ok(Structure::Leaf(id))
        }
        GATE => {
            let gates_left = gates_left.checked_sub(1).ok_or(PolicyError::TooDeep)?;
            let threshold = reader.byte()?;
            let count = reader.byte()?;
            // No allocation by a length that was only claimed: each child costs bytes.
            let mut children = Vec::new();
            for _ in 0..count {
                children.push(decode_node(reader, gates_left, identities)?);
            }
            Ok(Structure::Gate {
                threshold,
                children,
            })
        }
        _ => Err(reader.malformed("neither a custodian nor a gate")),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, what: &'static str) -> PolicyError {
        PolicyError::Malformed { what, at: self.at }
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8], PolicyError> {
        let taken = self
            .bytes
            .get(self.at..self.at + n)
            .ok_or_else(|| self.malformed("ends early"))?;
        self.at += n;
        Ok(taken)
    }
    fn byte(&mut self) -> Result<u8, PolicyError> {
        self.take(1).map(|b| b[0])
    }
}
