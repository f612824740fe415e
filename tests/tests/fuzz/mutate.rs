//! The mutator: takes valid inputs apart and puts them together wrongly.
//!
//! Binary inputs get flipped bits, telling bytes, cuts, repetitions, splices of
//! two inputs, and *length bombs*: large numbers in the encodings that our
//! readers take for lengths. Text inputs get swapped tokens and lines, numbers
//! at the edges, deep nesting and long strings.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Longest mutated input, in bytes.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Most mutations applied to one input.
const MUTATIONS_MAX: usize = 6;

/// What kind of input a target takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Binary,
    Text,
}

/// Reproducible choices of one iteration.
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    /// The dice of one iteration: a function of run, target and number alone.
    pub(crate) fn new(seed: u64, target: &str, iteration: u64) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&iteration.to_le_bytes());
        for (i, b) in target.bytes().enumerate() {
            let at = 16 + i % 16;
            key[at] = key[at].wrapping_mul(31).wrapping_add(b);
        }
        Self(ChaCha8Rng::from_seed(key))
    }
    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }
    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    /// One of `of`, which is not empty.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
    /// Random bytes.
    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        self.0.fill_bytes(&mut out);
        out
    }
    /// The generator itself, for functions that take one.
    pub(crate) fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.0
    }
    /// A range within `len`, often short.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let most = if self.one_in(4) {
            len - start
        } else {
            (len - start).min(8)
        };
        start..start + self.below(most + 1)
    }
}

/// A mutated input; once in a while the valid one itself.
pub(crate) fn mutate(dice: &mut Dice, corpus: &[Vec<u8>], kind: Kind) -> Vec<u8> {
    let mut out = dice.pick(corpus).clone();
    for _ in 0..dice.below(MUTATIONS_MAX + 1) {
        let other = dice.pick(corpus).clone();
        match kind {
            Kind::Binary => binary(dice, &mut out, &other),
            Kind::Text if dice.one_in(6) => binary(dice, &mut out, &other),
            Kind::Text => text(dice, &mut out, &other),
        }
        out.truncate(INPUT_BYTES_MAX);
    }
    out
}

/// Bytes that mean something: ends of ranges, varint markers of the codec.
const TELLING: &[u8] = &[0, 1, 2, 3, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff];
/// Numbers at the edges of limits and of types.
const LENGTHS: &[u64] = &[
    0,
    1,
    255,
    256,
    257,
    65_535,
    65_536,
    1 << 20,
    (16 << 20) - 1,
    16 << 20,
    (16 << 20) + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

fn length_bomb(dice: &mut Dice) -> Vec<u8> {
    let n = *dice.pick(LENGTHS);
    match dice.below(6) {
        0 => [&[0xfb][..], &(n as u16).to_le_bytes()].concat(),
        1 => [&[0xfc][..], &(n as u32).to_le_bytes()].concat(),
        2 => [&[0xfd][..], &n.to_le_bytes()].concat(),
        3 => (n as u32).to_le_bytes().to_vec(),
        4 => (n as u32).to_be_bytes().to_vec(),
        _ => n.to_le_bytes().to_vec(),
    }
}

fn binary(dice: &mut Dice, out: &mut Vec<u8>, other: &[u8]) {
    match dice.below(9) {
        0 if !out.is_empty() => {
            let at = dice.below(out.len());
            out[at] ^= 1 << dice.below(8);
        }
        1 if !out.is_empty() => {
            let at = dice.below(out.len());
            out[at] = *dice.pick(TELLING);
        }
        2 => out.truncate(dice.below(out.len() + 1)),
        3 => {
            let n = dice.below(17);
            out.extend(dice.bytes(n));
        }
        4 => {
            out.drain(dice.range(out.len()));
        }
        5 => {
            let range = dice.range(out.len());
            let piece = out[range.clone()].to_vec();
            for _ in 0..=dice.below(4) {
                out.splice(range.end..range.end, piece.iter().copied());
            }
        }
        6 => {
            out.truncate(dice.below(out.len() + 1));
            out.extend_from_slice(&other[dice.below(other.len() + 1)..]);
        }
        7 => {
            let bomb = length_bomb(dice);
            let at = dice.below(out.len() + 1);
            // Over what stands there, or pushed in between.
            let end = if dice.one_in(2) {
                at
            } else {
                (at + bomb.len()).min(out.len())
            };
            out.splice(at..end, bomb);
        }
        _ => {
            let piece = other[dice.range(other.len())].to_vec();
            let range = dice.range(out.len());
            out.splice(range, piece);
        }
    }
}

/// Words that readers of text stumble over.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65536",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e999",
    "-0.0",
    "nan",
    "true",
    "null",
    "\"\"",
    "[]",
    "{}",
    "[[",
    "]]",
    "\"",
    "'''",
    "\\u0000",
    "\\ud800",
    "\u{202e}",
    "\u{0}",
    "=",
    ",",
    ":",
    "#",
    "..",
    "/dev/null",
    "ch",
    "0xff",
    "1979-05-27T07:32:00Z",
];

fn tokens(text: &[u8]) -> Vec<std::ops::Range<usize>> {
    let word = |b: &u8| b.is_ascii_alphanumeric() || b"_-.+".contains(b);
    let mut out = vec![];
    let mut at = 0;
    while at < text.len() {
        let len = text[at..].iter().take_while(|b| word(b)).count().max(1);
        if !text[at].is_ascii_whitespace() {
            out.push(at..at + len);
        }
        at += len;
    }
    out
}

fn text(dice: &mut Dice, out: &mut Vec<u8>, other: &[u8]) {
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes
            .split_inclusive(|b| *b == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let mine = tokens(out);
    match dice.below(8) {
        0 | 1 if !mine.is_empty() => {
            let at = dice.pick(&mine).clone();
            out.splice(at, dice.pick(WORDS).bytes());
        }
        2 if !mine.is_empty() => {
            let theirs = tokens(other);
            let at = dice.pick(&mine).clone();
            if !theirs.is_empty() {
                out.splice(at, other[dice.pick(&theirs).clone()].to_vec());
            }
        }
        3 if !mine.is_empty() => {
            out.drain(dice.pick(&mine).clone());
        }
        4 => {
            let mut l = lines(out);
            if l.len() > 1 {
                let (a, b) = (dice.below(l.len()), dice.below(l.len()));
                match dice.below(3) {
                    0 => l.swap(a, b),
                    1 => l.insert(a, l[b].clone()),
                    _ => {
                        l.remove(a);
                    }
                }
                *out = l.concat();
            }
        }
        5 => {
            let theirs = lines(other);
            let at = dice.below(out.len() + 1);
            if !theirs.is_empty() {
                out.splice(at..at, dice.pick(&theirs).clone());
            }
        }
        6 if dice.one_in(8) => {
            let (open, deep) = (*dice.pick(b"[{(\"a"), 1 << dice.below(14));
            let at = dice.below(out.len() + 1);
            out.splice(at..at, std::iter::repeat_n(open, deep));
        }
        _ => {
            let at = dice.below(out.len() + 1);
            out.splice(at..at, dice.pick(WORDS).bytes());
        }
    }
}
