//! A second, naive opinion: field arithmetic by schoolbook, splitting by the
//! definition, with the quirks that real systems shipped; and random bytes that
//! a test chooses.

use quorate_engine::types::{CustodianId, DataKey, Secret, Structure};
use rand_core::{TryCryptoRng, TryRng};
use std::convert::Infallible;

pub fn mul(a: u8, b: u8) -> u8 {
    let mut wide = (0..8)
        .filter(|i| b >> i & 1 == 1)
        .fold(0u32, |sum, i| sum ^ (u32::from(a) << i));
    for i in (8..16).rev() {
        if wide >> i & 1 == 1 {
            wide ^= 0x11b << (i - 8);
        }
    }
    u8::try_from(wide).unwrap()
}

pub fn inverse(a: u8) -> u8 {
    (1..=255).find(|b| mul(a, *b) == 1).unwrap()
}

/// Random bytes read off a tape, zeros after its end; counts what was taken.
#[derive(Default)]
pub struct Tape {
    pub bytes: Vec<u8>,
    pub taken: usize,
}

impl Tape {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, taken: 0 }
    }
}

impl TryRng for Tape {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut out = [0; 4];
        self.try_fill_bytes(&mut out)?;
        Ok(u32::from_le_bytes(out))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut out = [0; 8];
        self.try_fill_bytes(&mut out)?;
        Ok(u64::from_le_bytes(out))
    }
    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for byte in dst {
            *byte = self.bytes.get(self.taken).copied().unwrap_or(0);
            self.taken += 1;
        }
        Ok(())
    }
}
impl TryCryptoRng for Tape {}

pub type Shares = Vec<(CustodianId, [u8; 32])>;

/// The splitter under test, with plain bytes.
pub fn real_split(structure: &Structure, secret: &[u8; 32], rng: &mut Tape) -> Shares {
    let key = DataKey(Secret::from_slice(secret).unwrap());
    quorate_engine::sharing::split(structure, &key, rng)
        .unwrap()
        .into_iter()
        .map(|(id, share)| (id, *share.expose()))
        .collect()
}

/// What a splitter can get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// Nothing: Shamir's scheme by its definition.
    None,
    /// An all-of gate hands its secret to the first child and zero to the rest (CIRCL's CP-ABE).
    AndGivesFirstChildAll,
    /// The degree is one too small.
    OneCoefficientShort,
    /// Children are counted from x = 0.
    FirstChildAtZero,
    /// Inner gates forget to draw coefficients: every member of a bloc holds the bloc's value.
    InnerGatesCopy,
    /// All coefficients of a gate are the same draw.
    RepeatedCoefficient,
    /// A zero leading coefficient is drawn again (omicron#10284). Linear algebra
    /// cannot see this one; statistics do.
    RejectZeroLeading,
}

pub fn naive_split(
    quirk: Quirk,
    structure: &Structure,
    secret: &[u8; 32],
    rng: &mut Tape,
) -> Shares {
    let mut out = Vec::new();
    naive_node(quirk, structure, *secret, true, rng, &mut out);
    out
}

fn naive_node(
    quirk: Quirk,
    node: &Structure,
    secret: [u8; 32],
    root: bool,
    rng: &mut Tape,
    out: &mut Shares,
) {
    let (threshold, children) = match node {
        Structure::Leaf(id) => return out.push((id.clone(), secret)),
        Structure::Gate {
            threshold,
            children,
        } => (usize::from(*threshold), children),
    };
    let mut coefficients = vec![secret];
    for k in 1..threshold {
        let mut drawn = [0; 32];
        rng.try_fill_bytes(&mut drawn).unwrap();
        if quirk == Quirk::RejectZeroLeading && k + 1 == threshold {
            while drawn.contains(&0) {
                let mut again = [0; 32];
                rng.try_fill_bytes(&mut again).unwrap();
                for (d, a) in drawn.iter_mut().zip(again) {
                    if *d == 0 {
                        *d = a;
                    }
                }
            }
        }
        coefficients.push(drawn);
    }
    match quirk {
        Quirk::OneCoefficientShort if threshold > 1 => {
            coefficients.pop();
        }
        Quirk::InnerGatesCopy if !root => coefficients.truncate(1),
        Quirk::RepeatedCoefficient => {
            for k in 2..coefficients.len() {
                coefficients[k] = coefficients[1];
            }
        }
        _ => {}
    }
    for (i, child) in children.iter().enumerate() {
        let x = u8::try_from(i).unwrap() + u8::from(quirk != Quirk::FirstChildAtZero);
        let mut value = evaluate(&coefficients, x);
        if quirk == Quirk::AndGivesFirstChildAll && threshold > 1 && threshold == children.len() {
            value = if i == 0 { secret } else { [0; 32] };
        }
        naive_node(quirk, child, value, false, rng, out);
    }
}

/// The sum of coefficient · x^power, term by term.
pub fn evaluate(coefficients: &[[u8; 32]], x: u8) -> [u8; 32] {
    let (mut power, mut out) = (1u8, [0u8; 32]);
    for coefficient in coefficients {
        for (o, c) in out.iter_mut().zip(coefficient) {
            *o ^= mul(*c, power);
        }
        power = mul(power, x);
    }
    out
}

/// Coefficients of the one polynomial of degree `points.len() - 1` through points
/// at given x, byte by byte, by Gauss's elimination on Vandermonde's matrix.
pub fn interpolate(points: &[(u8, [u8; 32])]) -> Vec<[u8; 32]> {
    let n = points.len();
    let mut rows: Vec<(Vec<u8>, [u8; 32])> = points
        .iter()
        .map(|(x, y)| {
            let mut powers = vec![1u8];
            for k in 1..n {
                powers.push(mul(powers[k - 1], *x));
            }
            (powers, *y)
        })
        .collect();
    for column in 0..n {
        let pivot = (column..n).find(|r| rows[*r].0[column] != 0).unwrap();
        rows.swap(column, pivot);
        let scale = inverse(rows[column].0[column]);
        rows[column].0.iter_mut().for_each(|v| *v = mul(*v, scale));
        rows[column].1.iter_mut().for_each(|v| *v = mul(*v, scale));
        let (powers, y) = rows[column].clone();
        for (r, row) in rows.iter_mut().enumerate() {
            let factor = row.0[column];
            if r != column && factor != 0 {
                for (v, p) in row.0.iter_mut().zip(&powers) {
                    *v ^= mul(*p, factor);
                }
                for (v, p) in row.1.iter_mut().zip(&y) {
                    *v ^= mul(*p, factor);
                }
            }
        }
    }
    rows.into_iter().map(|(_, y)| y).collect()
}

pub fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}

pub fn gate(threshold: u8, children: Vec<Structure>) -> Structure {
    Structure::Gate {
        threshold,
        children,
    }
}

pub fn flat(threshold: u8, names: &[&str]) -> Structure {
    gate(
        threshold,
        names.iter().map(|n| Structure::Leaf(id(n))).collect(),
    )
}

pub fn numbered(threshold: u8, leaves: usize) -> Structure {
    let names: Vec<String> = (1..=leaves).map(|i| format!("c{i:03}")).collect();
    flat(
        threshold,
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}
