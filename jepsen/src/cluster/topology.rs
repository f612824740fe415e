//! The topologies that come with the harness, and their addresses.
//!
//! A topology is the product's own `topology.toml` (`quorate deploy topology`
//! prints one); the harness gives every node an address of its own.

use anyhow::{Context, bail, ensure};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Names of the built-in ones, with what they are.
pub const BUILT_IN: &[(&str, &str)] = &[
    (
        "tiny",
        "home of three, three custodians of one node each, any 2: six processes",
    ),
    (
        "small",
        "home of three, five custodians of one node each, any 3: eight processes",
    ),
    (
        "clustered",
        "home of three, custodians of three, one and one, any 2: eight processes",
    ),
    (
        "wide",
        "home of three, three custodians of three nodes each, any 2: twelve processes",
    ),
];

/// Options of every built-in topology: snapshots and leases come and go within a short run.
const OPTIONS: &str = "[options]\nshards = 2\nsnapshot_entries = 200\nlease_ms_max = 5000\n";

/// The clients' address at the switch.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Jurisdictions of built-in topologies, with entities that are not each other's.
const PLACES: [(&str, &str); 5] = [
    ("ch", "Helvetia Keys AG"),
    ("is", "Lyklar ehf."),
    ("sg", "Straits Custody Pte Ltd"),
    ("br", "Chaves do Sul Ltda"),
    ("de", "Treuhand Daten eG"),
];

/// Round trips in milliseconds between data centres, as published by their operators, rounded.
const ROUND_TRIPS_MS: &[(&str, &str, u32)] = &[
    ("ae", "ch", 115),
    ("ae", "is", 150),
    ("ae", "sg", 85),
    ("ae", "br", 260),
    ("ae", "de", 115),
    ("ae", "nl", 120),
    ("ch", "is", 50),
    ("ch", "sg", 160),
    ("ch", "br", 205),
    ("ch", "de", 8),
    ("ch", "nl", 15),
    ("is", "sg", 220),
    ("is", "br", 210),
    ("is", "de", 48),
    ("is", "nl", 45),
    ("sg", "br", 330),
    ("sg", "de", 155),
    ("sg", "nl", 165),
    ("br", "de", 205),
    ("br", "nl", 200),
    ("de", "nl", 8),
];

/// The round trip between two jurisdictions; none within one, 100 ms where the table has none.
pub fn round_trip_ms(a: &str, b: &str) -> u32 {
    if a == b {
        return 0;
    }
    let known = ROUND_TRIPS_MS
        .iter()
        .find(|(x, y, _)| (*x, *y) == (a, b) || (*x, *y) == (b, a));
    known.map_or(100, |(_, _, ms)| *ms)
}

fn built_in(threshold: u32, nodes: &[usize]) -> String {
    let mut out = String::from(
        "[home]\nname = \"ae\"\njurisdiction = \"ae\"\nentity = \"Quorate Home FZ-LLC\"\nnodes = 3\n\n",
    );
    let mut members = Vec::new();
    for ((name, entity), nodes) in PLACES.iter().zip(nodes) {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "[[custodian]]\nname = \"{name}\"\njurisdiction = \"{name}\"\nentity = \"{entity}\"\nnodes = {nodes}\n\n"
        );
        members.push(format!("\"{name}\""));
    }
    let _ = write!(
        out,
        "[policy.default]\nthreshold = {threshold}\nmembers = [{}]\n\n{OPTIONS}",
        members.join(", ")
    );
    out
}

/// The text of a topology by its name, or of a file.
///
/// # Errors
/// When it is neither.
pub fn find(name: &str) -> anyhow::Result<String> {
    Ok(match name {
        "tiny" => built_in(2, &[1, 1, 1]),
        "small" => built_in(3, &[1, 1, 1, 1, 1]),
        "clustered" => built_in(2, &[3, 1, 1]),
        "wide" => built_in(2, &[3, 3, 3]),
        file if std::path::Path::new(file).is_file() => std::fs::read_to_string(file)?,
        other => {
            let names: Vec<_> = BUILT_IN.iter().map(|(n, _)| *n).collect();
            bail!(
                "no topology {other:?}: name a file, or one of {}",
                names.join(", ")
            )
        }
    })
}

/// `text` with an address of its own for each node: `10.77.C.N`, the home's C being 1.
///
/// # Errors
/// When it is not a topology, or names hosts itself.
pub fn with_addresses(text: &str) -> anyhow::Result<String> {
    let mut table: toml::Table = text.parse().context("the topology")?;
    let give = |entity: &mut toml::Value, cluster: usize| -> anyhow::Result<()> {
        let entity = entity.as_table_mut().context("an entity must be a table")?;
        ensure!(
            !entity.contains_key("hosts"),
            "the topology names hosts; here the harness gives the addresses"
        );
        let nodes = entity.get("nodes").and_then(toml::Value::as_integer);
        let nodes = nodes.unwrap_or(3);
        ensure!((1..=9).contains(&nodes), "nodes = {nodes}: must be 1 to 9");
        let host = |n: i64| toml::Value::String(format!("10.77.{cluster}.{n}"));
        entity.insert(
            "hosts".into(),
            (1..=nodes).map(host).collect::<Vec<_>>().into(),
        );
        Ok(())
    };
    give(
        table
            .get_mut("home")
            .context("the topology has no [home]")?,
        1,
    )?;
    let custodians = table
        .get_mut("custodian")
        .and_then(toml::Value::as_array_mut);
    let custodians = custodians.context("the topology has no [[custodian]]")?;
    ensure!(
        custodians.len() < 200,
        "{} custodians are too many",
        custodians.len()
    );
    for (i, custodian) in custodians.iter_mut().enumerate() {
        give(custodian, i + 2)?;
    }
    Ok(toml::to_string(&table)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_of_every_topology_has_an_address_of_its_own() {
        for (name, _) in BUILT_IN {
            let text = with_addresses(&find(name).unwrap()).unwrap();
            let table: toml::Table = text.parse().unwrap();
            let mut seen = std::collections::BTreeSet::new();
            let custodians = table["custodian"].as_array().unwrap().iter();
            for entity in std::iter::once(&table["home"]).chain(custodians) {
                let hosts = entity["hosts"].as_array().unwrap();
                assert_eq!(hosts.len() as i64, entity["nodes"].as_integer().unwrap());
                for host in hosts {
                    let host: Ipv4Addr = host.as_str().unwrap().parse().unwrap();
                    assert_ne!(host, CLIENTS);
                    assert!(seen.insert(host), "{host} twice in {name}");
                }
            }
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(
            find("medium")
                .unwrap_err()
                .to_string()
                .contains("tiny, small")
        );
        let e = with_addresses("[home]\nname = \"ae\"\n").unwrap_err();
        assert!(e.to_string().contains("[[custodian]]"), "{e}");
        let own =
            find("tiny")
                .unwrap()
                .replacen("nodes = 3", "nodes = 1\nhosts = [\"1.2.3.4\"]", 1);
        assert!(
            with_addresses(&own)
                .unwrap_err()
                .to_string()
                .contains("hosts")
        );
    }

    #[test]
    fn distances_are_the_same_both_ways() {
        assert_eq!(round_trip_ms("ae", "sg"), round_trip_ms("sg", "ae"));
        assert_eq!(round_trip_ms("ae", "ae"), 0);
        assert_eq!(round_trip_ms("ae", "xx"), 100);
    }
}
