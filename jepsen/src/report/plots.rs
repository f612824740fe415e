//! Latency and rate over time as SVG, with a band for each fault.

use super::escape;
use crate::history::{Fault, History, Kind, Operation, Process};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 400.0;
/// Room for the axis, left and below.
const LEFT: f64 = 70.0;
const BELOW: f64 = 60.0;
const TOP: f64 = 30.0;

/// Outcomes and their colours: blue, orange and red differ for everybody's eyes.
const OUTCOMES: [(Kind, &str); 3] = [
    (Kind::Ok, "#2a78d6"),
    (Kind::Info, "#e8a33d"),
    (Kind::Fail, "#c43d3d"),
];
const LINES: [&str; 6] = [
    "#2a78d6", "#2f9e5b", "#8a56c2", "#c2792c", "#3aa6a6", "#777777",
];
const BANDS: [&str; 4] = ["#f3c9c9", "#f6dfb8", "#dcd3f0", "#cfe8d5"];

/// A fault from its beginning to its end.
pub(super) struct Band<'a> {
    pub(super) f: &'a str,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Faults in order of their beginning; one that never ended lasts to the end.
pub(super) fn bands<'a>(history: &'a History) -> Vec<Band<'a>> {
    let end = history.ops().last().map_or(0, |op| op.time);
    let band = |fault: &Fault<'a>| Band {
        f: &fault.begun.f,
        from: fault.begun.time,
        to: fault.ended.map_or(end, |op| op.time),
    };
    history.faults().iter().map(band).collect()
}

fn clients(history: &History) -> impl Iterator<Item = Operation<'_>> {
    let all = history.operations();
    all.filter(|op| op.invoked.process != Process::Nemesis)
}

/// A plot being drawn; seconds to the right, something up.
struct Plot {
    out: String,
    seconds: f64,
}

impl Plot {
    fn new(history: &History, title: &str, unit: &str) -> Self {
        let last = history.ops().last().map_or(0, |op| op.time);
        let mut plot = Plot {
            out: String::new(),
            seconds: (last as f64 / 1e9).max(0.001),
        };
        let _ = write!(
            plot.out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{title}</text>\n",
            LEFT + WIDTH + 20.0,
            TOP + HEIGHT + BELOW
        );
        let mut colours: BTreeMap<&str, usize> = BTreeMap::new();
        for band in bands(history) {
            let next = colours.len();
            let colour = BANDS[*colours.entry(band.f).or_insert(next) % BANDS.len()];
            let (x, to) = (plot.x(band.from), plot.x(band.to));
            let _ = writeln!(
                plot.out,
                "<rect x=\"{x:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"{colour}\" opacity=\"0.6\"><title>{}</title></rect>",
                (to - x).max(1.0),
                escape(band.f)
            );
        }
        let mut x = LEFT;
        for (name, place) in &colours {
            plot.legend(&mut x, 15.0 + 25.0, BANDS[place % BANDS.len()], name);
        }
        for tick in 0..=10 {
            let at = LEFT + WIDTH * f64::from(tick) / 10.0;
            let _ = writeln!(
                plot.out,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{:.1} s</text>",
                TOP + HEIGHT + 16.0,
                plot.seconds * f64::from(tick) / 10.0
            );
        }
        let _ = writeln!(
            plot.out,
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>\n<text x=\"{}\" y=\"18\" text-anchor=\"end\">{unit}</text>",
            LEFT + WIDTH
        );
        plot
    }
    fn x(&self, time: u64) -> f64 {
        LEFT + WIDTH * time as f64 / 1e9 / self.seconds
    }
    /// A coloured square and a name, below the axis.
    fn legend(&mut self, x: &mut f64, down: f64, colour: &str, name: &str) {
        let y = TOP + HEIGHT + down;
        let _ = writeln!(
            self.out,
            "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
            y - 10.0,
            *x + 14.0,
            escape(name)
        );
        *x += 30.0 + 7.0 * name.chars().count() as f64;
    }
    /// A horizontal line with a number; `up` from 0 to 1.
    fn level(&mut self, up: f64, text: &str) {
        let y = TOP + HEIGHT * (1.0 - up);
        let _ = writeln!(
            self.out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            y + 4.0
        );
    }
    fn end(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }
}

