//! One small deployment of real processes, a client of it and the `quorate` binary.
//!
//! Every process of a deployment costs memory and elections; so the topologies
//! here are the smallest in which a statement can be false, and tests of this
//! file take turns.

use anyhow::Context;
use quorate_cli::client::{Client, ClientOptions, NewChat};
use quorate_cli::deployment::Deployment as Reach;
use quorate_cli::people::Person;
use quorate_engine::api::{Content, NewMessage};
use quorate_engine::types::kv::KvRead;
use quorate_node::config::Config;
use quorate_node::embedded::topology::Topology;
use quorate_node::pki::Descriptor;
use quorate_node::server;
use quorate_tests::deployment::{Deployment, NodeName, binary, http_get};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The home's name.
pub const HOME: &str = "ae";
/// The custodians; any two of them open a key.
pub const CUSTODIANS: [&str; 3] = ["ch", "is", "sg"];
/// Who the tests' own clients and commands act for.
pub const TESTER: &str = "tester";
/// How often something is looked at again.
pub const POLL: Duration = Duration::from_millis(100);

/// A command that is expected to end by itself may take so long.
const RUN_MAX: Duration = Duration::from_secs(60);

static TURN: Mutex<()> = Mutex::new(());

/// Tests of this file take turns: elections must not wait for another test's load.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A home and three custodians of so many nodes each, any two of which suffice.
pub fn topology(home_nodes: usize, nodes: [usize; 3], options: &str) -> Topology {
    let text = topology_text(home_nodes, nodes, options);
    Topology::parse("test topology", &text).expect("a topology of this file")
}

/// The same, as a file has it.
pub fn topology_text(home_nodes: usize, nodes: [usize; 3], options: &str) -> String {
    let mut text = format!(
        "[home]\nname = \"{HOME}\"\njurisdiction = \"ae\"\nentity = \"Home\"\nprovider = \"home\"\nnetwork = \"home\"\nnodes = {home_nodes}\n"
    );
    for (name, nodes) in CUSTODIANS.into_iter().zip(nodes) {
        text += &format!(
            "[[custodian]]\nname = \"{name}\"\njurisdiction = \"{name}\"\nentity = \"Keys of {name}\"\nprovider = \"{name}\"\nnetwork = \"{name}\"\nnodes = {nodes}\n"
        );
    }
    text +=
        "[policy.default]\nthreshold = 2\nmembers = [\"ch\", \"is\", \"sg\"]\nwrite_margin = 1\n";
    text += &format!("[options]\nshards = 2\n{options}");
    text
}

/// What a run of a binary left.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs one of our binaries to its end; one that does not end is killed and has no exit code.
pub fn run(name: &str, args: &[&str]) -> Ran {
    run_within(RUN_MAX, name, args)
}

