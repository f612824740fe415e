//! Writes through log and stores until it is stopped or the disk fails: the
//! child process of the power-cut, failed-fsync and system-call tests.

use anyhow::Context;
use quorate_tests::storage_load::{Load, run};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = move |what: &'static str| args.next().context(what);
    let load = Load {
        dir: next("data directory")?.into(),
        acks: next("file for acknowledgements")?.into(),
        store: next("store")?.parse().map_err(anyhow::Error::msg)?,
        groups: next("groups")?.parse()?,
        in_flight: next("appends in flight per group")?.parse()?,
        appends: next("appends per group, 0 for ever")?.parse()?,
    };
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    rt.block_on(run(load))
}
