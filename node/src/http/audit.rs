//! The audit plane: a custodian's log, published for whoever wants to check it.
//!
//! Checkpoints and hashes are for everybody; they name nobody. Entries and
//! openings are for auditors whom the custodian's officers admitted, who sign a
//! token for it. Paths and bytes are those of C2SP tlog-tiles, so that tools
//! made for other logs read this one.

use super::envelope::{Limits, OVERLOAD_RETRY_MS, wrap};
use super::problem::{Failure, Handled};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_engine::api::audit::BundleOpenings;
use quorate_engine::audit::publish::{Tile, TileKind};
use quorate_engine::authz::auditor::AuditorRefusal;
use std::sync::Arc;

/// Requests in work at once: whoever reads the log must not slow down what it records.
pub const REQUESTS_MAX: usize = 32;

const CHECKPOINT_CACHE: &str = "max-age=1";
const TILE_CACHE: &str = "public, max-age=31536000, immutable";
const ENTRIES_CACHE: &str = "private, max-age=31536000, immutable";

/// Why a request was not answered as it wished.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// No such tile or bundle, or not yet.
    #[error("{0}")]
    Unknown(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

/// Result of a request.
pub type AuditResult<T> = Result<T, AuditError>;

/// What the audit plane asks of a custodian.
pub trait AuditApi: Send + Sync + 'static {
    /// The newest checkpoint, as a note.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`].
    fn checkpoint(&self) -> AuditResult<String>;
    /// Whether a token shows entries and openings.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`].
    fn admits(&self, token: &str) -> AuditResult<Result<(), AuditorRefusal>>;
    /// A tile of hashes or a bundle of entries of the newest checkpoint's tree.
    fn tile(&self, tile: Tile) -> BoxFuture<'_, AuditResult<Bytes>>;
    /// What remains of the openings of a bundle's entries.
    fn openings(&self, bundle: u64) -> BoxFuture<'_, AuditResult<BundleOpenings>>;
}

type Api = State<Arc<dyn AuditApi>>;

/// The audit plane's router.
pub fn router(api: Arc<dyn AuditApi>) -> Router {
    let limits = Limits {
        requests_max: REQUESTS_MAX,
        ..Limits::default()
    };
    let routes = Router::new()
        .route("/checkpoint", get(checkpoint))
        .route("/tile/entries/{*path}", get(entries))
        .route("/tile/{level}/{*path}", get(tile))
        .route("/openings/{bundle}", get(openings))
        .with_state(api);
    wrap("audit", limits, routes)
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let detail = error.to_string();
        match error {
            AuditError::Unknown(_) => Self::new(
                StatusCode::NOT_FOUND,
                "tile_unknown",
                "Not in the published tree",
                detail,
                "read /checkpoint first, and ask for tiles of the tree that it states",
            ),
            AuditError::Unavailable(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The log cannot be read now",
                detail,
                "repeat it after retry_ms, on this or another node",
            )
            .retry(OVERLOAD_RETRY_MS),
        }
    }
}

fn path(text: &str) -> Handled<Tile> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(100).collect();
        AuditError::Unknown(format!("{shown:?} is not the path of a tile")).into()
    })
}

/// Lets auditors pass.
fn auditor(api: &dyn AuditApi, headers: &HeaderMap) -> Handled<()> {
    let text = headers.get(header::AUTHORIZATION);
    let token = text.and_then(|t| t.to_str().ok()?.strip_prefix("Bearer "));
    let Some(token) = token else {
        return Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "auditor_required",
            "Entries and openings are for auditors",
            "the request has no token of an auditor",
            "ask the custodian's officers to admit your key (`quorate officer propose … admit-auditor`)",
        ));
    };
    match api.admits(token)? {
        Ok(()) => Ok(()),
        Err(why) => Err(Failure::new(
            StatusCode::FORBIDDEN,
            why.code(),
            "The token opens nothing here",
            why.text(),
            "sign a fresh token for this custodian with a key that its officers admitted",
        )),
    }
}

fn reply(kind: &'static str, cache: &'static str, body: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, cache),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

async fn checkpoint(State(api): Api) -> Handled<Response> {
    let note = api.checkpoint()?;
    Ok(reply("text/plain; charset=utf-8", CHECKPOINT_CACHE, note))
}

async fn tile(State(api): Api, Path((level, rest)): Path<(String, String)>) -> Handled<Response> {
    let tile = path(&format!("tile/{level}/{rest}"))?;
    let bytes = api.tile(tile).await?;
    Ok(reply("application/octet-stream", TILE_CACHE, bytes))
}

async fn entries(
    State(api): Api,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Handled<Response> {
    auditor(&*api, &headers)?;
    let tile = path(&format!("tile/entries/{rest}"))?;
    debug_assert_eq!(tile.kind, TileKind::Entries);
    let bytes = api.tile(tile).await?;
    Ok(reply("application/octet-stream", ENTRIES_CACHE, bytes))
}

async fn openings(
    State(api): Api,
    Path(bundle): Path<u64>,
    headers: HeaderMap,
) -> Handled<Response> {
    auditor(&*api, &headers)?;
    let found = api.openings(bundle).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(found)).into_response())
}
