//! Who may change an account, row by row; then at random.

use super::*;
use crate::crypto::labels::SIGN_AUTHORITY;
use crate::crypto::sign::SigningKey;
use crate::types::{Nonce, Secret};
use proptest::prelude::*;

const D: DeploymentId = DeploymentId([1; 16]);
const T0: u64 = 1_700_000_000_000;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}
fn public(n: u8) -> PublicKey {
    PublicKey(key(n).public())
}
fn id(n: u8) -> DeviceId {
    device_id(&public(n))
}
fn name(s: &str) -> AuthorityId {
    AuthorityId::new(s).unwrap()
}

/// Authorities sign with keys 100, 101, …; `gov` belongs to the home's entity, `bank-two` to the bank's.
fn registered() -> BTreeMap<AuthorityId, AuthorityRecord> {
    let all = [
        ("bank", "Bank AG", 100),
        ("post", "Post", 101),
        ("bank-two", "Bank AG", 102),
        ("gov", "Home LLC", 103),
    ];
    all.map(|(n, entity, k)| {
        let record = AuthorityRecord {
            id: name(n),
            entity: entity.into(),
            jurisdiction: "ch".into(),
            identity_key: public(k + 50),
            keys: vec![AuthorityKey {
                version: 1,
                public: public(k),
                not_before_ms: T0 - DAY_MS,
                not_after_ms: T0 + 300 * DAY_MS,
            }],
        };
        record.check().unwrap();
        (name(n), record)
    })
    .into()
}

struct World {
    authorities: BTreeMap<AuthorityId, AuthorityRecord>,
    homes: BTreeSet<String>,
    now: u64,
    source: Source,
    state: AccountState,
    genesis: Envelope,
}

fn found(secret: Option<u8>, device: u8, by: &[u8]) -> Envelope {
    let g = AccountGenesis {
        deployment: D,
        authorities: ["bank", "post", "bank-two", "gov"].map(name).into(),
        device: public(device),
        expires_ms: T0 + DEVICE_LIFE_MS_MAX,
        secret: secret.map(public),
        created_ms: T0,
        nonce: Nonce([5; 16]),
    };
    sign(&AccountPayload::Genesis(g), by)
}

fn sign(payload: &AccountPayload, by: &[u8]) -> Envelope {
    let keys: Vec<SigningKey> = by.iter().map(|n| key(*n)).collect();
    Envelope::sign(SIGN_ACCOUNT, &D, payload, &keys.iter().collect::<Vec<_>>())
}

