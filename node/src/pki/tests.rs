//! Certificates, descriptors and trust: what is accepted and what never is.

use super::entity::{self, EntityError};
use super::files::FileError;
use super::rotate::RotateError;
use super::testkit::{DEPLOYMENT, certs, entity, forged, source, spec};
use super::*;
use crate::config::{ClusterRole, Config};
use quorate_engine::authz::identity::AuthorityRecord;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_makes_everything_once_and_secrets_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 3);
    for name in [
        "ca.key",
        "identity.key",
        "log.key",
        "witness.key",
        "operator.key",
    ] {
        assert_eq!(mode(&ch.dir.join(name)), 0o600, "{name}");
    }
    for node in 1..=3 {
        let nd = ch.node_dir(node);
        for name in ["node.key", "root.key", "log.key", "witness.key"] {
            assert_eq!(mode(&nd.join(name)), 0o600, "{name}");
        }
        assert!(!nd.join("ca.key").exists() && !nd.join("identity.key").exists());
        let config = Config::load(&ch.config_path(node)).unwrap();
        assert_eq!(
            (config.node, config.cluster.as_str(), config.nodes.len()),
            (node, "ch", 3)
        );
        let log = files::read_signing_key(config.keys.log_key.as_ref().unwrap()).unwrap();
        assert_eq!(Some(descriptor::PublicKey::of(&log)), ch.descriptor.log_key);
        let peer = CertSource::load("peer", &config.tls.cert, &config.tls.key).unwrap();
        assert_eq!(peer.identity().node, node);
    }
    let roots: std::collections::BTreeSet<Vec<u8>> = (1..=3)
        .map(|n| std::fs::read(ch.node_dir(n).join("root.key")).unwrap())
        .collect();
    assert_eq!(roots.len(), 3, "every node has its own root key");
    let again = entity::init(&ch.dir, &spec(ClusterRole::Custodian, "ch", 3)).unwrap_err();
    assert!(
        matches!(again, EntityError::File(FileError::Exists { .. })),
        "{again}"
    );

    let ae = entity(dir.path(), ClusterRole::Home, "ae", 1);
    let mut config = Config::load(&ae.config_path(1)).unwrap();
    assert_eq!(config.groups(), 8);
    assert!(!ae.node_dir(1).join("identity.key").exists());
    let (cert, key) = (
        config.tls.client_cert.take().unwrap(),
        config.tls.client_key.take().unwrap(),
    );
    let plane = CertSource::load("client-plane", &cert, &key).unwrap();
    assert_eq!(plane.identity().role, CertRole::ClientPlane);
}

#[test]
fn an_authority_has_a_statement_key_and_a_client_certificate_and_no_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut id = entity(dir.path(), ClusterRole::Authority, "id-ee", 0);
    for name in ["ca.key", "identity.key", "statement.key", "authority.key"] {
        assert_eq!(mode(&id.dir.join(name)), 0o600, "{name}");
    }
    for name in ["operator.crt", "log.key", "node-1"] {
        assert!(!id.dir.join(name).exists(), "{name}");
    }
    let load = |id: &Entity| {
        let file = |name: &str| id.dir.join(name);
        CertSource::load("registry", &file("authority.crt"), &file("authority.key")).unwrap()
    };
    assert_eq!(load(&id).identity().role, CertRole::Authority);
    let public = |id: &Entity| descriptor::PublicKey::of(&id.statement_key().unwrap()).0;
    let record = id.descriptor.authority().unwrap();
    assert_eq!(
        (record.id.as_str(), record.keys.len(), record.check()),
        ("id-ee", 1, Ok(()))
    );
    let key = record.keys[0].public;
    assert_eq!(public(&id), key.0);
    let json = id.descriptor.to_json();
    let again = Descriptor::from_json(json.as_bytes(), Path::new("d.json")).unwrap();
    assert_eq!(again, id.descriptor);
    // The statement key is under the signature.
    let other = json.replace(&key.to_string(), &again.identity_key.to_string());
    assert!(matches!(
        Descriptor::from_json(other.as_bytes(), Path::new("d.json")),
        Err(DescriptorError::Signature { .. })
    ));

    // Rotation: another key, the next revision, the same fingerprint; an interrupted one is finished.
    let print = id.descriptor.fingerprint();
    id.rotate_statement_key(false).unwrap();
    let record = id.descriptor.authority().unwrap();
    let versions: Vec<_> = record.keys.iter().map(|k| k.version).collect();
    assert_eq!((versions, id.descriptor.revision), (vec![1, 2], 2));
    let second = record.keys[1].public;
    assert!(second != key && public(&id) == second.0);
    assert_eq!(id.descriptor.fingerprint(), print);
    let at = |name: &str| id.dir.join(name);
    std::fs::rename(at("statement.key"), at("statement.key.next")).unwrap();
    let mut id = Entity::open(&id.dir).unwrap();
    assert_eq!(public(&id), second.0);
    id.rotate_statement_key(false).unwrap();
    assert_eq!((public(&id), id.descriptor.revision), (second.0, 2));
    assert!(!id.dir.join("statement.key.next").exists());
    // A custodian that knew the first key takes the second on the identity key's word.
    let first = AuthorityRecord {
        keys: record.keys[..1].to_vec(),
        ..record.clone()
    };
    let rotated = first.rotate(&id.descriptor.rotations[0], &DEPLOYMENT);
    assert_eq!(rotated.unwrap(), record);
    // A stolen key: the ones before count no longer.
    id.rotate_statement_key(true).unwrap();
    let keys = id.descriptor.authority().unwrap().keys;
    assert_eq!((keys.len(), keys[0].version), (1, 3));
    let rotated = record.rotate(&id.descriptor.rotations[1], &DEPLOYMENT);
    assert_eq!(rotated.unwrap().keys, keys);

    // Nobody else has one, and an authority has nothing of a cluster's.
    let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 1);
    assert!(matches!(
        ch.statement_key(),
        Err(EntityError::NoAuthority(_))
    ));
    let with_node = spec(ClusterRole::Authority, "id-jp", 1);
    let e = entity::init(&dir.path().join("id-jp"), &with_node).unwrap_err();
    assert!(matches!(e, EntityError::Nodes { nodes: 1, .. }), "{e}");
    let without = spec(ClusterRole::Custodian, "is", 0);
    let e = entity::init(&dir.path().join("is"), &without).unwrap_err();
    assert!(matches!(e, EntityError::Nodes { nodes: 0, .. }), "{e}");
}

