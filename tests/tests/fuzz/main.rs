//! Seeded, structure-aware mutation fuzzing of everything that reads bytes from
//! a disk, a peer or a file.
//!
//! Ordinary tests rather than `cargo-fuzz`, which needs a nightly compiler: they
//! run everywhere, at every commit, and a seed reproduces them. Each iteration
//! takes a valid input of the target's corpus, mutates it ([`mutate`]), hands it
//! to the target and demands three things: no panic, no allocation beyond the
//! target's limit ([`meter`]), and what the target promises of accepted input
//! (a round trip, a right answer).
//!
//! ```text
//! cargo test -p quorate-tests --test fuzz
//! QUORATE_FUZZ_ITERATIONS=1000000 QUORATE_FUZZ_SEED=7 cargo test -p quorate-tests --release --test fuzz frames
//! ```
//!
//! `QUORATE_FUZZ_ITERATIONS` is per target, `QUORATE_FUZZ_SEED` chooses the run,
//! `QUORATE_FUZZ_FROM` its first iteration. A failure prints the three.
//!
//! A new target: a corpus and a check in one of the modules below, one line in
//! `targets!`. That mutated input is both accepted and refused is asserted, so a
//! target whose corpus is refused from the start fails.

mod audit;
mod authz;
mod codec;
mod custody;
mod files;
mod grants;
mod importer;
mod meter;
mod mutate;
mod node;
mod planted;
mod publish;
mod run;
mod sealed;
mod shares;

use run::fuzz;

macro_rules! targets {
    ($($name:ident: $target:expr;)+) => {
        $(#[test] fn $name() { fuzz(stringify!($name), &$target); })+
    };
}

targets! {
    custodian_request: codec::custodian_request();
    custodian_reply: codec::custodian_reply();
    home_command: codec::home_command();
    home_reply: codec::home_reply();
    policy_canonical: files::policy_canonical();
    policy_file: files::policy_file();
    node_config: files::node_config();
    topology: files::topology();
    descriptor: files::descriptor();
    client_bodies: files::client_bodies();
    grant: grants::grant();
    log_entry: audit::log_entry();
    log_proofs: audit::log_proofs();
    published_notes: publish::published_notes();
    log_policies: publish::log_policies();
    log_tiles: publish::log_tiles();
    statements: authz::statements();
    envelopes: authz::envelopes();
    sealed_bytes: sealed::sealed_bytes();
    recipient_keys: sealed::recipient_keys();
    combine_points: shares::combine_points();
    custody_command: custody::custody_command();
    release_command: custody::release_command();
    frames: node::frames();
    wal_recovery: node::wal_recovery();
    import_value: importer::import_value();
    import_file: importer::import_file();
}

#[test]
fn combine_along_structures() {
    shares::combine_along_structures();
}