impl World {
    fn with(secret: Option<u8>) -> Self {
        let by: Vec<u8> = [1, 100].into_iter().chain(secret).collect();
        let genesis = found(secret, 1, &by);
        let authorities = registered();
        let homes = BTreeSet::from(["Home LLC".to_owned()]);
        let ctx = IdentityContext {
            deployment: &D,
            now_ms: T0,
            source: Source::Client,
            authorities: &authorities,
            home_entities: &homes,
            recovery_wait_ms: RECOVERY_WAIT_MS,
            standing: None,
        };
        let (account, state) = super::genesis(&genesis, &ctx).unwrap();
        assert_eq!((account, account_id(&genesis)), (state.account, account));
        Self {
            authorities,
            homes,
            now: T0,
            source: Source::Client,
            state,
            genesis,
        }
    }
    fn new() -> Self {
        Self::with(None)
    }
    fn ctx(&self) -> IdentityContext<'_> {
        IdentityContext {
            deployment: &D,
            now_ms: self.now,
            source: self.source,
            authorities: &self.authorities,
            home_entities: &self.homes,
            recovery_wait_ms: RECOVERY_WAIT_MS,
            standing: None,
        }
    }
    fn statement(&self, change: AccountChange) -> AccountStatement {
        AccountStatement {
            account: self.state.account,
            number: self.state.head.number + 1,
            previous: self.state.head.hash,
            at_ms: self.now,
            change,
        }
    }
    fn envelope(&self, change: AccountChange, by: &[u8]) -> Envelope {
        sign(&AccountPayload::Statement(self.statement(change)), by)
    }
    fn offer(&self, envelope: &Envelope) -> Result<AccountState, IdentityRefusal> {
        advance(&self.state, envelope, &self.ctx())
    }
    /// Does it if it may be done; the refusal's code otherwise.
    fn act(&mut self, change: AccountChange, by: &[u8]) -> &'static str {
        match self.offer(&self.envelope(change, by)) {
            Ok(next) => {
                self.state = next;
                "ok"
            }
            Err(e) => {
                assert!(!e.to_string().is_empty());
                e.code()
            }
        }
    }
    fn add(&mut self, n: u8, by: &[u8]) -> &'static str {
        let expires_ms = self.now + DAY_MS;
        let public = public(n);
        self.act(AccountChange::AddDevice { public, expires_ms }, by)
    }
    fn begin(&mut self, n: u8, by: &[u8]) -> &'static str {
        self.act(AccountChange::RecoverBegin { public: public(n) }, by)
    }
    fn finish(&mut self, n: u8, by: &[u8]) -> &'static str {
        let expires_ms = self.now + DAY_MS;
        let public = public(n);
        self.act(AccountChange::RecoverFinish { public, expires_ms }, by)
    }
    fn live(&self, n: u8) -> bool {
        self.state.device(&id(n), self.now).live().is_some()
    }
}

#[test]
fn a_genesis_needs_its_device_an_authority_and_the_secret_it_names() {
    let w = World::new();
    let code = |e: &Envelope| super::genesis(e, &w.ctx()).map_err(|e| e.code()).err();
    assert_eq!(code(&found(None, 1, &[1, 101])), None);
    assert_eq!(code(&found(None, 1, &[1])), Some("unsigned"));
    assert_eq!(code(&found(None, 1, &[100])), Some("unsigned"));
    assert_eq!(code(&found(Some(9), 1, &[1, 100])), Some("unsigned"));
    assert_eq!(code(&found(Some(9), 1, &[1, 100, 9])), None);
    // A key of nobody in its list is no authority.
    assert_eq!(code(&found(None, 1, &[1, 99])), Some("unsigned"));
    let genesis = |change: fn(&mut AccountGenesis)| {
        let AccountPayload::Genesis(mut g) = w.genesis.read("t").unwrap() else {
            unreachable!("founded above")
        };
        change(&mut g);
        code(&sign(&AccountPayload::Genesis(g), &[1, 100]))
    };
    assert_eq!(genesis(|g| g.expires_ms += 1), Some("life"));
    assert_eq!(genesis(|g| g.expires_ms = T0), Some("life"));
    assert_eq!(genesis(|g| g.created_ms = T0 + DAY_MS), Some("untimely"));
    assert_eq!(genesis(|g| g.created_ms = T0 - DAY_MS), Some("untimely"));
    assert_eq!(genesis(|g| g.authorities.clear()), Some("authorities"));
    let unknown = genesis(|g| {
        g.authorities.insert(name("nobody"));
    });
    assert_eq!(unknown, Some("unknown_authority"));
    let other = genesis(|g| g.deployment = DeploymentId([2; 16]));
    assert_eq!(other, Some("other_deployment"));
    assert_eq!(
        code(&w.envelope(AccountChange::Veto, &[1])),
        Some("wrong_kind")
    );
    assert_eq!(w.offer(&w.genesis).unwrap_err().code(), "wrong_kind");
}

#[test]
fn one_authority_compelled_enrols_nothing() {
    let mut w = World::new();
    for by in [
        &[100, 2][..],
        &[100, 101, 102, 103, 2],
        &[100],
        &[1, 2],
        &[1, 100],
    ] {
        assert_eq!(w.add(2, by), "unsigned", "{by:?}");
    }
    assert_eq!(w.add(2, &[2]), "stranger");
    assert_eq!(w.begin(2, &[100, 2]), "unsigned");
    assert!(!w.live(2));
    // The control: with a device of the account it does.
    assert_eq!(w.add(2, &[100, 1, 2]), "ok");
    assert!(w.live(2) && w.live(1));
}

