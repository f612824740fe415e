//! `layout.toml` of a deployment, as far as the harness needs it.

use anyhow::Context;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where everything of a deployment is. Other keys are none of ours.
#[derive(Clone, Debug, Deserialize)]
pub struct Layout {
    /// Its id, hex.
    pub deployment: String,
    /// Home first.
    #[serde(rename = "cluster")]
    pub clusters: Vec<ClusterPlace>,
}

/// One entity's cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct ClusterPlace {
    /// `home` or `custodian`.
    pub role: String,
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// CA certificate of its planes.
    pub ca: PathBuf,
    /// Operator's certificate.
    pub operator_cert: PathBuf,
    /// Its key.
    pub operator_key: PathBuf,
    /// Its nodes.
    pub nodes: Vec<NodePlace>,
}

/// One node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodePlace {
    /// Its id.
    pub id: u64,
    /// Its configuration; its data lie beside it.
    pub config: PathBuf,
    /// Peer plane.
    pub peer: SocketAddr,
    /// Operator plane.
    pub operator: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
    /// Client plane; home only.
    pub client: Option<SocketAddr>,
}

impl Layout {
    /// Reads `DIR/layout.toml`.
    ///
    /// # Errors
    /// When it is not there or not as it should be.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("layout.toml");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let layout: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        anyhow::ensure!(
            !layout.clusters.is_empty(),
            "{}: no cluster",
            path.display()
        );
        Ok(layout)
    }
}
