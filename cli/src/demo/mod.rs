//! The main job, shown: chats in, keys split over six custodians, read back by
//! quorum; then what happens when custodians are lost, count once, or lie.
//!
//! Every claim is checked against the running deployment and the demo fails if
//! one does not hold. Before each act the home is restarted: that wipes every
//! leased key, so what is read afterwards was opened by a quorum.

pub mod attacker;
mod attacks;
mod disk;

use crate::client::{Client, ClientError, ClientOptions, NewChat};
use crate::commands::deploy;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::people::{Wallet, account};
use crate::progress::Progress;
use crate::sample::sample_export;
use crate::telegram::{export, import};
use quorate_engine::api::{Content, NewMessage, QuorumProblem, Status};
use quorate_node::embedded::Embedded;
use quorate_node::embedded::topology::Topology;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest a start or restart may take.
const READY_WAIT: Duration = Duration::from_secs(90);
/// Longest a change of what is available may take to be seen.
const SEEN_WAIT: Duration = Duration::from_secs(30);
/// Cold reads tried until the lying custodian is among those asked.
const LIAR_TRIES_MAX: usize = 12;
/// Attempts of a request: it outlives elections.
const ATTEMPTS_MAX: u32 = 24;

/// Who the demo's chats are of.
const PERSON: &str = "demo";

/// What to show.
pub struct Plan {
    /// Chats to take; its own when absent.
    pub import: Option<PathBuf>,
    /// Where the deployment lies: a new or empty directory.
    pub dir: PathBuf,
}

/// One claim, shown.
#[derive(Clone, Debug, Serialize)]
pub struct Act {
    /// What was claimed.
    pub claim: String,
    /// What was seen.
    pub seen: String,
    /// Whether it was so.
    pub held: bool,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

struct Stage {
    embedded: Embedded,
    client: Client,
    output: Output,
    acts: Vec<Act>,
    since: Instant,
    chats: Vec<String>,
}

/// Runs it all.
///
/// # Errors
/// [`Failure`] when a claim did not hold, or the deployment could not be run at all.
pub async fn run(plan: Plan, output: Output) -> Result<Vec<Act>, Failure> {
    let file = match &plan.import {
        Some(file) => file.clone(),
        None => own_chats(&plan.dir)?,
    };
    let dir = plan.dir.join("deployment");
    let layout = deploy::make(&Topology::default_deployment(), &dir)?;
    let policy = layout.clusters.len();
    say(
        output,
        &format!("starting {policy} clusters, 21 nodes, in {}", dir.display()),
    )?;
    let since = Instant::now();
    let embedded = Embedded::start(layout).await.map_err(failed)?;
    let deployment = Deployment::find(Some(&dir))?;
    let options = ClientOptions {
        attempts_max: ATTEMPTS_MAX,
        ..ClientOptions::default()
    };
    // Nobody is logged in yet: until then it asks for the status alone.
    let client = deployment.client(None)?.with_options(options);
    let mut stage = Stage {
        embedded,
        client,
        output,
        acts: Vec::new(),
        since,
        chats: Vec::new(),
    };
    let result = stage.play(&file, &deployment).await;
    let Stage { embedded, acts, .. } = stage;
    embedded.shutdown().await;
    result?;
    Ok(acts)
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "demo",
        e.to_string(),
        "run it again with QUORATE_LOG=info; if it stays, report it",
    )
}

fn say(output: Output, text: &str) -> Result<(), Failure> {
    if output.json {
        Ok(())
    } else {
        output.line(&text)
    }
}

fn own_chats(dir: &Path) -> Result<PathBuf, Failure> {
    let file = dir.join("chats.json");
    let text = serde_json::to_vec(&sample_export()).map_err(failed)?;
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&file, text))
        .map_err(|e| Failure::file("write", &file, &e))?;
    Ok(file)
}

