//! Key providers that open a node's root without people: what its configuration names.

use crate::config::{Config, KeyProvider as Configured};
use crate::pki::files;
use quorate_engine::custody::keys::{KeyProvider, Provider, SlotPublic};
use quorate_engine::types::{CustodianId, Secret};
use std::path::PathBuf;
use std::sync::Arc;

/// A provider that a node can ask by itself.
pub trait OwnProvider: KeyProvider + Send + Sync + 'static {
    /// Whether it opens slots of this kind.
    fn opens(&self, provider: &Provider) -> bool;
    /// A slot that it opens.
    ///
    /// # Errors
    /// In words.
    fn new_slot(&self, name: CustodianId) -> Result<SlotPublic, String>;
    /// What such a slot is called when nobody names it.
    fn slot_name(&self) -> &'static str;
}

/// The provider that `config` names; `None` when people must come.
pub fn own_provider(config: &Config) -> Option<Arc<dyn OwnProvider>> {
    match (config.keys.provider, &config.keys.key_file) {
        (Configured::KeyFile, Some(path)) => Some(Arc::new(KeyFile(path.clone()))),
        (Configured::Pkcs11, _) => {
            let token = config.keys.pkcs11.clone()?;
            Some(Arc::new(super::token::Token(token)))
        }
        _ => None,
    }
}

/// A file with the unlock key, beside the configuration. For development:
/// whoever copies the disk has both.
pub struct KeyFile(pub PathBuf);

impl KeyProvider for KeyFile {
    fn unlock_key(&self, _slot: &SlotPublic) -> Result<Secret<32>, String> {
        files::read_secret32(&self.0).map_err(|e| e.to_string())
    }
}

impl OwnProvider for KeyFile {
    fn opens(&self, provider: &Provider) -> bool {
        *provider == Provider::KeyFile
    }
    fn new_slot(&self, name: CustodianId) -> Result<SlotPublic, String> {
        let key = files::read_secret32(&self.0).map_err(|e| e.to_string())?;
        Ok(SlotPublic::new(name, Provider::KeyFile, &key))
    }
    fn slot_name(&self) -> &'static str {
        super::vault::KEY_FILE_SLOT
    }
}