#[test]
fn a_revoked_device_never_comes_back() {
    let mut w = World::new();
    assert_eq!(w.add(2, &[100, 1, 2]), "ok");
    let enrolment = w.envelope(
        AccountChange::AddDevice {
            public: public(3),
            expires_ms: w.now + DAY_MS,
        },
        &[100, 2, 3],
    );
    w.state = w.offer(&enrolment).unwrap();
    let revoke = |n| AccountChange::Revoke { device: id(n) };
    assert_eq!(w.act(revoke(3), &[1]), "ok");
    assert_eq!(w.state.device(&id(3), w.now), DeviceStanding::Revoked);
    let replayed = w.offer(&enrolment).unwrap_err();
    assert_eq!(replayed.code(), "already_applied");
    assert_eq!(w.add(3, &[100, 1, 3]), "revoked");
    let renew = AccountChange::Renew {
        device: id(3),
        expires_ms: w.now + DAY_MS,
    };
    assert_eq!(w.act(renew, &[100, 3]), "revoked");
    assert_eq!(w.begin(3, &[100, 101, 3]), "revoked");
    assert_eq!(w.act(revoke(3), &[1]), "revoked");
    // A revoked device revokes nobody, an authority does, and so may the device itself.
    assert_eq!(w.act(revoke(1), &[3]), "unsigned");
    assert_eq!(w.act(revoke(1), &[103]), "ok");
    assert_eq!(w.act(revoke(2), &[2]), "ok");
    assert_eq!(w.act(revoke(9), &[100]), "no_device");
    // Before its revocation it could sign, for whoever judges that time.
    let then = w.state.device_then(&id(2), w.now - 1);
    assert_eq!(then.live(), Some(&public(2).0));
    assert_eq!(w.state.device_then(&id(2), w.now), DeviceStanding::Revoked);
}

#[test]
fn fork_gap_and_repetition_are_refusals_of_their_own() {
    let mut w = World::new();
    let revoke = AccountChange::Revoke { device: id(1) };
    let one = w.envelope(revoke.clone(), &[100]);
    let mut gap = w.statement(revoke);
    gap.number = 3;
    let gap = sign(&AccountPayload::Statement(gap), &[100]);
    let before = w.state.clone();
    let behind = IdentityRefusal::Misplaced(Misplaced::Behind { have: 0, got: 3 });
    assert_eq!(w.offer(&gap), Err(behind));
    let two = w.envelope(AccountChange::Veto, &[1]);
    assert_eq!(w.add(2, &[100, 1, 2]), "ok");
    for (other, by) in [(&one, "an authority"), (&two, "a device")] {
        let fork = IdentityRefusal::Misplaced(Misplaced::Fork {
            number: 1,
            ours: w.state.head.hash,
            theirs: StatementHash(other.hash()),
        });
        assert_eq!(w.offer(other), Err(fork), "by {by}");
    }
    // The same statement signed by strangers proves no fork.
    let stranger = sign(&one.read("t").unwrap(), &[77]);
    assert_eq!(w.offer(&stranger).unwrap_err().code(), "stranger");
    // On top of another history.
    let mut s = w.statement(AccountChange::Veto);
    s.previous = before.head.hash;
    let other = sign(&AccountPayload::Statement(s), &[1]);
    assert_eq!(w.offer(&other).unwrap_err().code(), "fork");
    let mut s = w.statement(AccountChange::Veto);
    s.account = AccountId([9; 32]);
    let other = sign(&AccountPayload::Statement(s), &[1]);
    assert_eq!(w.offer(&other).unwrap_err().code(), "other_account");
}