/// The same, for a command that takes its time.
pub fn run_within(limit: Duration, name: &str, args: &[&str]) -> Ran {
    let limit = format!("{}s", limit.as_secs());
    let output = Command::new("timeout")
        .args(["--signal=KILL", &limit])
        .arg(binary(name).unwrap())
        .args(args)
        .output()
        .unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `quorate-node --config FILE`, which is expected to end by itself.
pub fn run_node(config: &Path) -> Ran {
    run("quorate-node", &["--config", config.to_str().unwrap()])
}

/// A running deployment.
pub struct World {
    /// Its processes.
    pub d: Deployment,
    /// Where clients run.
    pub rt: Runtime,
    person: OnceLock<Arc<Person>>,
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// Starts every node of `topology` and waits until all are ready.
    pub fn start(topology: &Topology) -> Self {
        let mut world = Self::lay_out(topology);
        world.d.start_all().unwrap();
        world.wait_ready();
        world
    }

    /// Lays `topology` out and starts nothing.
    pub fn lay_out(topology: &Topology) -> Self {
        let turn = turn();
        let dir = tempfile::tempdir().unwrap();
        let d = Deployment::lay_out(topology, &dir.path().join("d")).unwrap();
        let rt = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            d,
            rt,
            person: OnceLock::new(),
            dir,
            _turn: turn,
        }
    }

    /// Waits until every running node is ready.
    pub fn wait_ready(&mut self) {
        self.d
            .wait_ready(quorate_tests::deployment::READY_WAIT)
            .unwrap();
    }

    /// A place for a test's own files.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The deployment's directory.
    pub fn dir(&self) -> &Path {
        &self.d.layout.dir
    }

    /// Whom the tests' clients act for; logged in when first asked for.
    pub fn person(&self) -> Arc<Person> {
        let log_in = || {
            let log_in = || {
                self.rt
                    .block_on(self.d.log_in(TESTER))
                    .expect("the tester logs in")
            };
            // On a thread of its own: the caller may be on the runtime already.
            let wallet = std::thread::scope(|s| s.spawn(log_in).join()).unwrap();
            let reach = Reach::find(Some(self.dir())).unwrap();
            reach.person(&wallet).unwrap()
        };
        self.person.get_or_init(log_in).clone()
    }

    /// A client of the home with connections of its own.
    pub fn client(&self) -> Client {
        let options = ClientOptions {
            attempt_ms_max: 10_000,
            ..ClientOptions::default()
        };
        let https = |a: &std::net::SocketAddr| format!("https://{a}");
        let endpoints: Vec<String> = self.d.layout.client_endpoints().iter().map(https).collect();
        let ca = std::fs::read(&self.d.layout.home().ca).unwrap();
        Client::new(&endpoints, &ca, Some(self.person()), options).unwrap()
    }

    /// Runs `future` to its end.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.rt.block_on(future)
    }

    /// Makes a chat.
    pub fn chat(&self, title: &str) -> String {
        let client = self.client();
        let request = NewChat::new(hex::encode(rand::random::<[u8; 16]>()), content(title));
        self.wait(client.create_chat(&request)).unwrap().id
    }

    /// Appends one message for each text, each in a request of its own.
    pub fn send(&self, chat: &str, texts: &[String]) {
        let client = self.client();
        for text in texts {
            self.wait(client.append(chat, vec![message(text)])).unwrap();
        }
    }

    /// The texts of a chat, in order of message id, read through a quorum.
    pub fn texts(&self, chat: &str) -> Vec<String> {
        let client = self.client();
        self.wait(all(&client, chat)).unwrap()
    }

    /// Runs `quorate` on this deployment, as the tester.
    pub fn quorate(&self, args: &[&str]) -> Ran {
        self.quorate_as(TESTER, args)
    }

    /// Runs `quorate` on this deployment, as somebody who is logged in to it.
    pub fn quorate_as(&self, name: &str, args: &[&str]) -> Ran {
        let dir = self.dir().to_str().unwrap();
        let all = [&["--deployment", dir, "--as", name], args].concat();
        run("quorate", &all)
    }

    /// Runs `quorate` on this deployment and demands success.
    pub fn quorate_ok(&self, args: &[&str]) -> String {
        let ran = self.quorate(args);
        assert_eq!(ran.code, Some(0), "quorate {args:?}: {ran:?}");
        ran.out
    }

    /// The leader of a custodian, as its node `asked` sees it.
    pub fn leader(&self, cluster: &str) -> u64 {
        let found = eventually(Duration::from_secs(20), || {
            let ran = self.quorate(&["--json", "cluster", "show", cluster]);
            let view: serde_json::Value = serde_json::from_str(&ran.out)?;
            view["groups"][0]["leader"]
                .as_u64()
                .with_context(|| format!("{ran:?}"))
        });
        found.unwrap()
    }

    /// Waits until all running nodes of `cluster` have the same state at the same index.
    pub fn wait_equal_states(&self, cluster: &str, limit: Duration) {
        let nodes: Vec<&NodeName> = self.d.running.keys().filter(|n| n.0 == cluster).collect();
        let mut seen: BTreeMap<(u64, u64), (String, u64)> = BTreeMap::new();
        let round = eventually(limit, || {
            let mut states = Vec::new();
            for name in &nodes {
                let state = state_of(&self.d.node(name).health.to_string())?;
                for (group, applied, hash) in &state {
                    let (first, by) = seen
                        .entry((*group, *applied))
                        .or_insert_with(|| (hash.clone(), name.1));
                    assert_eq!(
                        first, hash,
                        "{cluster} group {group} at index {applied}: node {by} and node {} differ",
                        name.1
                    );
                }
                states.push(state);
            }
            anyhow::ensure!(states.windows(2).all(|w| w[0] == w[1]), "{states:?}");
            Ok(())
        });
        round.unwrap_or_else(|e| panic!("{cluster} does not converge: {e}"));
    }

    /// One figure of a node's metrics, summed over its labels; 0 when it is not there.
    pub fn metric(&self, node: &NodeName, name: &str) -> f64 {
        let health = self.d.node(node).health.to_string();
        let (_, text) = http_get(&health, "/metrics").unwrap();
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        text.lines()
            .filter(|l| l.starts_with(name))
            .filter(|l| matches!(l.as_bytes().get(name.len()), Some(b'{' | b' ')))
            .filter_map(value)
            .sum()
    }
}

fn state_of(health: &str) -> anyhow::Result<Vec<(u64, u64, String)>> {
    let (status, body) = http_get(health, "/state-hash")?;
    anyhow::ensure!(status == 200, "{status}: {body}");
    let groups: Vec<serde_json::Value> = serde_json::from_str(&body)?;
    let one = |g: &serde_json::Value| {
        Some((
            g["group"].as_u64()?,
            g["applied"].as_u64()?,
            g["hash"].as_str()?.to_owned(),
        ))
    };
    groups
        .iter()
        .map(|g| one(g).with_context(|| body.clone()))
        .collect()
}

/// Looks until `look` succeeds; the last error when it does not within `limit`.
pub fn eventually<T>(
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(e) if Instant::now() > until => return Err(e.context(format!("after {limit:?}"))),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Content with this text.
pub fn content(text: &str) -> Content {
    let mut content = Content::new();
    content.insert("text".into(), text.into());
    content
}

/// A message with this text, under a fresh idempotency key.
pub fn message(text: &str) -> NewMessage {
    NewMessage {
        idempotency_key: hex::encode(rand::random::<[u8; 16]>()),
        content: content(text),
    }
}

/// All texts of a chat; fails when message ids have a gap.
pub async fn all(client: &Client, chat: &str) -> anyhow::Result<Vec<String>> {
    let mut out = Vec::new();
    let mut from = 1;
    loop {
        let page = client.page(chat, from, 200).await?;
        for m in &page.messages {
            anyhow::ensure!(m.id == out.len() as u64 + 1, "gap before message {}", m.id);
            let text = m.content.get("text").and_then(|t| t.as_str());
            out.push(text.context("a message without text")?.to_owned());
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(out),
        }
    }
}

/// Node `id` of `cluster`.
pub fn node(cluster: &str, id: u64) -> NodeName {
    (cluster.to_owned(), id)
}

/// A stopped node's group, as `look` sees it.
pub fn offline<T>(config: &Path, group: u32, look: impl FnOnce(&dyn KvRead) -> T) -> T {
    let config = Config::load(config).unwrap();
    let own = Descriptor::load(&config.trust.own).unwrap();
    let storage = server::open_storage(&config).unwrap();
    let open = storage
        .group(group, server::machine(&own).unwrap())
        .unwrap();
    let seen = open.reader.view(look).unwrap();
    drop(open);
    storage.close().unwrap();
    seen
}
