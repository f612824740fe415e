//! Service keys, as a shard keeps them.

use super::fixtures::*;
use crate::authz::service::{ENROLMENT_MS_MAX, ServiceKey, service_id};
use crate::home::command::{Command, Reply, ServiceChange};
use crate::home::{SERVICES_MAX, read};
use crate::types::WallMs;

const NOW: WallMs = 1_000;

fn key(n: u8) -> ServiceKey {
    ServiceKey {
        name: format!("import {n}"),
        public: public(n),
        accounts: Some([account(n)].into()),
        expires_ms: NOW + 5_000,
    }
}

fn enrol(shard: &mut Shard, now: WallMs, key: ServiceKey) -> Reply {
    let by = "1".to_owned();
    shard.apply(now, Command::Service(ServiceChange::Enrol { key, by }))
}

fn end(shard: &mut Shard, now: WallMs, n: u8) -> Reply {
    let service = service_id(&public(n));
    shard.apply(now, Command::Service(ServiceChange::End { service }))
}

#[test]
fn a_key_is_enrolled_once_and_ended_for_ever() {
    let mut shard = Shard::new(MARGINS);
    let id = service_id(&public(1));
    assert_eq!(read::service(&shard.kv, &id).unwrap(), None);
    assert_eq!(enrol(&mut shard, NOW, key(1)), Reply::Done);
    let row = read::service(&shard.kv, &id).unwrap().unwrap();
    assert_eq!(
        (row.key, row.enrolled_ms, row.ended_ms),
        (key(1), NOW, None)
    );
    // Repeating it is success, even when its time is over; changing it is not.
    assert_eq!(enrol(&mut shard, NOW + 6_000, key(1)), Reply::Done);
    let other = ServiceKey {
        accounts: None,
        ..key(1)
    };
    assert!(matches!(
        enrol(&mut shard, NOW, other),
        Reply::Invalid { .. }
    ));
    assert_eq!(end(&mut shard, NOW, 2), Reply::NotFound);
    for _ in 0..2 {
        assert_eq!(end(&mut shard, NOW + 7_000, 1), Reply::Done);
    }
    let row = read::service(&shard.kv, &id).unwrap().unwrap();
    assert_eq!(row.ended_ms, Some(NOW + 7_000));
    assert!(matches!(
        enrol(&mut shard, NOW, key(1)),
        Reply::Invalid { .. }
    ));
    let all = read::services(&shard.kv).unwrap();
    assert_eq!(all, [row]);
}

#[test]
fn what_cannot_be_enrolled_changes_nothing() {
    let mut shard = Shard::new(MARGINS);
    shard.apply(NOW, Command::Sweep);
    let before = shard.kv.clone();
    let long = ServiceKey {
        expires_ms: NOW + ENROLMENT_MS_MAX + 1,
        ..key(1)
    };
    assert!(matches!(
        enrol(&mut shard, NOW, long),
        Reply::Invalid { .. }
    ));
    let command = Command::Service(ServiceChange::Enrol {
        key: key(1),
        by: "x".repeat(65),
    });
    assert!(matches!(shard.apply(NOW, command), Reply::Invalid { .. }));
    assert!(shard.kv == before);
    for n in 0..SERVICES_MAX {
        let mut key = key(1);
        key.public.0[..8].copy_from_slice(&(n as u64).to_be_bytes());
        assert_eq!(enrol(&mut shard, NOW, key), Reply::Done);
    }
    assert!(matches!(
        enrol(&mut shard, NOW, key(1)),
        Reply::Invalid { .. }
    ));
}
