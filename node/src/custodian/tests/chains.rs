//! Three custodians of one node each, which believe the same authorities:
//! statements from authorities and homes, and what one tells another.

use super::people::{added, bank, chat_of, founded, key_of_bank, of_account, signed};
use super::*;
use crate::http::registry::{FromAuthority, RegistryApi, RegistryError};
use quorate_engine::authz::chain::ChainId;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{
    AccountChange, AccountPayload, AccountStatement, AuthorityKeys, AuthorityRecord,
};
use quorate_engine::authz::standing::{DeviceStanding, MemberStanding};
use quorate_engine::crypto::labels::{SIGN_ACCOUNT, SIGN_AUTHORITY};

const HOUR: u64 = 60 * 60 * 1000;

fn custodian_id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}

#[derive(Default)]
struct World {
    sites: RwLock<BTreeMap<CustodianId, Custodian>>,
    /// Nobody reaches these.
    cut: RwLock<BTreeSet<CustodianId>>,
    rotations: RwLock<Vec<Envelope>>,
}

struct Around(CustodianId, Arc<World>);

impl Neighbours for Around {
    fn homes(&self) -> BTreeMap<HomeId, String> {
        [(HomeId::new("ae").unwrap(), "Home LLC".into())].into()
    }
    fn authorities(&self) -> Vec<(AuthorityRecord, Vec<Envelope>)> {
        vec![(bank(), self.1.rotations.read().unwrap().clone())]
    }
    fn custodians(&self) -> Vec<Neighbour> {
        let names = ["br", "ch", "is"].map(custodian_id).into_iter();
        let one = |id| Neighbour { id, nodes: vec![1] };
        names.filter(|id| *id != self.0).map(one).collect()
    }
    fn call<'a>(
        &'a self,
        custodian: &'a CustodianId,
        node: NodeId,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let cut = self.1.cut.read().unwrap().clone();
            if cut.contains(custodian) || cut.contains(&self.0) {
                return Err("cut off".into());
            }
            let to = self.1.sites.read().unwrap().get(custodian).cloned();
            let from = PeerIdentity {
                role: ClusterRole::Custodian,
                cluster: self.0.to_string(),
                node,
            };
            let to = to.ok_or("not there")?.exchange_service();
            to.call(from, body.into()).await.map_err(|e| e.to_string())
        })
    }
}

/// One custodian; it ends with this.
struct Site {
    bench: Bench,
    c: Custodian,
}

impl Site {
    async fn start(world: &Arc<World>, name: &str, clock: u64) -> Self {
        let id = custodian_id(name);
        let bench = Bench::of(id.clone(), 1, Arc::new(Around(id.clone(), world.clone())));
        bench.set_clocks(clock);
        bench.start(1);
        bench.elect(1).await;
        let c = bench.node(1);
        world.sites.write().unwrap().insert(id, c.clone());
        let site = Self { bench, c };
        let known = |kv: &dyn KvRead| Ok(custody::authorities(kv)?.len() == 1);
        site.bench
            .until(|| consensus::view(&*site.c.0.consensus, known).unwrap())
            .await;
        site
    }

    fn head(&self, chain: ChainId) -> Option<(u64, bool)> {
        let read = |kv: &dyn KvRead| custody::chain_head(kv, &chain);
        let head = consensus::view(&*self.c.0.consensus, read).unwrap();
        head.map(|h| (h.number, h.forked))
    }

