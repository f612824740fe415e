//! Freeze drills: how long after a freeze something can still be read.
//!
//! One message is read through every home node, all the time. A set of custodians that blocks
//! every opening is frozen; what counts is when the last read was served after the last of them
//! had confirmed. Each case begins and ends with the control: reads that succeed.

use crate::client::{Client, ClientError, ClientOptions, NewChat};
use crate::commands::idempotency_key;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure};
use crate::people::{Known, account};
use futures::future::try_join_all;
use quorate_engine::api::operator::{FreezeRequest, OperatorDone};
use quorate_engine::api::{Content, NewMessage};
use quorate_engine::home::FEED_GRACE_MS;
use quorate_node::embedded::Embedded;
use serde::Serialize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A home that is told of a freeze drops what it leased within this time, in milliseconds.
pub const TOLD_MS_MAX: u64 = 1_000;
/// The same for a home that hears nothing any more.
pub const CUT_OFF_MS_MAX: u64 = FEED_GRACE_MS + TOLD_MS_MAX;
/// Pause between two reads through one node.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Nothing served for so long: it is dark.
const QUIET: Duration = Duration::from_secs(3);
/// Who reads.
const PERSON: &str = "drill";
/// Longest wait for reads to succeed, and for a start.
const LIGHT_WAIT: Duration = Duration::from_secs(90);

/// What happens around the freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// The home hears of it from the custodians.
    Told,
    /// Nothing passes between the home and the custodians that freeze.
    CutOff,
    /// The home's nodes start again right after it.
    Restarted,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Told, Self::CutOff, Self::Restarted];

    /// The longest time allowed until it is dark, in milliseconds.
    pub fn limit_ms(self) -> u64 {
        match self {
            Self::Told | Self::Restarted => TOLD_MS_MAX,
            Self::CutOff => CUT_OFF_MS_MAX,
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::CutOff => "cut off",
            Self::Restarted => "home restarted",
        }
    }
}

/// What one case showed.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The case.
    pub case: Case,
    /// Who froze.
    pub frozen: Vec<String>,
    /// From the request to the last confirmation, in milliseconds.
    pub confirmed_ms: u64,
    /// From the last confirmation to the last read served, in milliseconds; 0 when none was.
    pub dark_ms: u64,
    /// The longest time allowed.
    pub limit_ms: u64,
    /// Reads served after the last confirmation.
    pub reads_after: u64,
    /// From the thaw to reads through every node, in milliseconds; none where it stays frozen.
    pub light_ms: Option<u64>,
    /// Whether it was dark in time and stayed so until the thaw.
    pub held: bool,
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "drill",
        e.to_string(),
        "look at `quorate status`, thaw what is still frozen, and run it again",
    )
}

/// What was seen through one home node.
#[derive(Clone, Debug)]
struct Seen {
    served: Option<Instant>,
    count: u64,
    /// The last read that failed, and why.
    refused: Option<(Instant, ClientError)>,
}

impl Seen {
    fn note(&mut self, failed: Option<ClientError>) {
        match failed {
            None => {
                self.served = Some(Instant::now());
                self.count += 1;
            }
            Some(e) => self.refused = Some((Instant::now(), e)),
        }
    }
}

/// Reads one message through each home node until it is dropped.
struct Watch {
    seen: Vec<Arc<Mutex<Seen>>>,
    _readers: JoinSet<()>,
}

