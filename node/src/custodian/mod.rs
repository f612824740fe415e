//! A custodian's node: keeps shares, releases them, and leaves a record first.
//!
//! ```text
//!  home ──peer plane──▶ Service ─▶ authz ─▶ prepare (pool) ─▶ Batcher ─▶ raft ─▶ custody::apply
//!                          ▲                                     │
//!                          └──────── finish (pool) ◀── Committed ┘
//!
//!  other nodes ──peer plane──▶ Internal: clocks, key versions on their way
//!  authorities ──registry plane──▶ chains ◀── home, other custodians (exchange): signed statements
//!  auditors, everybody ──audit plane──▶ publish: checkpoints, tiles, openings of what was applied
//!  Keeper: draws, spreads, attests, rotates and destroys key versions; sweeps; watches the clock
//! ```
//!
//! Every decision is the engine's (`quorate_engine::custody`); here are queues,
//! caches, timers, the vault file and the peers. The home's requests are
//! answered by the leader alone, and only once it holds every live key version.
//!
//! Deliberately not here: TLS and who may connect (`peer`, `pki`), HTTP
//! (`http::operator`), consensus (`raft`).

mod batch;
mod cache;
mod chains;
mod clock;
mod consensus;
mod departure;
mod exchange;
mod figures;
mod internal;
mod keeper;
mod locking;
mod officers;
mod open;
mod operator;
mod pool;
mod provider;
mod publish;
mod restart;
mod rewrap;
mod ring;
mod service;
mod token;
mod vault;
mod webhook;

pub use clock::{CLOCK_OFF_MS_MAX, ClockState};
pub use consensus::{ClusterPeers, Consensus, GroupConsensus, Lead, Peers, SubmitError};
pub use exchange::{
    EXCHANGE_EVERY, ExchangeAsk, ExchangeService, ExchangeTold, Neighbour, Neighbours,
};
pub use internal::InternalService;
pub use officers::{OrderHere, Seen};
pub use open::{GROUP, OpenProblem, facts, log_key, machine, policies};
pub use operator::{CustodianStatus, OperatorProblem, Recorded};
pub use provider::{KeyFile, OwnProvider, own_provider};
pub use publish::PUBLISH_EVERY;
pub use ring::Ring;
pub use service::HomeService;
pub use token::Token;
pub use vault::{VAULT_FILE, Vault, VaultProblem};
pub use webhook::{Webhook, WebhookProblem};

use crate::grants::GrantMemory;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::{HANDOVER_MS_MIN, Place};
use quorate_engine::types::{HomeId, WallMs};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Requests of homes in work on one node; more are answered `Busy`.
pub const REQUESTS_MAX: usize = 2_048;
/// Requests of one connection of a home in flight, for registering the service.
pub const HOME_IN_FLIGHT_MAX: usize = 1_024;
/// Internal requests of one connection in flight, for registering the service.
pub const INTERNAL_IN_FLIGHT_MAX: usize = 64;
/// Feeds held back at once on one node; more are answered at once.
const FEEDS_HELD_MAX: usize = 256;
/// Questions of one connection of another custodian in flight, for registering the service.
pub const EXCHANGE_IN_FLIGHT_MAX: usize = 16;
/// What `Busy` suggests to wait, in milliseconds.
const RETRY_MS: u64 = 200;

/// The clocks a custodian reads. Tests bend it.
pub type WallClock = Arc<dyn Fn() -> WallMs + Send + Sync>;
/// The homes this custodian knows, at the moment of asking.
pub type KnownHomes = Arc<dyn Fn() -> BTreeSet<HomeId> + Send + Sync>;

/// The system's wall clock. In test builds the failpoint `custodian-clock=return(MS)` is added to it.
pub fn system_clock() -> WallClock {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ms = since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        now_ms.saturating_add_signed(ahead_ms())
    })
}

fn ahead_ms() -> i64 {
    fail::fail_point!("custodian-clock", |ms| ms
        .and_then(|ms| ms.parse().ok())
        .unwrap_or(0));
    0
}

