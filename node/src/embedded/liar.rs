//! A custodian that lies: it has the real one's name, certificate and log key,
//! and answers every release with shares that it makes up.
//!
//! The demo and the chaos tests put it in a custodian's place. A home must
//! blame it by name, because no made-up share matches its commitment, and read
//! on with the others.

use crate::config::ClusterRole;
use crate::peer::{PeerIdentity, Service, ServiceError};
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_engine::authz::grant::GrantHash;
use quorate_engine::crypto::seal::{ReleaseBinding, Sender, ShareBinding, release_info};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::{
    CustodianReply, CustodianRequest, Feed, PROTOCOL_VERSION, Receipt, ReleaseReply,
    ReleaseRequest, ShareResult,
};
use quorate_engine::types::{CustodianId, DeploymentId, PolicyId, Share, codec};
use std::sync::atomic::{AtomicU64, Ordering};

/// Answers a custodian's service with false shares.
pub struct Liar {
    deployment: DeploymentId,
    custodian: CustodianId,
    policy: PolicyId,
    log_key: SigningKey,
    told: AtomicU64,
}

impl Liar {
    /// In the place of `custodian`, whose log key it stole; shares are dealt under `policy`.
    pub fn new(
        deployment: DeploymentId,
        custodian: CustodianId,
        policy: PolicyId,
        log_key: SigningKey,
    ) -> Self {
        Self {
            deployment,
            custodian,
            policy,
            log_key,
            told: AtomicU64::new(0),
        }
    }

    /// How many false shares it has told.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    fn release(
        &self,
        from: &PeerIdentity,
        request: &ReleaseRequest,
    ) -> Result<ReleaseReply, String> {
        let mut rng = rand::rng();
        // It binds its lies as an honest custodian would: only the share is false.
        let authority = GrantHash::of(&request.grant).0;
        let info = release_info(&self.deployment, &self.custodian);
        let (sender, encapsulated) =
            Sender::new(&request.lease_key, &info, &mut rng).map_err(|e| e.to_string())?;
        let binding = ReleaseBinding {
            authority,
            node: from.node,
            lease_key: request.lease_key.hash(),
        };
        let shares = request.keys.iter().map(|key| {
            let share = ShareBinding {
                deployment: self.deployment,
                custodian: self.custodian.clone(),
                chat: key.chat,
                key_id: key.key_id,
                policy: self.policy,
            };
            let sealed = sender.seal(
                &share,
                Some(&binding),
                rand::random(),
                &Share::generate(&mut rng),
            );
            ShareResult::Share { sealed }
        });
        let shares: Vec<_> = shares.collect();
        self.told.fetch_add(shares.len() as u64, Ordering::Relaxed);
        let mut receipt = Receipt {
            custodian: self.custodian.clone(),
            entry: self.told(),
            leaf: rand::random(),
            time_ms: 0,
            request: request.request,
            signature: Vec::new(),
        };
        receipt.signature = self
            .log_key
            .sign(&receipt.signed_bytes(&self.deployment))
            .to_vec();
        Ok(ReleaseReply {
            receipt,
            encapsulated,
            shares,
        })
    }
}

impl Service for Liar {
    fn call(
        &self,
        from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async move {
            if from.role != ClusterRole::Home {
                return Err(ServiceError::Forbidden(format!("{from} is no home")));
            }
            let request = codec::decode("custodian request", PROTOCOL_VERSION, &body)
                .map_err(|e| ServiceError::Invalid(e.to_string()))?;
            let reply = match request {
                CustodianRequest::Release(request) => match self.release(&from, &request) {
                    Ok(reply) => CustodianReply::Release(reply),
                    Err(reason) => CustodianReply::Invalid { reason },
                },
                // A liar that is to be asked has to look alive.
                CustodianRequest::Feed { .. } => CustodianReply::Feed(Feed {
                    position: 1,
                    freezes: Vec::new(),
                }),
                _ => CustodianReply::Busy {
                    reason: "out to lunch".into(),
                    retry_ms: 1_000,
                },
            };
            Ok(codec::encode(PROTOCOL_VERSION, &reply))
        })
    }
}
