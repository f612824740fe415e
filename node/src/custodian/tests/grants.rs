//! A home with a good certificate shows grants that do not hold. Each is
//! refused for its own reason, which stands in the log and is counted; the good
//! grant beside it succeeds each time.

use super::people::*;
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quorate_engine::audit::{self, Entry};
use quorate_engine::authz::chain::Source;
use quorate_engine::authz::grant::{GRANT_BYTES_MAX, GrantRefusal};
use quorate_engine::authz::identity::AccountChange;
use quorate_engine::authz::service::{ServiceClaims, ServiceToken};
use quorate_engine::custody::ACCOUNT_BUDGET;

const HOUR: u64 = 60 * 60 * 1000;

/// Share 1 of the chat of device 1, 2 of it too, 3 of one that forked, 4 of one nobody was told of.
const SHARE: u8 = 1;
const SECOND: u8 = 2;
const OF_FORKED: u8 = 3;
const OF_UNKNOWN: u8 = 4;

struct Stage {
    bench: Bench,
    c: Custodian,
    home: Home,
    counted: PrometheusHandle,
    _recorder: metrics::LocalRecorderGuard<'static>,
    requests: u8,
    seen: BTreeSet<GrantRefusal>,
}

fn forked() -> ChatId {
    chat_id(&chat_at(T0, 1, 8))
}

fn unknown() -> ChatId {
    chat_id(&chat_at(T0, 1, 7))
}

