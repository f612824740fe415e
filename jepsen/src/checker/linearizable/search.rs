//! The search of Wing and Gong with the memo of Lowe ("Testing for
//! linearizability", 2017): linearize one pending call after another, go back
//! when a call that must have happened could not, and never look at the same
//! set of linearized calls with the same state twice.
//!
//! Two things keep it small. A read that fits the state as it is costs nothing
//! and takes no choice away, so it is linearized at once and never undone
//! alone. An indeterminate call whose result nobody ever asks for is left out,
//! which is always allowed.
//!
//! The memo keeps 128 bits of each configuration (one random word a call,
//! XORed) instead of the configuration: two different ones of a million are
//! taken for one another with a probability below 2^-88.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// What an operation does to a register. Numbers stand for values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The register holds this.
    Read(u32),
    /// It holds this from now on.
    Write(u32),
    /// It held the first and holds the second from now on.
    Cas(u32, u32),
    /// It did not hold `unless` and holds `to` from now on.
    WriteUnless {
        /// The new value.
        to: u32,
        /// The value that forbids it.
        unless: u32,
    },
}

impl Call {
    /// The state after it, if it is possible in `state`.
    pub fn apply(self, state: u32) -> Option<u32> {
        match self {
            Call::Read(value) => (value == state).then_some(state),
            Call::Write(value) => Some(value),
            Call::Cas(old, new) => (old == state).then_some(new),
            Call::WriteUnless { to, unless } => (state != unless).then_some(to),
        }
    }
}

/// One operation on one register. Positions are indices of the history.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it does.
    pub call: Call,
    /// When it began.
    pub invoked: u64,
    /// When it had happened; `None` if it may have happened at any time or never.
    pub completed: Option<u64>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is an order.
    Linearizable,
    /// There is none.
    Impossible(Stuck),
    /// The steps are used up.
    OutOfSteps,
}

/// The farthest that any order came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// The operation that had to be next and could not.
    pub entry: usize,
    /// What the register could hold then.
    pub states: Vec<u32>,
    /// The last writers of those.
    pub writers: Vec<usize>,
}

/// Most states and writers named in [`Stuck`].
const STUCK_MAX: usize = 8;

/// The memo's keys are hashes already.
#[derive(Default)]
struct AsIs(u64);
impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }
    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn word(n: u64) -> u128 {
    let high = mix(n.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15));
    u128::from(high) << 64 | u128::from(mix(n ^ 0x6a09_e667_f3bc_c908))
}

fn word_of_state(state: u32) -> u128 {
    word(u64::from(state) | 1 << 40)
}

/// Invocations and completions in order, as a list from which calls are taken
/// out and put back. Places: `2 * call` is an invocation, `2 * call + 1` a
/// completion, `2 * calls` the head, `2 * calls + 1` the end.
struct Events {
    next: Vec<u32>,
    before: Vec<u32>,
    head: u32,
}

impl Events {
    fn new(entries: &[Entry]) -> Self {
        let head = entries.len() as u32 * 2;
        let mut order: Vec<(u64, u32)> = Vec::with_capacity(entries.len() * 2);
        for (i, entry) in entries.iter().enumerate() {
            order.push((entry.invoked, i as u32 * 2));
            if let Some(completed) = entry.completed {
                order.push((completed, i as u32 * 2 + 1));
            }
        }
        order.sort_unstable();
        let mut events = Events {
            next: vec![0; entries.len() * 2 + 2],
            before: vec![0; entries.len() * 2 + 2],
            head,
        };
        let mut last = head;
        for place in order.into_iter().map(|(_, p)| p).chain([head + 1]) {
            events.next[last as usize] = place;
            events.before[place as usize] = last;
            last = place;
        }
        events
    }
    fn after(&self, place: u32) -> u32 {
        self.next[place as usize]
    }
    fn out(&mut self, place: u32) {
        let (before, next) = (self.before[place as usize], self.next[place as usize]);
        self.next[before as usize] = next;
        self.before[next as usize] = before;
    }
    fn back(&mut self, place: u32) {
        let (before, next) = (self.before[place as usize], self.next[place as usize]);
        self.next[before as usize] = place;
        self.before[next as usize] = place;
    }
}

/// One call that was linearized.
struct Taken {
    call: u32,
    /// The state before it.
    state: u32,
    /// Nothing else needs to be tried in its place.
    forced: bool,
}

struct Search<'a> {
    entries: &'a [Entry],
    events: Events,
    state: u32,
    hash: u128,
    seen: HashSet<u128, BuildHasherDefault<AsIs>>,
    taken: Vec<Taken>,
    stuck: Stuck,
    stuck_depth: usize,
}

