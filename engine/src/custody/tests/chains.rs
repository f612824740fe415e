//! Accounts and chats at a custodian: rows, log entries, forks, catching up.

use super::*;
use crate::audit::{EntryKind, OpeningKind};
use crate::authz::chain::{ChainId, Source};
use crate::authz::envelope::Envelope;
use crate::authz::identity::*;
use crate::authz::membership::{ChatChange, ChatGenesis, ChatPayload, ChatStatement, chat_id};
use crate::authz::standing::{DeviceStanding, MemberStanding, Role};
use crate::crypto::labels::{SIGN_ACCOUNT, SIGN_AUTHORITY, SIGN_MEMBERSHIP};
use crate::crypto::sign::SigningKey;

const DAY: u64 = 24 * HOUR;

fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}
fn public(n: u8) -> PublicKey {
    PublicKey(signer(n).public())
}
fn signed<T: serde::Serialize>(label: &str, statement: &T, by: &[u8]) -> Envelope {
    let keys: Vec<SigningKey> = by.iter().map(|n| signer(*n)).collect();
    let keys: Vec<&SigningKey> = keys.iter().collect();
    Envelope::sign(label, &DEPLOYMENT, statement, &keys)
}
/// Authority `name` of `entity`, statement key `n`, identity key `n + 1`.
fn authority(name: &str, entity: &str, n: u8) -> AuthorityRecord {
    AuthorityRecord {
        id: AuthorityId::new(name).unwrap(),
        entity: entity.into(),
        jurisdiction: "is".into(),
        identity_key: public(n + 1),
        keys: vec![AuthorityKey {
            version: 1,
            public: public(n),
            not_before_ms: T0,
            not_after_ms: T0 + 300 * DAY,
        }],
    }
}
fn register(record: AuthorityRecord) -> Command {
    Command::RegisterAuthority(RegisterAuthority {
        operator: operator(),
        reason: "agreed".into(),
        record,
    })
}
fn register_home(entity: &str) -> Command {
    Command::RegisterHome(RegisterHome {
        operator: operator(),
        reason: "agreed".into(),
        home: home("ae"),
        entity: entity.into(),
    })
}
/// An account whose first device has key `n`, attested by the bank (key 100).
fn founded(n: u8) -> Envelope {
    let g = AccountGenesis {
        deployment: DEPLOYMENT,
        authorities: ["bank", "post"]
            .map(|a| AuthorityId::new(a).unwrap())
            .into(),
        device: public(n),
        expires_ms: T0 + 30 * DAY,
        secret: None,
        created_ms: T0,
        nonce: Nonce([n; 16]),
    };
    signed(SIGN_ACCOUNT, &AccountPayload::Genesis(g), &[n, 100])
}
fn of_account(envelope: Envelope, source: Source) -> Command {
    Command::AccountStatement(Chained { source, envelope })
}
pub(super) fn of_chat(envelope: Envelope, source: Source) -> Command {
    Command::ChatStatement(Chained { source, envelope })
}

/// Authorities, the home, and accounts with devices 1 and 2.
pub(super) struct World {
    pub(super) b: Bench,
    pub(super) accounts: [AccountId; 2],
}

