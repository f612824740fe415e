//! Proposals: commands that arrive while proposals are in flight travel
//! together in the next one, so a lone client waits for nobody and a crowd
//! shares its commits.

use super::consensus::{Consensus, SubmitError};
use super::figures::Figures;
use quorate_engine::custody::{
    Applied, COMMANDS_PER_PROPOSAL_MAX, Command, Committed, Proposal, committed,
};
use quorate_engine::types::WallMs;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Commands waiting to be proposed; more are refused as busy.
const QUEUE_MAX: usize = 8_192;
/// Proposals in flight at once: one on its way to disk, one being gathered.
const IN_FLIGHT_MAX: usize = 2;
/// Keys in one proposal: bounds its size to about a megabyte and a half.
const KEYS_PER_PROPOSAL_MAX: usize = 8_192;

type Answer = Result<Committed<Applied>, SubmitError>;

struct Job {
    command: Command,
    clock_ms: WallMs,
    answer: oneshot::Sender<Answer>,
}

pub(super) struct Batcher {
    queue: mpsc::Sender<Job>,
}

impl Batcher {
    pub(super) fn start(
        consensus: Arc<dyn Consensus>,
        figures: Figures,
        stop: CancellationToken,
    ) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(consensus, figures, jobs, stop));
        Self { queue }
    }

    /// Proposes `command` with this clock and waits for its commit.
    pub(super) async fn submit(&self, command: Command, clock_ms: WallMs) -> Answer {
        if let Err(reason) = command.within_limits() {
            return Err(SubmitError::Invalid(reason));
        }
        let (answer, reply) = oneshot::channel();
        let job = Job {
            command,
            clock_ms,
            answer,
        };
        self.queue.try_send(job).map_err(|_| {
            SubmitError::Busy(format!("{QUEUE_MAX} commands wait already, or shutdown"))
        })?;
        reply
            .await
            .unwrap_or_else(|_| Err(SubmitError::Unknown("the node is shutting down".into())))
    }
}

fn keys(command: &Command) -> usize {
    match command {
        Command::StoreShares(c) => c.items.len(),
        Command::Release(c) => c.keys.len(),
        Command::Abandon(c) => c.keys.len(),
        Command::Shred(c) => c.keys.len(),
        _ => 1,
    }
}

async fn run(
    consensus: Arc<dyn Consensus>,
    figures: Figures,
    mut jobs: mpsc::Receiver<Job>,
    stop: CancellationToken,
) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut held: Option<Job> = None;
    loop {
        // The slot comes first: what arrives until one is free goes along.
        let slot = in_flight
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let first = match held.take() {
            Some(job) => job,
            None => tokio::select! {
                () = stop.cancelled() => return,
                job = jobs.recv() => match job {
                    Some(job) => job,
                    None => return,
                },
            },
        };
        let clock_ms = first.clock_ms;
        let mut count = keys(&first.command);
        let mut batch = vec![first];
        while batch.len() < COMMANDS_PER_PROPOSAL_MAX && count < KEYS_PER_PROPOSAL_MAX {
            let Ok(job) = jobs.try_recv() else { break };
            // A command proposed without a clock never shares one.
            if (job.clock_ms == 0) != (clock_ms == 0) {
                held = Some(job);
                break;
            }
            count += keys(&job.command);
            batch.push(job);
        }
        let (consensus, figures) = (consensus.clone(), figures.clone());
        tokio::spawn(async move {
            propose(&*consensus, &figures, batch).await;
            drop(slot);
        });
    }
}

async fn propose(consensus: &dyn Consensus, figures: &Figures, batch: Vec<Job>) {
    let clock_ms = batch.iter().map(|j| j.clock_ms).max().unwrap_or(0);
    let (commands, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|j| (j.command, j.answer)).unzip();
    let bytes = Proposal::new(clock_ms, commands, &mut rand::rng()).encode();
    figures.batch(answers.len());
    let result = consensus
        .propose(bytes)
        .await
        .and_then(|(position, reply)| {
            committed(position, &reply).map_err(|e| SubmitError::Unknown(e.to_string()))
        });
    match result {
        Ok(applied) if applied.len() == answers.len() => {
            for (answer, applied) in answers.into_iter().zip(applied) {
                let _ = answer.send(Ok(applied));
            }
        }
        Ok(applied) => {
            let (got, asked) = (applied.len(), answers.len());
            let why = format!("{got} answers to {asked} commands were committed");
            fail_all(answers, &SubmitError::Unknown(why));
        }
        Err(e) => fail_all(answers, &e),
    }
}

fn fail_all(answers: Vec<oneshot::Sender<Answer>>, e: &SubmitError) {
    for answer in answers {
        let _ = answer.send(Err(e.clone()));
    }
}
