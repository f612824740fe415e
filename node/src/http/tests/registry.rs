//! The registry plane over the very TLS that nodes use: authorities reach it, nobody else does.

use super::fixture::{Reply, request, send, start};
use crate::config::ClusterRole;
use crate::http::registry::{self, FromAuthority, RegistryApi, RegistryError, RegistryResult};
use crate::http::serve::{Running, ServeLimits};
use crate::pki::testkit::{self, DEPLOYMENT, entity, forged, source, trust};
use crate::pki::{CertRole, CertSource, Entity, tls};
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_engine::api::registry::{Account, AccountHead, REGISTRY_BODY_BYTES_MAX};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::types::{AccountId, CustodianId};
use rustls_pki_types::ServerName;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;
use tokio::sync::watch;

#[derive(Default)]
struct FakeRegistry {
    seen: Mutex<Vec<String>>,
    fails: Mutex<Option<RegistryError>>,
}

impl FakeRegistry {
    fn run<T: Send + 'static>(&self, what: String, value: T) -> BoxFuture<'_, RegistryResult<T>> {
        self.seen.lock().unwrap().push(what);
        let fails = self.fails.lock().unwrap().clone();
        async move { fails.map_or(Ok(value), Err) }.boxed()
    }
}

impl RegistryApi for FakeRegistry {
    fn statement(
        &self,
        by: FromAuthority,
        account: Option<AccountId>,
        statement: Envelope,
    ) -> BoxFuture<'_, RegistryResult<AccountHead>> {
        let account = account.map_or("new".to_owned(), |a| a.to_string());
        let what = format!("{} {account} {}", by.authority, statement.payload);
        let head = AccountHead {
            account,
            custodian: "ch".into(),
            number: 3,
            hash: "h".into(),
            entry: 4,
            time_ms: 5,
            signature: "s".into(),
        };
        self.run(what, head)
    }
    fn account(
        &self,
        by: FromAuthority,
        account: AccountId,
    ) -> BoxFuture<'_, RegistryResult<Account>> {
        let shown = Account {
            id: account.to_string(),
            number: 0,
            hash: "h".into(),
            forked: false,
            authorities: vec![by.authority.to_string()],
            devices: Vec::new(),
            secret: false,
            recovery: None,
        };
        self.run(format!("{} shows", by.authority), shown)
    }
}

struct Plane {
    dir: tempfile::TempDir,
    api: Arc<FakeRegistry>,
    ch: Entity,
    ae: Entity,
    id: Entity,
    running: Running,
}

impl Plane {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 1);
        let ae = entity(dir.path(), ClusterRole::Home, "ae", 1);
        let id = entity(dir.path(), ClusterRole::Authority, "id-ee", 0);
        let api = Arc::new(FakeRegistry::default());
        let store = trust(&ch, &[&ae, &id]);
        let config = tls::registry_server(&store, &testkit::certs(&ch, 1));
        let router = registry::router(api.clone(), DEPLOYMENT);
        let running = start(
            router,
            Some(watch::channel(config).1),
            ServeLimits::default(),
        )
        .await;
        Self {
            dir,
            api,
            ch,
            ae,
            id,
            running,
        }
    }

    async fn connect(
        &self,
        as_entity: &Entity,
        certs: &Arc<CertSource>,
        custodian: &str,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let store = trust(as_entity, &[&self.ch]);
        let custodian = CustodianId::new(custodian).unwrap();
        let config = tls::registry_client(&store, certs, custodian);
        let tcp = TcpStream::connect(self.running.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(config)
            .connect(name, tcp)
            .await
    }

    fn authority(&self) -> Arc<CertSource> {
        let file = |name: &str| self.id.dir.join(name);
        CertSource::load("registry", &file("authority.crt"), &file("authority.key")).unwrap()
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        let stream = self.connect(&self.id, &self.authority(), "ch").await;
        send(stream.unwrap(), request(method, path, body, &[])).await
    }
}

const STATEMENT: &str = r#"{"payload":"{}","signatures":[{"key":"k","signature":"s"}]}"#;

