//! Who must come together: `2 of (anna, bo, 1 of (cy, di))`.

use crate::sharing::{GATES_DEPTH_MAX, SharingError, ValidThreshold};
use crate::types::{CustodianId, Structure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most holders of one slot.
pub const HOLDERS_MAX: usize = 32;
/// Longest text of a tree, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Why a text is no tree of holders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; write for example `2 of (anna, bo, cy)` or `2 of (anna, bo, 1 of (cy, di))`")]
pub struct TreeError {
    /// What is wrong.
    pub what: String,
}

fn wrong(what: impl Into<String>) -> TreeError {
    TreeError { what: what.into() }
}

/// A validated tree of thresholds over holders' names. Stored as its text, so
/// that hostile bytes meet this parser with its limits and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HolderTree(Structure);

impl HolderTree {
    /// The tree, for `sharing`.
    pub fn structure(&self) -> &Structure {
        &self.0
    }
    /// Names in the order of shares.
    pub fn holders(&self) -> Vec<&CustodianId> {
        self.0.leaves()
    }
    /// Whether `name` holds a share.
    pub fn contains(&self, name: &CustodianId) -> bool {
        self.holders().contains(&name)
    }
    /// Whether these holders suffice.
    pub fn satisfied(&self, have: &[&CustodianId]) -> bool {
        fn of(node: &Structure, have: &[&CustodianId]) -> bool {
            match node {
                Structure::Leaf(id) => have.contains(&id),
                Structure::Gate {
                    threshold,
                    children,
                } => children.iter().filter(|c| of(c, have)).count() >= usize::from(*threshold),
            }
        }
        of(&self.0, have)
    }
}

impl fmt::Display for HolderTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn write(node: &Structure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match node {
                Structure::Leaf(id) => f.write_str(id.as_str()),
                Structure::Gate {
                    threshold,
                    children,
                } => {
                    write!(f, "{threshold} of (")?;
                    for (i, child) in children.iter().enumerate() {
                        f.write_str(if i == 0 { "" } else { ", " })?;
                        write(child, f)?;
                    }
                    f.write_str(")")
                }
            }
        }
        write(&self.0, f)
    }
}

impl From<HolderTree> for String {
    fn from(tree: HolderTree) -> Self {
        tree.to_string()
    }
}

impl TryFrom<String> for HolderTree {
    type Error = TreeError;
    fn try_from(text: String) -> Result<Self, TreeError> {
        text.parse()
    }
}

impl FromStr for HolderTree {
    type Err = TreeError;
    fn from_str(text: &str) -> Result<Self, TreeError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(wrong(format!(
                "{} bytes, at most {TEXT_BYTES_MAX}",
                text.len()
            )));
        }
        let mut rest = text;
        let tree = node(&mut rest, GATES_DEPTH_MAX)?;
        if !rest.trim().is_empty() {
            return Err(wrong(format!("{:?} is left over", rest.trim())));
        }
        let Structure::Gate { .. } = &tree else {
            return Err(wrong("one holder alone would hold the whole key"));
        };
        let mut names = tree.leaves();
        if names.len() > HOLDERS_MAX {
            return Err(wrong(format!(
                "{} holders, at most {HOLDERS_MAX}",
                names.len()
            )));
        }
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(wrong(
                SharingError::CustodianTwice(twice[0].clone()).to_string(),
            ));
        }
        let tree = Self(tree);
        let alone = tree.holders().into_iter().find(|h| tree.satisfied(&[h]));
        match alone {
            Some(name) => Err(wrong(format!("{name} alone would suffice"))),
            None => Ok(tree),
        }
    }
}

/// One holder, or `N of (…)`. `gates_left` bounds the recursion.
fn node(rest: &mut &str, gates_left: usize) -> Result<Structure, TreeError> {
    let word = take_word(rest);
    let Ok(threshold) = word.parse::<u8>() else {
        return CustodianId::new(word)
            .map(Structure::Leaf)
            .map_err(|e| wrong(format!("a holder's name: {e}")));
    };
    let gates_left = gates_left
        .checked_sub(1)
        .ok_or_else(|| wrong(format!("more than {GATES_DEPTH_MAX} gates deep")))?;
    if take_word(rest) != "of" || !take_char(rest, '(') {
        return Err(wrong(format!("`{threshold}` must be followed by `of (`")));
    }
    let mut children = Vec::new();
    loop {
        children.push(node(rest, gates_left)?);
        if children.len() > HOLDERS_MAX {
            return Err(wrong(format!("a gate has more than {HOLDERS_MAX} members")));
        }
        if take_char(rest, ')') {
            break;
        }
        if !take_char(rest, ',') {
            return Err(wrong("a `,` or `)` is missing"));
        }
    }
    ValidThreshold::new(usize::from(threshold), children.len())
        .map_err(|e| wrong(e.to_string()))?;
    Ok(Structure::Gate {
        threshold,
        children,
    })
}

fn take_word<'a>(rest: &mut &'a str) -> &'a str {
    let text = rest.trim_start();
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .unwrap_or(text.len());
    *rest = &text[end..];
    &text[..end]
}

fn take_char(rest: &mut &str, c: char) -> bool {
    let text = rest.trim_start();
    match text.strip_prefix(c) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}
