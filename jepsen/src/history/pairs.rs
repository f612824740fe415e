//! Which completion belongs to which invocation, and whether the lines can be
//! a history at all. A checker that is fed nonsense proves nonsense, so what
//! breaks a rule is refused with the line that breaks it.

use super::{DEPTH_MAX, Kind, OPS_MAX, Op, Process, is_name};
use std::collections::BTreeMap;

/// Why no run can have produced these lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHistory {
    /// More lines than a history may have.
    #[error("{0} operations, the limit is {OPS_MAX}")]
    TooLong(usize),
    /// An index is not its place.
    #[error("operation {place} has index {index}: a line is missing, repeated or out of order")]
    Index {
        /// Where it stands.
        place: u64,
        /// What it says.
        index: u64,
    },
    /// Time runs backwards, or beyond 2^63 ns.
    #[error("operation {index}: time {time} ns, after {before} ns")]
    Time {
        /// Which line.
        index: u64,
        /// Its time.
        time: u64,
        /// The time of the line before.
        before: u64,
    },
    /// A name, number or value that cannot be written to a file again.
    #[error("operation {index}: {reason}")]
    Shape {
        /// Which line.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// A client invokes while an earlier operation of its is open.
    #[error("operation {index}: process {process} invokes while operation {open} is open")]
    Overlap {
        /// Which line.
        index: u64,
        /// Who.
        process: u64,
        /// The operation still open.
        open: u64,
    },
    /// A completion without an invocation.
    #[error("operation {index}: process {process} completes what it never invoked")]
    NotInvoked {
        /// Which line.
        index: u64,
        /// Who.
        process: u64,
    },
    /// A completion of another function than was invoked.
    #[error("operation {index} completes {got}, but operation {open} invoked {expected}")]
    OtherFunction {
        /// Which line.
        index: u64,
        /// The invocation.
        open: u64,
        /// What it invoked.
        expected: String,
        /// What was completed.
        got: String,
    },
    /// A process acts after `info`: its operation may still be under way.
    #[error("operation {index}: process {process} acts after its info at {ended}")]
    AfterInfo {
        /// Which line.
        index: u64,
        /// Who.
        process: u64,
        /// The `info` that ended it.
        ended: u64,
    },
    /// The nemesis wrote something else than `info`.
    #[error("operation {index}: the nemesis writes only info")]
    Nemesis {
        /// Which line.
        index: u64,
    },
}

/// Lines that passed every rule, and their pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    ops: Vec<Op>,
    /// For each line the other half of its operation.
    partner: Vec<Option<u32>>,
}

/// A fault, from its strike to its end.
#[derive(Clone, Copy, Debug)]
pub struct Fault<'a> {
    /// When the nemesis began to strike.
    pub begun: &'a Op,
    /// When it had struck; without a `heal-…` of its own, when the fault was over.
    pub struck: Option<&'a Op>,
    /// When it was healed; `None` when it lasts to the end.
    pub ended: Option<&'a Op>,
}

/// One operation from end to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// How it began. For the nemesis the first of two `info`.
    pub invoked: &'a Op,
    /// How it ended; `None` while open at the end, which means the same as `info`.
    pub completed: Option<&'a Op>,
}

impl Operation<'_> {
    /// What is known about its effect: `info` while it is open.
    pub fn outcome(&self) -> Kind {
        self.completed.map_or(Kind::Info, |op| op.kind)
    }
}

enum Client {
    Idle,
    Busy(usize),
    Ended(u64),
}

impl History {
    /// Validates lines and pairs them.
    ///
    /// # Errors
    /// [`InvalidHistory`] for the first line that breaks a rule.
    pub fn new(ops: Vec<Op>) -> Result<Self, InvalidHistory> {
        if ops.len() > OPS_MAX {
            return Err(InvalidHistory::TooLong(ops.len()));
        }
        let mut partner = vec![None; ops.len()];
        let mut pair = |a: usize, b: usize| {
            // OPS_MAX is below 2^32.
            partner[a] = Some(b as u32);
            partner[b] = Some(a as u32);
        };
        let mut clients = BTreeMap::new();
        let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
        let mut before = 0;
        for (place, op) in ops.iter().enumerate() {
            shape(place as u64, before, op)?;
            before = op.time;
            match op.process {
                Process::Nemesis if op.kind != Kind::Info => {
                    return Err(InvalidHistory::Nemesis { index: op.index });
                }
                Process::Nemesis => match faults.remove(op.f.as_str()) {
                    Some(start) => pair(start, place),
                    None => {
                        faults.insert(&op.f, place);
                    }
                },
                Process::Client(process) => {
                    let client = clients.entry(process).or_insert(Client::Idle);
                    if let Some(open) = step(client, process, place, op, &ops)? {
                        pair(open, place);
                    }
                }
            }
        }
        Ok(Self { ops, partner })
    }