/// One point an operation, logarithmic; points within two pixels are drawn once.
pub(super) fn latency(history: &History) -> String {
    let mut plot = Plot::new(
        history,
        "Latency of every operation, when it began",
        "ms, logarithmic",
    );
    // 0.1 ms to 100 s.
    let (low, high) = (-1.0, 5.0);
    for power in -1_i32..=5 {
        let up = (f64::from(power) - low) / (high - low);
        let text = if power < 0 {
            "0.1".into()
        } else {
            10_u64.pow(power.unsigned_abs()).to_string()
        };
        plot.level(up, &text);
    }
    let mut x = LEFT + 500.0;
    for (kind, colour) in OUTCOMES {
        plot.legend(&mut x, 40.0, colour, kind.name());
        let mut drawn = BTreeSet::new();
        for op in clients(history) {
            let Some(end) = op.completed.filter(|_| op.outcome() == kind) else {
                continue;
            };
            let ms = (end.time - op.invoked.time) as f64 / 1e6;
            let up = ((ms.max(0.1).log10() - low) / (high - low)).min(1.0);
            let at = (plot.x(op.invoked.time), TOP + HEIGHT * (1.0 - up));
            if drawn.insert((at.0 as i64 / 2, at.1 as i64 / 2)) {
                let _ = writeln!(
                    plot.out,
                    "<circle cx=\"{:.0}\" cy=\"{:.0}\" r=\"1.6\" fill=\"{colour}\"/>",
                    at.0, at.1
                );
            }
        }
    }
    plot.end()
}

/// Successes a second by function, and all that did not succeed together.
pub(super) fn rate(history: &History) -> String {
    let mut plot = Plot::new(history, "Operations a second, when they ended", "a second");
    let buckets = (plot.seconds.ceil() as usize).clamp(1, 1000);
    let width = plot.seconds / buckets as f64;
    let mut series: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for op in clients(history) {
        let Some(end) = op.completed else {
            continue;
        };
        let name = match op.outcome() {
            Kind::Ok => op.invoked.f.clone(),
            _ => "(failed or unknown)".into(),
        };
        let bucket = ((end.time as f64 / 1e9 / width) as usize).min(buckets - 1);
        series.entry(name).or_insert_with(|| vec![0.0; buckets])[bucket] += 1.0 / width;
    }
    let most = series.values().flatten().copied().fold(1.0, f64::max);
    for part in 0..=4 {
        let up = f64::from(part) / 4.0;
        plot.level(up, &format!("{:.0}", most * up));
    }
    let mut x = LEFT + 400.0;
    for (place, (name, all)) in series.iter().enumerate() {
        let colour = if name.starts_with('(') {
            "#c43d3d"
        } else {
            LINES[place % LINES.len()]
        };
        plot.legend(&mut x, 40.0, colour, name);
        let points: Vec<String> = all
            .iter()
            .enumerate()
            .map(|(i, n)| {
                let x = LEFT + WIDTH * (i as f64 + 0.5) / buckets as f64;
                format!("{x:.1},{:.1}", TOP + HEIGHT * (1.0 - n / most))
            })
            .collect();
        let _ = writeln!(
            plot.out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            points.join(" ")
        );
    }
    plot.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::simulate::Registers;
    use crate::checker::testing::record;

    #[test]
    fn a_fault_is_a_band_from_its_beginning_to_its_end() {
        let test = record(
            "0 invoke add 1
             n info kill nil
             0 ok add 1
             n info kill nil
             n info cut nil
             0 invoke add 2",
        );
        let all = bands(&test.history);
        let all: Vec<_> = all
            .iter()
            .map(|b| (b.f, b.from / 1_000_000, b.to / 1_000_000))
            .collect();
        assert_eq!(all, [("kill", 1, 3), ("cut", 4, 5)]);
        for svg in [latency(&test.history), rate(&test.history)] {
            assert_eq!(svg.matches("opacity=\"0.6\"").count(), 2);
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        }
    }

    #[test]
    fn points_that_hide_each_other_are_drawn_once_and_an_empty_run_still_has_axes() {
        let run = Registers {
            operations: 20_000,
            clients: 4,
            keys: 4,
            info_per_mille: 3,
            seed: 5,
        };
        let svg = latency(&run.history());
        let points = svg.matches("<circle").count();
        assert!((100..15_000).contains(&points), "{points}");
        assert!(rate(&run.history()).matches("<polyline").count() == 4);
        assert!(latency(&record("").history).contains("0.1"));
    }
}
