//! An auditor's key, in a file that only its owner reads.

use crate::exit::Failure;
use crate::people::now_ms;
use crate::private_file;
use quorate_engine::api::keys::SecretText;
use quorate_engine::authz::auditor::{AuditorClaims, AuditorToken, auditor_id};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{AuditorId, CustodianId, DeploymentId, PublicKey, Secret};
use serde::{Deserialize, Serialize};
use std::path::Path;
use zeroize::Zeroizing;

/// What the file says it is.
const KIND: &str = "quorate auditor key 1";
/// How long a token holds, in seconds; each request is given a fresh one.
const TOKEN_LIFE_S: u64 = 300;
/// How far a custodian's clock may lag behind this one, in seconds.
const CLOCK_LAG_S: u64 = 60;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    kind: String,
    auditor: AuditorId,
    public: PublicKey,
    seed: SecretText,
}

/// An auditor's key. Prints its public half only.
#[derive(Debug)]
pub struct AuditorKey(SigningKey);

fn wrong(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::usage(
        format!("{} is no auditor's key: {e}", path.display()),
        "make one with `quorate audit init-key --out FILE`",
    )
}

impl AuditorKey {
    /// Draws a key and keeps it in a new file.
    ///
    /// # Errors
    /// [`Failure`] when the file cannot be written.
    pub fn make(path: &Path) -> Result<Self, Failure> {
        let key = Self(SigningKey::generate(&mut rand::rng()));
        let file = KeyFile {
            kind: KIND.into(),
            auditor: key.id(),
            public: key.public(),
            seed: SecretText(hex::encode(key.0.seed().expose())),
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|e| wrong(path, &e))?;
        private_file::create(path, &Zeroizing::new(text), "write the auditor's key to")?;
        Ok(key)
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Failure`] naming the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let bytes = private_file::read(path, "read the auditor's key")?;
        let file: KeyFile = serde_json::from_slice(&bytes).map_err(|e| wrong(path, &e))?;
        let seed = hex::decode(&file.seed.0).map(Zeroizing::new);
        let seed = seed.map_err(|_| wrong(path, &"its seed is not hex"))?;
        let seed = Secret::<32>::from_slice(&seed);
        let seed = seed.ok_or_else(|| wrong(path, &"its seed has not 32 bytes"))?;
        let key = Self(SigningKey::from_seed(&seed));
        if file.kind != KIND || key.public() != file.public || key.id() != file.auditor {
            return Err(wrong(path, &"its parts do not belong together"));
        }
        Ok(key)
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public())
    }
    /// Its id.
    pub fn id(&self) -> AuditorId {
        auditor_id(&self.public())
    }

    /// A token for one custodian.
    ///
    /// # Errors
    /// Never for times that a clock shows.
    pub fn token(
        &self,
        deployment: DeploymentId,
        custodian: &CustodianId,
    ) -> Result<String, Failure> {
        let not_before_s = (now_ms() / 1000).saturating_sub(CLOCK_LAG_S);
        let claims = AuditorClaims {
            deployment,
            custodian: custodian.clone(),
            not_before_s,
            expires_s: not_before_s + CLOCK_LAG_S + TOKEN_LIFE_S,
        };
        let token = AuditorToken::sign(&self.0, claims);
        let token = token.map_err(|e| Failure::usage(e.text(), "set this machine's clock"))?;
        Ok(token.compact().to_owned())
    }
}