/// Whether these operations have an order. `steps` is what may be spent, and is counted down.
pub fn search(entries: &[Entry], initial: u32, steps: &mut u64) -> Answer {
    let kept = relevant(entries);
    let places: Vec<usize> = kept.iter().map(|(place, _)| *place).collect();
    let entries: Vec<Entry> = kept.into_iter().map(|(_, entry)| entry).collect();
    let mut search = Search {
        events: Events::new(&entries),
        entries: &entries,
        state: initial,
        hash: 0,
        seen: HashSet::with_capacity_and_hasher(entries.len() * 2, BuildHasherDefault::default()),
        taken: Vec::with_capacity(entries.len()),
        stuck: Stuck::default(),
        stuck_depth: 0,
    };
    match search.run(steps) {
        Answer::Impossible(mut stuck) => {
            stuck.entry = places[stuck.entry];
            for writer in &mut stuck.writers {
                *writer = places[*writer];
            }
            Answer::Impossible(stuck)
        }
        other => other,
    }
}

/// Without indeterminate calls that cannot help anybody.
fn relevant(entries: &[Entry]) -> Vec<(usize, Entry)> {
    let conditional = |e: &Entry| matches!(e.call, Call::WriteUnless { .. });
    // There a write helps by what it takes away.
    let any = entries.iter().any(conditional);
    let mut wanted: Vec<u32> = entries
        .iter()
        .filter_map(|e| match e.call {
            Call::Read(value) | Call::Cas(value, _) => Some(value),
            Call::Write(_) | Call::WriteUnless { .. } => None,
        })
        .collect();
    wanted.sort_unstable();
    let helps = |e: &Entry| match e.call {
        Call::Read(_) => false,
        Call::Write(to) | Call::Cas(_, to) | Call::WriteUnless { to, .. } => {
            any || wanted.binary_search(&to).is_ok()
        }
    };
    let all = entries.iter().copied().enumerate();
    all.filter(|(_, e)| e.completed.is_some() || helps(e))
        .collect()
}

impl Search<'_> {
    fn run(&mut self, steps: &mut u64) -> Answer {
        let end = self.events.head + 1;
        let mut place = self
            .fitting_read()
            .unwrap_or(self.events.after(self.events.head));
        loop {
            if *steps == 0 {
                return Answer::OutOfSteps;
            }
            *steps -= 1;
            if place == end {
                // What is left has no completion: it need not have happened.
                return Answer::Linearizable;
            }
            if place % 2 == 1 {
                self.note_stuck(place / 2);
                match self.undo() {
                    Some(next) => place = next,
                    None => return Answer::Impossible(std::mem::take(&mut self.stuck)),
                }
                continue;
            }
            let call = place / 2;
            let entry = &self.entries[call as usize];
            let Some(after) = entry.call.apply(self.state) else {
                place = self.events.after(place);
                continue;
            };
            let forced = matches!(entry.call, Call::Read(_));
            let hash = self.hash ^ word(u64::from(call));
            if self.seen.insert(hash ^ word_of_state(after)) {
                self.take(call, after, hash, forced);
                place = self
                    .fitting_read()
                    .unwrap_or(self.events.after(self.events.head));
            } else if forced {
                // All ways on from here lead through what was looked at.
                match self.undo() {
                    Some(next) => place = next,
                    None => return Answer::Impossible(std::mem::take(&mut self.stuck)),
                }
            } else {
                place = self.events.after(place);
            }
        }
    }

    /// The first pending read that fits the state.
    fn fitting_read(&self) -> Option<u32> {
        let end = self.events.head + 1;
        let mut place = self.events.after(self.events.head);
        while place != end && place.is_multiple_of(2) {
            if self.entries[place as usize / 2].call == Call::Read(self.state) {
                return Some(place);
            }
            place = self.events.after(place);
        }
        None
    }

    fn take(&mut self, call: u32, after: u32, hash: u128, forced: bool) {
        self.taken.push(Taken {
            call,
            state: self.state,
            forced,
        });
        self.state = after;
        self.hash = hash;
        self.events.out(call * 2);
        if self.entries[call as usize].completed.is_some() {
            self.events.out(call * 2 + 1);
        }
    }

    /// Takes back up to the last choice; the place to go on from.
    fn undo(&mut self) -> Option<u32> {
        loop {
            let last = self.taken.pop()?;
            if self.entries[last.call as usize].completed.is_some() {
                self.events.back(last.call * 2 + 1);
            }
            self.events.back(last.call * 2);
            self.state = last.state;
            self.hash ^= word(u64::from(last.call));
            if !last.forced {
                return Some(self.events.after(last.call * 2));
            }
        }
    }

    /// Keeps what was possible where the search came farthest.
    fn note_stuck(&mut self, call: u32) {
        let depth = self.taken.len();
        if depth < self.stuck_depth {
            return;
        }
        if depth > self.stuck_depth || self.stuck.states.is_empty() {
            self.stuck = Stuck {
                entry: call as usize,
                ..Stuck::default()
            };
            self.stuck_depth = depth;
        }
        if self.stuck.states.len() < STUCK_MAX && !self.stuck.states.contains(&self.state) {
            self.stuck.states.push(self.state);
            let writer = self.taken.iter().rev().find(|t| !t.forced);
            self.stuck.writers.extend(writer.map(|t| t.call as usize));
        }
    }
}
