//! A disclosure order at a home: what the leader of a chat's shard sealed is
//! signed here, with this node's own key.

use super::Core;
use crate::home::Home;
use crate::home::api::HomeError;
use crate::http::operator::{Operator, OperatorError, OperatorResult};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_engine::api::disclosure::{ExecuteOrder, SignedPart, signed_bytes};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::orders::order_id;
use quorate_engine::types::{OrderId, Outcome};

impl From<HomeError> for OperatorError {
    fn from(e: HomeError) -> Self {
        let detail = e.to_string();
        match e {
            HomeError::NotFound { .. } => Self::NotFound(detail),
            HomeError::Invalid { .. } => Self::Invalid(detail),
            HomeError::Quorum { detail, .. } => Self::NoQuorum(detail),
            HomeError::Unavailable {
                retry_ms, outcome, ..
            } => Self::Unavailable {
                detail,
                retry_ms,
                outcome,
            },
            _ => Self::Refused(detail),
        }
    }
}

pub(super) async fn execute(
    core: &Core,
    home: &Home,
    by: &Operator,
    id: OrderId,
    request: ExecuteOrder,
) -> OperatorResult<SignedPart> {
    let said = order_id(&Envelope::from(&request.statement));
    if said != id {
        let detail = format!("the statement is of order {said}, not {id}");
        return Err(OperatorError::Invalid(detail));
    }
    tracing::warn!(operator = by.name, order = %id, "executing a disclosure order");
    let part = home.disclose(request).await?.value;
    let bytes = signed_bytes(&core.config.deployment, &part.manifest);
    let signed = core.certs.attest(&bytes);
    let signed = signed.map_err(|e| OperatorError::Unavailable {
        detail: format!("the manifest could not be signed: {e}"),
        retry_ms: super::operator::AGAIN_MS,
        outcome: Outcome::NotDone,
    })?;
    Ok(SignedPart {
        part,
        certificate: STANDARD.encode(signed.certificate),
        signature: STANDARD.encode(signed.signature),
    })
}
