//! The operator plane (who may call, and what it passes on) and the health plane.

use super::fixture::{Ca, Identity, Reply, connect, request, send, start};
use crate::http::health::{self, GroupHash, HealthApi, Readiness};
use crate::http::operator::{
    self, Operator, OperatorApi, OperatorError, OperatorResult, OwnCluster,
};
use crate::http::serve::{Running, ServeLimits};
use crate::http::tls;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_engine::api::officers::{OfficersView, OrderDetail, OrdersView, ProposalView};
use quorate_engine::api::operator::{
    AddNode, ClusterView, OperatorDone, OperatorStatus, RemoveNode, TransferLeader,
};
use quorate_engine::api::registry::Statement;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{Floor, ProposalId, ProposalOutcome};
use quorate_engine::custody::protocol::{FreezeScope, KeyRef};
use quorate_engine::types::{DeploymentId, OrderId, Outcome};
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;

#[derive(Default)]
struct FakeNode {
    done: Mutex<Vec<String>>,
    fails: Mutex<Option<OperatorError>>,
}

impl FakeNode {
    fn note(&self, text: String) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        async move {
            if let Some(error) = self.fails.lock().unwrap().clone() {
                return Err(error);
            }
            self.done.lock().unwrap().push(text.clone());
            Ok(OperatorDone {
                detail: text,
                entry: Some(7),
                index: Some(9),
            })
        }
        .boxed()
    }
}

impl OperatorApi for FakeNode {
    fn status(&self) -> BoxFuture<'_, OperatorStatus> {
        async {
            OperatorStatus {
                deployment: "d".into(),
                role: "custodian".into(),
                cluster: "ch".into(),
                node: 1,
                version: "0".into(),
                unlocked: true,
                groups: Vec::new(),
                freezes: Vec::new(),
                versions: None,
                certificate_expires_ms: None,
                warnings: Vec::new(),
            }
        }
        .boxed()
    }
    fn cluster(&self) -> BoxFuture<'_, OperatorResult<ClusterView>> {
        let view = ClusterView {
            cluster: "ch".into(),
            members: Vec::new(),
            groups: Vec::new(),
        };
        async move { Ok(view) }.boxed()
    }
    fn add_node(&self, by: Operator, r: AddNode) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        self.note(format!("{} adds {} at {}", by.name, r.node, r.address))
    }
    fn remove_node(
        &self,
        by: Operator,
        r: RemoveNode,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        self.note(format!("{} removes {}", by.name, r.node))
    }
    fn transfer_leader(
        &self,
        by: Operator,
        r: TransferLeader,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        self.note(format!("{} gives {} to {}", by.name, r.group, r.to))
    }
    fn freeze(
        &self,
        by: Operator,
        scope: FreezeScope,
        reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        let all = scope == FreezeScope::All;
        self.note(format!("{} freezes all={all}: {reason}", by.name))
    }
    fn thaw(
        &self,
        by: Operator,
        scope: FreezeScope,
        reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        let all = scope == FreezeScope::All;
        self.note(format!("{} thaws all={all}: {reason}", by.name))
    }
    fn shred(
        &self,
        by: Operator,
        keys: Vec<KeyRef>,
        reason: String,
    ) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        self.note(format!("{} shreds {}: {reason}", by.name, keys.len()))
    }
    fn officers(&self) -> BoxFuture<'_, OperatorResult<OfficersView>> {
        let view = OfficersView {
            deployment: "d".into(),
            custodian: "ch".into(),
            position: 7,
            roster: None,
            floor: Floor::default(),
            cool_off_ms: 1,
            recovery_wait_ms: 1,
            proposals: Vec::new(),
            auditors: Vec::new(),
        };
        async move { Ok(view) }.boxed()
    }
    /// There is one, of zeros.
    fn proposal(&self, id: ProposalId) -> BoxFuture<'_, OperatorResult<Option<ProposalView>>> {
        let view = (id.0 == [0; 32]).then(|| ProposalView {
            id: id.to_string(),
            statement: Statement {
                payload: "{}".into(),
                signatures: Vec::new(),
            },
            outcome: ProposalOutcome::Open,
            expires_ms: 1,
            approvals: Vec::new(),
            rejections: Vec::new(),
        });
        async move { Ok(view) }.boxed()
    }
    fn orders(&self) -> BoxFuture<'_, OperatorResult<OrdersView>> {
        let view = OrdersView {
            position: 7,
            orders: Vec::new(),
        };
        async move { Ok(view) }.boxed()
    }
    fn order(&self, _: OrderId) -> BoxFuture<'_, OperatorResult<Option<OrderDetail>>> {
        async { Ok(None) }.boxed()
    }
    fn hand_in(&self, by: Operator, e: Envelope) -> BoxFuture<'_, OperatorResult<OperatorDone>> {
        let (payload, n) = (&e.payload, e.signatures.len());
        self.note(format!("{} hands {payload} in, signed {n} times", by.name))
    }
}

struct Plane {
    node: Arc<FakeNode>,
    ca: Ca,
    running: Running,
}

