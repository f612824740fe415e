//! The PKCS#11 provider: an unlock key under an AES key that never leaves its token.
//!
//! The slot stores the unlock key as the token encrypted it: 12 bytes nonce,
//! then AES-256-GCM (32 bytes and a tag of 16), the slot's name bound in. The
//! token's key is made here when there is none of its name, sensitive and not
//! extractable; a key that could leave its token is refused.

use super::provider::OwnProvider;
use super::vault::draw;
use crate::config::Pkcs11 as Configured;
use crate::pki::files;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use quorate_engine::custody::keys::{KeyProvider, Provider, SlotPublic, TokenParams};
use quorate_engine::types::{CustodianId, Secret};
use rand::TryRng;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

const NONCE_LEN: usize = 12;
const TAG_BITS: u64 = 128;
/// Longest PIN, in bytes.
const PIN_BYTES_MAX: usize = 255;

/// Libraries that are loaded: each may be initialised once in a process, and is
/// used by one at a time.
static LOADED: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// A token as the configuration names it.
pub struct Token(pub Configured);

impl Token {
    fn says(&self, e: impl std::fmt::Display) -> String {
        format!(
            "token {:?} through {}: {e}; check keys.pkcs11 in the configuration",
            self.0.token,
            self.0.module.display()
        )
    }

    /// Runs `work` in a session with the user logged in.
    fn session<T>(&self, work: impl FnOnce(&Session) -> Result<T, String>) -> Result<T, String> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if !loaded.contains_key(&self.0.module) {
            let library = Pkcs11::new(&self.0.module).map_err(|e| self.says(e))?;
            match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                Err(e) => return Err(self.says(e)),
            }
            loaded.insert(self.0.module.clone(), library);
        }
        let library = loaded
            .get(&self.0.module)
            .ok_or_else(|| self.says("it is not loaded"))?;
        let slots = library
            .get_slots_with_initialized_token()
            .map_err(|e| self.says(e))?;
        let named = slots.into_iter().find(|slot| {
            let info = library.get_token_info(*slot);
            info.is_ok_and(|i| i.label().trim_end() == self.0.token)
        });
        let slot = named.ok_or_else(|| self.says("no token of this name is there"))?;
        let session = library.open_rw_session(slot).map_err(|e| self.says(e))?;
        let pin = files::read_secret(&self.0.pin_file).map_err(|e| e.to_string())?;
        let text = std::str::from_utf8(&pin).map_err(|_| self.says("the PIN is not text"))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.len() > PIN_BYTES_MAX {
            return Err(self.says("the PIN file holds no PIN"));
        }
        match session.login(UserType::User, Some(&AuthPin::new(text.into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(e) => return Err(self.says(e)),
        }
        let done = work(&session);
        // The session ends here either way.
        let _ = session.logout();
        done
    }

    /// The AES key of this label, if there is one; made when `make`.
    fn key(&self, session: &Session, make: bool) -> Result<ObjectHandle, String> {
        let label = self.0.key.as_bytes().to_vec();
        let wanted = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Label(label.clone()),
        ];
        let found = session.find_objects(&wanted).map_err(|e| self.says(e))?;
        let key = match (found.as_slice(), make) {
            ([key], _) => *key,
            ([], true) => {
                let template = [
                    Attribute::Token(true),
                    Attribute::Private(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(false),
                    Attribute::Encrypt(true),
                    Attribute::Decrypt(true),
                    Attribute::ValueLen(32.into()),
                    Attribute::Label(label),
                ];
                let made = session.generate_key(&Mechanism::AesKeyGen, &template);
                made.map_err(|e| self.says(e))?
            }
            ([], false) => {
                return Err(self.says(format!("it has no AES key {:?}", self.0.key)));
            }
            _ => return Err(self.says(format!("it has several keys {:?}", self.0.key))),
        };
        let asked = [AttributeType::Sensitive, AttributeType::Extractable];
        let attributes = session
            .get_attributes(key, &asked)
            .map_err(|e| self.says(e))?;
        let stays = attributes.contains(&Attribute::Sensitive(true))
            && attributes.contains(&Attribute::Extractable(false));
        match stays {
            true => Ok(key),
            false => Err(self.says(format!(
                "its key {:?} could leave the token; make one that is sensitive and not extractable",
                self.0.key
            ))),
        }
    }
}

impl KeyProvider for Token {
    fn unlock_key(&self, slot: &SlotPublic) -> Result<Secret<32>, String> {
        let Provider::Token(params) = &slot.provider else {
            let what = slot.provider.as_str();
            return Err(format!(
                "slot {} is opened by {what}, not by a token",
                slot.name
            ));
        };
        if params.key_label != self.0.key {
            return Err(self.says(format!(
                "slot {} was made with the key {:?}",
                slot.name, params.key_label
            )));
        }
        let Some((nonce, body)) = params.wrapped.split_at_checked(NONCE_LEN) else {
            return Err(self.says("the slot holds too little"));
        };
        let mut nonce = nonce.to_vec();
        self.session(|session| {
            let key = self.key(session, false)?;
            let aad = slot.name.as_str().as_bytes();
            let gcm = GcmParams::new(&mut nonce, aad, TAG_BITS.into());
            let gcm = gcm.map_err(|e| self.says(e))?;
            let opened = session.decrypt(&Mechanism::AesGcm(gcm), key, body);
            let opened = Zeroizing::new(opened.map_err(|e| self.says(e))?);
            Secret::from_slice(&opened).ok_or_else(|| self.says("the slot holds no key"))
        })
    }
}

impl OwnProvider for Token {
    fn opens(&self, provider: &Provider) -> bool {
        matches!(provider, Provider::Token(p) if p.key_label == self.0.key)
    }

    fn new_slot(&self, name: CustodianId) -> Result<SlotPublic, String> {
        let unlock_key = draw().map_err(|e| e.to_string())?;
        let mut nonce = [0u8; NONCE_LEN];
        rand::rngs::SysRng
            .try_fill_bytes(&mut nonce)
            .map_err(|e| e.to_string())?;
        let mut wrapped = nonce.to_vec();
        self.session(|session| {
            let key = self.key(session, true)?;
            let gcm = GcmParams::new(&mut nonce, name.as_str().as_bytes(), TAG_BITS.into());
            let gcm = gcm.map_err(|e| self.says(e))?;
            let sealed = session.encrypt(&Mechanism::AesGcm(gcm), key, unlock_key.expose());
            wrapped.extend(sealed.map_err(|e| self.says(e))?);
            Ok(())
        })?;
        let params = TokenParams {
            key_label: self.0.key.clone(),
            wrapped,
        };
        Ok(SlotPublic::new(name, Provider::Token(params), &unlock_key))
    }

    fn slot_name(&self) -> &'static str {
        "pkcs11"
    }
}