/// How a custodian keeps its keys and its house.
#[derive(Clone, Debug)]
pub struct CustodianOptions {
    /// A sealing version lives so long; at most seven days.
    pub sealing_life: Duration,
    /// A sealing version is followed by the next after this.
    pub sealing_rotate: Duration,
    /// A wrapping version is followed by the next after this.
    pub wrapping_rotate: Duration,
    /// Most shares wrapped anew in one tick, 1 to 256.
    pub rewraps_per_tick: usize,
    /// A former wrapping version is dropped so long after nothing lives under it: what was
    /// released under it is on its way for moments only.
    pub drop_after: Duration,
    /// How often key versions, clocks and expiries are looked after.
    pub tick: Duration,
    /// A restarted node gets its keys from a peer only so long after it last proved that it had them.
    pub handover_max: Duration,
    /// Policies (canonical form) that its operators put into this node's configuration.
    pub policies: Vec<Vec<u8>>,
}

impl Default for CustodianOptions {
    fn default() -> Self {
        Self {
            sealing_life: Duration::from_secs(6 * 24 * 60 * 60),
            sealing_rotate: Duration::from_secs(24 * 60 * 60),
            wrapping_rotate: Duration::from_secs(30 * 24 * 60 * 60),
            rewraps_per_tick: 256,
            drop_after: Duration::from_secs(10),
            tick: Duration::from_secs(1),
            handover_max: Duration::from_millis(HANDOVER_MS_MIN),
            policies: Vec::new(),
        }
    }
}

/// The key that signs what this custodian states: receipts and sealing-key statements. It is
/// named in the descriptor, which the identity key signed; so the identity key stays off the nodes.
pub struct SigningKeys {
    /// The log key.
    pub log: SigningKey,
}

struct Inner {
    place: Place,
    signing: SigningKeys,
    options: CustodianOptions,
    consensus: Arc<dyn Consensus>,
    peers: Arc<dyn Peers>,
    homes: KnownHomes,
    neighbours: Arc<dyn Neighbours>,
    exchange: exchange::Exchange,
    clock: WallClock,
    clock_state: RwLock<ClockState>,
    /// The term in which clocks were compared last.
    clock_term: AtomicU64,
    vault: Arc<Mutex<Vault>>,
    ring: RwLock<Arc<Ring>>,
    /// Whether the vault is open.
    open: AtomicBool,
    provider: Option<Arc<dyn OwnProvider>>,
    ceremonies: Mutex<locking::Ceremonies>,
    restart: Mutex<restart::Restart>,
    rewrapping: Mutex<rewrap::Progress>,
    /// The term in which this node, as leader, was seen to hold every live key version; 0: none.
    ready_term: AtomicU64,
    gate: departure::Gate,
    batcher: batch::Batcher,
    cache: cache::Cache,
    /// Grants whose signature this node looked at.
    grants: GrantMemory,
    pool: pool::Pool,
    figures: figures::Figures,
    publisher: publish::Publisher,
    requests: tokio::sync::Semaphore,
    feeds_held: tokio::sync::Semaphore,
    /// Counts freezes and thaws that were committed through this node.
    restrictions: tokio::sync::watch::Sender<u64>,
}

/// A custodian on one node. Cheap to clone.
#[derive(Clone)]
pub struct Custodian(Arc<Inner>);

/// Everything a custodian is put together from.
pub struct Parts {
    /// Which custodian of which deployment.
    pub place: Place,
    /// Its signing keys.
    pub signing: SigningKeys,
    /// Its consensus group.
    pub consensus: Arc<dyn Consensus>,
    /// The other nodes of the cluster.
    pub peers: Arc<dyn Peers>,
    /// The homes it knows.
    pub homes: KnownHomes,
    /// Authorities, entities and other custodians it believes.
    pub neighbours: Arc<dyn Neighbours>,
    /// Its wall clock.
    pub clock: WallClock,
    /// Its key versions on disk.
    pub vault: Vault,
    /// What opens its root without people, if anything does.
    pub provider: Option<Arc<dyn OwnProvider>>,
    /// Settings.
    pub options: CustodianOptions,
}

