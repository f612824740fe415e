//! Officers for tests: officer `n` holds the key with seed `n`.

use super::*;
use crate::crypto::sign::SigningKey;
use crate::types::Secret;

pub(crate) const T0: u64 = 1_700_000_000_000;
pub(crate) const D: DeploymentId = DeploymentId([1; 16]);

pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}
pub(crate) fn id(n: u8) -> OfficerId {
    OfficerKey(key(n).public()).id()
}
pub(crate) fn ch() -> CustodianId {
    CustodianId::new("ch").unwrap()
}
pub(crate) fn at(now_ms: WallMs) -> Context<'static> {
    static CH: std::sync::LazyLock<CustodianId> = std::sync::LazyLock::new(ch);
    Context {
        deployment: &D,
        custodian: &CH,
        now_ms,
    }
}
pub(crate) fn sign(s: &Statement, by: &[u8]) -> Envelope {
    let keys: Vec<_> = by.iter().map(|n| key(*n)).collect();
    Envelope::sign(
        labels::SIGN_OFFICER,
        &D,
        s,
        &keys.iter().collect::<Vec<_>>(),
    )
}
pub(crate) fn officer(n: u8) -> Officer {
    Officer {
        name: format!("officer {n}"),
        public: OfficerKey(key(n).public()),
    }
}
pub(crate) fn bootstrap(n: u8, quorum: u8) -> Statement {
    Statement::Bootstrap(Bootstrap {
        custodian: ch(),
        officers: (1..=n).map(officer).collect(),
        quorum,
        floor: None,
        waits: None,
    })
}
/// Officers 1 to `n`.
pub(crate) fn roster(n: u8, quorum: u8) -> Roster {
    let all: Vec<u8> = (1..=n).collect();
    Roster::bootstrap(&sign(&bootstrap(n, quorum), &all), &at(T0)).unwrap()
}
pub(crate) fn without(r: &Roster, n: u8) -> Roster {
    r.after(&Act::RemoveOfficer { officer: id(n) })
        .unwrap()
        .unwrap()
}
pub(crate) fn decision(subject: Subject, verdict: Verdict, n: u8) -> Decision {
    Decision {
        custodian: ch(),
        subject,
        verdict,
        officer: id(n),
        reason: "because".into(),
    }
}
