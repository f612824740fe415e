//! Writes a simulated register history, and the same with one stale read
//! planted, for other checkers; and says what ours finds and how long it took.
//!
//! ```text
//! cargo run --example registers -- OPERATIONS CLIENTS KEYS INFO_PER_MILLE SEED DIR
//! ```
#![allow(clippy::print_stdout)]

use quorate_jepsen::checker::linearizable::{Linearizable, Model};
use quorate_jepsen::checker::simulate::{Registers, plant_stale_read};
use quorate_jepsen::checker::{Checker, TestRecord};
use quorate_jepsen::history::jsonl;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [operations, clients, keys, info_per_mille, seed, dir] = args.as_slice() else {
        return Err("OPERATIONS CLIENTS KEYS INFO_PER_MILLE SEED DIR".into());
    };
    let run = Registers {
        operations: operations.parse()?,
        clients: clients.parse()?,
        keys: keys.parse()?,
        info_per_mille: info_per_mille.parse()?,
        seed: seed.parse()?,
    };
    let dir = PathBuf::from(dir);
    let good = run.history();
    let bad = plant_stale_read(&good, good.ops().len() * 7 / 10)
        .ok_or("nothing was written before a read")?;
    for (name, history) in [("good.jsonl", good), ("stale.jsonl", bad)] {
        jsonl::write(&history, BufWriter::new(File::create(dir.join(name))?))?;
        let test = TestRecord {
            spec: serde_json::Value::Null,
            history,
            dir: dir.clone(),
        };
        let found = Linearizable::new(Model::Register).check(&test);
        println!("{name}: {:?} {}", found.verdict, found.details);
        for evidence in found.evidence {
            println!("  {} (lines {:?})", evidence.what, evidence.ops);
        }
    }
    Ok(())
}
