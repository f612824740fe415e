//! What one directed link does to packets.

use super::Traffic;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};

/// A link with a rate queues so much at most; more is dropped, as routers do.
const QUEUE_MAX: Duration = Duration::from_millis(500);
/// A reordered packet overtakes those of so long before it.
const REORDER: Duration = Duration::from_millis(5);
/// Shares of packets are told in parts per million.
pub(super) const MILLION: u32 = 1_000_000;

/// What a link does. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rule {
    /// Nothing passes.
    pub cut: bool,
    /// Microseconds on the way.
    pub delay_us: u32,
    /// Up to so many more, drawn for each packet; packets stay in order.
    pub jitter_us: u32,
    /// Parts per million lost.
    pub loss_ppm: u32,
    /// Parts per million delivered twice.
    pub dup_ppm: u32,
    /// Parts per million that come late, behind their successors.
    pub reorder_ppm: u32,
    /// Bytes a second; 0: as many as there are.
    pub rate_bps: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is lost.
    Dropped,
    /// It arrives at these times.
    At([Option<Instant>; 2]),
}

/// A directed link.
#[derive(Debug)]
pub struct Link {
    /// What it does now.
    pub rule: Rule,
    /// What it did.
    pub traffic: Traffic,
    rng: ChaCha8Rng,
    /// The last packet in order arrives then.
    last: Option<Instant>,
    /// The line is busy until then.
    busy: Option<Instant>,
}

impl Link {
    /// A link that does nothing yet; `seed`, `from` and `to` decide all that it will draw.
    pub fn new(seed: u64, from: usize, to: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(((from as u64) << 32) | to as u64);
        Self {
            rule: Rule::default(),
            traffic: Traffic::default(),
            rng,
            last: None,
            busy: None,
        }
    }

    /// Decides about a packet of `size` bytes that comes at `now`.
    pub fn pass(&mut self, now: Instant, size: usize) -> Fate {
        let rule = self.rule;
        // Always the same draws, whatever the rule: changing one does not shift the others.
        let [loss, dup, reorder, jitter] = [MILLION, MILLION, MILLION, rule.jitter_us + 1]
            .map(|below| self.rng.random_range(0..below));
        let mut at = now;
        let ns = (size as u64).saturating_mul(1_000_000_000);
        if let Some(ns) = ns.checked_div(rule.rate_bps) {
            let begins = self.busy.unwrap_or(now).max(now);
            if begins - now > QUEUE_MAX {
                return self.drop_it();
            }
            at = begins + Duration::from_nanos(ns);
            self.busy = Some(at);
        }
        if rule.cut || loss < rule.loss_ppm {
            return self.drop_it();
        }
        self.traffic.passed += 1;
        at += Duration::from_micros(u64::from(rule.delay_us) + u64::from(jitter));
        if reorder < rule.reorder_ppm {
            at += REORDER;
        } else {
            if let Some(last) = self.last {
                at = at.max(last);
            }
            self.last = (at > now).then_some(at);
        }
        Fate::At([Some(at), (dup < rule.dup_ppm).then_some(at)])
    }

    fn drop_it(&mut self) -> Fate {
        self.traffic.dropped += 1;
        Fate::Dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64, rule: Rule, packets: u32) -> Vec<Fate> {
        let mut link = Link::new(seed, 1, 2);
        link.rule = rule;
        let start = *START;
        let at = |i: u32| start + Duration::from_millis(u64::from(i));
        (0..packets).map(|i| link.pass(at(i), 1000)).collect()
    }
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

    #[test]
    fn a_seed_decides_what_happens_to_every_packet() {
        let rule = Rule {
            delay_us: 2_000,
            jitter_us: 5_000,
            loss_ppm: 100_000,
            dup_ppm: 50_000,
            reorder_ppm: 50_000,
            ..Rule::default()
        };
        assert_eq!(fates(7, rule, 500), fates(7, rule, 500));
        assert_ne!(fates(7, rule, 500), fates(8, rule, 500));
        let lost = |f: &Vec<Fate>| f.iter().filter(|f| **f == Fate::Dropped).count();
        let many = fates(7, rule, 10_000);
        assert!((900..1100).contains(&lost(&many)), "{}", lost(&many));
        let twice = many.iter().filter(|f| matches!(f, Fate::At([_, Some(_)])));
        assert!((350..550).contains(&twice.count()));
    }

    #[test]
    fn a_cut_link_passes_nothing_and_counts_it() {
        let mut link = Link::new(1, 0, 1);
        link.rule.cut = true;
        for _ in 0..10 {
            assert_eq!(link.pass(*START, 100), Fate::Dropped);
        }
        link.rule.cut = false;
        assert_eq!(link.pass(*START, 100), Fate::At([Some(*START), None]));
        assert_eq!((link.traffic.dropped, link.traffic.passed), (10, 1));
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let times = |rule| -> Vec<Instant> {
            let at = |f: &Fate| match f {
                Fate::At([Some(at), _]) => *at,
                other => panic!("{other:?}"),
            };
            fates(3, rule, 1000).iter().map(at).collect()
        };
        let jitter = Rule {
            jitter_us: 20_000,
            ..Rule::default()
        };
        assert!(times(jitter).is_sorted());
        let reorder = Rule {
            reorder_ppm: 200_000,
            ..Rule::default()
        };
        assert!(!times(reorder).is_sorted());
    }

    #[test]
    fn a_rate_spreads_packets_out_and_drops_what_does_not_fit() {
        let mut link = Link::new(1, 0, 1);
        link.rule.rate_bps = 1_000_000;
        let mut last = *START;
        for _ in 0..500 {
            let Fate::At([Some(at), None]) = link.pass(*START, 1000) else {
                panic!("half a second of packets fits");
            };
            assert_eq!(at - last, Duration::from_millis(1));
            last = at;
        }
        link.pass(*START, 1000);
        assert_eq!(link.pass(*START, 1000), Fate::Dropped);
    }
}