#[test]
fn recovery_takes_two_independent_authorities_and_the_wait() {
    let mut w = World::new();
    // The bank twice, the home's own, one and the new device's own word.
    for by in [&[100, 102, 2][..], &[100, 103, 2], &[102, 103, 2]] {
        assert_eq!(w.begin(2, by), "not_independent", "{by:?}");
    }
    assert_eq!(w.begin(2, &[100, 101]), "unsigned");
    assert_eq!(w.finish(2, &[100, 2]), "no_recovery");
    assert_eq!(w.begin(2, &[100, 101, 2]), "ok");
    assert_eq!(w.finish(3, &[100, 3]), "no_recovery");
    assert_eq!(w.finish(2, &[100, 2]), "too_early");
    w.now += RECOVERY_WAIT_MS - 1;
    assert_eq!(w.finish(2, &[100, 2]), "too_early");
    w.now += 1;
    let waiting = w.state.clone();
    assert_eq!(w.finish(2, &[2, 77]), "stranger");
    assert_eq!(w.finish(2, &[100]), "unsigned");
    assert_eq!(w.finish(2, &[101, 2]), "ok");
    assert!(w.live(2));
    assert_eq!(w.finish(2, &[101, 2]), "no_recovery");

    w.state = waiting.clone();
    assert_eq!(w.act(AccountChange::Veto, &[100]), "unsigned");
    assert_eq!(w.act(AccountChange::Veto, &[1]), "ok");
    assert_eq!(w.finish(2, &[101, 2]), "no_recovery");
    assert_eq!(w.act(AccountChange::Veto, &[1]), "no_recovery");

    w.state = waiting.clone();
    w.now += RECOVERY_OPEN_MS + 1;
    assert_eq!(w.finish(2, &[101, 2]), "too_late");

    // A second beginning starts the wait anew.
    w.state = waiting;
    assert_eq!(w.begin(2, &[100, 101, 2]), "ok");
    assert_eq!(w.finish(2, &[100, 2]), "too_early");

    // Without a home's name nobody can tell who is independent of it.
    w.homes.clear();
    assert_eq!(w.begin(4, &[100, 101, 4]), "home_unknown");
}

#[test]
fn one_signature_never_counts_for_two_authorities() {
    let mut w = World::new();
    let shared = registered()[&name("bank")].keys.clone();
    w.authorities.get_mut(&name("post")).unwrap().keys = shared;
    assert_eq!(w.begin(2, &[100, 2]), "not_independent");
}

#[test]
fn no_setting_makes_the_wait_shorter_than_its_floor() {
    let mut w = World::new();
    let under = |w: &World, wait, change, by: &[u8]| {
        let ctx = IdentityContext {
            recovery_wait_ms: wait,
            ..w.ctx()
        };
        advance(&w.state, &w.envelope(change, by), &ctx)
    };
    let finish = |w: &World, wait| {
        let change = AccountChange::RecoverFinish {
            public: public(2),
            expires_ms: w.now + DAY_MS,
        };
        under(w, wait, change, &[100, 2]).is_ok()
    };
    let begin = |w: &World, wait| {
        let change = AccountChange::RecoverBegin { public: public(2) };
        under(w, wait, change, &[100, 101, 2]).unwrap()
    };
    let before = w.state.clone();
    w.state = begin(&w, 0);
    w.now = T0 + RECOVERY_WAIT_MS_MIN - 1;
    assert!(!finish(&w, 0));
    w.now += 1;
    assert!(finish(&w, 0));
    // Nor does one that changes while it runs.
    w.now = T0;
    w.state = before;
    w.state = begin(&w, RECOVERY_WAIT_MS);
    w.now = T0 + RECOVERY_WAIT_MS - 1;
    assert!(!finish(&w, RECOVERY_WAIT_MS_MIN));
    w.now += 1;
    assert!(finish(&w, 2 * RECOVERY_WAIT_MS));
}

