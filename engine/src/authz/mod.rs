//! Who may obtain keys.
//!
//! One function decides, and today it decides too little: a home's peer
//! certificate alone opens the way, so P3 of the design does not hold yet.
//! Signed grants, mandates and orders replace the body of
//! [`authorise_release`]; its callers stay as they are.

pub mod chain;
pub mod envelope;
pub mod grant;
pub mod identity;
pub mod membership;
pub mod officers;
pub mod orders;
pub mod standing;
#[cfg(test)]
mod vectors;

use crate::crypto::labels;
use crate::types::{DeploymentId, HomeId, NodeId};
use std::collections::BTreeSet;

/// What `status` says as long as it is so.
pub const RELEASE_AUTHORITY: &str = "home certificate only; grants not built yet";

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

/// Leave to ask for keys; made by [`authorise_release`] alone. What may then
/// be released is decided in `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorised {
    home: HomeId,
    node: NodeId,
    authority: [u8; 32],
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
    /// Hash of the authority shown, as the log and every sealed share bind it.
    pub fn authority(&self) -> [u8; 32] {
        self.authority
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

/// Decides whether `peer` may ask for the keys it claims to need.
///
/// Today: the certificate's deployment, home and node equal those in the
/// request, and the home is one that this custodian knows. Signed grants
/// replace this: then a grant by a user's device decides, and the
/// certificate only has to match the home that the grant names.
///
/// # Errors
/// [`AuthError`]; nothing may be proposed then.
pub fn authorise_release(
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
        authority: home_authority(serves, &peer.home, peer.node),
    })
}

/// The authority hash while a certificate is the authority: over the names in
/// it, not its bytes, so that both sides compute it and a rotation in the
/// middle of a request changes nothing.
pub fn home_authority(deployment: &DeploymentId, home: &HomeId, node: NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(labels::AUTHORITY_HOME);
    hasher.update(&deployment.0);
    hasher.update(&node.to_be_bytes());
    hasher.update(home.as_str().as_bytes());
    *hasher.finalize().as_bytes()
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
        let ok = authorise_release(&d, &known, &peer, &claim(d, "ae", Some(2))).unwrap();
        assert_eq!((ok.home().as_str(), ok.node()), ("ae", 2));
        assert_eq!(ok.authority(), home_authority(&d, &home("ae"), 2));
        assert_ne!(ok.authority(), home_authority(&d, &home("ae"), 1));
        assert!(authorise_release(&d, &known, &peer, &claim(d, "ae", None)).is_ok());

        let other = DeploymentId([2; 16]);
        assert!(matches!(
            authorise_release(&d, &known, &peer, &claim(other, "ae", Some(2))),
            Err(AuthError::Deployment { .. })
        ));
        assert!(matches!(
            authorise_release(&other, &known, &peer, &claim(other, "ae", Some(2))),
            Err(AuthError::Deployment { .. })
        ));
        for (h, n) in [("zz", Some(2)), ("ae", Some(1))] {
            assert!(matches!(
                authorise_release(&d, &known, &peer, &claim(d, h, n)),
                Err(AuthError::NotThePeer { .. })
            ));
        }
        assert_eq!(
            authorise_release(&d, &BTreeSet::new(), &peer, &claim(d, "ae", Some(2))),
            Err(AuthError::UnknownHome(home("ae")))
        );
    }
}
