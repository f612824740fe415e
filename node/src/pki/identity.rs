//! The identity in a certificate: exactly one SAN URI
//! `quorate://DEPLOYMENT/ROLE/CLUSTER/NODE`.
//!
//! The idea of a URI SAN as a workload's name is SPIFFE's X.509-SVID.

use crate::config::ClusterRole;
use quorate_engine::types::{CustodianId, DeploymentId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Scheme of the SAN URI.
pub const SCHEME: &str = "quorate://";

/// What the holder of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertRole {
    /// A home's node, on the peer plane.
    Home,
    /// A custodian's node, on the peer plane.
    Custodian,
    /// A person or program on its own cluster's operator plane.
    Operator,
    /// A home node's server certificate on the client plane.
    ClientPlane,
    /// An identity authority, on custodians' registry plane and nowhere else.
    Authority,
}

impl CertRole {
    /// Every role.
    pub const ALL: [Self; 5] = [
        Self::Home,
        Self::Custodian,
        Self::Operator,
        Self::ClientPlane,
        Self::Authority,
    ];

    /// As written in the SAN URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Custodian => "custodian",
            Self::Operator => "operator",
            Self::ClientPlane => "client-plane",
            Self::Authority => "authority",
        }
    }

    /// Which clusters' CAs may issue it.
    pub fn issued_by(self, cluster: ClusterRole) -> bool {
        match self {
            Self::Home | Self::ClientPlane => cluster == ClusterRole::Home,
            Self::Custodian => cluster == ClusterRole::Custodian,
            Self::Operator => cluster != ClusterRole::Authority,
            Self::Authority => cluster == ClusterRole::Authority,
        }
    }
}

impl From<ClusterRole> for CertRole {
    fn from(role: ClusterRole) -> Self {
        match role {
            ClusterRole::Home => Self::Home,
            ClusterRole::Custodian => Self::Custodian,
            ClusterRole::Authority => Self::Authority,
        }
    }
}

impl fmt::Display for CertRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a certificate carries no usable identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not X.509.
    #[error("not an X.509 certificate: {0}")]
    NotX509(String),
    /// None, or more than one: nobody is two nodes.
    #[error(
        "{0} SAN URIs, a Quorate certificate has exactly one; issue it with `quorate custodian init` or `home init`"
    )]
    Count(usize),
    /// The URI does not follow `quorate://DEPLOYMENT/ROLE/CLUSTER/NODE`.
    #[error("SAN URI {uri:?}: {why}; expected quorate://DEPLOYMENT/ROLE/CLUSTER/NODE")]
    Uri {
        /// The URI, cut to 160 characters.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Who a certificate says its holder is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CertIdentity {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The role.
    pub role: CertRole,
    /// The cluster.
    pub cluster: String,
    /// The node in it; for operators and authorities a number of their own choosing.
    pub node: u64,
}

impl CertIdentity {
    /// The SAN URI.
    pub fn uri(&self) -> String {
        format!(
            "{SCHEME}{}/{}/{}/{}",
            self.deployment, self.role, self.cluster, self.node
        )
    }

    /// Reads the one SAN URI of a DER certificate. Says nothing about who signed it.
    ///
    /// # Errors
    /// [`IdentityError`] when there is not exactly one well-formed URI.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, cert) =
            X509Certificate::from_der(der).map_err(|e| IdentityError::NotX509(e.to_string()))?;
        let san = cert
            .subject_alternative_name()
            .map_err(|e| IdentityError::NotX509(e.to_string()))?;
        let uris: Vec<&str> = san
            .iter()
            .flat_map(|ext| ext.value.general_names.iter())
            .filter_map(|n| match n {
                GeneralName::URI(u) => Some(*u),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [one] => one.parse(),
            more => Err(IdentityError::Count(more.len())),
        }
    }
}

impl fmt::Display for CertIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} node {}", self.role, self.cluster, self.node)
    }
}

impl FromStr for CertIdentity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let bad = |why: &str| IdentityError::Uri {
            uri: uri.chars().take(160).collect(),
            why: why.into(),
        };
        let rest = uri
            .strip_prefix(SCHEME)
            .ok_or_else(|| bad("another scheme"))?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [deployment, role, cluster, node] = parts[..] else {
            return Err(bad("not four parts"));
        };
        let role = CertRole::ALL
            .into_iter()
            .find(|r| r.as_str() == role)
            .ok_or_else(|| bad("unknown role"))?;
        CustodianId::new(cluster).map_err(|_| bad("the cluster is not a name"))?;
        let number: u64 = node.parse().map_err(|_| bad("the node is not a number"))?;
        // One spelling per identity: no "+1", no "01".
        if number.to_string() != node {
            return Err(bad("the node is not in plain decimal"));
        }
        Ok(Self {
            deployment: deployment
                .parse()
                .map_err(|_| bad("the deployment is not an id"))?,
            role,
            cluster: cluster.into(),
            node: number,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(role: CertRole) -> CertIdentity {
        CertIdentity {
            deployment: DeploymentId([7; 16]),
            role,
            cluster: "ch".into(),
            node: 3,
        }
    }

    #[test]
    fn uris_round_trip_for_every_role() {
        for role in CertRole::ALL {
            assert_eq!(id(role).uri().parse::<CertIdentity>().unwrap(), id(role));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = id(CertRole::Home).uri();
        for bad in [
            good.replace("quorate", "spiffe"),
            good.replace("/home/", "/root/"),
            good.replace("/ch/", "/CH/"),
            good.replace("/ch/", "/../"),
            format!("{good}/4"),
            good.replace("/3", "/03"),
            good.replace("/3", "/+3"),
            good.replace("/3", ""),
            good.replace("0707", "07"),
        ] {
            assert!(bad.parse::<CertIdentity>().is_err(), "{bad}");
        }
    }
}