impl World {
    pub(super) fn new() -> Self {
        let mut b = Bench::ready();
        let done = b.effects(vec![
            register(authority("bank", "Bank", 100)),
            register(authority("post", "Post", 102)),
            register_home("Home LLC"),
        ]);
        assert_eq!(done, vec![Effect::Done; 3]);
        let accounts = [1, 2].map(|n| {
            let e = founded(n);
            let effect = b.effect(of_account(e.clone(), Source::Client));
            assert!(matches!(effect, Effect::Chained { number: 0, .. }));
            account_id(&e)
        });
        Self { b, accounts }
    }
    /// A chat of the first account's.
    pub(super) fn chat(&mut self) -> ChatId {
        let g = ChatGenesis {
            deployment: DEPLOYMENT,
            creator: self.accounts[0],
            device: device_id(&public(1)),
            public: false,
            created_ms: self.b.clock,
            nonce: Nonce([8; 16]),
        };
        let e = signed(SIGN_MEMBERSHIP, &ChatPayload::Genesis(g), &[1]);
        let effect = self.b.effect(of_chat(e.clone(), Source::Client));
        assert!(
            matches!(effect, Effect::Chained { number: 0, .. }),
            "{effect:?}"
        );
        chat_id(&e)
    }
    /// The next statement of `chat`, by the first account's device.
    pub(super) fn next(&self, chat: ChatId, change: ChatChange) -> Envelope {
        let head = super::super::chat(&self.b.kv, &chat).unwrap().unwrap().head;
        let s = ChatStatement {
            chat,
            number: head.number + 1,
            previous: head.hash,
            at_ms: self.b.clock,
            account: self.accounts[0],
            device: device_id(&public(1)),
            change,
        };
        signed(SIGN_MEMBERSHIP, &ChatPayload::Statement(s), &[1])
    }
    pub(super) fn add(&self, chat: ChatId) -> Envelope {
        let change = ChatChange::Add {
            account: self.accounts[1],
            role: Role::Member,
            from_epoch: 3,
        };
        self.next(chat, change)
    }
    fn account_next(&self, change: AccountChange, by: &[u8]) -> Envelope {
        let head = account(&self.b.kv, &self.accounts[0])
            .unwrap()
            .unwrap()
            .head;
        let s = AccountStatement {
            account: self.accounts[0],
            number: head.number + 1,
            previous: head.hash,
            at_ms: self.b.clock,
            change,
        };
        signed(SIGN_ACCOUNT, &AccountPayload::Statement(s), by)
    }
    fn stands(&self, chat: ChatId) -> MemberStanding {
        member(&self.b.kv, &chat, &self.accounts[1]).unwrap()
    }
}

fn refused(effect: &Effect, code: &str) -> bool {
    matches!(effect, Effect::Refused { reason } if reason.starts_with(code))
}

#[test]
fn statements_become_rows_and_entries_that_name_nobody() {
    let mut w = World::new();
    assert_eq!(w.stands(chat(1)), MemberStanding::UnknownChat);
    let chat = w.chat();
    assert_eq!(w.stands(chat), MemberStanding::NotMember);
    let add = w.add(chat);
    let taken = Effect::Chained {
        chain: ChainId::Chat(chat),
        number: 1,
        hash: StatementHash(add.hash()),
    };
    assert_eq!(w.b.effect(of_chat(add.clone(), Source::Client)), taken);
    let entry = w.b.last_entry();
    assert_eq!((entry.kind, entry.done), (EntryKind::ChatStatement, true));
    assert_eq!(
        (entry.number, entry.change.as_deref()),
        (Some(1), Some("add"))
    );
    assert_eq!(
        (entry.accounts.len(), entry.devices.len(), entry.chats.len()),
        (2, 1, 1)
    );
    let json = audit::entry_bytes(&w.b.kv, entry.index).unwrap().unwrap();
    let json = String::from_utf8(json).unwrap();
    let device = device_id(&public(1));
    let names = [
        chat.to_string(),
        w.accounts[0].to_string(),
        w.accounts[1].to_string(),
        device.to_string(),
    ];
    assert!(names.iter().all(|n| !json.contains(n.as_str())));
    // The openings open exactly these commitments.
    let openings = audit::openings(&w.b.kv, entry.index).unwrap();
    let of = |kind| -> Vec<_> {
        let found = openings.iter().filter(|o| o.kind == kind);
        found.map(|o| (o.value.0, o.commitment())).collect()
    };
    let accounts = of(OpeningKind::Account);
    assert_eq!(
        accounts.iter().map(|a| a.0).collect::<Vec<_>>(),
        w.accounts.map(|a| a.0)
    );
    assert_eq!(
        accounts.iter().map(|a| a.1).collect::<Vec<_>>(),
        entry.accounts.iter().map(|c| c.0).collect::<Vec<_>>()
    );
    assert_eq!(of(OpeningKind::Device), [(device.0, entry.devices[0].0)]);
    assert_eq!(of(OpeningKind::Chat), [(chat.0, entry.chats[0].0)]);
    let salts: BTreeSet<_> = openings.iter().map(|o| o.salt.0).collect();
    assert_eq!(salts.len(), openings.len());

    let member = MemberStanding::Member {
        role: Role::Member,
        from_epoch: 3,
    };
    assert_eq!(w.stands(chat), member);
    assert_eq!(w.b.effect(of_chat(add, Source::Client)), Effect::Unchanged);
    let remove = w.next(
        chat,
        ChatChange::Remove {
            account: w.accounts[1],
        },
    );
    w.b.effect(of_chat(remove, Source::Client));
    assert_eq!(w.stands(chat), MemberStanding::NotMember);
}

