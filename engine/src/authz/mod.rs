//! Who may obtain keys: decisions over signed statements and what a custodian
//! knows of devices and members.
//!
//! A peer's certificate says which home speaks, and opens nothing: what is
//! released, the grant by a user's device decides (see [`grant`]).

pub mod auditor;
pub mod chain;
pub mod deletion;
pub mod envelope;
pub mod grant;
pub mod identity;
mod jws;
pub mod membership;
pub mod officers;
pub mod orders;
mod refusals;
pub mod service;
pub mod standing;
#[cfg(test)]
mod vectors;

use crate::types::{DeploymentId, HomeId, NodeId};
use std::collections::BTreeSet;

/// What `status` says of what a release needs.
pub const RELEASE_AUTHORITY: &str = "grants signed by users' devices";

/// The peer as its certificate names it, after the certificate was verified
/// under the CA of the very cluster it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomePeer {
    /// Deployment in the certificate.
    pub deployment: DeploymentId,
    /// Home in the certificate.
    pub home: HomeId,
    /// Node in the certificate.
    pub node: NodeId,
}

/// What a request says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Deployment.
    pub deployment: DeploymentId,
    /// Home.
    pub home: HomeId,
    /// Node; `None` for requests that do not name one.
    pub node: Option<NodeId>,
}

/// A home's node whose request is its own; made by [`authorise_peer`] alone.
/// Enough to store and to abandon; what is released is decided by grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorised {
    home: HomeId,
    node: NodeId,
}

impl Authorised {
    /// The home.
    pub fn home(&self) -> &HomeId {
        &self.home
    }
    /// Its node.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

/// Why a peer may not ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Another deployment than this custodian serves.
    #[error("the {what} names deployment {got}, this custodian serves {expected}")]
    Deployment {
        /// Certificate or request.
        what: &'static str,
        /// Named.
        got: DeploymentId,
        /// Served.
        expected: DeploymentId,
    },
    /// The request speaks for a home or node that the peer is not.
    #[error("the request says {claimed}, the peer certificate says {peer}")]
    NotThePeer {
        /// `home/node` in the request.
        claimed: String,
        /// `home/node` in the certificate.
        peer: String,
    },
    /// This custodian does not know the home.
    #[error("home {0} is not known here; its descriptor has to be imported first (`trust add`)")]
    UnknownHome(HomeId),
}

/// Decides whether `peer` speaks for itself: the certificate's deployment, home
/// and node equal those in the request, and the home is one that this custodian knows.
///
/// # Errors
/// [`AuthError`]; nothing may be proposed then.
pub fn authorise_peer(
    serves: &DeploymentId,
    known_homes: &BTreeSet<HomeId>,
    peer: &HomePeer,
    claimed: &Claimed,
) -> Result<Authorised, AuthError> {
    for (what, got) in [
        ("peer certificate", peer.deployment),
        ("request", claimed.deployment),
    ] {
        if got != *serves {
            return Err(AuthError::Deployment {
                what,
                got,
                expected: *serves,
            });
        }
    }
    let same_node = claimed.node.is_none_or(|n| n == peer.node);
    if peer.home != claimed.home || !same_node {
        let node = claimed
            .node
            .map_or_else(|| "any".to_owned(), |n| n.to_string());
        return Err(AuthError::NotThePeer {
            claimed: format!("{}/{node}", claimed.home),
            peer: format!("{}/{}", peer.home, peer.node),
        });
    }
    if !known_homes.contains(&peer.home) {
        return Err(AuthError::UnknownHome(peer.home.clone()));
    }
    Ok(Authorised {
        home: peer.home.clone(),
        node: peer.node,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> HomeId {
        HomeId::new(name).unwrap()
    }

    #[test]
    fn only_the_known_home_itself_passes() {
        let d = DeploymentId([1; 16]);
        let known = BTreeSet::from([home("ae")]);
        let peer = HomePeer {
            deployment: d,
            home: home("ae"),
            node: 2,
        };
        let claim = |dep, h: &str, node| Claimed {
            deployment: dep,
            home: home(h),
            node,
        };
        let ok = authorise_peer(&d, &known, &peer, &claim(d, "ae", Some(2))).unwrap();
        assert_eq!((ok.home().as_str(), ok.node()), ("ae", 2));
        assert!(authorise_peer(&d, &known, &peer, &claim(d, "ae", None)).is_ok());

        let other = DeploymentId([2; 16]);
        assert!(matches!(
            authorise_peer(&d, &known, &peer, &claim(other, "ae", Some(2))),
            Err(AuthError::Deployment { .. })
        ));
        assert!(matches!(
            authorise_peer(&other, &known, &peer, &claim(other, "ae", Some(2))),
            Err(AuthError::Deployment { .. })
        ));
        for (h, n) in [("zz", Some(2)), ("ae", Some(1))] {
            assert!(matches!(
                authorise_peer(&d, &known, &peer, &claim(d, h, n)),
                Err(AuthError::NotThePeer { .. })
            ));
        }
        assert_eq!(
            authorise_peer(&d, &BTreeSet::new(), &peer, &claim(d, "ae", Some(2))),
            Err(AuthError::UnknownHome(home("ae")))
        );
    }
}
