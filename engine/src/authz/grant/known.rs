//! Grants read before. One grant serves many requests, so whoever reads it
//! again may spare the parsing and the signature check.
//!
//! What is kept are results of pure functions: of a text named by its hash, and
//! of that text and a public key. So it changes no decision, inside `apply` or
//! outside: nodes that remember different grants decide alike.

use super::{Grant, GrantHash, GrantRefusal};
use crate::crypto::sign::PUBLIC_LEN;
use std::fmt;
use std::sync::Arc;

/// A memory of grants; it may forget any at any time.
pub trait KnownGrants: fmt::Debug + Send + Sync {
    /// The grant with this hash, if it is remembered.
    fn recall(&self, hash: &GrantHash) -> Option<Arc<Grant>>;

    /// The key that the grant with this hash was found signed with, if that is remembered.
    fn signer(&self, hash: &GrantHash) -> Option<[u8; PUBLIC_LEN]>;

    /// Remembers a grant, and the key when its signature was found to hold for it. Where nothing
    /// is said of a key, one that is remembered stays.
    fn keep(&self, grant: &Arc<Grant>, signer: Option<[u8; PUBLIC_LEN]>);

    /// What [`Grant::parse`] gives for `compact`, whose hash is `hash`.
    ///
    /// # Errors
    /// [`GrantRefusal`], as there.
    fn read(&self, compact: &str, hash: &GrantHash) -> Result<Arc<Grant>, GrantRefusal> {
        match self.recall(hash) {
            Some(grant) => Ok(grant),
            None => Grant::parse(compact).map(Arc::new),
        }
    }

    /// What [`Grant::verify`] gives; a grant that holds is remembered with its key.
    ///
    /// # Errors
    /// [`GrantRefusal::Signature`].
    fn verify(&self, grant: &Arc<Grant>, public: &[u8; PUBLIC_LEN]) -> Result<(), GrantRefusal> {
        if self.signer(grant.hash()) == Some(*public) {
            return Ok(());
        }
        grant.verify(public)?;
        self.keep(grant, Some(*public));
        Ok(())
    }
}

/// Remembers nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Afresh;

impl KnownGrants for Afresh {
    fn recall(&self, _: &GrantHash) -> Option<Arc<Grant>> {
        None
    }
    fn signer(&self, _: &GrantHash) -> Option<[u8; PUBLIC_LEN]> {
        None
    }
    fn keep(&self, _: &Arc<Grant>, _: Option<[u8; PUBLIC_LEN]>) {}
}