#[test]
fn a_secret_once_set_must_sign() {
    let mut w = World::with(Some(9));
    assert_eq!(w.begin(2, &[100, 101, 2]), "unsigned");
    assert_eq!(w.begin(2, &[100, 101, 2, 9]), "ok");
    let set = |n: Option<u8>| AccountChange::SetSecret {
        public: n.map(public),
    };
    assert_eq!(w.act(set(None), &[1, 100]), "unsigned");
    assert_eq!(w.act(set(Some(8)), &[1, 100, 9]), "unsigned");
    assert_eq!(w.act(set(Some(8)), &[1, 9, 8]), "unsigned");
    assert_eq!(w.act(set(Some(8)), &[100, 9, 8]), "unsigned");
    assert_eq!(w.act(set(Some(8)), &[1, 100, 9, 8]), "ok");
    assert_eq!(w.state.recovery, None, "a device was there after all");
    assert_eq!(w.begin(2, &[100, 101, 2, 9]), "unsigned");
    assert_eq!(w.act(set(None), &[1, 100, 8]), "ok");
    assert_eq!(w.begin(2, &[100, 101, 2]), "ok");
}

#[test]
fn authorities_change_with_a_device_an_old_one_and_every_new_one() {
    let mut w = World::new();
    let set = |names: &[&str]| AccountChange::SetAuthorities {
        authorities: names.iter().map(|n| name(n)).collect(),
    };
    assert_eq!(w.act(set(&["post"]), &[100]), "unsigned");
    assert_eq!(w.act(set(&["post"]), &[1]), "unsigned");
    assert_eq!(w.act(set(&[]), &[1, 100]), "authorities");
    assert_eq!(
        w.act(set(&["post", "nobody"]), &[1, 100]),
        "unknown_authority"
    );
    assert_eq!(w.act(set(&["post"]), &[1, 100]), "ok");
    assert_eq!(w.add(2, &[1, 2, 100]), "unsigned", "the bank is out");
    assert_eq!(w.act(set(&["post", "bank"]), &[1, 101]), "unsigned");
    assert_eq!(w.act(set(&["post", "bank"]), &[1, 101, 100]), "ok");
}

#[test]
fn records_end_and_are_renewed_by_an_authority_and_the_device() {
    let mut w = World::new();
    assert_eq!(w.add(2, &[100, 1, 2]), "ok");
    w.now += DAY_MS;
    assert_eq!(w.state.device(&id(2), w.now), DeviceStanding::Expired);
    assert_eq!(w.state.device(&id(9), w.now), DeviceStanding::Unknown);
    assert_eq!(w.add(3, &[100, 2, 3]), "unsigned", "its record ran out");
    let revoke = AccountChange::Revoke { device: id(1) };
    assert_eq!(w.act(revoke, &[2]), "unsigned", "and it revokes nobody");
    let renew = |n, expires_ms| AccountChange::Renew {
        device: id(n),
        expires_ms,
    };
    let until = w.now + DEVICE_LIFE_MS_MAX;
    assert_eq!(w.act(renew(2, until), &[1, 2]), "unsigned");
    assert_eq!(w.act(renew(2, until), &[100, 1]), "unsigned");
    assert_eq!(w.act(renew(2, until + 1), &[100, 2]), "life");
    assert_eq!(w.act(renew(9, until), &[100, 1]), "no_device");
    assert_eq!(w.act(renew(2, until), &[100, 2]), "ok");
    assert!(w.live(2));
}