    async fn tell(&self, kind: &str, statement: &Envelope) -> Result<SignedHead, StatementRefused> {
        let request = StatementRequest {
            home: HomeId::new("ae").unwrap(),
            deployment: place().deployment,
            statement: statement.clone(),
        };
        let request = match kind {
            "account" => CustodianRequest::AccountStatement(request),
            _ => CustodianRequest::ChatStatement(request),
        };
        match self.c.answer(&home_node(), request).await {
            CustodianReply::Statement(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn lookup(&self, device: u8, account: AccountId, chat: ChatId) -> LookupReply {
        let request = CustodianRequest::Lookup(LookupRequest {
            home: HomeId::new("ae").unwrap(),
            deployment: place().deployment,
            account,
            device: device_id(&public(device)),
            chats: vec![chat],
        });
        match self.c.answer(&home_node(), request).await {
            CustodianReply::Lookup(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
}

fn by(authority: &str) -> FromAuthority {
    FromAuthority {
        authority: AuthorityId::new(authority).unwrap(),
        request: RequestId([1; 16]),
    }
}

#[tokio::test]
async fn an_authority_founds_an_account_and_only_it_sees_it() {
    let world = Arc::new(World::default());
    let ch = Site::start(&world, "ch", T0).await;
    let genesis = founded(1);
    let account = account_id(&genesis);
    let head = ch.c.statement(by("bank"), None, genesis.clone()).await;
    let head = head.unwrap();
    assert_eq!((head.number, head.account), (0, account.to_string()));
    assert_eq!(head.hash, hex::encode(genesis.hash()));
    // Said again, nothing changes and the answer is as good.
    let again = ch.c.statement(by("bank"), None, genesis.clone()).await;
    assert_eq!(again.unwrap().entry, head.entry);

    let shown = ch.c.account(by("bank"), account).await.unwrap();
    assert_eq!(
        shown.devices[0].id,
        device_id(&public(1)).to_string(),
        "{shown:?}"
    );
    let other = ch.c.account(by("post"), account).await;
    assert!(matches!(other, Err(RegistryError::NotFound(_))));

    // The authority alone adds nothing; what nobody signed leaves no entry.
    let add = AccountChange::AddDevice {
        public: public(7),
        expires_ms: T0 + 9 * DAY,
    };
    let code = |r: Result<_, RegistryError>| match r {
        Err(RegistryError::Refused { code, .. }) => code,
        other => panic!(
            "{:?}",
            other.map(|_: quorate_engine::api::registry::AccountHead| ())
        ),
    };
    let alone = of_account(&genesis, &genesis, 1, add.clone(), &[100, 7]);
    let told = ch.c.statement(by("bank"), Some(account), alone).await;
    assert_eq!(code(told), "unsigned");
    let before = ch.bench.log_size();
    let mut forged = of_account(&genesis, &genesis, 1, add.clone(), &[100, 7, 1]);
    forged.payload = forged
        .payload
        .replace(&public(7).to_string(), &public(8).to_string());
    let told = ch.c.statement(by("bank"), Some(account), forged).await;
    assert_eq!(code(told), "envelope");
    let elsewhere = of_account(&genesis, &genesis, 1, add.clone(), &[100, 7, 1]);
    let told = ch.c.statement(by("bank"), None, elsewhere.clone()).await;
    assert_eq!(code(told), "wrong_kind");
    let wrong = AccountId([3; 32]);
    let told =
        ch.c.statement(by("bank"), Some(wrong), elsewhere.clone())
            .await;
    assert_eq!(code(told), "other_account");
    assert_eq!(ch.bench.log_size(), before);
    // Control: with the device's signature it stands, through the home as well.
    let head = ch.tell("account", &elsewhere).await.unwrap();
    let chain = ChainId::Account(account);
    let verified = head.verify(
        &place().deployment,
        &place().custodian,
        &chain,
        &signing().log.public(),
    );
    assert_eq!((verified, head.number), (Ok(()), 1));
    let behind = of_account(&genesis, &elsewhere, 3, AccountChange::Veto, &[1]);
    let told = ch.tell("account", &behind).await.unwrap_err();
    assert_eq!((told.code.as_str(), told.have), ("behind", Some(1)));
}

#[tokio::test]
async fn a_new_statement_key_is_taken_on_the_identity_keys_word() {
    let world = Arc::new(World::default());
    let ch = Site::start(&world, "ch", T0).await;
    let newest = || {
        let read = |kv: &dyn KvRead| custody::authorities(kv);
        let all = consensus::view(&*ch.c.0.consensus, read).unwrap();
        all[&bank().id].keys.last().unwrap().version
    };
    let rotation = |by: u8| {
        let statement = AuthorityKeys {
            authority: bank().id,
            key: key_of_bank(2, 102, T0),
            oldest: 1,
        };
        signed(SIGN_AUTHORITY, &statement, &[by])
    };
    *world.rotations.write().unwrap() = vec![rotation(100)];
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(newest(), 1, "a statement key cannot name its successor");
    *world.rotations.write().unwrap() = vec![rotation(101)];
    ch.bench.until(|| newest() == 2).await;
}

#[tokio::test]
async fn who_was_away_catches_up_and_until_then_releases_nothing_of_the_chat() {
    let world = Arc::new(World::default());
    let is = Site::start(&world, "is", T0).await;
    let br = Site::start(&world, "br", T0).await;
    for site in [&is, &br] {
        for n in [1, 2] {
            site.tell("account", &founded(n)).await.unwrap();
        }
        site.tell("chat", &chat_of(1)).await.unwrap();
        site.tell("chat", &added(2)).await.unwrap();
    }
    let chat = chat_id(&chat_of(1));
    // Two hours later, and only one of the two can be asked: one custodian's word is not enough
    // for statements that old, and enough to release nothing.
    world.cut.write().unwrap().insert(custodian_id("br"));
    let ch = Site::start(&world, "ch", T0 + 2 * HOUR).await;
    assert_eq!(ch.head(ChainId::Chat(chat)), None);
    assert!(ch.c.behind([chat], None).unwrap().contains("newer"));
    assert!(ch.c.behind([ChatId([1; 32])], None).is_none());
    let release = ReleaseRequest {
        keys: vec![KeyRef {
            chat,
            key_id: key(1),
        }],
        ..Home::stranger(&ch.c).await.release(1, &[1])
    };
    let release = CustodianRequest::Release(release);
    let home = home_node();
    let ask = || ch.c.answer(&home, release.clone());
    let reply = ask().await;
    assert!(matches!(reply, CustodianReply::Busy { .. }), "{reply:?}");
    let before = ch.bench.log_size();
    ch.c.exchange_round().await;
    assert_eq!(
        ch.bench.log_size(),
        before,
        "not proposed round after round"
    );

    world.cut.write().unwrap().clear();
    ch.c.exchange_round().await;
    assert_eq!(ch.head(ChainId::Chat(chat)), Some((1, false)));
    assert_eq!(ch.c.behind([chat], None), None);
    let reply = ask().await;
    assert!(matches!(reply, CustodianReply::Release(_)), "{reply:?}");
    let member = ch.lookup(2, account_id(&founded(2)), chat).await;
    assert_eq!(
        member.device,
        DeviceStanding::Live {
            public: public(2).0
        }
    );
    assert!(matches!(member.chats[0], MemberStanding::Member { .. }));
}

#[tokio::test]
async fn what_is_refused_here_holds_nothing_until_a_blocking_set_has_taken_it() {
    let world = Arc::new(World::default());
    let is = Site::start(&world, "is", T0).await;
    let br = Site::start(&world, "br", T0).await;
    let ch = Site::start(&world, "ch", T0).await;
    for site in [&is, &br, &ch] {
        for n in [1, 2] {
            site.tell("account", &founded(n)).await.unwrap();
        }
        site.tell("chat", &chat_of(1)).await.unwrap();
    }
    let chat = chat_id(&chat_of(1));
    let chain = ChainId::Chat(chat);
    // Here the signer's device was revoked before its statement came; one other took it before.
    world
        .cut
        .write()
        .unwrap()
        .extend(["is", "br"].map(custodian_id));
    let device = device_id(&public(1));
    let s = AccountStatement {
        account: account_id(&founded(1)),
        number: 1,
        previous: StatementHash(founded(1).hash()),
        at_ms: T0 + 1_000,
        change: AccountChange::Revoke { device },
    };
    let revoked = signed(SIGN_ACCOUNT, &AccountPayload::Statement(s), &[100]);
    ch.tell("account", &revoked).await.unwrap();
    is.tell("chat", &added(2)).await.unwrap();
    world.cut.write().unwrap().remove(&custodian_id("is"));
    let refused = || {
        let disputed = ch.c.0.exchange.open();
        disputed.contains(&chain) && ch.c.behind([chat], None).is_none()
    };
    ch.bench.until(refused).await;
    assert_eq!(ch.head(chain), Some((0, false)), "not taken here");
    // Not proposed round after round, and not held back in between.
    let before = ch.bench.log_size();
    for _ in 0..3 {
        ch.c.exchange_round().await;
        assert_eq!(ch.c.behind([chat], None), None);
    }
    assert_eq!(ch.bench.log_size(), before);

    // Two of three are a blocking set: now it counts, whatever was known here when it came.
    br.tell("chat", &added(2)).await.unwrap();
    world.cut.write().unwrap().clear();
    ch.bench.until(|| ch.head(chain) == Some((1, false))).await;
    assert_eq!(ch.c.behind([chat], None), None);
    assert!(!ch.c.0.exchange.open().contains(&chain));
}

#[tokio::test]
async fn a_chain_told_one_way_here_and_another_there_is_marked_everywhere() {
    let world = Arc::new(World::default());
    let is = Site::start(&world, "is", T0).await;
    let br = Site::start(&world, "br", T0).await;
    let ch = Site::start(&world, "ch", T0).await;
    for site in [&is, &br, &ch] {
        for n in [1, 2, 3] {
            site.tell("account", &founded(n)).await.unwrap();
        }
        site.tell("chat", &chat_of(1)).await.unwrap();
    }
    // A hostile home shows half of them one statement and the others another.
    is.tell("chat", &added(2)).await.unwrap();
    br.tell("chat", &added(3)).await.unwrap();
    let chat = chat_id(&chat_of(1));
    let chain = ChainId::Chat(chat);
    for site in [&is, &br, &ch] {
        site.bench
            .until(|| site.head(chain).is_some_and(|(_, forked)| forked))
            .await;
        let member = site.lookup(1, account_id(&founded(1)), chat).await;
        assert_eq!(member.chats, [MemberStanding::Forked]);
        let told = site.tell("chat", &added(2)).await.unwrap_err();
        assert_eq!(told.code, "forked");
        let warned = site.c.status().unwrap().warnings;
        assert!(warned.iter().any(|w| w.contains("forked")), "{warned:?}");
    }
    // Accounts are not touched by it.
    assert_eq!(
        ch.head(ChainId::Account(account_id(&founded(1)))),
        Some((0, false))
    );
}

#[tokio::test]
async fn a_claimed_head_that_nobody_can_show_stops_nothing() {
    struct Liar;
    impl Neighbours for Liar {
        fn homes(&self) -> BTreeMap<HomeId, String> {
            BTreeMap::new()
        }
        fn authorities(&self) -> Vec<(AuthorityRecord, Vec<Envelope>)> {
            Vec::new()
        }
        fn custodians(&self) -> Vec<Neighbour> {
            let id = custodian_id("is");
            vec![Neighbour { id, nodes: vec![1] }]
        }
        fn call<'a>(
            &'a self,
            _: &'a CustodianId,
            _: NodeId,
            body: Vec<u8>,
        ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
            let ask: ExchangeAsk = codec::decode("ask", 1, &body).unwrap();
            let told = match ask {
                ExchangeAsk::Changed { since: 0 } => {
                    ExchangeTold::Changed(vec![custody::ChainHead {
                        chain: ChainId::Chat(ChatId([5; 32])),
                        number: 1 << 40,
                        hash: StatementHash([6; 32]),
                        entry: 7,
                        time_ms: T0,
                        forked: false,
                    }])
                }
                ExchangeAsk::Changed { .. } => ExchangeTold::Changed(Vec::new()),
                ExchangeAsk::Statements { .. } => ExchangeTold::Statements(vec![founded(4)]),
            };
            Box::pin(async move { Ok(codec::encode(1, &told)) })
        }
    }
    let bench = Bench::of(place().custodian, 1, Arc::new(Liar));
    bench.start(1);
    bench.elect(1).await;
    bench.node(1).exchange_round().await;
    assert_eq!(bench.node(1).behind([ChatId([5; 32])], None), None);
}