impl Custodian {
    /// Puts a custodian together and starts looking after its keys, until `stop`.
    pub fn start(parts: Parts, stop: CancellationToken) -> Self {
        figures::describe();
        let ring = Arc::new(Ring::of(&parts.vault));
        let open = parts.vault.is_open();
        parts.consensus.may_lead(open);
        let figures = figures::Figures::new(&parts.place.custodian, parts.consensus.node());
        let batcher = batch::Batcher::start(parts.consensus.clone(), figures.clone(), stop.clone());
        let custodian = Self(Arc::new(Inner {
            place: parts.place,
            signing: parts.signing,
            options: parts.options,
            consensus: parts.consensus,
            peers: parts.peers,
            homes: parts.homes,
            neighbours: parts.neighbours,
            exchange: exchange::Exchange::default(),
            clock: parts.clock,
            clock_state: RwLock::new(ClockState::default()),
            clock_term: AtomicU64::new(0),
            vault: Arc::new(Mutex::new(parts.vault)),
            ring: RwLock::new(ring),
            open: AtomicBool::new(open),
            provider: parts.provider,
            ceremonies: Mutex::default(),
            restart: Mutex::new(restart::Restart::new(open)),
            rewrapping: Mutex::default(),
            ready_term: AtomicU64::new(0),
            gate: departure::Gate::new(),
            batcher,
            cache: cache::Cache::default(),
            grants: GrantMemory::default(),
            pool: pool::Pool::new(),
            figures,
            publisher: publish::Publisher::default(),
            requests: tokio::sync::Semaphore::new(REQUESTS_MAX),
            feeds_held: tokio::sync::Semaphore::new(FEEDS_HELD_MAX),
            restrictions: tokio::sync::watch::Sender::new(0),
        }));
        tokio::spawn(keeper::run(custodian.clone(), stop.clone()));
        tokio::spawn(exchange::run(custodian.clone(), stop.clone()));
        tokio::spawn(publish::run(custodian.clone(), stop.clone()));
        tokio::spawn(clock::run(custodian.clone(), stop));
        custodian
    }

    /// What homes ask; register under [`services::CUSTODIAN`](crate::peer::services::CUSTODIAN).
    pub fn home_service(&self) -> Arc<HomeService> {
        Arc::new(HomeService(self.clone()))
    }

    /// What other custodians ask; register under
    /// [`services::CUSTODIAN_EXCHANGE`](crate::peer::services::CUSTODIAN_EXCHANGE).
    pub fn exchange_service(&self) -> Arc<ExchangeService> {
        Arc::new(ExchangeService(self.clone()))
    }

    /// What the other nodes ask; register under
    /// [`services::CUSTODIAN_INTERNAL`](crate::peer::services::CUSTODIAN_INTERNAL).
    pub fn internal_service(&self) -> Arc<InternalService> {
        Arc::new(InternalService(self.clone()))
    }

    /// Whether this node leads, holds every live key version, and has compared its chains
    /// with whoever of the other custodians answered.
    pub fn serves(&self) -> bool {
        let lead = self.0.consensus.lead();
        self.unlocked()
            && lead.is_leader
            && self.0.ready_term.load(Ordering::Acquire) == lead.term
            && self.0.exchange.compared(lead.term)
    }

    /// Whether its root and keys are loaded: false means this node is locked.
    pub fn unlocked(&self) -> bool {
        self.0.open.load(Ordering::Acquire)
    }

    fn now(&self) -> WallMs {
        (self.0.clock)()
    }

    fn ring(&self) -> Arc<Ring> {
        self.0.ring.read().expect("no writer panics").clone()
    }
}

#[cfg(test)]
mod tests;
