//! Power cuts after every operation, of logs that several groups write.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append(u32, u8, u8),
    Vote(u32, u8),
    Committed(u32),
    Truncate(u32, u8),
    Purge(u32, u8),
    /// Waits until everything submitted is acknowledged.
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let g = 0u32..3;
    let step = prop_oneof![
        6 => (g.clone(), 1u8..4, 0u8..120).prop_map(|(g, n, l)| Step::Append(g, n, l)),
        2 => (g.clone(), any::<u8>()).prop_map(|(g, v)| Step::Vote(g, v)),
        1 => g.clone().prop_map(Step::Committed),
        1 => (g.clone(), 0u8..4).prop_map(|(g, n)| Step::Truncate(g, n)),
        2 => (g, 0u8..6).prop_map(|(g, n)| Step::Purge(g, n)),
        2 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Every state a group passed through, and how far it was acknowledged.
#[derive(Default)]
struct History {
    states: Vec<Seen>,
    acked: Arc<AtomicU64>,
}

impl History {
    fn step(&mut self, f: impl FnOnce(&mut Seen)) -> Done {
        let mut next = self.states.last().cloned().unwrap_or_default();
        f(&mut next);
        self.states.push(next);
        let (n, acked) = (self.states.len() as u64 - 1, self.acked.clone());
        Box::new(move |r| {
            if r.is_ok() {
                acked.fetch_max(n, Ordering::SeqCst);
            }
        })
    }
}

/// Submits `steps` until the power goes. Returns what each group passed through.
fn submit(wal: &Wal, steps: &[Step], histories: &mut [History]) {
    let mut term = 1;
    for step in steps {
        let r = match step {
            Step::Append(g, n, len) => {
                let h = &mut histories[*g as usize];
                let now = h.states.last().cloned().unwrap_or_default();
                let first = now
                    .entries
                    .last()
                    .map(|e| e.0.index)
                    .max(now.purged.map(|p| p.index));
                let first = first.unwrap_or(0) + 1;
                let new: Vec<_> = (first..first + u64::from(*n))
                    .map(|i| entry(term, i, &vec![i as u8 ^ *len; *len as usize]))
                    .collect();
                let add = new
                    .iter()
                    .map(|(p, _, b)| (*p, b.clone()))
                    .collect::<Vec<_>>();
                let done = h.step(|s| s.entries.extend(add));
                wal.group(*g).append(new, done)
            }
            Step::Vote(g, v) => {
                let done = histories[*g as usize].step(|s| s.vote = Some(vec![*v]));
                wal.group(*g).set_vote(vec![*v], done)
            }
            Step::Committed(g) => {
                let last = histories[*g as usize]
                    .states
                    .last()
                    .and_then(|s| s.entries.last().cloned());
                wal.group(*g).set_committed(last.map(|e| e.0))
            }
            Step::Truncate(g, n) => {
                term += 1;
                let h = &mut histories[*g as usize];
                let now = h.states.last().cloned().unwrap_or_default();
                let keep = now.entries.len().saturating_sub(*n as usize);
                let keep_pos = match keep.checked_sub(1) {
                    Some(i) => Some(now.entries[i].0),
                    None => now.purged,
                };
                if keep == now.entries.len() {
                    // Nothing to void: it says nothing about what is under way.
                    continue;
                }
                let done = h.step(|s| s.entries.truncate(keep));
                wal.group(*g).truncate_after(keep_pos, done)
            }
            Step::Purge(g, n) => {
                let h = &mut histories[*g as usize];
                let now = h.states.last().cloned().unwrap_or_default();
                let Some(upto) = now.entries.get(*n as usize).map(|e| e.0) else {
                    continue;
                };
                let _ = h.step(|s| {
                    s.entries.retain(|e| e.0.index > upto.index);
                    s.purged = Some(upto);
                });
                wal.group(*g).purge(upto)
            }
            Step::Wait => {
                let (done, rx) = waiting();
                let r = wal.group(3).set_vote(vec![0], done);
                let _ = rx.recv();
                r
            }
        };
        if r.is_err() {
            return;
        }
    }
}

/// Whether `got` is what some prefix of `h`, not shorter than what was acknowledged, leads to.
///
/// A vote or purge that was carried forward may be newer than the entries
/// around it, never older than what was acknowledged.
fn is_prefix(h: &History, got: &Seen) -> bool {
    let acked = h.acked.load(Ordering::SeqCst) as usize;
    let purged = |s: &Seen| s.purged.map_or(0, |p| p.index);
    let tail = &h.states[acked.min(h.states.len().saturating_sub(1))..];
    let vote_ok =
        tail.iter().any(|s| s.vote == got.vote) || (h.states.is_empty() && got.vote.is_none());
    let entries_ok = h.states.is_empty() && got.entries.is_empty()
        || tail.iter().any(|s| {
            let live: Vec<_> = s
                .entries
                .iter()
                .filter(|e| e.0.index > purged(got))
                .collect();
            live == got.entries.iter().collect::<Vec<_>>() && purged(got) >= purged(s)
        });
    vote_ok && entries_ok
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_power_cut_after_any_operation_leaves_what_was_acknowledged(
        steps in steps(), power in 0u64..120, seed in any::<u64>(), again in 0u64..20
    ) {
        let disk = TestDisk::default();
        let wal = open(&disk).unwrap();
        disk.power_for(power);
        let mut histories: Vec<History> = (0..3)
            .map(|_| History { states: vec![Seen::default()], ..History::default() })
            .collect();
        submit(&wal, &steps, &mut histories);
        wal.close();
        drop(wal);
        let mut x = seed | 1;
        let mut coin = move || { x ^= x << 13; x ^= x >> 7; x ^= x << 17; x & 4 == 0 };
        let mut left = disk.cut(&mut coin);
        // A second cut while the first is being recovered must change nothing.
        left.power_for(again);
        if open(&left).is_err() {
            left = left.cut(&mut coin);
        }
        let left = TestDisk::with(left.files());
        let wal = open(&left).unwrap();
        for (g, h) in histories.iter().enumerate() {
            let got = seen(&wal, g as u32);
            prop_assert!(is_prefix(h, &got), "group {} acked {:?}: {:?}\nof {:?}", g, h.acked, got, h.states);
        }
        // And it goes on from there.
        let g = wal.group(0);
        let last = g.bounds().1.map_or(0, |p| p.index);
        append(&g, vec![entry(99, last + 1, b"after")]);
        let before = all_seen(&wal);
        wal.close();
        drop((wal, g));
        prop_assert_eq!(all_seen(&open(&left).unwrap()), before);
    }
}