#[test]
fn a_revoked_device_changes_nothing_any_more() {
    let mut w = World::new();
    let chat = w.chat();
    let stands = |w: &World| {
        let id = device_id(&public(1));
        device(&w.b.kv, &w.accounts[0], &id, w.b.clock).unwrap()
    };
    assert!(stands(&w).live().is_some());
    let alone = AccountChange::AddDevice {
        public: public(3),
        expires_ms: T0 + DAY,
    };
    let alone = w.account_next(alone, &[100, 3]);
    assert!(refused(
        &w.b.effect(of_account(alone, Source::Client)),
        "unsigned"
    ));
    assert!(!w.b.last_entry().done);
    let change = AccountChange::Revoke {
        device: device_id(&public(1)),
    };
    let revoke = w.account_next(change, &[102]);
    w.b.effect(of_account(revoke, Source::Client));
    assert_eq!(stands(&w), DeviceStanding::Revoked);
    w.b.clock += 1000;
    let add = w.add(chat);
    assert!(refused(&w.b.effect(of_chat(add, Source::Client)), "device"));
    assert_eq!(w.stands(chat), MemberStanding::NotMember);
}

#[test]
fn a_fork_is_marked_when_another_custodian_committed_it_and_stops_the_chat() {
    let mut w = World::new();
    let chat = w.chat();
    let ours = w.add(chat);
    let theirs = w.next(chat, ChatChange::SetPublic { public: true });
    w.b.effect(of_chat(ours.clone(), Source::Client));
    // Two that were signed at the same moment only race.
    let race = w.b.effect(of_chat(theirs.clone(), Source::Client));
    assert_eq!(race, Effect::Forked { marked: false });
    assert_eq!(forks(&w.b.kv).unwrap(), []);
    // Not on a stranger's word, whoever brings it.
    let stranger = signed(
        SIGN_MEMBERSHIP,
        &theirs.read::<ChatPayload>("t").unwrap(),
        &[9],
    );
    assert!(refused(
        &w.b.effect(of_chat(stranger, Source::Peer)),
        "unsigned"
    ));
    assert_eq!(forks(&w.b.kv).unwrap(), []);

    let marked = Effect::Forked { marked: true };
    assert_eq!(w.b.effect(of_chat(theirs.clone(), Source::Peer)), marked);
    let seen = forks(&w.b.kv).unwrap();
    assert_eq!((seen[0].0, seen[0].1.number), (ChainId::Chat(chat), 1));
    assert_eq!(seen[0].1.ours, StatementHash(ours.hash()));
    assert_eq!(seen[0].1.theirs, theirs);
    assert_eq!(w.stands(chat), MemberStanding::Forked);
    let next = w.next(
        chat,
        ChatChange::Remove {
            account: w.accounts[1],
        },
    );
    assert_eq!(w.b.effect(of_chat(next, Source::Client)), marked);
    assert!(w.b.last_entry().refused.unwrap().starts_with("forked"));
    let head = chain_head(&w.b.kv, &ChainId::Chat(chat)).unwrap().unwrap();
    assert!(head.forked && head.number == 1);
    // Other chains go on.
    let renew = AccountChange::Renew {
        device: device_id(&public(1)),
        expires_ms: T0 + 20 * DAY,
    };
    let renew = w.account_next(renew, &[1, 100]);
    let effect = w.b.effect(of_account(renew, Source::Client));
    assert!(matches!(effect, Effect::Chained { number: 1, .. }));
}