impl Stage {
    async fn set() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let counted = recorder.handle();
        let _recorder = metrics::set_default_local_recorder(recorder);
        let bench = Bench::new(1).await;
        let c = bench.node(1);
        let home = Home::meet(&c).await;
        for (chat, keys) in [
            (chat(), &[SHARE, SECOND][..]),
            (forked(), &[OF_FORKED]),
            (unknown(), &[OF_UNKNOWN]),
        ] {
            let outcomes = stored(&c, home.store_in(chat, keys, None)).await;
            assert!(outcomes.iter().all(|o| *o == StoreOutcome::Stored));
        }
        Self {
            bench,
            c,
            home,
            counted,
            _recorder,
            requests: 100,
            seen: BTreeSet::new(),
        }
    }

    fn good(&self) -> Claims {
        claims(account_of(1), chat(), self.c.now())
    }

    fn request(&mut self, grant: &str, chat: ChatId, keys: &[u8]) -> ReleaseRequest {
        self.requests += 1;
        let mut request = self.home.release(self.requests, keys);
        request.grant = grant.to_owned();
        for key in &mut request.keys {
            key.chat = chat;
        }
        request
    }

    async fn ask(&self, request: ReleaseRequest) -> ReleaseReply {
        let ask = CustodianRequest::Release(request);
        match self.c.answer(&home_node(), ask).await {
            CustodianReply::Release(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn count(&self, reason: &str) -> u64 {
        let text = self.counted.render();
        let label = format!("reason=\"{reason}\"");
        let mut lines = text.lines().filter(|l| {
            l.starts_with("quorate_custodian_refusals_total{") && l.contains(label.as_str())
        });
        lines.next().map_or(0, |l| {
            l.rsplit_once(' ').unwrap().1.parse().expect("a number")
        })
    }

    fn entry(&self, index: u64) -> Entry {
        let state = self.bench.shared.state.lock().unwrap();
        let json = audit::entry_bytes(&state.0, index).unwrap().unwrap();
        Entry::from_json(&json).unwrap()
    }

    /// The one key asked for is refused for `why`; a good grant gets its share right after.
    async fn refuses(&mut self, what: &str, why: GrantRefusal, request: ReleaseRequest) {
        let code = format!("grant_{}", why.code());
        let (size, count) = (self.bench.log_size(), self.count(&code));
        let reply = self.ask(request).await;
        let refused = ShareResult::Refused(Refusal::Grant(why));
        assert_eq!(reply.shares, [refused], "{what}");
        assert!(reply.encapsulated.is_empty(), "{what}");
        assert_eq!(self.bench.log_size(), size + 1, "{what}");
        assert_eq!(reply.receipt.entry, size, "{what}");
        let entry = self.entry(size);
        let outcome = serde_json::to_value(entry.keys[0].outcome).unwrap();
        assert_eq!(outcome, code.as_str(), "{what}");
        assert_eq!(self.count(&code), count + 1, "{what}");
        self.seen.insert(why);
        self.control(what).await;
    }

    async fn control(&mut self, beside: &str) {
        let grant = sign(1, self.good());
        let request = self.request(&grant, chat(), &[SHARE]);
        let reply = self.ask(request).await;
        let opened = self.home.open_under(&grant, &[SHARE], &reply);
        assert_eq!(opened, [Ok(true)], "beside {beside}");
    }

    /// The key under a grant whose claims differ from good ones.
    async fn refuses_claims(&mut self, what: &str, why: GrantRefusal, change: fn(&mut Claims)) {
        let mut claims = self.good();
        change(&mut claims);
        let request = self.request(&sign(1, claims), chat(), &[SHARE]);
        self.refuses(what, why, request).await;
    }

    /// The key under a grant of the account and by the key of `device`.
    async fn refuses_person(&mut self, what: &str, why: GrantRefusal, account: AccountId, by: u8) {
        let claims = Claims {
            account,
            ..self.good()
        };
        let request = self.request(&sign(by, claims), chat(), &[SHARE]);
        self.refuses(what, why, request).await;
    }
}

/// `compact` with another header or payload; nothing but form is looked at then.
fn bent(compact: &str, part: usize, from: &str, to: &str) -> String {
    let mut parts: Vec<String> = compact.split('.').map(str::to_owned).collect();
    let text = String::from_utf8(B64.decode(&parts[part]).unwrap()).unwrap();
    assert!(text.contains(from), "{text}");
    parts[part] = B64.encode(text.replacen(from, to, 1));
    parts.join(".")
}

#[tokio::test]
async fn every_refusal_has_its_reason_its_entry_and_its_count() {
    use GrantRefusal as G;
    let mut s = Stage::set().await;
    forms(&mut s).await;

    s.refuses_claims("another deployment's", G::OtherDeployment, |c| {
        c.deployment = DeploymentId([9; 16]);
    })
    .await;
    s.refuses_claims("another home's", G::OtherHome, |c| {
        c.home = HomeId::new("zz").unwrap();
    })
    .await;
    s.refuses_claims("not yet", G::NotYetValid, |c| {
        c.not_before_s += 61;
    })
    .await;
    s.refuses_claims("over", G::Expired, |c| {
        (c.not_before_s, c.expires_s) = (c.not_before_s - 600, c.not_before_s + 60);
    })
    .await;
    s.refuses_claims("another chat's", G::ChatNotGranted, |c| {
        c.chats[0].chat = forked();
    })
    .await;
    s.refuses_claims("of no chat", G::ChatNotGranted, |c| c.chats.clear())
        .await;
    s.refuses_claims("of later epochs", G::EpochBeforeRange, |c| {
        c.chats[0].from = EPOCH + 1;
    })
    .await;
    s.refuses_claims("of earlier epochs", G::EpochAfterRange, |c| {
        c.chats[0].to = Some(EPOCH - 1);
    })
    .await;

    let mut request = {
        let mut claims = s.good();
        claims.actions = vec![Action::Read];
        s.request(&sign(1, claims), chat(), &[SHARE])
    };
    request.reason = Reason::Write;
    s.refuses("reading only", G::ActionNotGranted, request)
        .await;

    // Mallory's signature under the name of device 1; and her payload before its signature.
    let forged = Grant::sign(device_id(&public(1)), &signer(2), s.good()).unwrap();
    let request = s.request(forged.compact(), chat(), &[SHARE]);
    s.refuses("forged", G::Signature, request).await;
    let (good, mut longer) = (s.good(), s.good());
    longer.id = good.id;
    longer.expires_s -= 1;
    let (good, longer) = (sign(1, good), sign(1, longer));
    let stretched = [
        longer.rsplit_once('.').unwrap().0,
        good.rsplit_once('.').unwrap().1,
    ];
    let request = s.request(&stretched.join("."), chat(), &[SHARE]);
    s.refuses("changed after signing", G::Signature, request)
        .await;

    people(&mut s).await;
    chats(&mut s).await;
    ceiling(&mut s).await;

    // Every reason that this page of the documentation has, but for a length that is never read.
    let lacking: Vec<_> = GrantRefusal::ALL
        .iter()
        .filter(|why| !s.seen.contains(why))
        .collect();
    assert_eq!(lacking, [&G::TooLong]);
    let before = s.bench.log_size();
    for grant in [String::new(), "a".repeat(GRANT_BYTES_MAX + 1)] {
        let request = CustodianRequest::Release(s.request(&grant, chat(), &[SHARE]));
        let reply = s.c.answer(&home_node(), request).await;
        assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");
    }
    assert_eq!(s.bench.log_size(), before);
}

async fn forms(s: &mut Stage) {
    use GrantRefusal as G;
    let text = sign(1, s.good());
    let cut = text.rsplit_once('.').unwrap().0.to_owned();
    let with = |from: &str, to: &str| bent(&text, 1, from, to);
    let header = |from: &str, to: &str| bent(&text, 0, from, to);
    for (what, grant, why) in [
        ("two parts", cut.clone(), G::NotCompact),
        ("padding", format!("{text}="), G::NotBase64url),
        ("alg none", header("EdDSA", "none"), G::Algorithm),
        ("crit", header("{", r#"{"crit":["exp"],"#), G::Critical),
        ("typ", header("quorate-grant+jwt", "JWT"), G::Type),
        (
            "a service's token",
            token_of_a_service(),
            G::ServiceCredential,
        ),
        ("a key of its own", header("{", r#"{"jwk":{},"#), G::Header),
        ("an unknown claim", with("{", r#"{"sub":1,"#), G::Payload),
        ("no action", with(r#"["write"]"#, "[]"), G::Actions),
        (
            "a range backwards",
            with(r#""from":0"#, r#""from":2,"to":1"#),
            G::Chats,
        ),
        (
            "ceiling 0",
            with(r#""ceiling":1000"#, r#""ceiling":0"#),
            G::Ceiling,
        ),
        (
            "an hour and more",
            with(r#""exp":1"#, r#""exp":2"#),
            G::Lifetime,
        ),
        ("no signature", format!("{cut}."), G::SignatureForm),
    ] {
        let request = s.request(&grant, chat(), &[SHARE]);
        let entry = s.bench.log_size();
        s.refuses(what, why, request).await;
        let entry = s.entry(entry);
        assert!(!entry.done, "{what}");
        let reason = format!("grant: {}: {why}", why.code());
        assert_eq!(entry.refused, Some(reason), "{what}");
    }
}

/// Signed with a member's own key, as if that were a service's.
fn token_of_a_service() -> String {
    let claims = ServiceClaims {
        account: account_of(1),
        deployment: crate::pki::testkit::DEPLOYMENT,
        home: HomeId::new("ae").unwrap(),
        chats: vec![chat()],
        not_before_s: 1,
        expires_s: 900,
    };
    let token = ServiceToken::sign(&signer(1), claims).unwrap();
    token.compact().to_owned()
}

/// Devices that are no devices of whoever is a member, and people who are none.
async fn people(s: &mut Stage) {
    use GrantRefusal as G;
    let alice = account_of(1);
    s.refuses_person("an invented device", G::DeviceUnknown, alice, 66)
        .await;
    let nobody = AccountId([3; 32]);
    s.refuses_person("an invented account", G::DeviceUnknown, nobody, 1)
        .await;
    for device in [2, 3, 4, 5] {
        applied(&s.c, of_account_chain(founded(device))).await;
    }
    s.refuses_person("another's device", G::DeviceUnknown, alice, 2)
        .await;
    s.refuses_person("another user's", G::NotMember, account_of(2), 2)
        .await;

    // In from the next epoch on, and out again.
    let genesis = chat_of(1);
    let add = of_chat(&genesis, &genesis, 1, adds(3, EPOCH + 1));
    applied(&s.c, of_chat_chain(Source::Client, add.clone())).await;
    let newcomer = account_of(3);
    s.refuses_person("a newcomer", G::EpochBeforeMembership, newcomer, 3)
        .await;
    let remove = quorate_engine::authz::membership::ChatChange::Remove { account: newcomer };
    let remove = of_chat(&genesis, &add, 2, remove);
    applied(&s.c, of_chat_chain(Source::Client, remove)).await;
    s.refuses_person("a former member", G::NotMember, newcomer, 3)
        .await;

    let (genesis, device) = (founded(4), device_id(&public(4)));
    let revoke = of_account(
        &genesis,
        &genesis,
        1,
        AccountChange::Revoke { device },
        &[4],
    );
    applied(&s.c, of_account_chain(revoke)).await;
    s.refuses_person("a revoked device", G::DeviceRevoked, account_of(4), 4)
        .await;

    let brief = founded_at(T0, 6, HOUR);
    applied(&s.c, of_account_chain(brief.clone())).await;
    s.refuses_person("no member yet", G::NotMember, account_id(&brief), 6)
        .await;
    s.bench.set_clocks(T0 + HOUR);
    s.refuses_person("a device run out", G::DeviceExpired, account_id(&brief), 6)
        .await;
    s.bench.set_clocks(T0 + HOUR + 1);
}

async fn chats(s: &mut Stage) {
    use GrantRefusal as G;
    let granted = |s: &Stage, chat| {
        let mut claims = s.good();
        claims.chats[0].chat = chat;
        sign(1, claims)
    };
    let grant = granted(s, unknown());
    let request = s.request(&grant, unknown(), &[OF_UNKNOWN]);
    s.refuses("a chat nobody founded", G::ChatUnknown, request)
        .await;

    let genesis = chat_at(T0, 1, 8);
    // Late statements are another custodian's word.
    for statement in [genesis.clone(), of_chat(&genesis, &genesis, 1, adds(2, 0))] {
        applied(&s.c, of_chat_chain(Source::Vouched, statement)).await;
    }
    let grant = granted(s, forked());
    let request = s.request(&grant, forked(), &[OF_FORKED]);
    let reply = s.ask(request).await;
    assert!(matches!(reply.shares[0], ShareResult::Share { .. }));
    let other = of_chat(&genesis, &genesis, 1, adds(3, 0));
    let told = s.c.submit(of_chat_chain(Source::Peer, other)).await;
    let effect = told.unwrap().into_value().effect;
    assert_eq!(effect, custody::Effect::Forked { marked: true });
    let request = s.request(&grant, forked(), &[OF_FORKED]);
    s.refuses("a forked chat", G::ChatForked, request).await;
}

async fn ceiling(s: &mut Stage) {
    use GrantRefusal as G;
    let narrow = Claims {
        ceiling: 1,
        ..s.good()
    };
    let grant = sign(1, narrow.clone());
    let first = s.request(&grant, chat(), &[SHARE]);
    // Repeated, it is decided anew and not charged anew.
    for _ in 0..3 {
        let reply = s.ask(first.clone()).await;
        assert!(matches!(reply.shares[0], ShareResult::Share { .. }));
    }
    let request = s.request(&grant, chat(), &[SECOND]);
    s.refuses("over the ceiling", G::CeilingSpent, request)
        .await;
    let wider = Claims {
        ceiling: 2,
        ..narrow
    };
    let request = s.request(&sign(1, wider), chat(), &[SECOND]);
    s.refuses("another under its name", G::IdReused, request)
        .await;
    let mut moved = first;
    moved.keys[0].key_id = key(SECOND);
    let reply = s.ask(moved).await;
    let mismatch = ShareResult::Refused(Refusal::RequestMismatch);
    assert_eq!(reply.shares, [mismatch]);
    assert_eq!(s.count("request_mismatch"), 1);
}

/// A freeze holds whatever the grant says, also for a request that was answered before.
#[tokio::test]
async fn a_repeated_request_meets_the_freeze() {
    let mut s = Stage::set().await;
    let grant = sign(1, s.good());
    let request = s.request(&grant, chat(), &[SHARE]);
    let reply = s.ask(request.clone()).await;
    assert!(matches!(reply.shares[0], ShareResult::Share { .. }));
    let why = || "seizure".to_owned();
    let frozen = s.c.freeze(operator(), FreezeScope::All, why()).await;
    frozen.unwrap();
    let reply = s.ask(request.clone()).await;
    assert_eq!(reply.shares, [ShareResult::Refused(Refusal::Frozen)]);
    assert_eq!(s.count("frozen"), 1);
    s.c.thaw(operator(), FreezeScope::All, why()).await.unwrap();
    let reply = s.ask(request).await;
    assert!(matches!(reply.shares[0], ShareResult::Share { .. }));
}

/// Whoever asks for everything with good grants runs dry, and is told when to come back.
#[tokio::test]
async fn an_account_has_its_budget() {
    let mut s = Stage::set().await;
    let all: Vec<u8> = (5..=255).collect();
    stored(&s.c, s.home.store(&all, None)).await;
    let mut left = ACCOUNT_BUDGET.capacity;
    while left > 0 {
        let keys = &all[..all.len().min(usize::try_from(left).unwrap())];
        let grant = sign(1, s.good());
        let request = s.request(&grant, chat(), keys);
        let reply = s.ask(request).await;
        let out = |r: &ShareResult| matches!(r, ShareResult::Share { .. });
        assert!(reply.shares.iter().all(out));
        left -= keys.len() as u64;
    }
    let grant = sign(1, s.good());
    let request = s.request(&grant, chat(), &[SHARE]);
    let retry_ms = HOUR.div_ceil(ACCOUNT_BUDGET.per_hour);
    let reply = s.ask(request).await;
    let dry = ShareResult::Refused(Refusal::AccountBudget { retry_ms });
    assert_eq!(reply.shares, [dry]);
    assert_eq!(s.count("account_budget"), 1);
    let outcome = s.entry(reply.receipt.entry).keys[0].outcome;
    assert_eq!(serde_json::to_value(outcome).unwrap(), "account_budget");
    s.bench.set_clocks(T0 + retry_ms);
    s.control("a spent budget").await;
}

/// A home's clock says nothing: entry time does, and a leader that is far off proposes none.
#[tokio::test]
async fn grants_are_judged_by_entry_time() {
    let mut s = Stage::set().await;
    let grant = sign(1, s.good());
    s.bench.set_clocks(T0 + 900_000);
    let request = s.request(&grant, chat(), &[SHARE]);
    s.refuses("old", GrantRefusal::Expired, request).await;
    // The clock goes back; the log's time does not, and the grant does not revive.
    s.bench.set_clocks(T0);
    let request = s.request(&grant, chat(), &[SHARE]);
    let reply = s.ask(request).await;
    let expired = Refusal::Grant(GrantRefusal::Expired);
    assert_eq!(reply.shares, [ShareResult::Refused(expired)]);
}
