//! Power cuts of a whole deployment: every node of every cluster at once, each on
//! an ext4 image of its own, with and without a journal, under load.
//!
//! The loss this prevents: an acknowledgement, of a message, an epoch, a freeze or
//! a tombstone, before a majority had it durably; a log or a vote that a node
//! took back. 20 cuts a store by default, `QUORATE_POWER_CUTS=200` for a long
//! run, `QUORATE_SEED` to cut at the same moments again; the table of results is
//! printed (`-- --nocapture`).
//!
//! Only what was said before the first image is cut counts; what is said later is
//! counted and shown. Leases die with the processes, so every read afterwards
//! goes through a quorum of custodians.

#[allow(dead_code)] // Shared with the deployment tests, which use all of it.
#[path = "deployment/world.rs"]
mod world;

use anyhow::{Context, ensure};
use futures::StreamExt;
use quorate_cli::client::{Client, NewChat};
use quorate_cli::deployment::Deployment as Reach;
use quorate_engine::api::NewMessage;
use quorate_engine::api::operator::{
    FreezeRequest, OperatorDone, OperatorStatus, ShredKey, ShredRequest,
};
use quorate_tests::deployment::{NodeName, tail};
use quorate_tests::powercut::{Image, skipped};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use world::{CUSTODIANS, HOME, World, all, content, eventually, message, topology};

/// Cuts of one deployment before a new one is laid out.
const CUTS_PER_DEPLOYMENT: u32 = 10;
const IMAGE_MIB: u64 = 512;
/// Chats that are written to all the time.
const STANDING: usize = 3;
/// The load runs at most so long before the cut.
const LOAD_MS_MAX: u64 = 700;
/// What is said within this after the cut is counted as said late.
const LATE: Duration = Duration::from_millis(30);
/// After a restart everything is readable again within this.
const BACK_MAX: Duration = Duration::from_secs(90);
const READS_AT_ONCE: usize = 8;

/// What was tried and what was acknowledged, since the deployment was laid out.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// By chat: every text ever sent there.
    sent: BTreeMap<String, BTreeSet<String>>,
    /// By acknowledged chat: acknowledged messages, id and text.
    acked: BTreeMap<String, BTreeMap<u64, String>>,
    /// By custodian: chats whose freeze was acknowledged.
    frozen: BTreeMap<String, BTreeSet<String>>,
    /// By custodian: keys whose tombstone was acknowledged, chat and key id.
    tombstones: BTreeMap<String, BTreeSet<(String, String)>>,
}

impl Ledger {
    fn messages(&self) -> usize {
        self.acked.values().map(BTreeMap::len).sum()
    }
    fn restrictions(&self) -> usize {
        let of = |m: &BTreeMap<String, BTreeSet<String>>| m.values().map(BTreeSet::len).sum();
        let frozen: usize = of(&self.frozen);
        frozen + self.tombstones.values().map(BTreeSet::len).sum::<usize>()
    }
}

type Shared = Arc<Mutex<Ledger>>;

fn held(ledger: &Shared) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(ledger: &Shared, what: impl FnOnce(&mut Ledger)) {
    what(&mut held(ledger));
}

/// What is wrong with a chat that reads as `texts`, in order of message id.
fn wrongs(
    chat: &str,
    acked: &BTreeMap<u64, String>,
    sent: &BTreeSet<String>,
    texts: &[String],
) -> Vec<String> {
    let mut out = Vec::new();
    for (id, text) in acked {
        let place = usize::try_from(*id).ok().and_then(|i| i.checked_sub(1));
        match place.and_then(|i| texts.get(i)) {
            None => out.push(format!("{chat} message {id}: acknowledged, gone")),
            Some(there) if there != text => {
                out.push(format!("{chat} message {id}: acknowledged, changed"));
            }
            Some(_) => {}
        }
    }
    let mut seen = BTreeSet::new();
    for text in texts {
        if !seen.insert(text) {
            out.push(format!("{chat}: {text} stands twice"));
        }
        if !sent.contains(text) {
            out.push(format!("{chat}: {text} was never sent"));
        }
    }
    out
}