impl Plane {
    async fn new() -> Self {
        let (node, ca) = (Arc::new(FakeNode::default()), Ca::new());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(ca.roots(), provider)
                .build()
                .unwrap();
        let (chain, key) = ca.issue(&[]);
        let config = tls::server_config(chain, key, Some(verifier)).unwrap();
        let own = OwnCluster {
            deployment: DeploymentId([0x0d; 16]),
            cluster: "ch".into(),
        };
        let router = operator::router(node.clone(), own);
        let running = start(router, Some(tls::fixed(config)), ServeLimits::default()).await;
        Self { node, ca, running }
    }
    async fn call_as(&self, who: Identity, method: &str, path: &str, body: &str) -> Reply {
        let config = self.ca.connector(Some(who));
        let stream = connect(self.running.address, config).await.unwrap();
        send(stream, request(method, path, body, &[])).await
    }
    async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        let seven = self
            .ca
            .issue(&["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/operator/ch/7"]);
        self.call_as(seven, method, path, body).await
    }
}

#[tokio::test]
async fn operators_reach_every_route() {
    let plane = Plane::new().await;
    for path in ["/v1/status", "/v1/cluster"] {
        let reply = plane.call("GET", path, "").await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["cluster"]),
            (200, &"ch".into())
        );
    }
    let chat = "ab".repeat(32);
    let key = format!(r#"{{"chat":"{chat}","key_id":"{}"}}"#, "cd".repeat(16));
    let calls = [
        (
            "/v1/freeze",
            r#"{"scope":"all","reason":"seized"}"#.to_owned(),
            "7 freezes all=true: seized",
        ),
        (
            "/v1/thaw",
            format!(r#"{{"scope":"{chat}","reason":"over"}}"#),
            "7 thaws all=false: over",
        ),
        (
            "/v1/shred",
            format!(r#"{{"keys":[{key},{key}],"reason":"asked"}}"#),
            "7 shreds 2: asked",
        ),
        (
            "/v1/cluster/add-node",
            r#"{"node":4,"address":"h:1"}"#.into(),
            "7 adds 4 at h:1",
        ),
        (
            "/v1/officers/statements",
            r#"{"statement":{"payload":"{}","signatures":[{"key":"k","signature":"s"}]}}"#.into(),
            "7 hands {} in, signed 1 times",
        ),
        (
            "/v1/cluster/remove-node",
            r#"{"node":2}"#.into(),
            "7 removes 2",
        ),
        (
            "/v1/cluster/transfer-leader",
            r#"{"group":0,"to":3}"#.into(),
            "7 gives 0 to 3",
        ),
    ];
    for (path, body, done) in calls {
        let reply = plane.call("POST", path, &body).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(reply.json()["detail"], done);
        assert_eq!(plane.node.done.lock().unwrap().pop().unwrap(), done);
        plane
            .call("GET", path, "")
            .await
            .problem(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn officers_and_orders_are_read_by_their_ids() {
    let plane = Plane::new().await;
    let known = "00".repeat(32);
    let reply = plane.call("GET", "/v1/officers", "").await;
    assert_eq!(reply.json()["roster"], serde_json::Value::Null);
    let reply = plane.call("GET", "/v1/orders", "").await;
    assert_eq!(reply.json()["position"], 7);
    for what in ["officers/proposals", "orders"] {
        let get = async |id: &str| plane.call("GET", &format!("/v1/{what}/{id}"), "").await;
        get("xyz").await.problem(400, "body_invalid");
        get(&"11".repeat(32)).await.problem(404, "not_found");
    }
    let path = format!("/v1/officers/proposals/{known}");
    assert_eq!(plane.call("GET", &path, "").await.json()["id"], known);
    let long = "x".repeat(41 << 10);
    let big = format!(r#"{{"statement":{{"payload":"{long}","signatures":[]}}}}"#);
    let reply = plane.call("POST", "/v1/officers/statements", &big).await;
    assert_eq!(reply.status, 413);
    assert!(plane.node.done.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nobody_else_reaches_any_route() {
    let plane = Plane::new().await;
    let wrong: [&[&str]; 10] = [
        &[],
        &["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/custodian/ch/1"],
        &["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/home/ch/1"],
        &["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/operator/is/7"],
        &["quorate://0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e/operator/ch/7"],
        &["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/operator/ch/"],
        &["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/operator/ch/alice"],
        &["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/operator/ch/07"],
        &["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/operator/ch/7/more"],
        &[
            "quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/custodian/ch/1",
            "quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/operator/ch/7",
        ],
    ];
    for uris in wrong {
        let who = || plane.ca.issue(uris);
        let body = r#"{"scope":"all","reason":"x"}"#;
        let reply = plane.call_as(who(), "POST", "/v1/freeze", body).await;
        reply.problem(403, "not_operator");
        plane
            .call_as(who(), "GET", "/v1/status", "")
            .await
            .problem(403, "not_operator");
    }
    assert!(plane.node.done.lock().unwrap().is_empty());

    // Without a certificate, or with one of another authority, TLS itself ends it.
    let stranger = Ca::new().issue(&["quorate://0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d/operator/ch/7"]);
    for identity in [None, Some(stranger)] {
        let config = plane.ca.connector(identity);
        let refused = match connect(plane.running.address, config).await {
            Err(_) => true,
            // In TLS 1.3 the client ends its handshake first: the refusal comes with the reply.
            Ok(stream) => {
                let request = request("GET", "/v1/status", "", &[]);
                super::fixture::try_send(stream, false, request)
                    .await
                    .is_err()
            }
        };
        assert!(refused);
    }
}

#[tokio::test]
async fn bad_input_and_refusals_are_problems() {
    let plane = Plane::new().await;
    let bad = [
        (
            "/v1/freeze",
            r#"{"scope":"everything","reason":"x"}"#,
            "body_invalid",
        ),
        (
            "/v1/freeze",
            r#"{"scope":"all","reason":""}"#,
            "body_invalid",
        ),
        ("/v1/freeze", r#"{"scope":"all"}"#, "body_invalid"),
        ("/v1/shred", r#"{"keys":[],"reason":"x"}"#, "body_invalid"),
        (
            "/v1/shred",
            r#"{"keys":[{"chat":"1","key_id":"2"}],"reason":"x"}"#,
            "body_invalid",
        ),
        (
            "/v1/cluster/add-node",
            r#"{"node":-1,"address":"h:1"}"#,
            "body_invalid",
        ),
        ("/v1/cluster/add-node", "{", "json_invalid"),
    ];
    for (path, body, code) in bad {
        plane.call("POST", path, body).await.problem(400, code);
    }
    let unknown = OperatorError::Unavailable {
        detail: "lost leadership".into(),
        retry_ms: 2_000,
        outcome: Outcome::Unknown,
    };
    let cases = [
        (
            OperatorError::NotHere("x".into()),
            409,
            "not_here",
            Outcome::NotDone,
        ),
        (
            OperatorError::Invalid("x".into()),
            400,
            "invalid",
            Outcome::NotDone,
        ),
        (
            OperatorError::Refused("x".into()),
            409,
            "refused",
            Outcome::NotDone,
        ),
        (
            OperatorError::NotLeader { leader: Some(3) },
            503,
            "not_leader",
            Outcome::NotDone,
        ),
        (
            OperatorError::NotLeader { leader: None },
            503,
            "not_leader",
            Outcome::NotDone,
        ),
        (unknown, 503, "unavailable", Outcome::Unknown),
    ];
    for (error, status, code, outcome) in cases {
        *plane.node.fails.lock().unwrap() = Some(error);
        let reply = plane
            .call("POST", "/v1/cluster/remove-node", r#"{"node":2}"#)
            .await;
        assert_eq!(reply.problem(status, code).outcome, outcome);
    }
    let client_routes = plane.call("GET", "/v1/chats", "").await;
    client_routes.problem(404, "route_unknown");
}

#[derive(Default)]
struct FakeHealth {
    dead: Mutex<bool>,
    reasons: Mutex<Vec<String>>,
}

impl HealthApi for FakeHealth {
    fn live(&self) -> Result<(), String> {
        if *self.dead.lock().unwrap() {
            Err("the WAL writer ended".into())
        } else {
            Ok(())
        }
    }
    fn ready(&self) -> Readiness {
        Readiness::of(self.reasons.lock().unwrap().clone())
    }
    fn metrics(&self) -> String {
        "quorate_up 1\n".into()
    }
    fn state_hash(&self) -> BoxFuture<'_, Result<Vec<GroupHash>, String>> {
        let dead = *self.dead.lock().unwrap();
        async move {
            if dead {
                return Err("the store is closed".into());
            }
            Ok(vec![GroupHash {
                group: 0,
                applied: 5,
                hash: "aa".into(),
            }])
        }
        .boxed()
    }
}

#[tokio::test]
async fn health_tells_reasons_metrics_and_hashes() {
    let node = Arc::new(FakeHealth::default());
    let running = start(health::router(node.clone()), None, ServeLimits::default()).await;
    let get = async |path: &'static str| {
        let stream = TcpStream::connect(running.address).await.unwrap();
        send(stream, request("GET", path, "", &[])).await
    };
    assert_eq!(get("/livez").await.status, 200);
    assert_eq!(get("/readyz").await.json()["ready"], true);
    let metrics = get("/metrics").await;
    assert_eq!(metrics.body, b"quorate_up 1\n");
    assert!(metrics.header("content-type").starts_with("text/plain"));
    assert_eq!(get("/state-hash").await.json()[0]["applied"], 5);

    *node.reasons.lock().unwrap() = vec!["group 2 has no leader".into()];
    let waiting = get("/readyz").await;
    assert_eq!(waiting.status, 503);
    assert_eq!(waiting.json()["reasons"][0], "group 2 has no leader");
    *node.dead.lock().unwrap() = true;
    get("/livez").await.problem(503, "not_live");
    get("/state-hash").await.problem(503, "no_state_hash");
    get("/v1/status").await.problem(404, "route_unknown");
    running.stop().await;
}