    /// The lines.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The other half of the operation that line `index` belongs to.
    pub fn partner(&self, index: usize) -> Option<&Op> {
        let other = *self.partner.get(index)?;
        other.map(|i| &self.ops[i as usize])
    }

    /// Faults in the order they began. A nemesis that writes `kill` and later
    /// `heal-kill` holds its fault between them; one that never heals holds it
    /// from its first `info` to its second.
    pub fn faults(&self) -> Vec<Fault<'_>> {
        let mut out: Vec<Fault<'_>> = Vec::new();
        for op in self.operations() {
            if op.invoked.process != Process::Nemesis {
                continue;
            }
            if let Some(name) = op.invoked.f.strip_prefix("heal-") {
                let open = out.iter_mut().rev().find(|f| f.begun.f == name);
                if let Some(fault) = open {
                    fault.ended = op.completed;
                }
                continue;
            }
            out.push(Fault {
                begun: op.invoked,
                struck: op.completed,
                ended: None,
            });
        }
        let healed = |name: &str| {
            let heal = |f: &str| f.strip_prefix("heal-") == Some(name);
            self.ops
                .iter()
                .any(|op| op.process == Process::Nemesis && heal(&op.f))
        };
        for fault in &mut out {
            if !healed(&fault.begun.f) {
                fault.ended = fault.struck;
            }
        }
        out
    }

    /// Operations from end to end, in the order they began.
    pub fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        self.ops.iter().enumerate().filter_map(|(place, op)| {
            let other = self.partner[place].map(|i| i as usize);
            // The later half was told with the earlier one.
            (other.is_none_or(|o| o > place)).then(|| Operation {
                invoked: op,
                completed: other.map(|o| &self.ops[o]),
            })
        })
    }
}

fn shape(place: u64, before: u64, op: &Op) -> Result<(), InvalidHistory> {
    if op.index != place {
        return Err(InvalidHistory::Index {
            place,
            index: op.index,
        });
    }
    if op.time < before || i64::try_from(op.time).is_err() {
        return Err(InvalidHistory::Time {
            index: op.index,
            time: op.time,
            before,
        });
    }
    let bad = |reason: &str| InvalidHistory::Shape {
        index: op.index,
        reason: reason.into(),
    };
    if !is_name(&op.f) {
        return Err(bad("f is not a name"));
    }
    if matches!(op.process, Process::Client(n) if i64::try_from(n).is_err()) {
        return Err(bad("the process number does not fit 63 bits"));
    }
    if op.value.depth() > DEPTH_MAX {
        return Err(bad("the value is nested too deep"));
    }
    if !op.value.names_are_good() {
        return Err(bad("the value has a keyword that is not a name"));
    }
    Ok(())
}

/// One line of one client; the invocation it completes, if it does.
fn step(
    client: &mut Client,
    process: u64,
    place: usize,
    op: &Op,
    ops: &[Op],
) -> Result<Option<usize>, InvalidHistory> {
    let index = op.index;
    match (&*client, op.kind) {
        (Client::Ended(ended), _) => Err(InvalidHistory::AfterInfo {
            index,
            process,
            ended: *ended,
        }),
        (Client::Idle, Kind::Invoke) => {
            *client = Client::Busy(place);
            Ok(None)
        }
        (Client::Busy(open), Kind::Invoke) => Err(InvalidHistory::Overlap {
            index,
            process,
            open: *open as u64,
        }),
        (Client::Idle, _) => Err(InvalidHistory::NotInvoked { index, process }),
        (&Client::Busy(open), kind) => {
            let expected = &ops[open].f;
            if *expected != op.f {
                return Err(InvalidHistory::OtherFunction {
                    index,
                    open: open as u64,
                    expected: expected.clone(),
                    got: op.f.clone(),
                });
            }
            *client = if kind == Kind::Info {
                Client::Ended(index)
            } else {
                Client::Idle
            };
            Ok(Some(open))
        }
    }
}