impl Stage {
    fn act(&mut self, held: bool, claim: &str, seen: String) -> Result<(), Failure> {
        let took_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mark = if held { "ok  " } else { "FAIL" };
        say(
            self.output,
            &format!(
                "{mark} {claim}\n       {seen} ({:.1} s)",
                took_ms as f64 / 1e3
            ),
        )?;
        let act = Act {
            claim: claim.to_owned(),
            seen,
            held,
            took_ms,
        };
        if self.output.json {
            self.output.show(&act, String::new)?;
        }
        self.acts.push(act);
        self.since = Instant::now();
        if held {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Failed,
            "demo",
            format!("this did not hold: {claim}"),
            "run it again with QUORATE_LOG=info; if it stays, report it",
        ))
    }

    async fn play(&mut self, file: &Path, deployment: &Deployment) -> Result<(), Failure> {
        self.embedded.wait_ready(READY_WAIT).await.map_err(failed)?;
        let ready = self.until(|s| s.policy.available.len() == 6).await?;
        let text = format!("{}; {}", ready.policy.text, ready.release_authority);
        self.act(
            ready.policy.margin == Some(2),
            "a home of three nodes and six custodians of three nodes each are up",
            text,
        )?;
        let wallet = self.log_in(deployment).await?;
        let archive = self.store(file, deployment, &wallet).await?;
        self.read_all(file, &archive).await?;
        self.nothing_on_disk(file)?;
        self.attacks(&deployment.person(&wallet)?).await?;
        self.two_lost().await?;
        self.bloc_counts_once().await?;
        self.three_lost().await?;
        self.one_lies().await
    }

    async fn log_in(&mut self, deployment: &Deployment) -> Result<Wallet, Failure> {
        let dir = deployment.dir.join("wallets").join(PERSON);
        let layout = &self.embedded.layout;
        let (wallet, judged) = account::log_in(layout, &dir, PERSON, None).await?;
        let options = ClientOptions {
            attempts_max: ATTEMPTS_MAX,
            ..ClientOptions::default()
        };
        let person = deployment.person(&wallet)?;
        self.client = deployment.client(Some(person))?.with_options(options);
        let seen = format!(
            "account {}, attested by {}, signed for by {}",
            &wallet.account.to_string()[..16],
            wallet
                .authorities
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" and "),
            judged.believed.join(" ")
        );
        self.act(
            judged.done && judged.sufficient,
            "a person logs in: custodians learn of the device past the home",
            seen,
        )?;
        Ok(wallet)
    }

    async fn store(
        &mut self,
        file: &Path,
        deployment: &Deployment,
        wallet: &Wallet,
    ) -> Result<String, Failure> {
        let secret = deployment.secret()?;
        let plan = import::Plan {
            file: file.to_owned(),
            journals: deployment.imports_dir(&wallet.account)?,
            part: import::Part::All,
            copy: 0,
        };
        let progress = Arc::new(Progress::new("import", self.output, self.output.json));
        let done = import::import(&self.client, &secret, &plan, progress).await?;
        let mut after = None;
        loop {
            let page = self.client.list_chats(after.as_deref(), 100, false).await?;
            self.chats.extend(
                page.chats
                    .iter()
                    .filter(|c| c.messages > 0)
                    .map(|c| c.id.clone()),
            );
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let rate = done.messages as f64 / self.since.elapsed().as_secs_f64();
        let seen = format!(
            "{} messages of {} chats stored, {rate:.0} a second; {} parts unread",
            done.messages, done.chats, done.unread_total
        );
        self.act(
            done.complete && done.unread_total == 0,
            "chats are stored at the home, their keys split over the custodians",
            seen,
        )?;
        Ok(done.archive)
    }

    async fn read_all(&mut self, file: &Path, archive: &str) -> Result<(), Failure> {
        let before = self.log_entries();
        self.forget_leases().await?;
        let mut out = Vec::new();
        let done = export::export(&self.client, archive, false, &mut out, &|_| {}).await?;
        let releases = self.log_entries().saturating_sub(before);
        let given = std::fs::read(file).map_err(|e| Failure::file("read", file, &e))?;
        let same = match (
            serde_json::from_slice::<Value>(&given),
            serde_json::from_slice::<Value>(&out),
        ) {
            // Compact form with the keys in their order: the same bytes for the same content.
            (Ok(a), Ok(b)) => {
                serde_json::to_vec(&a).map_err(failed)? == serde_json::to_vec(&b).map_err(failed)?
            }
            _ => false,
        };
        let rate = done.messages as f64 / self.since.elapsed().as_secs_f64();
        let seen = format!(
            "{} messages equal, {rate:.0} a second with the restart; {releases} entries recorded by custodians first",
            done.messages
        );
        self.act(
            same && releases >= 3,
            "all of it comes back byte for byte, opened through a quorum",
            seen,
        )
    }

    fn nothing_on_disk(&mut self, file: &Path) -> Result<(), Failure> {
        let given = std::fs::read(file).map_err(|e| Failure::file("read", file, &e))?;
        let needles = disk::needles(&given);
        let control = disk::search_bytes(&given, &needles);
        let found = disk::search(&self.embedded.layout.dir, &needles).map_err(failed)?;
        let seen = format!(
            "{} texts looked for in {} files, {} bytes: found {} times; in the export itself all {control}",
            needles.len(),
            found.files,
            found.bytes,
            found.hits
        );
        let held = found.hits == 0 && control == needles.len() && found.files > 20;
        self.act(
            held,
            "no text of a message lies in any data directory",
            seen,
        )
    }

    async fn two_lost(&mut self) -> Result<(), Failure> {
        self.embedded.stop_cluster("is").await;
        self.embedded.stop_cluster("sg").await;
        self.forget_leases().await?;
        let status = self.until(|s| s.policy.margin == Some(0)).await?;
        self.read_one().await?;
        self.write_one().await?;
        let thin = self.until(|s| s.thin_epochs > 0).await?;
        let seen = format!(
            "reads and writes go on; available {}, margin {:?}, thin: {}, thin epochs {}",
            status.policy.available.join(" "),
            status.policy.margin,
            status.policy.thin,
            thin.thin_epochs
        );
        self.act(
            status.policy.thin && thin.thin_epochs > 0,
            "two custodians lost: everything goes on, the margin is shown as thin",
            seen,
        )
    }

    async fn bloc_counts_once(&mut self) -> Result<(), Failure> {
        self.embedded.stop_cluster("br").await;
        self.forget_leases().await?;
        self.until(|s| s.policy.margin.is_none()).await?;
        let q = self.must_not_open().await?;
        let missing = set(&q.unreachable);
        let seen = format!(
            "ch, de and nl are up and do not suffice; missing {}; would suffice {}",
            join(&missing),
            sets(&q.would_suffice)
        );
        let held = missing == of(&["br", "is", "sg"]) && suffices(&q, &[&["br"], &["is"], &["sg"]]);
        self.act(held, "de and nl together count once", seen)
    }

    async fn three_lost(&mut self) -> Result<(), Failure> {
        self.embedded.start_cluster("br").await.map_err(failed)?;
        self.embedded.stop_cluster("de").await;
        self.embedded.stop_cluster("nl").await;
        self.forget_leases().await?;
        self.until(|s| set(&s.policy.available) == of(&["br", "ch"]))
            .await?;
        let q = self.must_not_open().await?;
        let missing = set(&q.unreachable);
        let seen = format!(
            "nothing can be opened; missing {}; would suffice {}",
            join(&missing),
            sets(&q.would_suffice)
        );
        let held = missing == of(&["de", "is", "nl", "sg"])
            && suffices(&q, &[&["de"], &["is"], &["nl"], &["sg"]]);
        self.act(
            held,
            "three branches lost: nothing can be opened, and the error says what would suffice",
            seen,
        )
    }

    async fn one_lies(&mut self) -> Result<(), Failure> {
        for back in ["is", "sg", "de", "nl"] {
            self.embedded.start_cluster(back).await.map_err(failed)?;
        }
        self.embedded.stop_cluster("br").await;
        self.embedded.stop_cluster("nl").await;
        let policy = self.policy_id().await?;
        self.embedded
            .start_liar("br", policy)
            .await
            .map_err(failed)?;
        let mut blamed = Vec::new();
        for _ in 0..LIAR_TRIES_MAX {
            self.forget_leases().await?;
            self.until(|s| s.policy.available.len() >= 4).await?;
            for chat in self.chats.clone() {
                self.client.page(&chat, 1, 50).await?;
            }
            blamed = self.blamed("br").await?;
            if !blamed.is_empty() {
                break;
            }
        }
        let told = self.embedded.stop_liar("br").await;
        let seen = format!(
            "{told} false shares told, every read right; {}",
            blamed.first().map_or("nobody was blamed", String::as_str)
        );
        self.act(
            told > 0 && !blamed.is_empty(),
            "a custodian that lies is blamed by name, and the read is still right",
            seen,
        )
    }

    /// What home nodes warn of that names `custodian`'s false shares.
    async fn blamed(&self, custodian: &str) -> Result<Vec<String>, Failure> {
        let mut out = Vec::new();
        for node in &self.embedded.layout.home().nodes {
            let Some(home) = self
                .embedded
                .node(&self.embedded.layout.home().name, node.id)
                .and_then(|n| n.home())
            else {
                continue;
            };
            let status = quorate_node::home::api::HomeApi::status(home.as_ref()).await;
            out.extend(
                status
                    .warnings
                    .into_iter()
                    .filter(|w| w.contains("commitment") && w.contains(custodian)),
            );
        }
        Ok(out)
    }

    async fn policy_id(&self) -> Result<quorate_engine::types::PolicyId, Failure> {
        self.client
            .status()
            .await?
            .policy
            .id
            .parse()
            .map_err(failed)
    }

    /// Entries in all custodians' logs, as each leader sees its own.
    fn log_entries(&self) -> u64 {
        let size = |cluster: &str| {
            let nodes = (1..=9).filter_map(|n| self.embedded.node(cluster, n)?.custodian());
            nodes
                .filter_map(|c| c.status().ok())
                .map(|s| s.overview.log_size)
                .max()
                .unwrap_or(0)
        };
        self.embedded
            .layout
            .clusters
            .iter()
            .skip(1)
            .map(|c| size(&c.name))
            .sum()
    }

    /// Restarts the home: leases live in its memory only.
    async fn forget_leases(&mut self) -> Result<(), Failure> {
        let home = self.embedded.layout.home().name.clone();
        self.embedded.stop_cluster(&home).await;
        self.embedded.start_cluster(&home).await.map_err(failed)?;
        self.embedded.wait_ready(READY_WAIT).await.map_err(failed)
    }

    async fn until(&self, is: impl Fn(&Status) -> bool) -> Result<Status, Failure> {
        let until = Instant::now() + SEEN_WAIT;
        loop {
            let status = self.client.status().await?;
            if is(&status) || Instant::now() > until {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn read_one(&self) -> Result<(), Failure> {
        let chat = self
            .chats
            .first()
            .ok_or_else(|| failed("nothing was stored"))?;
        let page = self.client.page(chat, 1, 10).await?;
        if page.messages.is_empty() {
            Err(failed("a page came back empty"))
        } else {
            Ok(())
        }
    }

    async fn write_one(&self) -> Result<(), Failure> {
        let key = || hex::encode(rand::random::<[u8; 16]>());
        let text = |t: &str| Content::from_iter([("text".to_owned(), Value::from(t))]);
        let chat = NewChat::new(key(), text("opened while two custodians are lost"));
        let chat = self.client.create_chat(&chat).await?;
        let message = NewMessage {
            idempotency_key: key(),
            content: text("still here"),
        };
        self.client.append(&chat.id, vec![message]).await?;
        Ok(())
    }

    /// A read that must fail for want of a quorum; what the error says.
    async fn must_not_open(&self) -> Result<QuorumProblem, Failure> {
        let chat = self
            .chats
            .first()
            .ok_or_else(|| failed("nothing was stored"))?;
        match self.client.page(chat, 1, 10).await {
            Ok(_) => Err(failed("a read succeeded without a quorum")),
            Err(ClientError::Problem(p)) if p.quorum.is_some() => Ok(p.quorum.unwrap_or_default()),
            Err(e) => Err(failed(format!(
                "a read failed for another reason than the quorum: {e}"
            ))),
        }
    }
}

fn set(names: &[String]) -> BTreeSet<String> {
    names.iter().cloned().collect()
}

fn of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn sets(sets: &[Vec<String>]) -> String {
    sets.iter()
        .map(|s| s.join(" + "))
        .collect::<Vec<_>>()
        .join(" or ")
}

fn suffices(q: &QuorumProblem, wanted: &[&[&str]]) -> bool {
    let got: BTreeSet<BTreeSet<String>> = q.would_suffice.iter().map(|s| set(s)).collect();
    got == wanted.iter().map(|s| of(s)).collect()
}
