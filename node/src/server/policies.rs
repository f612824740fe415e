//! The policy file, judged against the descriptors this node believes.

use crate::config::Config;
use crate::custodian::facts;
use crate::pki::TrustStore;
use quorate_engine::policy::{NamedPolicy, load};
use std::path::PathBuf;

/// The policy that new epochs are dealt under.
pub const DEFAULT_POLICY: &str = "default";

/// Why there is no usable policy.
#[derive(Debug, thiserror::Error)]
pub enum PoliciesError {
    /// It cannot be read.
    #[error("policy file {path}: {source}; write one (`quorate policy lint` checks it)")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is refused, with all reasons.
    #[error("policy file {path} is refused: {reasons}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and the way out of each.
        reasons: String,
    },
    /// There is no `[policy.default]`.
    #[error(
        "policy file {path} has no [policy.{DEFAULT_POLICY}]; name the policy that new epochs are dealt under so"
    )]
    NoDefault {
        /// The file.
        path: PathBuf,
    },
}

/// The policy a home deals under.
pub fn of_home(config: &Config, trust: &TrustStore) -> Result<NamedPolicy, PoliciesError> {
    let path = config.trust.policy.clone().unwrap_or_default();
    let text = std::fs::read_to_string(&path).map_err(|source| PoliciesError::Read {
        path: path.clone(),
        source,
    })?;
    let file = load(&text, &facts(trust, trust.own())).map_err(|e| PoliciesError::Refused {
        path: path.clone(),
        reasons: e.to_string(),
    })?;
    let found = file
        .policies
        .into_values()
        .find(|p| p.name == DEFAULT_POLICY);
    found.ok_or(PoliciesError::NoDefault { path })
}
