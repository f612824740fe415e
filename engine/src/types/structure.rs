//! The shape of an access structure: a tree of thresholds whose leaves are
//! custodians. `policy` validates and names it, `sharing` splits along it.

use super::CustodianId;
use serde::{Deserialize, Serialize};

/// A gate opens when `threshold` of its children do; a leaf is one custodian.
///
/// In the canonical form children are sorted by the smallest custodian id below
/// them and every custodian stands once. Child *i* (1-based, in that order) gets
/// the gate's polynomial at x = *i*.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Structure {
    /// One custodian's share.
    Leaf(CustodianId),
    /// A threshold over children.
    Gate {
        /// How many children are needed.
        threshold: u8,
        /// The children; at most 255.
        children: Vec<Structure>,
    },
}

impl Structure {
    /// The custodians in canonical order.
    pub fn leaves(&self) -> Vec<&CustodianId> {
        match self {
            Structure::Leaf(id) => vec![id],
            Structure::Gate { children, .. } => {
                children.iter().flat_map(Structure::leaves).collect()
            }
        }
    }
}
