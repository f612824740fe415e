//! Service credentials, as a home's operator plane enrols and lists them.

use crate::authz::service::{ServiceKey, service_id};
use crate::home::rows::ServiceRow;
use crate::types::{AccountId, IdError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Largest body about a service credential, in bytes.
pub const SERVICE_BODY_BYTES_MAX: usize = 32 << 10;

/// `POST /v1/service-credentials`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolService {
    /// What it is called in lists; 1 to 64 bytes.
    pub name: String,
    /// Ed25519 public key, 64 hex characters.
    pub public: String,
    /// The accounts it may write for; absent: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Vec<String>>,
    /// It counts until then, Unix milliseconds; at most 366 days.
    pub expires_ms: u64,
}

impl EnrolService {
    /// The key that is meant.
    ///
    /// # Errors
    /// [`IdError`], for what is no id.
    pub fn key(&self) -> Result<ServiceKey, IdError> {
        let accounts = self.accounts.as_ref().map(|all| {
            let ids = all.iter().map(|a| a.parse::<AccountId>());
            ids.collect::<Result<BTreeSet<_>, _>>()
        });
        Ok(ServiceKey {
            name: self.name.clone(),
            public: self.public.parse()?,
            accounts: accounts.transpose()?,
            expires_ms: self.expires_ms,
        })
    }
}

/// `GET /v1/service-credentials`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesView {
    /// All that were ever enrolled, in order of id.
    pub services: Vec<ServiceView>,
}

/// One service credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its id, 64 hex characters; messages it writes carry it as their device.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// The accounts it may write for; absent: everybody.
    pub accounts: Option<Vec<String>>,
    /// When it was enrolled, Unix milliseconds.
    pub enrolled_ms: u64,
    /// The operator who enrolled it.
    pub by: String,
    /// It counts until then.
    pub expires_ms: u64,
    /// When an operator ended it.
    pub ended_ms: Option<u64>,
}

impl From<&ServiceRow> for ServiceView {
    fn from(row: &ServiceRow) -> Self {
        let accounts = row.key.accounts.as_ref();
        Self {
            id: service_id(&row.key.public).to_string(),
            name: row.key.name.clone(),
            accounts: accounts.map(|all| all.iter().map(ToString::to_string).collect()),
            enrolled_ms: row.enrolled_ms,
            by: row.by.clone(),
            expires_ms: row.key.expires_ms,
            ended_ms: row.ended_ms,
        }
    }
}
