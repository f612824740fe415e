//! What people and other entities write: policies, configurations, topologies,
//! descriptors, request bodies.

use super::codec::name;
use super::mutate::Kind;
use super::run::Target;
use quorate_engine::api::{Append, CreateChat, Edit, PostStatement};
use quorate_engine::authz::identity::AuthorityKey;
use quorate_engine::policy::{CustodianFacts, Facts, Policy, load};
use quorate_engine::types::{DeploymentId, Structure};
use quorate_node::config::{ClusterRole, Config, example_custodian, example_home};
use quorate_node::embedded::topology::Topology;
use quorate_node::pki::Authority;
use quorate_node::pki::descriptor::{Body, Descriptor, PublicKey};
use std::path::Path;

fn target(
    kind: Kind,
    corpus: Vec<Vec<u8>>,
    iterations: u64,
    check: impl Fn(&[u8]) -> bool + 'static,
) -> Target {
    // Inputs are at most 64 KiB; a parsed tree costs a multiple of its text.
    Target {
        corpus,
        kind,
        iterations,
        allocation_bytes_max: 16 << 20,
        check: Box::new(check),
    }
}

fn policies() -> Vec<Policy> {
    let leaf = |s| Structure::Leaf(name(s));
    let gate = |threshold, children| Structure::Gate {
        threshold,
        children,
    };
    let eu = gate(1, vec![leaf("de"), leaf("nl")]);
    [
        gate(
            3,
            vec![leaf("br"), leaf("ch"), eu.clone(), leaf("is"), leaf("sg")],
        ),
        gate(2, vec![leaf("br"), leaf("ch"), leaf("is")]),
        gate(
            2,
            vec![
                leaf("ch"),
                gate(2, vec![leaf("de"), leaf("is"), leaf("nl")]),
            ],
        ),
    ]
    .into_iter()
    .map(|s| {
        let identities = s.leaves().into_iter().map(|c| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&c.as_str().as_bytes()[..2]);
            (c.clone(), id)
        });
        let identities = identities.collect();
        Policy::new(s, identities).expect("a valid policy")
    })
    .collect()
}

/// One encoding per policy: what is read back is written the same.
pub(crate) fn policy_canonical() -> Target {
    let corpus = policies().iter().map(Policy::canonical).collect();
    target(
        Kind::Binary,
        corpus,
        200_000,
        |bytes| match Policy::from_canonical(bytes) {
            Ok(policy) => {
                assert_eq!(policy.canonical(), bytes, "two encodings of one policy");
                assert!(
                    policy.satisfied_by(&policy.custodians()),
                    "nobody could ever open"
                );
                true
            }
            Err(e) => {
                assert!(e.to_string().len() < 4096, "{e}");
                false
            }
        },
    )
}

const POLICY_FILES: &[&str] = &[
    r#"[policy.default]
threshold = 3
members = ["ch", "is", "sg", "br", { bloc = "eu", threshold = 1, members = ["de", "nl"] }]
write_margin = 1
require_margin = false

[bloc]
eu = ["de", "nl"]
"#,
    r#"[policy.small]
threshold = 2
members = ["ch", "is", "br"]

[policy.other]
threshold = 2
members = ["de", "is", "br"]
write_margin = 0

[bloc]
one-cloud = ["sg", "br"]
"#,
];

/// A file that is accepted holds no policy that one custodian, or one declared
/// bloc, satisfies alone.
pub(crate) fn policy_file() -> Target {
    let custodians = ["ch", "is", "sg", "br", "de", "nl"]
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let facts = CustodianFacts {
                jurisdiction: c.to_string(),
                entity: format!("{c} foundation"),
                identity: [i as u8; 32],
                provider: Some(format!("{c} cloud")),
                network: Some(format!("{c} net")),
            };
            (name(c), facts)
        });
    let facts = Facts {
        home_jurisdiction: "ae".into(),
        home_entity: "home".into(),
        custodians: custodians.collect(),
    };
    let corpus = POLICY_FILES.iter().map(|t| t.as_bytes().to_vec()).collect();
    target(Kind::Text, corpus, 50_000, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return false;
        };
        let Ok(file) = load(text, &facts) else {
            return false;
        };
        for named in file.policies.values() {
            for one in named.policy.custodians() {
                assert!(
                    !named.policy.satisfied_by(&[one].into()),
                    "one custodian opens alone"
                );
            }
            for bloc in file.blocs.values() {
                assert!(
                    !named.policy.satisfied_by(bloc),
                    "a declared bloc opens alone"
                );
            }
            assert!(named.policy.satisfied_by(&named.policy.custodians()));
        }
        true
    })
}

