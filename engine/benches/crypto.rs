//! What sharing and sealing cost, beside what others do in the same run.
//!
//! ```text
//! cargo bench -p quorate-engine
//! ```
//!
//! Contenders of one group take turns in short rounds, so that a noisy
//! neighbour hits all of them; medians of the rounds and ratios are
//! printed: `first line ×5.5` says that the first line of the group, ours, is
//! 5.5 times as fast. Random bytes come from the same generator wherever the rival lets
//! us choose. Without `--bench` (as under `cargo test --benches`) every
//! contender runs once, to show that it works.
#![allow(clippy::print_stdout, reason = "it is a report")]
#![allow(clippy::disallowed_methods, reason = "a benchmark needs a clock")]
#![allow(missing_docs, reason = "not a library")]

use quorate_engine::crypto::message::{self, RecordBinding, RecordKind};
use quorate_engine::crypto::seal::{Receiver, RecipientKey, Sender, ShareBinding, deal_info};
use quorate_engine::crypto::subkeys::{Subkeys, key_check_holds};
use quorate_engine::crypto::wrap;
use quorate_engine::sharing;
use quorate_engine::types::{
    ChatId, CustodianId, DataKey, DeploymentId, KeyId, PolicyId, Secret, Share, Structure,
    WrappingKey,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

/// Rounds per contender; the median of them is printed.
const ROUNDS: usize = 15;
/// Length of one round.
const ROUND_MS: u64 = 30;
/// Rounds of `openssl speed`, one second each.
const OPENSSL_ROUNDS: usize = 3;

struct Contender<'a> {
    name: &'static str,
    run: Box<dyn FnMut() + 'a>,
}

fn contender<'a>(name: &'static str, run: impl FnMut() + 'a) -> Contender<'a> {
    Contender {
        name,
        run: Box::new(run),
    }
}

/// Calls a second, in rounds of equal length.
fn rate(run: &mut dyn FnMut(), calls: u64) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        run();
    }
    calls as f64 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median rates, in the order given, the contenders taking turns.
