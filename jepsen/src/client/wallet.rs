//! A wallet that `quorate login` made, and what its device signs.

use anyhow::{Context, ensure};
use quorate_engine::api::registry::Statement;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Action, ChatRange, Claims, GRANT_LIFE_S_MAX, Grant};
use quorate_engine::authz::identity::device_id;
use quorate_engine::authz::membership::{ChatGenesis, ChatPayload, chat_id};
use quorate_engine::crypto::labels::SIGN_MEMBERSHIP;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{
    AccountId, ChatId, DeploymentId, DeviceId, GrantId, HomeId, Nonce, PublicKey, Secret,
};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Keys each custodian releases under one grant at most.
const CEILING: u32 = 4_096;
/// A grant begins so long before now, for clocks that differ.
const BACKDATE_S: u64 = 300;
/// A grant with less left is signed anew.
const RENEW_S: u64 = 120;

/// `device.json`, as far as it is needed here.
#[derive(Deserialize)]
struct Form {
    format: u64,
    deployment: DeploymentId,
    account: AccountId,
    enrolled: bool,
    device: Key,
}

#[derive(Deserialize)]
struct Key {
    seed: String,
}

/// Grants by action and chats, with their ends.
type Kept = HashMap<(bool, Vec<ChatId>), (Arc<str>, u64)>;

/// A device of an account.
pub struct Wallet {
    account: AccountId,
    device: DeviceId,
    deployment: DeploymentId,
    home: HomeId,
    key: SigningKey,
    kept: Mutex<Kept>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}

impl Wallet {
    /// Reads the wallet in `dir`, to be used at `home`.
    ///
    /// # Errors
    /// When it is not there, sealed or not enrolled. The key is never shown.
    pub fn load(dir: &Path, home: &str) -> anyhow::Result<Self> {
        let path = dir.join("device.json");
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let form: Form = serde_json::from_slice(&text).map_err(|e| {
            anyhow::anyhow!("{}: line {}: not an open wallet", path.display(), e.line())
        })?;
        ensure!(
            form.format == 1,
            "{}: format {}, this build reads 1",
            path.display(),
            form.format
        );
        ensure!(form.enrolled, "{}: not enrolled", path.display());
        let mut seed = [0u8; 32];
        hex::decode_to_slice(&form.device.seed, &mut seed)
            .map_err(|_| anyhow::anyhow!("{}: the key is not 64 hex characters", path.display()))?;
        let key = SigningKey::from_seed(&Secret::take(&mut seed));
        Ok(Self {
            account: form.account,
            device: device_id(&PublicKey(key.public())),
            deployment: form.deployment,
            home: HomeId::new(home)?,
            key,
            kept: Mutex::default(),
        })
    }

    /// A grant for these chats that holds for two minutes more at least.
    ///
    /// # Errors
    /// When nobody would accept it: too many chats.
    pub fn grant(&self, write: bool, chats: &[ChatId]) -> anyhow::Result<Arc<str>> {
        let now_s = now_ms() / 1000;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (write, chats.to_vec());
        if let Some((grant, _)) = kept.get(&key).filter(|k| now_s + RENEW_S < k.1) {
            return Ok(grant.clone());
        }
        let not_before_s = now_s - BACKDATE_S;
        let expires_s = not_before_s + GRANT_LIFE_S_MAX;
        let range = |chat: &ChatId| ChatRange {
            chat: *chat,
            from: 0,
            to: None,
        };
        let claims = Claims {
            account: self.account,
            deployment: self.deployment,
            home: self.home.clone(),
            actions: vec![if write { Action::Write } else { Action::Read }],
            chats: chats.iter().map(range).collect(),
            ceiling: CEILING,
            not_before_s,
            expires_s,
            id: GrantId(rand::random()),
        };
        let grant = Grant::sign(self.device, &self.key, claims)?;
        let compact: Arc<str> = grant.compact().into();
        kept.insert(key, (compact.clone(), expires_s));
        Ok(compact)
    }

    /// Uses `grant` no more: it was refused.
    pub fn forget(&self, grant: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (held, _)| &**held != grant);
    }

    /// Founds a chat: its id and the signed genesis.
    pub fn found_chat(&self) -> (ChatId, Statement) {
        let genesis = ChatPayload::Genesis(ChatGenesis {
            deployment: self.deployment,
            creator: self.account,
            device: self.device,
            public: false,
            created_ms: now_ms(),
            nonce: Nonce(rand::random()),
        });
        let signed = Envelope::sign(SIGN_MEMBERSHIP, &self.deployment, &genesis, &[&self.key]);
        (chat_id(&signed), Statement::from(&signed))
    }
}