#[test]
fn an_opened_entity_adds_nodes_and_never_reuses_an_id() {
    let dir = tempfile::tempdir().unwrap();
    entity(dir.path(), ClusterRole::Custodian, "ch", 3);
    let is = entity(dir.path(), ClusterRole::Custodian, "is", 1);
    let mut ch = Entity::open(&dir.path().join("ch")).unwrap();
    ch.trust(&is.descriptor).unwrap();
    let like = Config::load(&ch.config_path(1)).unwrap();
    let mut node = spec(ClusterRole::Custodian, "ch", 4).nodes.remove(3);
    ch.add_node(&node, &like).unwrap();
    let config = Config::load(&ch.config_path(4)).unwrap();
    assert!(
        config.nodes.is_empty(),
        "a joining node does not form a cluster"
    );
    let store = TrustStore::load(&config.trust.own, &config.trust.dir).unwrap();
    assert_eq!(store.own().revision, 2);
    assert!(
        store.get("is").is_some(),
        "it believes whom the others believe"
    );
    node.id = 2;
    assert!(matches!(
        ch.add_node(&node, &like),
        Err(EntityError::NodeExists { node: 2, .. })
    ));
}

#[test]
fn descriptors_are_verified_field_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 3);
    let json = ch.descriptor.to_json();
    let path = Path::new("ch.json");
    assert_eq!(
        Descriptor::from_json(json.as_bytes(), path).unwrap(),
        ch.descriptor
    );
    for (from, to) in [
        ("ch foundation", "my foundation"),
        ("\"revision\": 1", "\"revision\": 2"),
        ("127.0.0.1:20001", "127.0.0.1:20009"),
        ("\"jurisdiction\": \"ch\"", "\"jurisdiction\": \"is\""),
    ] {
        assert!(json.contains(from), "{from}");
        let forged = Descriptor::from_json(json.replace(from, to).as_bytes(), path).unwrap_err();
        assert!(
            matches!(forged, DescriptorError::Signature { .. }),
            "{forged}"
        );
    }
    let newer = json.replace("\"format\": 1", "\"format\": 2, \"new\": 0");
    assert!(matches!(
        Descriptor::from_json(newer.as_bytes(), path),
        Err(DescriptorError::Format { got: 2, .. })
    ));
    let unknown = json.replace("\"revision\"", "\"extra\": 1, \"revision\"");
    assert!(matches!(
        Descriptor::from_json(unknown.as_bytes(), path),
        Err(DescriptorError::Parse { .. })
    ));
    for cut in (0..json.len() - 2).step_by(97) {
        assert!(Descriptor::from_json(&json.as_bytes()[..cut], path).is_err());
    }
}