fn race(contenders: &mut [Contender<'_>]) -> Vec<f64> {
    let calls: Vec<u64> = contenders
        .iter_mut()
        .map(|c| {
            let end = Instant::now() + Duration::from_millis(ROUND_MS);
            let mut n = 0;
            while Instant::now() < end {
                (c.run)();
                n += 1;
            }
            n
        })
        .collect();
    let mut rates = vec![vec![]; contenders.len()];
    for round in 0..ROUNDS {
        for i in 0..contenders.len() {
            let i = (i + round) % contenders.len();
            rates[i].push(rate(&mut contenders[i].run, calls[i]));
        }
    }
    rates.into_iter().map(median).collect()
}

fn group(title: &str, measure: bool, mut contenders: Vec<Contender<'_>>) {
    if !measure {
        contenders.iter_mut().for_each(|c| (c.run)());
        return;
    }
    let rates = race(&mut contenders);
    println!("\n{title}");
    for (c, r) in contenders.iter().zip(&rates) {
        println!(
            "  {:<44} {:>12.0}/s {:>10.3} µs   first line ×{:.2}",
            c.name,
            r,
            1e6 / r,
            rates[0] / r
        );
    }
}

fn name(s: &str) -> CustodianId {
    CustodianId::new(s).expect("a valid name")
}

fn flat() -> Structure {
    let leaf = |s| Structure::Leaf(name(s));
    Structure::Gate {
        threshold: 3,
        children: ["br", "ch", "eu", "is", "sg"].map(leaf).into(),
    }
}

fn with_bloc() -> Structure {
    let leaf = |s| Structure::Leaf(name(s));
    let eu = Structure::Gate {
        threshold: 1,
        children: vec![leaf("de"), leaf("nl")],
    };
    Structure::Gate {
        threshold: 3,
        children: vec![leaf("br"), leaf("ch"), eu, leaf("is"), leaf("sg")],
    }
}

fn share_arithmetic(measure: bool) {
    let rng = || ChaCha20Rng::seed_from_u64(1);
    let (mut a, mut b, mut c) = (rng(), rng(), rng());
    // `shamir` takes text only, so all get the same 32 bytes of text.
    let text = "0123456789abcdefghijklmnopqrstuv";
    let key = DataKey(Secret::from_slice(text.as_bytes()).expect("32 bytes"));
    let (flat, bloc) = (flat(), with_bloc());
    group(
        "split 3 of 5, 32 bytes",
        measure,
        vec![
            contender("quorate, constant time", || {
                black_box(sharing::split(&flat, black_box(&key), &mut a).expect("valid"));
            }),
            contender("quorate, 3 of 5 with a bloc 1 of 2", || {
                black_box(sharing::split(&bloc, black_box(&key), &mut b).expect("valid"));
            }),
            contender("vsss-rs 6.0.1 Gf256, constant time", || {
                black_box(
                    vsss_rs::Gf256::split_bytes(3, 5, black_box(text), &mut c).expect("valid"),
                );
            }),
            contender("shamir 2.0.0, tables, own generator", || {
                let s = shamir::SecretData::with_secret(black_box(text), 3);
                black_box((1..=5).map(|i| s.get_share(i).is_ok()).collect::<Vec<_>>());
            }),
        ],
    );

    let ours = sharing::split(&flat, &key, &mut rng()).expect("valid");
    let ours: Vec<_> = ours.iter().take(3).map(|(c, s)| (c.clone(), s)).collect();
    let nested = sharing::split(&bloc, &key, &mut rng()).expect("valid");
    let nested: Vec<_> = nested.iter().take(3).map(|(c, s)| (c.clone(), s)).collect();
    let vsss = vsss_rs::Gf256::split_bytes(3, 5, text, rng()).expect("valid");
    let tables = shamir::SecretData::with_secret(text, 3);
    let tables: Vec<_> = (1..=3)
        .map(|i| tables.get_share(i).expect("x is not 0"))
        .collect();
    assert_eq!(
        sharing::combine(&flat, &ours).expect("valid").expose(),
        text.as_bytes()
    );
    assert_eq!(
        vsss_rs::Gf256::combine_bytes(&vsss[..3]).expect("valid"),
        text.as_bytes()
    );
    group(
        "combine 3 of 5, 32 bytes",
        measure,
        vec![
            contender("quorate, constant time", || {
                black_box(sharing::combine(&flat, black_box(&ours)).expect("valid"));
            }),
            contender("quorate, 3 of 5 with a bloc 1 of 2", || {
                black_box(sharing::combine(&bloc, black_box(&nested)).expect("valid"));
            }),
            contender("vsss-rs 6.0.1 Gf256, constant time", || {
                black_box(vsss_rs::Gf256::combine_bytes(black_box(&vsss[..3])).expect("valid"));
            }),
            contender("shamir 2.0.0, tables", || {
                black_box(shamir::SecretData::recover_secret(
                    3,
                    black_box(&tables).clone(),
                ));
            }),
        ],
    );
}

fn share_sealing(measure: bool) {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let b = ShareBinding {
        deployment: DeploymentId([1; 16]),
        custodian: name("ch"),
        chat: ChatId([2; 32]),
        key_id: KeyId([3; 16]),
        policy: PolicyId([4; 32]),
    };
    let recipient = RecipientKey::generate(&mut rng);
    let public = recipient.public();
    let info = deal_info(&b.deployment, &b.custodian, 1);
    let (sender, encapsulated) = Sender::new(&public, &info, &mut rng).expect("a valid key");
    let receiver = Receiver::new(&recipient, &encapsulated, &info).expect("valid");
    let share = Share(Secret::generate(&mut rng));
    let sealed = sender.seal(&b, None, [5; 24], &share);
    let key = WrappingKey::generate(&mut rng);
    let wrapped = wrap::wrap(&key, 1, &b, [6; 24], &share);
    let data_key = DataKey::generate(&mut rng);
    let check = quorate_engine::crypto::subkeys::key_check(&data_key);
    group(
        "shares on their way and at rest",
        measure,
        vec![
            contender("seal one share in a session", || {
                black_box(sender.seal(&b, None, [5; 24], black_box(&share)));
            }),
            contender("open one share in a session", || {
                black_box(receiver.open(&b, None, black_box(&sealed)).expect("valid"));
            }),
            contender("new session: X-Wing encapsulation", || {
                black_box(Sender::new(black_box(&public), &info, &mut rng).expect("valid"));
            }),
            contender("receive a session: X-Wing decapsulation", || {
                black_box(
                    Receiver::new(&recipient, black_box(&encapsulated), &info).expect("valid"),
                );
            }),
            contender("wrap a share", || {
                black_box(wrap::wrap(&key, 1, &b, [6; 24], black_box(&share)));
            }),
            contender("unwrap a share", || {
                black_box(wrap::unwrap(&key, 1, &b, black_box(&wrapped)).expect("valid"));
            }),
            contender("derive the subkeys of a data key", || {
                black_box(Subkeys::derive(black_box(&data_key)));
            }),
            contender("check a data key", || {
                assert!(key_check_holds(black_box(&data_key), &check));
            }),
        ],
    );
}

/// Bytes a second of `openssl speed`, one run.
fn openssl(bytes: usize) -> Option<f64> {
    let out = Command::new("openssl")
        .args([
            "speed",
            "-mr",
            "-seconds",
            "1",
            "-evp",
            "chacha20-poly1305",
            "-bytes",
        ])
        .arg(bytes.to_string())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find(|l| l.starts_with("+F:"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

fn record_sealing(measure: bool) {
    let keys = Subkeys::derive(&DataKey(Secret::from_slice(&[1; 32]).expect("32 bytes")));
    let binding = RecordBinding {
        deployment: DeploymentId([1; 16]),
        chat: ChatId([2; 32]),
        message: 1,
        revision: 0,
        key_id: KeyId([3; 16]),
        kind: RecordKind::Message,
    };
    if measure {
        println!("\nrecords, GB/s (10^9 bytes of plaintext), one core");
        println!("  rival: openssl speed -mr -seconds 1 -evp chacha20-poly1305 -bytes N");
    }
    for bytes in [1 << 10, 1 << 16, 1 << 20] {
        let plaintext = vec![7; bytes];
        let sealed = message::seal(&keys, &binding, [9; 24], &plaintext);
        let mut contenders = [
            contender("seal", || {
                black_box(message::seal(
                    &keys,
                    &binding,
                    [9; 24],
                    black_box(&plaintext),
                ));
            }),
            contender("open", || {
                black_box(message::open(&keys, &binding, black_box(&sealed)).expect("valid"));
            }),
        ];
        if !measure {
            contenders.iter_mut().for_each(|c| (c.run)());
            continue;
        }
        let (mut seals, mut opens, mut rivals) = (vec![], vec![], vec![]);
        for _ in 0..OPENSSL_ROUNDS {
            let rates = race(&mut contenders);
            seals.push(rates[0] * bytes as f64 / 1e9);
            opens.push(rates[1] * bytes as f64 / 1e9);
            rivals.extend(openssl(bytes).map(|r| r / 1e9));
        }
        let (seal, open) = (median(seals), median(opens));
        print!("  {:>8} bytes: seal {seal:.2}, open {open:.2}", bytes);
        if rivals.is_empty() {
            println!("; openssl not found");
        } else {
            let rival = median(rivals);
            println!(
                ", openssl {rival:.2}; seal ×{:.2}, open ×{:.2} of it",
                seal / rival,
                open / rival
            );
        }
    }
}

fn main() {
    let measure = std::env::args().any(|a| a == "--bench");
    share_arithmetic(measure);
    share_sealing(measure);
    record_sealing(measure);
}