#[test]
fn statements_dated_back_or_ahead_do_not_count() {
    let mut w = World::new();
    assert_eq!(w.add(2, &[100, 1, 2]), "ok");
    w.now += DAY_MS + 2 * 60 * 60 * 1000;
    // Device 2 ran out two hours ago and dates its statement back to when it held.
    let back = |w: &World, change, at_ms, by: &[u8]| {
        let mut s = w.statement(change);
        s.at_ms = at_ms;
        w.offer(&sign(&AccountPayload::Statement(s), by))
            .map_err(|e| e.code())
    };
    let add = AccountChange::AddDevice {
        public: public(3),
        expires_ms: w.now + DAY_MS,
    };
    let held = T0 + DAY_MS - 1;
    let by = [100, 2, 3];
    assert_eq!(back(&w, add.clone(), held, &by).err(), Some("untimely"));
    assert_eq!(back(&w, add.clone(), T0 - 1, &by).err(), Some("untimely"));
    let ahead = w.now + 10 * 365 * DAY_MS;
    assert_eq!(
        back(&w, add.clone(), ahead, &[100, 1, 3]).err(),
        Some("untimely")
    );
    // A revocation is never too old.
    let revoke = AccountChange::Revoke { device: id(1) };
    assert!(back(&w, revoke, T0, &[1]).is_ok());
    // What a blocking set acknowledged at the time counts at the laggard, and only so.
    w.source = Source::Peer;
    assert_eq!(back(&w, add.clone(), held, &by).err(), Some("untimely"));
    w.source = Source::Vouched;
    assert!(back(&w, add, held, &by).is_ok());
}

#[test]
fn devices_are_limited_and_a_revocation_always_finds_room() {
    let mut w = World::new();
    let device = |n: u8| (2..=200).contains(&n).then_some(n).unwrap();
    for n in 2..=32 {
        assert_eq!(w.add(device(n), &[101, 1, n]), "ok");
    }
    assert_eq!(w.add(33, &[101, 1, 33]), "too_many");
    // Keys 100 to 103 sign for authorities; devices take others.
    let mut taken = 32;
    for n in (33..100).chain(110..150) {
        let oldest = *w.state.devices.keys().find(|d| **d != id(1)).unwrap();
        let revoke = AccountChange::Revoke { device: oldest };
        assert_eq!(w.act(revoke, &[1]), "ok");
        let expected = if taken < DEVICES_EVER_MAX {
            "ok"
        } else {
            "too_many"
        };
        assert_eq!(w.add(n, &[101, 1, n]), expected);
        taken += usize::from(expected == "ok");
        if expected == "too_many" {
            break;
        }
    }
    assert_eq!(taken, DEVICES_EVER_MAX);
    let all: Vec<DeviceId> = w.state.devices.keys().copied().collect();
    for device in all {
        assert_eq!(w.act(AccountChange::Revoke { device }, &[100]), "ok");
    }
    assert_eq!(w.state.revoked.len(), DEVICES_EVER_MAX);
}

#[test]
fn authorities_rotate_by_their_identity_key_only() {
    let record = registered()[&name("bank")].clone();
    let new = |version, oldest| AuthorityKeys {
        authority: name("bank"),
        key: AuthorityKey {
            version,
            public: public(120),
            not_before_ms: T0,
            not_after_ms: T0 + DAY_MS,
        },
        oldest,
    };
    let signed = |s: &AuthorityKeys, by: u8| Envelope::sign(SIGN_AUTHORITY, &D, s, &[&key(by)]);
    let rotated = record.rotate(&signed(&new(2, 1), 150), &D).unwrap();
    assert!(rotated.signs_with(&public(100).0, T0) && rotated.signs_with(&public(120).0, T0));
    assert!(!rotated.signs_with(&public(120).0, T0 + DAY_MS));
    assert!(!rotated.signs_with(&public(120).0, T0 - 1));
    let stolen = record.rotate(&signed(&new(2, 2), 150), &D).unwrap();
    assert!(!stolen.signs_with(&public(100).0, T0));
    let by_statement_key = record.rotate(&signed(&new(2, 1), 100), &D);
    assert_eq!(by_statement_key, Err(AuthorityRefusal::NotByIdentityKey));
    let again = rotated.rotate(&signed(&new(2, 1), 150), &D);
    let version = AuthorityRefusal::Version { got: 2, newest: 2 };
    assert_eq!(again, Err(version));
    let other = registered()[&name("post")].rotate(&signed(&new(2, 1), 151), &D);
    assert_eq!(other, Err(AuthorityRefusal::Other(name("bank"))));
    let mut long = new(2, 1);
    long.key.not_after_ms = T0 + AUTHORITY_KEY_LIFE_MS_MAX + 1;
    let long = record.rotate(&signed(&long, 150), &D);
    assert_eq!(long, Err(AuthorityRefusal::Life));
    let mut many = record;
    for version in 2..20 {
        many = many.rotate(&signed(&new(version, 0), 150), &D).unwrap();
        many.check().unwrap();
    }
    assert_eq!(many.keys.len(), AUTHORITY_KEYS_MAX);
    many.keys.clear();
    assert_eq!(many.check(), Err(AuthorityRefusal::Keys));
    many.entity.clear();
    assert_eq!(many.check(), Err(AuthorityRefusal::Names));
}