#[test]
fn the_check_reports_what_is_missing_changed_doubled_or_made_up() {
    let text = |i: u64| format!("t{i}");
    let sent: BTreeSet<String> = (1..=4).map(text).collect();
    let acked: BTreeMap<u64, String> = (1..=3).map(|i| (i, text(i))).collect();
    let look = |ids: &[u64]| {
        let texts: Vec<String> = ids.iter().map(|i| text(*i)).collect();
        wrongs("c", &acked, &sent, &texts)
    };
    assert!(look(&[1, 2, 3]).is_empty());
    assert!(
        look(&[1, 2, 3, 4]).is_empty(),
        "the outcome of 4 was unknown"
    );
    assert_eq!(look(&[1, 2]), ["c message 3: acknowledged, gone"]);
    assert_eq!(look(&[1, 4, 3]), ["c message 2: acknowledged, changed"]);
    assert_eq!(look(&[1, 2, 3, 3]), ["c: t3 stands twice"]);
    assert_eq!(look(&[1, 2, 3, 9]), ["c: t9 was never sent"]);
    assert_eq!(look(&[]).len(), 3);
}

/// A deployment whose every node has a disk of its own.
struct Site {
    images: BTreeMap<NodeName, Image>,
    world: World,
    ledger: Shared,
    chats: Vec<String>,
    /// One a standing chat: what its writer had not heard back about.
    open: Vec<Arc<Mutex<Option<NewMessage>>>>,
}

impl Site {
    fn new(store: &str, journal: bool) -> Self {
        let options = format!("store = \"{store}\"\nsnapshot_entries = 60\n");
        let mut world = World::lay_out(&topology(3, [3, 1, 1], &options));
        let disks = world.scratch().join("disks");
        let logs = world.scratch().join("logs");
        std::fs::create_dir_all(&disks).unwrap();
        std::fs::create_dir_all(&logs).unwrap();
        world.d.logs = Some(logs);
        let images = world.d.names().into_iter().map(|name| {
            let place = world.d.node(&name).config.clone();
            let at = format!("{}-{}", name.0, name.1);
            let place = place.parent().unwrap();
            let image = Image::over(place, &disks, &at, IMAGE_MIB, journal).unwrap();
            (name, image)
        });
        let images = images.collect();
        world.d.start_all().unwrap();
        world.wait_ready();
        let chats: Vec<String> = (0..STANDING).map(|i| world.chat(&format!("{i}"))).collect();
        let mut ledger = Ledger::default();
        for chat in &chats {
            ledger.acked.insert(chat.clone(), BTreeMap::new());
            ledger.sent.insert(chat.clone(), BTreeSet::new());
        }
        Self {
            images,
            world,
            ledger: Arc::new(Mutex::new(ledger)),
            open: chats.iter().map(|_| Arc::default()).collect(),
            chats,
        }
    }

    fn reach(&self) -> Reach {
        Reach::find(Some(self.world.dir())).unwrap()
    }

    fn load(&self) -> Vec<JoinHandle<()>> {
        let rt = &self.world.rt;
        let mut tasks = Vec::new();
        for (i, chat) in self.chats.iter().enumerate() {
            let client = self.world.client();
            let (chat, open, ledger) = (chat.clone(), self.open[i].clone(), self.ledger.clone());
            tasks.push(rt.spawn(write(client, chat, open, ledger)));
        }
        let client = self.world.client();
        tasks.push(rt.spawn(open_chats(client, self.ledger.clone())));
        for custodian in CUSTODIANS {
            let client = self.reach().operator(custodian).unwrap();
            tasks.push(rt.spawn(restrict(client, custodian, self.ledger.clone())));
        }
        tasks
    }

    /// Cuts every disk at once; what was acknowledged before that.
    fn cut(&self) -> Ledger {
        let barrier = Barrier::new(self.images.len() + 1);
        std::thread::scope(|s| {
            for image in self.images.values() {
                s.spawn(|| {
                    barrier.wait();
                    image.cut().unwrap();
                });
            }
            let said = held(&self.ledger).clone();
            barrier.wait();
            said
        })
    }

    /// Power is back: every disk is checked and mounted, every node started.
    fn power_on(&mut self) {
        std::thread::scope(|s| {
            for image in self.images.values_mut() {
                s.spawn(|| image.restart().unwrap());
            }
        });
        self.world.d.start_all().unwrap();
    }