/// An accepted configuration survives being written out and read again.
pub(crate) fn node_config() -> Target {
    let corpus = [example_custodian(), example_home()]
        .map(|t| t.as_bytes().to_vec())
        .into();
    target(Kind::Text, corpus, 15_000, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return false;
        };
        let (path, dir) = (Path::new("node.toml"), Path::new("/etc/quorate"));
        match Config::parse(text, path, dir) {
            Ok(config) => {
                let written = config.to_toml();
                let again = Config::parse(&written, path, dir).expect("what is written is read");
                assert_eq!(again.to_toml(), written);
                true
            }
            Err(e) => {
                assert!(!e.to_string().is_empty());
                false
            }
        }
    })
}

pub(crate) fn topology() -> Target {
    let corpus = vec![
        quorate_node::embedded::topology::DEFAULT_TOPOLOGY
            .as_bytes()
            .to_vec(),
    ];
    target(Kind::Text, corpus, 15_000, |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| Topology::parse("t.toml", text).is_ok())
    })
}

/// A descriptor that is accepted is one that was signed: mutation never makes another.
pub(crate) fn descriptor() -> Target {
    let texts: Vec<Vec<u8>> = [
        descriptor_of(ClusterRole::Custodian, "ch"),
        descriptor_of(ClusterRole::Home, "ae"),
        descriptor_of(ClusterRole::Authority, "id-ee"),
    ]
    .into();
    let signed: Vec<Descriptor> = texts
        .iter()
        .map(|t| Descriptor::from_json(t, Path::new("d.json")).expect("signed"))
        .collect();
    target(
        Kind::Text,
        texts,
        15_000,
        move |bytes| match Descriptor::from_json(bytes, Path::new("d.json")) {
            Ok(d) => {
                assert!(signed.contains(&d), "a descriptor nobody signed");
                true
            }
            Err(_) => false,
        },
    )
}

/// The certificate in it is new in every run: `Authority` draws its key itself.
fn descriptor_of(role: ClusterRole, id: &str) -> Vec<u8> {
    let deployment = DeploymentId([1; 16]);
    let key = |byte| ed25519_dalek::SigningKey::from_bytes(&[byte; 32]);
    let (authority, _) = Authority::generate(deployment, role, id).expect("a new CA");
    let custodian = role == ClusterRole::Custodian;
    let body = Body {
        deployment,
        role,
        id: id.into(),
        revision: 3,
        jurisdiction: id.into(),
        legal_entity: format!("{id} foundation"),
        provider: "cloud".into(),
        network: "net".into(),
        ca_pem: authority.cert_pem().to_owned(),
        identity_key: PublicKey::of(&key(1)),
        statement_keys: match role {
            ClusterRole::Authority => vec![AuthorityKey {
                version: 1,
                public: quorate_engine::types::PublicKey(PublicKey::of(&key(4)).0),
                not_before_ms: 1,
                not_after_ms: 2,
            }],
            _ => Vec::new(),
        },
        rotations: Vec::new(),
        log_key: custodian.then(|| PublicKey::of(&key(2))),
        witness_key: custodian.then(|| PublicKey::of(&key(3))),
        endpoints: match role {
            ClusterRole::Authority => [].into(),
            _ => [
                (1, "a.example:7101".to_owned()),
                (2, "b.example:7101".to_owned()),
            ]
            .into(),
        },
    };
    Descriptor::sign(body, &key(1))
        .expect("valid")
        .to_json()
        .into_bytes()
}

/// Bodies of the client plane: whatever is accepted keeps its content as it was.
pub(crate) fn client_bodies() -> Target {
    let corpus = [
        r#"{"idempotency_key":"k1","profile":{"title":"plan","x":[1,2.5,null]},"genesis":{"payload":"{}","signatures":[{"key":"8a","signature":"00"}]}}"#,
        r#"{"statement":{"payload":"{\"number\":1}","signatures":[]}}"#,
        r#"{"messages":[{"idempotency_key":"a","content":{"text":"hi","entities":[{"type":"bold"}]}}]}"#,
        r#"{"idempotency_key":"e","content":{"text":"\u00e9\ud83d\ude00","n":12345678901234567890}}"#,
    ];
    let corpus = corpus.map(|t| t.as_bytes().to_vec()).into();
    target(Kind::Text, corpus, 150_000, |bytes| {
        fn keeps<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> bool {
            let Ok(value) = serde_json::from_slice::<T>(bytes) else {
                return false;
            };
            let text = serde_json::to_vec(&value).expect("it was JSON");
            let again: T = serde_json::from_slice(&text).expect("what is written is read");
            assert_eq!(serde_json::to_vec(&again).expect("it was JSON"), text);
            true
        }
        keeps::<CreateChat>(bytes)
            | keeps::<Append>(bytes)
            | keeps::<Edit>(bytes)
            | keeps::<PostStatement>(bytes)
    })
}