/// What may be tried, with any set of signers.
fn change() -> impl Strategy<Value = AccountChange> {
    let n = || 1u8..7;
    let end = || (1u64..=30).prop_map(|d| T0 + d * DAY_MS);
    prop_oneof![
        4 => (n(), end()).prop_map(|(n, expires_ms)| AccountChange::AddDevice { public: public(n), expires_ms }),
        2 => (n(), end()).prop_map(|(n, expires_ms)| AccountChange::Renew { device: id(n), expires_ms }),
        2 => n().prop_map(|n| AccountChange::Revoke { device: id(n) }),
        2 => n().prop_map(|n| AccountChange::RecoverBegin { public: public(n) }),
        1 => Just(AccountChange::Veto),
        2 => (n(), end()).prop_map(|(n, expires_ms)| AccountChange::RecoverFinish { public: public(n), expires_ms }),
        1 => prop::option::of(8u8..10).prop_map(|n| AccountChange::SetSecret { public: n.map(public) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// No device comes to an account without a live one of its own, unless by
    /// a recovery that two entities began and nobody vetoed for its wait; none comes back.
    #[test]
    fn devices_come_only_as_they_may(steps in prop::collection::vec((change(), prop::collection::btree_set(prop_oneof![1u8..10, 100u8..104], 1..6), 0u64..5), 1..40)) {
        let mut w = World::new();
        let mut gone = BTreeSet::new();
        for (change, by, days) in steps {
            w.now += days * DAY_MS;
            let by: Vec<u8> = by.into_iter().collect();
            let before = w.state.clone();
            if w.act(change.clone(), &by) != "ok" {
                prop_assert_eq!(&before, &w.state);
                continue;
            }
            prop_assert_eq!(w.state.head.number, before.head.number + 1);
            let signed_live = by.iter().any(|n| before.device(&id(*n), w.now).live().is_some());
            let authorities = by.iter().filter(|n| **n >= 100).count();
            for device in w.state.devices.keys().filter(|d| !before.devices.contains_key(d)) {
                prop_assert!(!gone.contains(device), "came back");
                prop_assert!(authorities >= 1);
                if !matches!(change, AccountChange::RecoverFinish { .. }) {
                    prop_assert!(signed_live);
                    continue;
                }
                let begun = before.recovery.expect("only what began ends");
                prop_assert_eq!(device_id(&begun.public), *device);
                prop_assert!(w.now >= begun.begun_ms + RECOVERY_WAIT_MS);
            }
            if let (None, Some(_)) = (before.recovery, w.state.recovery) {
                let independent = by.contains(&101) && (by.contains(&100) || by.contains(&102));
                prop_assert!(independent, "{:?}", by);
            }
            gone.extend(before.devices.keys().filter(|d| !w.state.devices.contains_key(d)).copied());
            prop_assert!(gone.iter().all(|d| w.state.device(d, w.now) == DeviceStanding::Revoked));
        }
    }
}
