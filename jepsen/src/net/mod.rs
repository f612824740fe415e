//! The network between nodes: a switch of our own, in user space.
//!
//! ```text
//!  node's namespace ── TUN ──▶ reader ──▶ rule of (from, to) ──▶ TUN ── node's namespace
//!                                             └─ later: the timer's heap
//! ```
//!
//! Every directed link has a [`Rule`] and a generator of its own, seeded from
//! the run's seed and the link: what happens to the n-th packet of a link does
//! not depend on the others. Each link counts what it passed and dropped, so
//! that a fault that never hit can be told from one that did.

mod rule;

pub use rule::{Fate, Link, Rule};

use anyhow::Context;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Largest packet; nodes' interfaces have this MTU. Large, because two cores carry everything.
pub const MTU: usize = 8_900;
/// Packets that wait for their time at most, all links together.
const WAITING_MAX: usize = 100_000;

/// A port of the switch: whoever is behind one TUN interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// `home/1`, or `clients`.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
}

struct Later {
    due: Instant,
    number: u64,
    to: usize,
    packet: Vec<u8>,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Later {}
impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Later {
    /// The heap's greatest is the next due.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

struct Shared {
    ports: Vec<Port>,
    files: Vec<File>,
    /// By from, then to.
    links: Vec<Vec<Mutex<Link>>>,
    later: Mutex<BinaryHeap<Later>>,
    woken: Condvar,
    number: AtomicU64,
}

/// The switch. It works until the process ends.
#[derive(Clone)]
pub struct Switch(Arc<Shared>);

/// What went over a set of links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Packets delivered, or to be.
    pub passed: u64,
    /// Packets dropped by a rule.
    pub dropped: u64,
}

fn held<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switch {
    /// A switch between `ports`, whose TUN interfaces are the `files`, in the same order.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(ports: Vec<Port>, files: Vec<File>, seed: u64) -> anyhow::Result<Self> {
        let n = ports.len();
        let links = (0..n).map(|from| {
            let one = |to| Mutex::new(Link::new(seed, from, to));
            (0..n).map(one).collect()
        });
        let switch = Self(Arc::new(Shared {
            links: links.collect(),
            ports,
            files,
            later: Mutex::default(),
            woken: Condvar::new(),
            number: AtomicU64::new(0),
        }));
        for from in 0..n {
            let of = switch.clone();
            let name = format!("port {from}");
            let thread = std::thread::Builder::new().name(name);
            thread
                .spawn(move || of.read(from))
                .context("start a thread")?;
        }
        let of = switch.clone();
        let thread = std::thread::Builder::new().name("later".into());
        thread
            .spawn(move || of.deliver_later())
            .context("start a thread")?;
        Ok(switch)
    }

    /// The ports, in order.
    pub fn ports(&self) -> &[Port] {
        &self.0.ports
    }

    /// The port of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn port(&self, name: &str) -> anyhow::Result<usize> {
        let mut ports = self.0.ports.iter();
        ports
            .position(|p| p.name == name)
            .with_context(|| format!("no port {name:?} at the switch"))
    }

    fn read(&self, from: usize) {
        let mut packet = vec![0u8; MTU + 100];
        // A port whose interface is gone has nothing more to say.
        while let Ok(size) = (&self.0.files[from]).read(&mut packet) {
            let packet = &packet[..size];
            let Some(to) =
                destination(packet).and_then(|a| self.0.ports.iter().position(|p| p.address == a))
            else {
                continue;
            };
            let now = Instant::now();
            let fate = held(&self.0.links[from][to]).pass(now, size);
            match fate {
                Fate::Dropped => {}
                Fate::At(times) => {
                    for due in times.into_iter().flatten() {
                        match due <= now {
                            true => self.deliver(to, packet),
                            false => self.keep(due, to, packet),
                        }
                    }
                }
            }
        }
    }

    /// Like a real network, a full or absent receiver loses the packet.
    fn deliver(&self, to: usize, packet: &[u8]) {
        let _ = (&self.0.files[to]).write(packet);
    }

    fn keep(&self, due: Instant, to: usize, packet: &[u8]) {
        let mut later = held(&self.0.later);
        if later.len() >= WAITING_MAX {
            return;
        }
        later.push(Later {
            due,
            number: self.0.number.fetch_add(1, Ordering::Relaxed),
            to,
            packet: packet.to_vec(),
        });
        self.0.woken.notify_one();
    }

    fn deliver_later(&self) {
        let mut later = held(&self.0.later);
        loop {
            let now = Instant::now();
            let wait = later.peek().map(|l| l.due.saturating_duration_since(now));
            match wait {
                Some(Duration::ZERO) => {
                    if let Some(l) = later.pop() {
                        drop(later);
                        self.deliver(l.to, &l.packet);
                        later = held(&self.0.later);
                    }
                }
                wait => {
                    let wait = wait.unwrap_or(Duration::from_secs(60));
                    let waited = self.0.woken.wait_timeout(later, wait);
                    later = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Changes the rule of every link from one of `from` to one of `to`; their counters go on.
    pub fn change(&self, from: &[usize], to: &[usize], change: impl Fn(&mut Rule)) {
        for f in from {
            for t in to.iter().filter(|t| *t != f) {
                change(&mut held(&self.0.links[*f][*t]).rule);
            }
        }
    }

    /// Every link as it was in the beginning, but for the delays in `base`.
    pub fn heal(&self, base: impl Fn(usize, usize) -> Rule) {
        for (from, links) in self.0.links.iter().enumerate() {
            for (to, link) in links.iter().enumerate() {
                held(link).rule = base(from, to);
            }
        }
    }

    /// What went over the links from one of `from` to one of `to`.
    pub fn traffic(&self, from: &[usize], to: &[usize]) -> Traffic {
        let mut sum = Traffic::default();
        for f in from {
            for t in to {
                let link = held(&self.0.links[*f][*t]);
                sum.passed += link.traffic.passed;
                sum.dropped += link.traffic.dropped;
            }
        }
        sum
    }
}

/// Where an IPv4 packet goes.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let (first, to) = (packet.first()?, packet.get(16..20)?);
    (first >> 4 == 4).then(|| Ipv4Addr::new(to[0], to[1], to[2], to[3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ipv4_packets_have_a_destination() {
        let mut packet = vec![0u8; 20];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&[10, 77, 1, 2]);
        assert_eq!(destination(&packet), Some(Ipv4Addr::new(10, 77, 1, 2)));
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&packet[..10]), None);
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn the_next_due_is_delivered_first() {
        let now = Instant::now();
        let at = |ms, number| Later {
            due: now + Duration::from_millis(ms),
            number,
            to: 0,
            packet: Vec::new(),
        };
        let mut heap = BinaryHeap::from([at(5, 0), at(1, 1), at(5, 2), at(3, 3)]);
        let order: Vec<u64> = std::iter::from_fn(|| heap.pop())
            .map(|l| l.number)
            .collect();
        assert_eq!(order, [1, 3, 0, 2]);
    }
}
