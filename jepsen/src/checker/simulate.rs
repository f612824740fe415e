//! Histories of a store that does not exist, to check checkers with: clients
//! of one register per key that takes effect at a moment between invocation
//! and completion. What comes out is linearizable by construction.

use crate::history::{History, Kind, Op, Process, Value};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Repeatable random numbers: SplitMix64 (Steele, Lea, Flood, 2014). For tests, never for keys.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }
    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }
}

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// Operations in all.
    pub operations: u64,
    /// Clients, always busy.
    pub clients: u64,
    /// Keys, chosen evenly.
    pub keys: u64,
    /// Operations of a thousand whose outcome the client never learns.
    pub info_per_mille: u64,
    /// Repeats the history.
    pub seed: u64,
}

struct Running {
    f: &'static str,
    key: i64,
    asked: Value,
    answer: Value,
    process: u64,
}

fn pair(key: i64, value: Value) -> Value {
    Value::List(vec![Value::Int(key), value])
}

impl Registers {
    /// Half reads, a third writes, the rest compare-and-set. Latencies of 2 to 18 ms.
    pub fn history(self) -> History {
        let mut random = Random(self.seed);
        let mut state: BTreeMap<i64, Value> = BTreeMap::new();
        let (mut ops, mut started, mut next_value) = (Vec::new(), 0, 0_i64);
        // Time, phase (0 begin, 1 effect, 2 end), client.
        let mut events: BinaryHeap<Reverse<(u64, u8, u64)>> =
            (0..self.clients).map(|c| Reverse((c, 0, c))).collect();
        let mut process: Vec<u64> = (0..self.clients).collect();
        let mut running: BTreeMap<u64, Running> = BTreeMap::new();
        let line = |ops: &mut Vec<Op>, time, run: &Running, kind, value: &Value| {
            ops.push(Op {
                index: ops.len() as u64,
                time,
                process: Process::Client(run.process),
                kind,
                f: run.f.into(),
                value: value.clone(),
                error: (kind == Kind::Info).then(|| "timeout".into()),
            });
        };
        while let Some(Reverse((time, phase, client))) = events.pop() {
            let wait = 1_000_000 + random.below(8_000_000);
            match phase {
                0 if started < self.operations => {
                    started += 1;
                    next_value += 1;
                    let key = random.below(self.keys) as i64;
                    let now = state.get(&key).cloned().unwrap_or_default();
                    let (f, asked) = match random.below(10) {
                        0..5 => ("read", Value::Nil),
                        5..8 => ("write", Value::Int(next_value)),
                        _ => ("cas", Value::List(vec![now, Value::Int(next_value)])),
                    };
                    let asked = pair(key, asked);
                    let run = Running {
                        f,
                        key,
                        answer: asked.clone(),
                        asked,
                        process: process[client as usize],
                    };
                    line(&mut ops, time, &run, Kind::Invoke, &run.asked);
                    running.insert(client, run);
                    events.push(Reverse((time + wait, 1, client)));
                }
                0 => {}
                1 => {
                    let run = running.get_mut(&client).expect("it began");
                    let now = state.entry(run.key).or_default();
                    let Value::List(asked) = &run.asked else {
                        unreachable!("asked is a pair");
                    };
                    match (run.f, &asked[1]) {
                        ("read", _) => run.answer = pair(run.key, now.clone()),
                        ("write", value) => *now = value.clone(),
                        (_, Value::List(both)) if both[0] == *now => *now = both[1].clone(),
                        // A compare-and-set that did not fit.
                        _ => run.answer = Value::Nil,
                    }
                    events.push(Reverse((time + wait, 2, client)));
                }
                _ => {
                    let run = running.remove(&client).expect("it began");
                    if random.below(1000) < self.info_per_mille {
                        line(&mut ops, time, &run, Kind::Info, &run.asked);
                        process[client as usize] += self.clients;
                    } else if run.answer == Value::Nil {
                        line(&mut ops, time, &run, Kind::Fail, &run.asked);
                    } else {
                        line(&mut ops, time, &run, Kind::Ok, &run.answer);
                    }
                    events.push(Reverse((time, 0, client)));
                }
            }
        }
        History::new(ops).expect("clients run one operation at a time, in order of time")
    }
}

/// Turns one read into one that saw nothing although a write to its key had
/// ended before it began; the first such read after `from` lines. `None` when
/// there is none.
pub fn plant_stale_read(history: &History, from: usize) -> Option<History> {
    let key = |op: &Op| match &op.value {
        Value::List(all) => all.first().cloned(),
        _ => None,
    };
    let mut written: BTreeMap<Value, u64> = BTreeMap::new();
    for op in history.ops() {
        if op.kind == Kind::Ok && (op.f == "write" || op.f == "cas") {
            written.entry(key(op)?).or_insert(op.index);
        }
    }
    let mut ops = history.ops().to_vec();
    let place = ops.iter().position(|op| {
        let stale = || {
            let begun = history.partner(op.index as usize)?.index;
            Some(*written.get(&key(op)?)? < begun)
        };
        op.index as usize >= from && op.kind == Kind::Ok && op.f == "read" && stale() == Some(true)
    })?;
    let old = key(&ops[place])?;
    ops[place].value = Value::List(vec![old, Value::Nil]);
    History::new(ops).ok()
}
