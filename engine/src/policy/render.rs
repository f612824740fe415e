//! Policies in words: `any 3 of br, ch, eu(any 1 of de, nl), is, sg`.

use super::Policy;
use super::sets::Set;
use crate::types::Structure;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Names of inner gates, found by the custodians below them.
pub(super) type GateNames = BTreeMap<Set, String>;

pub(super) fn in_words(node: &Structure, names: &GateNames) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_node(node, names, true, &mut out);
    out
}

fn write_node(node: &Structure, names: &GateNames, root: bool, out: &mut String) -> fmt::Result {
    match node {
        Structure::Leaf(id) => out.write_str(id.as_str()),
        Structure::Gate {
            threshold,
            children,
        } => {
            if !root {
                let below: Set = node.leaves().into_iter().cloned().collect();
                write!(out, "{}(", names.get(&below).map_or("", String::as_str))?;
            }
            write!(out, "any {threshold} of ")?;
            for (i, child) in children.iter().enumerate() {
                if i > 0 {
                    out.write_str(", ")?;
                }
                write_node(child, names, false, out)?;
            }
            if root { Ok(()) } else { out.write_char(')') }
        }
    }
}

pub(super) fn set_in_words(set: &Set) -> String {
    if set.is_empty() {
        return "nobody".into();
    }
    let names: Vec<&str> = set.iter().map(crate::types::CustodianId::as_str).collect();
    names.join(", ")
}

impl fmt::Display for Policy {
    /// In words, without the names of inner blocs, which are not part of a policy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_words(self.structure(), &GateNames::new()))
    }
}
