//! Configurations that load, and what is said about those that do not.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("node.toml"), Path::new("/etc/quorate"))
}

fn refused(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn the_examples_of_the_manual_parse_and_round_trip() {
    let c = parse(example_custodian()).unwrap();
    assert_eq!((c.groups(), c.nodes.len()), (1, 3));
    assert_eq!(c.tls.cert, Path::new("/etc/quorate/node.crt"));
    let h = parse(example_home()).unwrap();
    assert_eq!(h.groups(), 8);
    assert_eq!(h.limits.client_in_flight_max, 1_024);
    for c in [c, h] {
        let again = parse(&c.to_toml()).unwrap();
        assert_eq!(again.to_toml(), c.to_toml());
    }
}

#[test]
fn unknown_keys_are_named_with_their_place() {
    let at_top = refused(&format!("shards = 8\n{}", example_custodian()));
    assert!(
        at_top.contains("`shards`") && at_top.contains("line 1"),
        "{at_top}"
    );
    let text = example_custodian().replace("heartbeat_ms = 300", "hearbeat_ms = 300");
    let nested = refused(&text);
    let line = 1 + text
        .lines()
        .position(|l| l.starts_with("hearbeat"))
        .unwrap();
    assert!(nested.contains("`hearbeat_ms`"), "{nested}");
    assert!(nested.contains(&format!("line {line}")), "{nested}");
    assert!(
        nested.contains("heartbeat_ms"),
        "says what would be right: {nested}"
    );
}

#[test]
fn a_newer_format_is_called_newer_not_full_of_unknown_keys() {
    let text = format!(
        "quantum = true\n{}",
        example_custodian().replace("format = 1", "format = 2")
    );
    let e = refused(&text);
    assert!(e.contains("format: 2") && e.contains("reads 1"), "{e}");
    assert!(refused("role = \"home\"").contains("format: missing"));
}

#[test]
fn every_problem_is_listed_at_once_with_its_key() {
    let e = refused(
        &example_custodian()
            .replace("cluster = \"ch\"", "cluster = \"Ch/..\"")
            .replace("node = 1  ", "node = 0  ")
            .replace("id = 2", "id = 3")
            .replace("election_ms_min = 1000", "election_ms_min = 400")
            .replace("cert_warn_days = 14", "cert_warn_days = 0")
            .replace("rewraps_s_max = 256", "rewraps_s_max = 257")
            .replace("sealing_h = 24", "sealing_h = 0")
            .replace("log_key = \"log.key\"", ""),
    );
    for key in [
        "cluster:",
        "node:",
        "nodes: an id appears twice",
        "raft.election_ms_min:",
        "limits.cert_warn_days:",
        "keys.rotation.rewraps_s_max: 257; choose 1 to 256",
        "keys.rotation.sealing_h:",
        "keys.log_key",
    ] {
        assert!(e.contains(key), "{key} in {e}");
    }
}

#[test]
fn roles_have_their_own_keys() {
    let e = refused(
        &example_custodian()
            .replace("role = \"custodian\"", "role = \"home\"")
            .replace("policy = \"policy.toml\"", ""),
    );
    for key in [
        "listen.client",
        "tls.client_cert",
        "trust.policy",
        "listen.registry",
        "listen.audit",
        "keys.rotation",
    ] {
        assert!(e.contains(key), "{key} in {e}");
    }
    let e = refused(&example_home().replace("role = \"home\"", "role = \"custodian\""));
    for key in ["listen.client", "home:", "keys.log_key"] {
        assert!(e.contains(key), "{key} in {e}");
    }
    let e = refused(&example_custodian().replace("role = \"custodian\"", "role = \"authority\""));
    assert!(
        e.contains("role: an identity authority runs no node"),
        "{e}"
    );
}

#[test]
fn wrong_types_and_broken_toml_name_the_line() {
    let e = refused(&example_custodian().replace("node = 1  ", "node = \"one\"  "));
    assert!(e.contains("line 5"), "{e}");
    assert!(refused("format = 1\n[[[").contains("line 2"));
    let missing = Config::load(Path::new("/nonexistent/node.toml"))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("--config"), "{missing}");
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("{}{text}", example_home()));
    }
}
