//! Which nodes of the cluster this node has met, so that an id is never two nodes.
//!
//! A node's data directory draws a random *incarnation* when it is made. Every
//! raft message carries the sender's, every answer the receiver's, and each
//! node remembers the first it saw of every id. A node that lost its disk, or a
//! second machine with a copied certificate, comes with another incarnation and
//! is refused: it has forgotten votes and entries that others count on. Ids
//! of removed nodes stay refused for ever.

use crate::pki::files::{self, Access};
use quorate_engine::types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Name of the file in the data directory.
pub const KNOWN_FILE: &str = "nodes.json";
const FORMAT: u32 = 1;

/// Why the file is not usable.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path}: {reason}; it names this data directory among its peers: restore it, or remove this node and add one with a new id"
)]
pub struct KnownError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Why a node is not spoken with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKnown {
    /// Removed from the cluster.
    #[error("node {0} was removed from the cluster; node ids are never reused")]
    Removed(NodeId),
    /// Another data directory under an id that is taken.
    #[error(
        "node {0} comes with another data directory than before: lost its disk, or two nodes have one id. \
         Remove it from the cluster and add it under a new id"
    )]
    Another(NodeId),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    format: u32,
    own: u64,
    seen: BTreeMap<NodeId, u64>,
    removed: BTreeSet<NodeId>,
}

/// The nodes met so far.
#[derive(Debug)]
pub struct KnownNodes {
    path: Option<PathBuf>,
    state: Mutex<FileForm>,
    /// Held while the file is written: several groups meet the same node at once.
    saving: Mutex<()>,
}

impl KnownNodes {
    /// Loads or makes the file in `dir`; without a directory it lives in memory, as the node's data does.
    ///
    /// # Errors
    /// [`KnownError`].
    pub fn open(dir: Option<&Path>) -> Result<Self, KnownError> {
        let path = dir.map(|d| d.join(KNOWN_FILE));
        let fresh = FileForm {
            format: FORMAT,
            own: rand::random(),
            seen: BTreeMap::new(),
            removed: BTreeSet::new(),
        };
        let state = match &path {
            Some(path) if path.exists() => load(path)?,
            _ => fresh,
        };
        let known = Self {
            path,
            state: Mutex::new(state),
            saving: Mutex::new(()),
        };
        known.save().map_err(|reason| KnownError {
            path: known.path.clone().unwrap_or_default(),
            reason,
        })?;
        Ok(known)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FileForm> {
        self.state.lock().expect("no holder panics")
    }

    /// A few hundred bytes, synced, a handful of times in a node's life.
    fn save(&self) -> Result<(), String> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        // Taken before the state is read, so that the newest state is written last.
        let _saving = self.saving.lock().expect("no holder panics");
        let text = serde_json::to_vec_pretty(&*self.lock()).expect("numbers only");
        files::replace(path, &text, Access::Public).map_err(|e| e.to_string())
    }

    fn save_or_warn(&self) {
        if let Err(e) = self.save() {
            // What is remembered in memory holds until the restart; raft itself stops on a dying disk.
            tracing::error!("the list of known nodes cannot be written: {e}");
        }
    }

    /// This data directory's incarnation.
    pub fn own(&self) -> u64 {
        self.lock().own
    }

    /// Whether `node` is the one met before under its id; remembers it at the first meeting.
    ///
    /// # Errors
    /// [`NotKnown`].
    pub fn meet(&self, node: NodeId, incarnation: u64) -> Result<(), NotKnown> {
        {
            let mut state = self.lock();
            if state.removed.contains(&node) {
                return Err(NotKnown::Removed(node));
            }
            match state.seen.get(&node) {
                Some(seen) if *seen == incarnation => return Ok(()),
                Some(_) => return Err(NotKnown::Another(node)),
                None => state.seen.insert(node, incarnation),
            };
        }
        self.save_or_warn();
        Ok(())
    }

    /// Notes that `nodes` were removed from the cluster.
    pub fn removed(&self, nodes: &BTreeSet<NodeId>) {
        {
            let mut state = self.lock();
            let before = state.removed.len();
            state.removed.extend(nodes);
            if state.removed.len() == before {
                return;
            }
        }
        self.save_or_warn();
    }

    /// Whether `node` may become a member: never removed, and no other data directory under its id.
    ///
    /// # Errors
    /// [`NotKnown`].
    pub fn may_join(&self, node: NodeId, incarnation: u64) -> Result<(), NotKnown> {
        let state = self.lock();
        if state.removed.contains(&node) {
            return Err(NotKnown::Removed(node));
        }
        match state.seen.get(&node) {
            Some(seen) if *seen != incarnation => Err(NotKnown::Another(node)),
            _ => Ok(()),
        }
    }
}

fn load(path: &Path) -> Result<FileForm, KnownError> {
    let bad = |reason: String| KnownError {
        path: path.to_owned(),
        reason,
    };
    let bytes = files::read(path).map_err(|e| bad(e.to_string()))?;
    let form: FileForm = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if form.format != FORMAT {
        return Err(bad(format!(
            "format {}, this build reads {FORMAT}",
            form.format
        )));
    }
    Ok(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_data_directory_for_ever() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = KnownNodes::open(Some(a.path())).unwrap();
        let two = KnownNodes::open(Some(b.path())).unwrap();
        one.meet(2, two.own()).unwrap();
        one.meet(2, two.own()).unwrap();
        let wiped = KnownNodes::open(None).unwrap();
        assert_eq!(one.meet(2, wiped.own()), Err(NotKnown::Another(2)));
        assert_eq!(one.may_join(2, wiped.own()), Err(NotKnown::Another(2)));
        assert_eq!(one.may_join(3, wiped.own()), Ok(()));
        one.removed(&BTreeSet::from([2]));
        assert_eq!(one.meet(2, two.own()), Err(NotKnown::Removed(2)));

        let own = one.own();
        drop(one);
        let again = KnownNodes::open(Some(a.path())).unwrap();
        assert_eq!(again.own(), own, "a restart is the same incarnation");
        assert_eq!(again.may_join(2, two.own()), Err(NotKnown::Removed(2)));

        std::fs::write(a.path().join(KNOWN_FILE), "{}").unwrap();
        assert!(
            KnownNodes::open(Some(a.path()))
                .unwrap_err()
                .to_string()
                .contains("new id")
        );
    }
}