#[test]
fn a_laggard_catches_up_from_what_a_peer_kept() {
    let mut ahead = World::new();
    let chat = ahead.chat();
    let add = ahead.add(chat);
    ahead.b.effect(of_chat(add, Source::Client));
    let mut behind = World::new();
    let all = changed_since(&ahead.b.kv, 0, 100).unwrap();
    assert_eq!(all.len(), 3, "one row a chain: {all:?}");
    assert!(all.windows(2).all(|w| w[0].entry < w[1].entry));
    assert_eq!(changed_since(&ahead.b.kv, 0, 1).unwrap(), all[..1]);
    assert_eq!(
        changed_since(&ahead.b.kv, all[1].entry + 1, 9).unwrap(),
        all[2..]
    );
    assert_eq!(changed_since(&ahead.b.kv, all[2].entry + 1, 9).unwrap(), []);
    let chain = ChainId::Chat(chat);
    assert_eq!(chain_head(&behind.b.kv, &chain).unwrap(), None);
    let sent = statements(&ahead.b.kv, &chain, 0).unwrap();
    assert_eq!(sent.len(), 2);
    assert_eq!(statements(&ahead.b.kv, &chain, 1).unwrap(), sent[1..]);
    assert_eq!(statements(&ahead.b.kv, &chain, 2).unwrap(), []);
    // Out of order it says what is missing.
    let got = behind.b.effect(of_chat(sent[1].clone(), Source::Peer));
    assert_eq!(got, Effect::Behind { have: None, got: 1 });
    // Two hours later a peer's word is not enough for old statements; a blocking set's is.
    behind.b.clock += 2 * HOUR;
    let late = behind.b.effect(of_chat(sent[0].clone(), Source::Peer));
    assert!(refused(&late, "untimely"), "{late:?}");
    for e in &sent {
        let effect = behind.b.effect(of_chat(e.clone(), Source::Vouched));
        assert!(matches!(effect, Effect::Chained { .. }), "{effect:?}");
    }
    let heads = [&ahead, &behind].map(|w| {
        let h = chain_head(&w.b.kv, &chain).unwrap().unwrap();
        (h.number, h.hash)
    });
    assert_eq!(heads[0], heads[1]);
    assert_eq!(behind.stands(chat), ahead.stands(chat));
}

#[test]
fn authorities_are_registered_once_and_never_share_a_key() {
    let mut w = World::new();
    let bank = authority("bank", "Bank", 100);
    assert_eq!(w.b.effect(register(bank.clone())), Effect::Unchanged);
    let refused = |e: Effect| matches!(e, Effect::Refused { .. });
    assert!(refused(
        w.b.effect(register(authority("bank", "Bank", 120)))
    ));
    assert!(refused(
        w.b.effect(register(authority("twin", "Twin", 100)))
    ));
    let mut empty = authority("none", "None", 130);
    empty.keys.clear();
    assert!(refused(w.b.effect(register(empty))));
    let keys = |n: u8| AuthorityKeys {
        authority: bank.id.clone(),
        key: AuthorityKey {
            version: 2,
            public: public(n),
            not_before_ms: T0,
            not_after_ms: T0 + DAY,
        },
        oldest: 2,
    };
    let rotate = |n, by| Command::RotateAuthority(signed(SIGN_AUTHORITY, &keys(n), &[by]));
    assert!(
        refused(w.b.effect(rotate(140, 100))),
        "by its statement key"
    );
    assert!(refused(w.b.effect(rotate(102, 101))), "to another's key");
    assert_eq!(w.b.effect(rotate(140, 101)), Effect::Done);
    assert_eq!(w.b.effect(rotate(140, 101)), Effect::Unchanged);
    assert_eq!(w.b.last_entry().identity_authority, Some(bank.id.clone()));
    let known = authorities(&w.b.kv).unwrap();
    assert!(known[&bank.id].signs_with(&public(140).0, T0));
    assert!(!known[&bank.id].signs_with(&public(100).0, T0));
    // The old key enrols nobody any more.
    let late = w.b.effect(of_account(founded(9), Source::Client));
    assert!(matches!(late, Effect::Refused { .. }), "{late:?}");
}