#[tokio::test]
async fn authorities_reach_every_route() {
    let plane = Plane::new().await;
    let account = "ab".repeat(32);
    let reply = plane.call("POST", "/v1/accounts", STATEMENT).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json()["number"], 3);
    let one = format!("/v1/accounts/{account}");
    let reply = plane
        .call("POST", &format!("{one}/statements"), STATEMENT)
        .await;
    assert_eq!(reply.json()["account"], account.as_str());
    let reply = plane.call("GET", &one, "").await;
    assert_eq!(reply.json()["authorities"][0], "id-ee");
    let seen = std::mem::take(&mut *plane.api.seen.lock().unwrap());
    let told = format!("id-ee {account} {{}}");
    assert_eq!(seen, ["id-ee new {}", told.as_str(), "id-ee shows"]);

    let document = plane.call("GET", "/v1/openapi.json", "").await.json();
    for (path, method) in [
        ("/v1/accounts", "post"),
        ("/v1/accounts/{account}", "get"),
        ("/v1/accounts/{account}/statements", "post"),
        ("/v1/openapi.json", "get"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{path}");
    }
    assert_eq!(document["paths"].as_object().unwrap().len(), 4);
    assert_eq!(super::openapi::dangling(&document), Vec::<String>::new());
}

#[tokio::test]
async fn refusals_are_problems_with_the_custodians_own_code() {
    let plane = Plane::new().await;
    let refused = |code: &str| RegistryError::Refused {
        code: code.into(),
        reason: "the reason".into(),
    };
    for (error, status, code) in [
        (refused("behind"), 409, "behind"),
        (refused("unsigned"), 422, "unsigned"),
        (
            RegistryError::NotLeader { leader: Some(2) },
            503,
            "not_leader",
        ),
    ] {
        *plane.api.fails.lock().unwrap() = Some(error);
        let reply = plane.call("POST", "/v1/accounts", STATEMENT).await;
        let problem = reply.problem(status, code);
        assert!(code != "not_leader" || problem.next_step.contains("node 2"));
    }
    let reply = plane.call("GET", "/v1/accounts/xyz", "").await;
    reply.problem(400, "path_invalid");
    let reply = plane.call("POST", "/v1/accounts", "{\"payload\":1}").await;
    reply.problem(400, "body_invalid");
    let large = format!(
        "{{\"payload\":\"{}\"}}",
        "x".repeat(REGISTRY_BODY_BYTES_MAX)
    );
    let reply = plane.call("POST", "/v1/accounts", &large).await;
    reply.problem(413, "body_too_large");
    let reply = plane.call("POST", "/v1/freeze", "{}").await;
    reply.problem(404, "route_unknown");
}

#[tokio::test]
async fn nobody_else_gets_through_the_handshake() {
    let plane = Plane::new().await;
    let cases = [
        (&plane.ae, CertRole::Home, "ae"),
        (&plane.ae, CertRole::Operator, "ae"),
        (&plane.ch, CertRole::Custodian, "ch"),
        (&plane.ch, CertRole::Operator, "ch"),
        // Minted by others under the authority's name, or as an authority of their own name.
        (&plane.ae, CertRole::Authority, "id-ee"),
        (&plane.ch, CertRole::Authority, "id-ee"),
        (&plane.ae, CertRole::Authority, "ae"),
        // The authority's own CA, for what it is not.
        (&plane.id, CertRole::Custodian, "id-ee"),
        (&plane.id, CertRole::Home, "ae"),
    ];
    for (n, (issuer, role, cluster)) in cases.into_iter().enumerate() {
        let issued = forged(issuer, role, cluster, 1);
        let certs = source(plane.dir.path(), &format!("c{n}"), &issued);
        let reached = match plane.connect(&plane.id, &certs, "ch").await {
            Err(_) => false,
            // TLS 1.3: the client learns of the refusal with the first read.
            Ok(stream) => {
                let call = request("GET", "/v1/openapi.json", "", &[]);
                super::fixture::try_send(stream, false, call).await.is_ok()
            }
        };
        assert!(!reached, "{role} {cluster} of {}", issuer.descriptor.id);
    }
    assert!(plane.api.seen.lock().unwrap().is_empty());
    // Control; and the authority talks to no other custodian than it meant.
    assert_eq!(plane.call("GET", "/v1/openapi.json", "").await.status, 200);
    let other = plane.connect(&plane.id, &plane.authority(), "is").await;
    assert!(other.is_err());
}
