//! The policy file, judged against the descriptors this node believes.

use crate::config::{ClusterRole, Config};
use crate::pki::TrustStore;
use quorate_engine::policy::{CustodianFacts, Facts, NamedPolicy, load};
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

/// What the believed descriptors say.
pub fn facts(trust: &TrustStore) -> Facts {
    let homes = trust.of_role(ClusterRole::Home);
    let home = homes.first();
    let custodians = trust.custodians().into_iter().map(|(id, d)| {
        let facts = CustodianFacts {
            jurisdiction: d.jurisdiction.clone(),
            entity: d.legal_entity.clone(),
            identity: d.identity_hash(),
            provider: Some(d.provider.clone()),
            network: Some(d.network.clone()),
        };
        (id, facts)
    });
    Facts {
        home_jurisdiction: home.map(|d| d.jurisdiction.clone()).unwrap_or_default(),
        home_entity: home.map(|d| d.legal_entity.clone()).unwrap_or_default(),
        custodians: custodians.collect(),
    }
}

fn all(config: &Config, trust: &TrustStore) -> Result<Option<Vec<NamedPolicy>>, PoliciesError> {
    let Some(path) = &config.trust.policy else {
        return Ok(None);
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e)
            if e.kind() == std::io::ErrorKind::NotFound
                && config.role == ClusterRole::Custodian =>
        {
            return Ok(None);
        }
        Err(source) => {
            return Err(PoliciesError::Read {
                path: path.clone(),
                source,
            });
        }
    };
    let file = load(&text, &facts(trust)).map_err(|e| PoliciesError::Refused {
        path: path.clone(),
        reasons: e.to_string(),
    })?;
    Ok(Some(file.policies.into_values().collect()))
}

/// Every policy a custodian's operators put into its file; none when there is no file.
pub fn of_custodian(
    config: &Config,
    trust: &TrustStore,
) -> Result<Vec<NamedPolicy>, PoliciesError> {
    let Some(policies) = all(config, trust)? else {
        tracing::warn!("no policy file: stores are refused until a policy is approved");
        return Ok(Vec::new());
    };
    Ok(policies)
}

/// The policy a home deals under.
pub fn of_home(config: &Config, trust: &TrustStore) -> Result<NamedPolicy, PoliciesError> {
    let path = config.trust.policy.clone().unwrap_or_default();
    let policies = all(config, trust)?.unwrap_or_default();
    policies
        .into_iter()
        .find(|p| p.name == DEFAULT_POLICY)
        .ok_or(PoliciesError::NoDefault { path })
}
