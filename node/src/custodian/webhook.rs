//! Tells approvers that a disclosure order waits for them: a note to an address
//! of their own, over HTTPS.
//!
//! ```text
//! {"event":"order_waits","deployment":"…","custodian":"ch","order":"…","expires_ms":1800000000000}
//! ```
//!
//! It says that there is something to decide and nothing of what it is about: officers read that
//! with `quorate order show`. The leader sends it, so a change of leader may send it again; the
//! order's id makes two of them one. Nothing waits for it, and nothing depends on it.

use super::Custodian;
use crate::config;
use crate::pki::files::{self, FileError};
use crate::pki::tls;
use axum::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use quorate_engine::authz::orders::{OrderState, OrderStatus};
use quorate_engine::types::OrderId;
use rustls_pki_types::ServerName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// How often the leader looks for orders that wait.
const EVERY: Duration = Duration::from_secs(2);
/// Longest wait for one delivery, connecting included.
const POST_MAX: Duration = Duration::from_secs(10);
/// First wait after a failed delivery; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Deliveries of one note that are tried.
const TRIES_MAX: u32 = 12;
/// Deliveries, by outcome.
const NOTES: &str = "quorate_custodian_order_notes_total";

/// Why a configured address cannot be told anything.
#[derive(Debug, thiserror::Error)]
pub enum WebhookProblem {
    /// The CA file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it.
    #[error("webhook.ca: {0}; name a PEM file with the CA of webhook.url")]
    Ca(String),
    /// The address.
    #[error("webhook.url: {0:?} is not https://HOST[:PORT]/PATH")]
    Url(String),
}

/// What is posted.
#[derive(Debug, Serialize)]
struct Note<'a> {
    event: &'static str,
    deployment: String,
    custodian: &'a str,
    order: String,
    expires_ms: u64,
}

/// Where officers want to be told.
pub struct Webhook {
    host: String,
    authority: String,
    port: u16,
    path: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Webhook {
    /// From a node's configuration.
    ///
    /// # Errors
    /// [`WebhookProblem`].
    pub fn of(configured: &config::Webhook) -> Result<Self, WebhookProblem> {
        let wrong = || WebhookProblem::Url(configured.url.clone());
        let uri: Uri = configured.url.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong());
        }
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        let ca = files::read(&configured.ca)?;
        let ca = String::from_utf8(ca).map_err(|_| WebhookProblem::Ca("it is not text".into()))?;
        let tls = tls::client_plane_client(&ca).map_err(|e| WebhookProblem::Ca(e.to_string()))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Self {
            port: authority.port_u16().unwrap_or(443),
            authority: authority.to_string(),
            path: path.to_owned(),
            host,
            name,
            tls: TlsConnector::from(tls),
        })
    }

    async fn post(&self, body: Bytes) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| text(&e))?;
        let stream = self
            .tls
            .connect(self.name.clone(), tcp)
            .await
            .map_err(|e| text(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| text(&e))?;
        let request = Request::post(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(|e| text(&e))?;
        // It ends with its sender, when the answer's status was read; nothing else of it is.
        let exchange = async move {
            let reply = sender.send_request(request).await.map_err(|e| text(&e))?;
            match reply.status() {
                status if status.is_success() => Ok(()),
                status => Err(format!("it answered {status}")),
            }
        };
        tokio::join!(exchange, connection).0
    }
}

/// Where one note stands.
enum Told {
    Yes,
    Waits { tries: u32, until: Instant },
    GivenUp,
}

/// Sends notes as long as this node leads.
pub(super) async fn run(custodian: Custodian, webhook: Arc<Webhook>, stop: CancellationToken) {
    let mut told: BTreeMap<OrderId, Told> = BTreeMap::new();
    loop {
        if custodian.serves() {
            match custodian.orders_that_wait() {
                Ok(orders) => {
                    told.retain(|id, _| orders.iter().any(|o| o.id() == *id));
                    for order in &orders {
                        let before = told.remove(&order.id());
                        let after = deliver(&custodian, &webhook, order, before).await;
                        told.insert(order.id(), after);
                    }
                }
                Err(e) => tracing::warn!("orders that wait cannot be read: {e}"),
            }
        } else {
            told.clear();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn deliver(
    custodian: &Custodian,
    webhook: &Webhook,
    order: &OrderState,
    before: Option<Told>,
) -> Told {
    let tries = match before {
        Some(Told::Waits { tries, until }) if Instant::now() >= until => tries,
        None => 0,
        Some(other) => return other,
    };
    let note = Note {
        event: "order_waits",
        deployment: custodian.place().deployment.to_string(),
        custodian: custodian.place().custodian.as_str(),
        order: order.id().to_string(),
        expires_ms: order.expires_ms,
    };
    let body = serde_json::to_vec(&note).expect("strings and a number");
    let sent = tokio::time::timeout(POST_MAX, webhook.post(body.into())).await;
    let sent = sent.unwrap_or_else(|_| Err("no answer in time".into()));
    let count = |outcome: &'static str| metrics::counter!(NOTES, "outcome" => outcome).increment(1);
    let tries = tries + 1;
    match sent {
        Ok(()) => {
            count("sent");
            Told::Yes
        }
        Err(why) if tries >= TRIES_MAX => {
            count("given_up");
            tracing::error!(order = %order.id(), "officers are not told of an order that waits: {why}; given up after {tries} tries");
            Told::GivenUp
        }
        Err(why) => {
            count("failed");
            tracing::warn!(order = %order.id(), "officers are not told yet of an order that waits: {why}");
            let wait = RETRY_MIN
                .saturating_mul(1 << (tries - 1).min(16))
                .min(RETRY_MAX);
            Told::Waits {
                tries,
                until: Instant::now() + wait,
            }
        }
    }
}

impl Custodian {
    /// Orders that miss approvals.
    fn orders_that_wait(&self) -> Result<Vec<OrderState>, String> {
        let seen = self.orders()?;
        let (Some(roster), orders) = seen.value else {
            return Ok(Vec::new());
        };
        let waits = |o: &OrderState| {
            let status = o.status(&roster, Self::cool_off_ms(), seen.now_ms);
            matches!(status, OrderStatus::Open { .. })
        };
        Ok(orders.into_iter().filter(waits).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_and_names_its_host() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let key = rcgen::generate_simple_self_signed(["hooks.example".to_owned()]).unwrap();
        std::fs::write(&ca, key.cert.pem()).unwrap();
        let of = |url: &str| {
            Webhook::of(&config::Webhook {
                url: url.into(),
                ca: ca.clone(),
            })
        };
        let good = of("https://hooks.example:8443/a?b=c").unwrap();
        assert_eq!((good.port, good.path.as_str()), (8443, "/a?b=c"));
        assert_eq!(of("https://[::1]").unwrap().host, "::1");
        assert_eq!(of("https://hooks.example").unwrap().port, 443);
        for bad in [
            "http://hooks.example/",
            "hooks.example",
            "https://",
            "https://name:word@hooks.example/",
            "/orders",
            "",
        ] {
            assert!(matches!(of(bad), Err(WebhookProblem::Url(_))), "{bad}");
        }
        std::fs::write(&ca, "no certificate").unwrap();
        let none = of("https://hooks.example/");
        assert!(matches!(none, Err(WebhookProblem::Ca(_))));
        std::fs::remove_file(&ca).unwrap();
        assert!(matches!(
            of("https://hooks.example/"),
            Err(WebhookProblem::File(_))
        ));
    }
}
