//! Answers with a deadline, and nodes that no descriptor names yet.

use super::*;
use crate::home::custodians::Custodians;
use crate::home::shard::Clock;
use crate::pki::Issued;
use crate::pki::testkit::DEPLOYMENT;
use quorate_engine::custody::protocol::{CustodianReply, CustodianRequest, Feed, PROTOCOL_VERSION};
use quorate_engine::types::{CustodianId, codec};
use std::time::Instant;

/// Answers with a deadline: `late` with one that has passed.
#[derive(Default)]
struct Held(Arc<AtomicUsize>);

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service for Held {
    fn call(&self, _: PeerIdentity, _: Bytes) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        panic!("the server asks for the whole answer")
    }
    fn answer(&self, _: PeerIdentity, body: Bytes) -> BoxFuture<'_, Result<Answer, ServiceError>> {
        let until = if body.starts_with(b"late") {
            Instant::now()
        } else {
            Instant::now() + WAIT
        };
        let guard = Box::new(Guard(self.0.clone()));
        let departing = Some(Departing { until, guard });
        let body = body.to_vec();
        Box::pin(async move { Ok(Answer { body, departing }) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_leaves_before_its_deadline_or_never() {
    let w = World::new();
    let (trust, certs_) = (trust(&w.ch, &[&w.ae, &w.is]), certs(&w.ch, 1));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = PeerServer::new(trust, certs_, ServerOptions::default());
    let held = Held::default();
    let ended = held.0.clone();
    server.register(services::CUSTODIAN, Allow::Homes, 8, Arc::new(held));
    let stop = CancellationToken::new();
    server.serve(listener, stop.clone());
    let to = PeerTarget {
        role: ClusterRole::Custodian,
        cluster: "ch".into(),
        node: 1,
    };
    let own = super::trust(&w.ae, &[&w.ch, &w.is]);
    let home = PeerClient::new(own, certs(&w.ae, 1), PeerClientOptions::default());
    home.set_address(to.clone(), address);
    let ask = |what: &[u8]| {
        let (home, to, what) = (home.clone(), to.clone(), what.to_vec());
        async move { home.call(&to, services::CUSTODIAN, what, WAIT).await }
    };
    assert_eq!(ask(b"early").await, Ok(b"early".to_vec()));
    let late = ask(b"late").await;
    assert!(
        matches!(&late, Err(CallError::Refused(ServiceError::Failed(why))) if why.contains("too late")),
        "{late:?}"
    );
    // The connection lives on, and both answers were let go of.
    assert_eq!(ask(b"early").await, Ok(b"early".to_vec()));
    for _ in 0..100 {
        if ended.load(Ordering::SeqCst) == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ended.load(Ordering::SeqCst), 3);
    stop.cancel();
}

/// A custodian's node: leads, or says who does and where.
struct Node(CustodianReply);

impl Service for Node {
    fn call(&self, _: PeerIdentity, _: Bytes) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        let reply = codec::encode(PROTOCOL_VERSION, &self.0);
        Box::pin(async move { Ok(reply) })
    }
}

/// A node of `ch` that shows this certificate and answers so; its address.
async fn node(w: &World, cert: &Issued, reply: CustodianReply, stop: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let certs = source(w.dir.path(), &address.replace(':', "-"), cert);
    let trust = trust(&w.ch, &[&w.ae, &w.is]);
    let server = PeerServer::new(trust, certs, ServerOptions::default());
    server.register(services::CUSTODIAN, Allow::Homes, 8, Arc::new(Node(reply)));
    server.serve(listener, stop.clone());
    address
}

/// After `cluster add-node` a custodian's new node may lead before homes have its new
/// descriptor. They follow the others' word to where it is, and believe its certificate only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_no_descriptor_names_is_found_and_proves_itself() {
    let w = World::new();
    let stop = CancellationToken::new();
    let feed = CustodianReply::Feed(Feed {
        position: 7,
        freezes: Vec::new(),
    });
    let role = CertRole::Custodian;
    let believed = [
        (forged(&w.ch, role, "ch", 9), true),
        (forged(&w.ch, role, "ch", 8), false),
        (forged(&w.is, role, "ch", 9), false),
        (forged(&w.is, role, "is", 9), false),
    ];
    for (cert, good) in believed {
        let address = node(&w, &cert, feed.clone(), &stop).await;
        let elsewhere = CustodianReply::NotLeader {
            leader: Some(9),
            address: Some(address),
        };
        let own = trust(&w.ae, &[&w.ch, &w.is]);
        let home = PeerClient::new(own, certs(&w.ae, 1), PeerClientOptions::default());
        for n in [1, 2] {
            let cert = forged(&w.ch, role, "ch", n);
            let address = node(&w, &cert, elsewhere.clone(), &stop).await;
            home.set_address(home.target("ch", n).unwrap(), address);
        }
        let custodians = Custodians::new(DEPLOYMENT, Arc::new(home.clone()), Clock::default());
        let ch = CustodianId::new("ch").unwrap();
        let ask = CustodianRequest::Feed { since: 0 };
        let wait = if good { 5_000 } else { 600 };
        let reply = custodians.ask(&ch, &ask, wait).await;
        assert_eq!(reply.is_ok(), good, "{reply:?}");
        if good {
            assert_eq!(reply, Ok(feed.clone()));
            assert_eq!(custodians.standing(&ch).leader, Some(9));
        }
        // What the descriptor says goes before what a node says of another.
        let named = home.target("ch", 1).unwrap();
        assert!(home.learn_address(&named, "127.0.0.1:1"));
        assert_ne!(home.address(&named).as_deref(), Some("127.0.0.1:1"));
    }
    stop.cancel();
}

#[test]
fn learned_addresses_are_bounded() {
    let w = World::new();
    let own = trust(&w.ae, &[&w.ch, &w.is]);
    let home = PeerClient::new(own, certs(&w.ae, 1), PeerClientOptions::default());
    let node = |n| home.target("ch", n).unwrap();
    assert!(!home.learn_address(&node(9), ""));
    assert!(!home.learn_address(&node(9), &"x".repeat(300)));
    let kept = (1_000..2_000).filter(|n| home.learn_address(&node(*n), "a:1"));
    assert_eq!(kept.count(), 256);
    assert!(
        home.learn_address(&node(1_000), "b:1"),
        "a known one may move"
    );
    assert_eq!(home.address(&node(1_000)).as_deref(), Some("b:1"));
}