#[test]
fn recovery_waits_by_this_custodians_log() {
    let mut w = World::new();
    let begin = AccountChange::RecoverBegin { public: public(3) };
    let begin = w.account_next(begin, &[100, 102, 3]);
    // Without a home's entity nobody can tell who is independent of it.
    let mut unknown = Bench::ready();
    unknown.effects(vec![
        register(authority("bank", "Bank", 100)),
        register(authority("post", "Post", 102)),
        of_account(founded(1), Source::Client),
    ]);
    let effect = unknown.effect(of_account(begin.clone(), Source::Client));
    assert!(refused(&effect, "home_unknown"));
    w.b.effect(of_account(begin, Source::Client));
    let finish = |w: &World| {
        let change = AccountChange::RecoverFinish {
            public: public(3),
            expires_ms: w.b.clock + DAY,
        };
        of_account(w.account_next(change, &[100, 3]), Source::Client)
    };
    w.b.clock = T0 + RECOVERY_WAIT_MS - 1;
    let early = finish(&w);
    assert!(refused(&w.b.effect(early), "too_early"));
    w.b.clock += 1;
    let done = finish(&w);
    let effect = w.b.effect(done);
    assert!(
        matches!(effect, Effect::Chained { number: 2, .. }),
        "{effect:?}"
    );
}

#[test]
fn officers_set_how_long_a_recovery_waits_and_one_that_began_keeps_its_wait() {
    use crate::authz::identity::RECOVERY_WAIT_MS_MIN;
    use crate::authz::officers::testkit as kit;
    use crate::authz::officers::{Act, Proposal, Statement, Waits};
    let mut w = World::new();
    let hand_in = |statement| {
        Command::Officers(Officers {
            operator: operator(),
            statement,
        })
    };
    let all = kit::sign(&kit::bootstrap(3, 2), &[1, 2, 3]);
    w.b.effect(hand_in(all));
    let set = |w: &mut World, number, recovery_ms| {
        let act = Act::SetWaits {
            waits: Waits {
                cool_off_ms: None,
                recovery_ms: Some(recovery_ms),
            },
        };
        let proposal = Statement::Proposal(Proposal {
            custodian: custodian("ch"),
            number,
            act,
            reason: "agreed".into(),
            by: kit::id(1),
            expires_ms: w.b.clock + DAY,
        });
        let effect = w.b.effect(hand_in(kit::sign(&proposal, &[1, 2])));
        assert!(
            matches!(effect, Effect::Decided { carried: true, .. }),
            "{effect:?}"
        );
    };
    set(&mut w, 1, 14 * DAY);
    let begin = AccountChange::RecoverBegin { public: public(3) };
    let begin = w.account_next(begin, &[100, 102, 3]);
    w.b.effect(of_account(begin, Source::Client));
    set(&mut w, 2, RECOVERY_WAIT_MS_MIN);
    let finish = |w: &mut World| {
        let change = AccountChange::RecoverFinish {
            public: public(3),
            expires_ms: w.b.clock + DAY,
        };
        let finish = of_account(w.account_next(change, &[100, 3]), Source::Client);
        w.b.effect(finish)
    };
    w.b.clock = T0 + 14 * DAY - 1;
    assert!(refused(&finish(&mut w), "too_early"));
    w.b.clock += 1;
    let effect = finish(&mut w);
    assert!(matches!(effect, Effect::Chained { .. }), "{effect:?}");
}

#[test]
fn without_a_deployment_no_statement_counts() {
    let mut b = Bench {
        machine: Custody::new(custodian("ch"), [2; 32]),
        ..Bench::ready()
    };
    b.effect(register(authority("bank", "Bank", 100)));
    let effect = b.effect(of_account(founded(1), Source::Client));
    assert!(matches!(effect, Effect::Refused { reason } if reason.contains("deployment")));
    let over = Envelope {
        payload: "x".repeat(crate::authz::envelope::PAYLOAD_BYTES_MAX + 1),
        ..founded(1)
    };
    let effect = b.effect(of_account(over, Source::Client));
    assert!(matches!(effect, Effect::Refused { reason } if reason.starts_with("over a limit")));
}
