//! The configurations printed in `docs/operations.md`; a test parses them.

/// A custodian's node, with every key that has a default written out.
pub fn example_custodian() -> &'static str {
    r#"format = 1
role = "custodian"                                # home | custodian
deployment = "00112233445566778899aabbccddeeff"
cluster = "ch"
node = 1                                          # never reused, not even after removal
data_dir = "data"                                 # relative paths: from this file

[listen]
peer = "0.0.0.0:7101"                             # raft, homes, other custodians; mutual TLS 1.3
operator = "127.0.0.1:7102"                       # freeze, shred, membership; operator certificates
registry = "0.0.0.0:7104"                         # accounts and devices; identity authorities' certificates
audit = "0.0.0.0:7105"                            # the log's checkpoints and hashes for everybody, entries for auditors
health = "127.0.0.1:7103"                         # /livez /readyz /metrics, plain HTTP

[tls]                                             # watched: replace the files to rotate
cert = "node.crt"
key = "node.key"
ca = "ca.crt"

[keys]
provider = "key-file"                             # key-file (development) | passphrase | shares | pkcs11
key_file = "root.key"
log_key = "log.key"                               # signs receipts and checkpoints
witness_key = "witness.key"                       # cosigns other custodians' checkpoints

[keys.rotation]
sealing_h = 24                                    # keys that homes seal to, 1 to 120; each lives six days
wrapping_days = 30                                # keys that shares lie under, 1 to 365
rewraps_s_max = 256                               # shares wrapped anew in a second, at most

[trust]
own = "descriptor.json"
dir = "trust"                                     # descriptors added with `quorate trust add`
policy = "policy.toml"                            # policies this custodian deals under, if the file is there

[[nodes]]                                         # at first start; afterwards raft membership counts
id = 1
peer = "ch1.example:7101"
[[nodes]]
id = 2
peer = "ch2.example:7101"
[[nodes]]
id = 3
peer = "ch3.example:7101"

[store]
kind = "redb"                                     # redb | sled | memory

[raft]
heartbeat_ms = 300
election_ms_min = 1000
election_ms_max = 2000
snapshot_entries = 20000
keep_entries = 5000
spread_leaders = true

[webhook]                                         # optional: told that a disclosure order waits for officers
url = "https://officers.ch.example/orders"
ca = "officers-ca.crt"

[limits]
client_in_flight_max = 1024
peer_in_flight_max = 1024
cert_warn_days = 14
"#
}

/// A home's node; keys that do not differ from a custodian's are left to their defaults.
pub fn example_home() -> &'static str {
    r#"format = 1
role = "home"
deployment = "00112233445566778899aabbccddeeff"
cluster = "ae"
node = 1
data_dir = "data"

[listen]
peer = "0.0.0.0:7001"
client = "0.0.0.0:7000"                           # HTTPS/JSON for clients
operator = "127.0.0.1:7002"
health = "127.0.0.1:7003"

[tls]
cert = "node.crt"
key = "node.key"
ca = "ca.crt"
client_cert = "client-plane.crt"
client_key = "client-plane.key"

[keys]
provider = "key-file"
key_file = "root.key"

[trust]
own = "descriptor.json"
dir = "trust"
policy = "policy.toml"

[[nodes]]
id = 1
peer = "ae1.example:7001"

[home]
shards = 8                                        # fixed at the first start
lease_age_s_max = 600
lease_count_max = 16384
thin_wait_ms = 3000
"#
}