    fn check(&mut self, ledger: &Ledger) -> anyhow::Result<()> {
        self.world.d.wait_ready(BACK_MAX)?;
        let client = self.world.client();
        let read = |chat: String| {
            let client = client.clone();
            async move {
                let until = Instant::now() + BACK_MAX;
                loop {
                    match all(&client, &chat).await {
                        Ok(texts) => return Ok((chat, texts)),
                        Err(e) if Instant::now() > until => {
                            return Err(e.context(format!("chat {chat} cannot be read")));
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            }
        };
        let reads = futures::stream::iter(ledger.acked.keys().cloned().map(read));
        let texts: Vec<anyhow::Result<_>> =
            self.world.wait(reads.buffered(READS_AT_ONCE).collect());
        let mut bad = Vec::new();
        for read in texts {
            let (chat, texts) = read?;
            let sent = &ledger.sent[&chat];
            bad.extend(wrongs(&chat, &ledger.acked[&chat], sent, &texts));
            // Who has read a message has it acknowledged from then on.
            let seen = texts.into_iter().enumerate();
            let seen = seen.map(|(i, t)| (i as u64 + 1, t)).collect();
            held(&self.ledger).acked.insert(chat, seen);
        }
        ensure!(bad.is_empty(), "{bad:#?}");
        self.check_restrictions(ledger)
    }

    fn check_restrictions(&self, ledger: &Ledger) -> anyhow::Result<()> {
        for (custodian, scopes) in &ledger.frozen {
            let clients = self.reach().operator_of_each(custodian).unwrap();
            for client in clients {
                // A follower hears what is committed with the next heartbeats.
                eventually(Duration::from_secs(20), || {
                    let status: OperatorStatus = self.world.wait(client.get("/v1/status"))?;
                    let there: BTreeSet<&String> =
                        status.freezes.iter().map(|f| &f.scope).collect();
                    let gone: Vec<_> = scopes.iter().filter(|s| !there.contains(s)).collect();
                    ensure!(gone.is_empty(), "{custodian} thawed by itself: {gone:?}");
                    Ok(())
                })?;
            }
        }
        for (custodian, keys) in &ledger.tombstones {
            let client = self.reach().operator(custodian).unwrap();
            for keys in keys.iter().collect::<Vec<_>>().chunks(64) {
                let one = |(chat, key_id): &&(String, String)| ShredKey {
                    chat: chat.clone(),
                    key_id: key_id.clone(),
                };
                let request = ShredRequest {
                    keys: keys.iter().map(one).collect(),
                    reason: "again".into(),
                };
                let done: OperatorDone = self.world.wait(client.post("/v1/shred", &request))?;
                let said = done.detail.strip_prefix("shares: ").context("shares")?;
                let lost = said.split(", ").filter(|o| *o != "alreadytombstoned");
                let lost: Vec<_> = lost.collect();
                ensure!(lost.is_empty(), "{custodian} lost tombstones: {lost:?}");
            }
        }
        Ok(())
    }
}

async fn write(client: Client, chat: String, open: Arc<Mutex<Option<NewMessage>>>, ledger: Shared) {
    loop {
        let text = hex::encode(rand::random::<[u8; 16]>());
        // What the last cut left unanswered is repeated under its own key.
        let one = open
            .lock()
            .unwrap()
            .take()
            .unwrap_or_else(|| message(&text));
        let text = one.content["text"].as_str().unwrap().to_owned();
        *open.lock().unwrap() = Some(one.clone());
        note(&ledger, |l| {
            l.sent.get_mut(&chat).unwrap().insert(text.clone());
        });
        if let Ok(done) = client.append(&chat, vec![one]).await {
            *open.lock().unwrap() = None;
            note(&ledger, |l| {
                let known = l.acked.get_mut(&chat).unwrap();
                let before = known.insert(done.messages[0].id, text.clone());
                assert!(before.is_none_or(|b| b == text), "one id, two messages");
            });
        }
    }
}

async fn open_chats(client: Client, ledger: Shared) {
    loop {
        let request = NewChat::new(
            hex::encode(rand::random::<[u8; 16]>()),
            content("made under load"),
        );
        let Ok(chat) = client.create_chat(&request).await else {
            continue;
        };
        let text = hex::encode(rand::random::<[u8; 16]>());
        note(&ledger, |l| {
            l.sent.insert(chat.id.clone(), [text.clone()].into());
            l.acked.insert(chat.id.clone(), BTreeMap::new());
        });
        if let Ok(done) = client.append(&chat.id, vec![message(&text)]).await {
            let acked = BTreeMap::from([(done.messages[0].id, text)]);
            note(&ledger, |l| {
                l.acked.insert(chat.id, acked);
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn restrict(client: Client, custodian: &'static str, ledger: Shared) {
    loop {
        let chat = hex::encode(rand::random::<[u8; 32]>());
        let freeze = FreezeRequest {
            scope: chat.clone(),
            reason: "power cut".into(),
        };
        let done: Result<OperatorDone, _> = client.post("/v1/freeze", &freeze).await;
        if done.is_ok() {
            note(&ledger, |l| {
                let frozen = l.frozen.entry(custodian.into()).or_default();
                frozen.insert(chat.clone());
            });
        }
        let key_id = hex::encode(rand::random::<[u8; 16]>());
        let shred = ShredRequest {
            keys: vec![ShredKey {
                chat: chat.clone(),
                key_id: key_id.clone(),
            }],
            reason: "power cut".into(),
        };
        let done: Result<OperatorDone, _> = client.post("/v1/shred", &shred).await;
        if done.is_ok() {
            note(&ledger, |l| {
                let there = l.tombstones.entry(custodian.into()).or_default();
                there.insert((chat, key_id));
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[derive(Default)]
struct Sums {
    cuts: u32,
    messages: usize,
    chats: usize,
    restrictions: usize,
    late: usize,
    longest: Duration,
    bad: Vec<String>,
}

/// Lays a deployment out and cuts it up to `cuts` times, or until something is lost.
fn cut_one_deployment(store: &str, journal: bool, cuts: u32, rng: &mut StdRng, sums: &mut Sums) {
    let mut site = Site::new(store, journal);
    let end = sums.cuts + cuts;
    while sums.cuts < end {
        sums.cuts += 1;
        let began = Instant::now();
        let before = held(&site.ledger).messages();
        let load = site.load();
        eventually(BACK_MAX, || {
            ensure!(
                held(&site.ledger).messages() > before,
                "no message was acknowledged"
            );
            Ok(())
        })
        .unwrap();
        std::thread::sleep(Duration::from_millis(rng.random_range(0..LOAD_MS_MAX)));
        let mut said = site.cut();
        std::thread::sleep(LATE);
        for task in &load {
            task.abort();
        }
        let _ = site.world.wait(futures::future::join_all(load));
        let heard = held(&site.ledger).clone();
        for name in site.world.d.names() {
            site.world.d.kill(&name);
        }
        sums.late += heard.messages() - said.messages();
        said.sent = heard.sent;
        *held(&site.ledger) = said.clone();
        site.power_on();
        let checked = site.check(&said);
        sums.longest = sums.longest.max(began.elapsed());
        if let Err(e) = checked {
            let logs = site.world.d.names();
            let logs = logs.iter().map(|n| (n, tail(&site.world.d.log_of(n))));
            let logs: String = logs.map(|(n, l)| format!("{n:?}:\n{l}\n")).collect();
            let at = format!("cut {} (journal {journal}): {e:#}\n{logs}", sums.cuts);
            sums.bad.push(at);
            break;
        }
    }
    if sums.bad.is_empty() {
        for cluster in [&[HOME], &CUSTODIANS[..]].concat() {
            site.world.wait_equal_states(cluster, BACK_MAX);
        }
    }
    let ledger = held(&site.ledger).clone();
    sums.messages += ledger.messages();
    sums.chats += ledger.acked.len();
    sums.restrictions += ledger.restrictions();
}

fn cut_many(store: &str) {
    if skipped("power cuts of whole clusters") {
        return;
    }
    let cuts = number("QUORATE_POWER_CUTS").unwrap_or(20) as u32;
    let seed = number("QUORATE_SEED").unwrap_or_else(rand::random);
    println!("QUORATE_SEED={seed}");
    println!(
        "| store | cuts so far | messages | chats | freezes and tombstones | bad recoveries | messages said after the cut | mean, longest cycle |\n|---|---|---|---|---|---|---|---|"
    );
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sums = Sums::default();
    let began = Instant::now();
    for n in 0.. {
        let left = cuts - sums.cuts;
        if left == 0 {
            break;
        }
        let some = left.min(CUTS_PER_DEPLOYMENT);
        cut_one_deployment(store, n % 2 == 0, some, &mut rng, &mut sums);
        let each = began.elapsed() / sums.cuts.max(1);
        println!(
            "| {store} | {} | {} | {} | {} | {} | {} | {each:.1?}, {:.1?} |",
            sums.cuts,
            sums.messages,
            sums.chats,
            sums.restrictions,
            sums.bad.len(),
            sums.late,
            sums.longest
        );
    }
    assert!(
        sums.bad.is_empty(),
        "QUORATE_SEED={seed}\n{}",
        sums.bad.join("\n")
    );
}

#[test]
fn nothing_acknowledged_is_lost_with_redb() {
    cut_many("redb");
}

#[test]
fn nothing_acknowledged_is_lost_with_sled() {
    cut_many("sled");
}