impl Watch {
    fn start(nodes: Vec<Client>, chat: &str, message: u64) -> Self {
        let mut readers = JoinSet::new();
        let watch = |client: Client| {
            let seen = Arc::new(Mutex::new(Seen {
                served: None,
                count: 0,
                refused: None,
            }));
            let (out, chat) = (seen.clone(), chat.to_owned());
            readers.spawn(async move {
                loop {
                    let read = client.message(&chat, message).await;
                    out.lock().expect("no holder panics").note(read.err());
                    tokio::time::sleep(READ_EVERY).await;
                }
            });
            seen
        };
        Self {
            seen: nodes.into_iter().map(watch).collect(),
            _readers: readers,
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let all = self.seen.iter();
        all.map(|s| s.lock().expect("no holder panics").clone())
            .collect()
    }

    fn served(&self) -> u64 {
        self.seen().iter().map(|s| s.count).sum()
    }

    /// The newest read served after `since`.
    fn last_after(&self, since: Instant) -> Option<Instant> {
        let served = self.seen().into_iter().filter_map(|s| s.served);
        served.filter(|at| *at > since).max()
    }

    /// Waits until every node served a read that ended after `since`.
    async fn light(&self, since: Instant) -> Result<(), Failure> {
        let until = Instant::now() + LIGHT_WAIT;
        loop {
            let seen = self.seen();
            if seen.iter().all(|s| s.served.is_some_and(|at| at > since)) {
                return Ok(());
            }
            if Instant::now() > until {
                let why = seen.into_iter().filter_map(|s| s.refused).next_back();
                let why = why.map_or_else(|| "no answer".to_owned(), |(_, e)| e.to_string());
                return Err(failed(format!(
                    "reads do not succeed through every home node: {why}"
                )));
            }
            tokio::time::sleep(READ_EVERY).await;
        }
    }

    /// Waits until nothing was served for [`QUIET`] and every node refused,
    /// or until `limit` has passed by far. True when it is dark.
    async fn dark(&self, since: Instant, limit: Duration) -> bool {
        let until = Instant::now() + limit + 4 * QUIET;
        loop {
            let quiet = self.last_after(since).unwrap_or(since).elapsed() > QUIET;
            let refused = self.seen().into_iter().all(|s| {
                let refused = |e: &ClientError| matches!(e, ClientError::Problem(_));
                s.refused.is_some_and(|(at, e)| at > since && refused(&e))
            });
            if quiet && refused {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            tokio::time::sleep(READ_EVERY).await;
        }
    }
}

/// A client for each home node, each asked once.
fn through_each(deployment: &Deployment, client: &Client) -> Result<Vec<Client>, Failure> {
    let options = ClientOptions {
        attempts_max: 1,
        attempt_ms_max: 10_000,
        ..ClientOptions::default()
    };
    let one = |endpoint: &String| {
        let mut alone = deployment.clone();
        alone.file.endpoints = vec![endpoint.clone()];
        let client = alone.client(client.person().cloned())?;
        Ok(client.with_options(options))
    };
    deployment.file.endpoints.iter().map(one).collect()
}

/// One message of one chat, to be read through every home node.
pub struct Drill {
    /// Where.
    pub deployment: Deployment,
    /// A client that may read it.
    pub client: Client,
    /// The chat.
    pub chat: String,
    /// The message.
    pub message: u64,
    /// What the freezes cover: `all`, or the chat.
    pub scope: String,
    /// Who freezes: a set that blocks every opening.
    pub custodians: Vec<String>,
    /// Stands in the custodians' logs.
    pub reason: String,
    /// Thawing needs officers: it is theirs to do afterwards.
    pub leave_frozen: bool,
}

impl Drill {
    /// One case. What the home's nodes run in this process is needed for all but [`Case::Told`].
    ///
    /// # Errors
    /// [`Failure`] when a control fails or a custodian does not answer; what was frozen is thawed
    /// first, as far as that can be done.
    pub async fn measure(
        &self,
        case: Case,
        mut here: Option<&mut Embedded>,
    ) -> Result<Measured, Failure> {
        let watch = Watch::start(
            through_each(&self.deployment, &self.client)?,
            &self.chat,
            self.message,
        );
        watch.light(Instant::now()).await?;
        let darkened = self.darken(case, &watch, here.as_deref_mut()).await;
        if let (Case::CutOff, Some(embedded)) = (case, here) {
            let home = embedded.layout.home().name.clone();
            for custodian in &self.custodians {
                embedded.mend(&home, custodian).map_err(failed)?;
            }
        }
        let thawed = Instant::now();
        if !self.leave_frozen {
            self.at_each("/v1/thaw").await?;
        }
        let (confirmed, dark, last, reads_after) = darkened?;
        if !self.leave_frozen {
            watch.light(thawed).await?;
        }
        Ok(Measured {
            case,
            frozen: self.custodians.clone(),
            confirmed_ms: millis(confirmed),
            dark_ms: millis(last),
            limit_ms: case.limit_ms(),
            reads_after,
            light_ms: (!self.leave_frozen).then(|| millis(thawed.elapsed())),
            held: dark && millis(last) <= case.limit_ms(),
        })
    }

    /// Freezes and waits: how long the confirmations took, whether it became dark, how long after
    /// the last confirmation a read was served, and how many were.
    async fn darken(
        &self,
        case: Case,
        watch: &Watch,
        here: Option<&mut Embedded>,
    ) -> Result<(Duration, bool, Duration, u64), Failure> {
        match (case, &here) {
            (Case::Told, _) | (Case::Restarted, Some(_)) => {}
            (Case::CutOff, Some(embedded)) => {
                let home = embedded.layout.home().name.clone();
                for custodian in &self.custodians {
                    embedded.cut(&home, custodian).map_err(failed)?;
                }
                // The control: a home that was only cut off goes on with what it holds.
                watch.light(Instant::now()).await?;
            }
            (_, None) => {
                return Err(Failure::usage(
                    format!("the case \"{}\" needs a deployment of its own", case.text()),
                    "run it without --chat",
                ));
            }
        }
        let asked = Instant::now();
        self.at_each("/v1/freeze").await?;
        let (since, before) = (Instant::now(), watch.served());
        if let (Case::Restarted, Some(embedded)) = (case, here) {
            let home = embedded.layout.home().name.clone();
            embedded.stop_cluster(&home).await;
            embedded.start_cluster(&home).await.map_err(failed)?;
            embedded.wait_ready(LIGHT_WAIT).await.map_err(failed)?;
        }
        let limit = Duration::from_millis(case.limit_ms());
        let dark = watch.dark(since, limit).await;
        let last = watch.last_after(since);
        let last = last.map_or(Duration::ZERO, |at| at.duration_since(since));
        let confirmed = since.duration_since(asked);
        Ok((confirmed, dark, last, watch.served() - before))
    }

    async fn at_each(&self, route: &str) -> Result<(), Failure> {
        let request = FreezeRequest {
            scope: self.scope.clone(),
            reason: self.reason.clone(),
        };
        let asked = self.custodians.iter().map(async |custodian| {
            let operator = self.deployment.operator(custodian)?;
            let _: OperatorDone = operator.post(route, &request).await?;
            Ok::<_, Failure>(())
        });
        try_join_all(asked).await.map(drop)
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// Logs somebody in at `embedded`, writes one message and makes a drill of it, with a smallest
/// set of custodians that blocks.
///
/// # Errors
/// [`Failure`].
pub async fn prepare(embedded: &Embedded) -> Result<Drill, Failure> {
    embedded.wait_ready(LIGHT_WAIT).await.map_err(failed)?;
    let layout = &embedded.layout;
    let deployment = Deployment::find(Some(&layout.dir))?;
    let custodians = Known::of_layout(layout)?.smallest_blocking();
    let wallet = deployment.dir.join("wallets").join(PERSON);
    let (wallet, _) = account::log_in(layout, &wallet, PERSON, None).await?;
    let client = deployment.client(Some(deployment.person(&wallet)?))?;
    let content = |text: &str| Content::from_iter([("text".to_owned(), text.into())]);
    let chat = client
        .create_chat(&NewChat::new(
            idempotency_key(None),
            content("freeze drill"),
        ))
        .await?;
    let message = NewMessage {
        idempotency_key: idempotency_key(None),
        content: content("readable until frozen"),
    };
    client.append(&chat.id, vec![message]).await?;
    Ok(Drill {
        deployment,
        client,
        chat: chat.id,
        message: 1,
        scope: "all".to_owned(),
        custodians: custodians.iter().map(ToString::to_string).collect(),
        reason: "freeze drill".to_owned(),
        leave_frozen: false,
    })
}