#[test]
fn the_fingerprint_follows_the_identity_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut ch = entity(dir.path(), ClusterRole::Custodian, "ch", 3);
    let before = ch.descriptor.fingerprint();
    assert_eq!(before.len(), 49);
    assert!(before.split('-').all(|g| g.len() == 4), "{before}");
    let mut body = (*ch.descriptor).clone();
    body.endpoints.insert(9, "ch9.example:7101".into());
    ch.publish(body).unwrap();
    assert_eq!(
        (ch.descriptor.fingerprint(), ch.descriptor.revision),
        (before.clone(), 2)
    );
    let other = tempfile::tempdir().unwrap();
    let impostor = entity(other.path(), ClusterRole::Custodian, "ch", 3);
    assert_ne!(impostor.descriptor.fingerprint(), before);
    assert_ne!(
        impostor.descriptor.identity_hash(),
        ch.descriptor.identity_hash()
    );
}

#[test]
fn trust_refuses_impostors_older_revisions_and_other_deployments() {
    let dir = tempfile::tempdir().unwrap();
    let ae = entity(dir.path(), ClusterRole::Home, "ae", 1);
    let mut ch = entity(dir.path(), ClusterRole::Custodian, "ch", 1);
    let first = ch.descriptor.clone();
    ch.publish((*first).clone()).unwrap();
    let trusted = dir.path().join("trusted");
    TrustStore::add(&trusted, &ch.descriptor).unwrap();
    TrustStore::add(&trusted, &ch.descriptor).unwrap();
    assert!(matches!(
        TrustStore::add(&trusted, &first),
        Err(TrustError::Older {
            known: 2,
            got: 1,
            ..
        })
    ));
    let other = tempfile::tempdir().unwrap();
    let impostor = entity(other.path(), ClusterRole::Custodian, "ch", 1);
    assert!(matches!(
        TrustStore::add(&trusted, &impostor.descriptor),
        Err(TrustError::Identity { .. })
    ));
    // A home under a custodian's name, even by the same key owner, is somebody else.
    let disguised = entity(other.path(), ClusterRole::Home, "is", 1);
    let mut foreign = spec(ClusterRole::Custodian, "br", 1);
    foreign.deployment = quorate_engine::types::DeploymentId([9; 16]);
    let foreign = entity::init(&other.path().join("br"), &foreign).unwrap();
    assert!(matches!(
        TrustStore::of(ae.descriptor.clone(), vec![foreign.descriptor.clone()]),
        Err(TrustError::Deployment { .. })
    ));
    let is = entity(dir.path(), ClusterRole::Custodian, "is", 1);
    assert!(matches!(
        TrustStore::of(
            ae.descriptor.clone(),
            vec![is.descriptor.clone(), disguised.descriptor.clone()]
        ),
        Err(TrustError::Identity { .. })
    ));
}

#[test]
fn the_trust_directory_is_read_again_and_a_bad_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ae = entity(dir.path(), ClusterRole::Home, "ae", 1);
    let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 1);
    let is = entity(dir.path(), ClusterRole::Custodian, "is", 1);
    let node = ae.node_dir(1);
    let store = TrustStore::load(&node.join("descriptor.json"), &node.join("trust")).unwrap();
    assert!(store.get("ch").is_none());
    ae.trust(&ch.descriptor).unwrap();
    assert!(store.reload().unwrap());
    assert!(store.get("ch").is_some());
    assert!(!store.reload().unwrap());
    ae.trust(&is.descriptor).unwrap();
    std::fs::write(node.join("trust/zz.json"), "{").unwrap();
    assert!(store.reload().is_err());
    assert!(store.get("ch").is_some() && store.get("is").is_none());
    std::fs::remove_file(node.join("trust/zz.json")).unwrap();
    assert!(store.reload().unwrap());
    assert_eq!(store.custodians().len(), 2);
}

#[test]
fn a_ca_issues_only_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 1);
    for (role, cluster) in [
        (CertRole::Home, "ch"),
        (CertRole::Custodian, "is"),
        (CertRole::ClientPlane, "ch"),
        (CertRole::Authority, "ch"),
    ] {
        let who = CertIdentity {
            deployment: DEPLOYMENT,
            role,
            cluster: cluster.into(),
            node: 1,
        };
        let e = ch.authority().issue(&who, &[]).unwrap_err();
        assert!(matches!(e, PkiError::NotOurs { .. }), "{e}");
    }
    let id = entity(dir.path(), ClusterRole::Authority, "id-ee", 0);
    for role in CertRole::ALL {
        let who = CertIdentity {
            deployment: DEPLOYMENT,
            role,
            cluster: "id-ee".into(),
            node: 1,
        };
        let issued = id.authority().issue(&who, &[]);
        assert_eq!(issued.is_ok(), role == CertRole::Authority, "{role}");
    }
}

#[test]
fn rotation_takes_a_good_pair_and_keeps_the_old_one_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 1);
    let who = certs(&ch, 1).identity();
    let issue = |days: u64| {
        let life = Duration::from_secs(days * 86_400);
        ch.authority()
            .danger_issue(&who, &[], SystemTime::now(), life)
            .unwrap()
    };
    let running = source(dir.path(), "n", &issue(1));
    let (cert, key) = (dir.path().join("n.crt"), dir.path().join("n.key"));
    let first = running.ends();
    assert!(!running.reload().unwrap(), "nothing changed");

    issue(5).write(&cert, &key).unwrap();
    assert!(running.reload().unwrap());
    let second = running.ends();
    assert!(second > first + Duration::from_secs(3 * 86_400));

    // Half a rotation: a new certificate with the old key.
    std::fs::write(&cert, issue(9).cert_pem).unwrap();
    assert!(matches!(running.reload(), Err(RotateError::Pair { .. })));
    std::fs::write(&cert, "not a certificate").unwrap();
    assert!(matches!(running.reload(), Err(RotateError::Pair { .. })));
    forged(&ch, CertRole::Custodian, "ch", 2)
        .write(&cert, &key)
        .unwrap();
    assert!(matches!(running.reload(), Err(RotateError::Another { .. })));
    let past = SystemTime::now() - Duration::from_secs(7_200);
    let expired = ch
        .authority()
        .danger_issue(&who, &[], past, Duration::from_secs(60))
        .unwrap();
    expired.write(&cert, &key).unwrap();
    assert!(matches!(running.reload(), Err(RotateError::Expired { .. })));
    assert_eq!(
        running.ends(),
        second,
        "the old pair is still the one in use"
    );
    std::fs::remove_file(&cert).unwrap();
    assert!(running.reload().is_err());
    issue(9).write(&cert, &key).unwrap();
    assert!(running.reload().unwrap());
}

#[test]
fn printing_keys_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 1);
    let issued = forged(&ch, CertRole::Custodian, "ch", 1);
    let text = format!("{:?} {:?} {:?}", issued, ch.authority(), certs(&ch, 1));
    assert!(
        !text.contains("PRIVATE") && !text.contains("BEGIN"),
        "{text}"
    );
}

/// Every accepting side against every certificate that any CA here can make.
#[test]
fn every_plane_takes_its_own_kind_of_certificate_and_no_other() {
    use super::verify::{Accept, Verifier};
    use rustls::server::danger::ClientCertVerifier;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, UnixTime};
    let dir = tempfile::tempdir().unwrap();
    let ch = entity(dir.path(), ClusterRole::Custodian, "ch", 1);
    let is = entity(dir.path(), ClusterRole::Custodian, "is", 1);
    let ae = entity(dir.path(), ClusterRole::Home, "ae", 1);
    let id = entity(dir.path(), ClusterRole::Authority, "id-ee", 0);
    let all = [&ch, &is, &ae, &id];
    let store = super::testkit::trust(&ch, &all[1..]);
    let table: [(Accept, &[(&str, CertRole)]); 3] = [
        (
            Accept::AnyPeer,
            &[
                ("ch", CertRole::Custodian),
                ("is", CertRole::Custodian),
                ("ae", CertRole::Home),
            ],
        ),
        (Accept::OwnOperator, &[("ch", CertRole::Operator)]),
        (Accept::AnyAuthority, &[("id-ee", CertRole::Authority)]),
    ];
    for (accept, wanted) in table {
        let verifier = Verifier::new(store.clone(), accept.clone(), tls::hybrid_provider());
        let mut taken = Vec::new();
        for issuer in all {
            for named in all {
                for role in CertRole::ALL {
                    let name = named.descriptor.id.as_str();
                    let issued = forged(issuer, role, name, 1);
                    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
                    if verifier
                        .verify_client_cert(&der, &[], UnixTime::now())
                        .is_ok()
                    {
                        assert_eq!(issuer.descriptor.id, name, "another CA's {role}");
                        taken.push((name.to_owned(), role));
                    }
                }
            }
        }
        let wanted: Vec<_> = wanted.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect();
        assert_eq!(taken, wanted, "{accept:?}");
    }
}
