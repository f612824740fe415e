//! Who may change a chat, row by row; then random statements by random people
//! against a model that a person can check by eye.

use super::*;
use crate::authz::identity::device_id;
use crate::crypto::sign::SigningKey;
use crate::types::{Nonce, Secret, codec};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeMap;

const D: DeploymentId = DeploymentId([1; 16]);
const T0: u64 = 1_700_000_000_000;
const DAY: u64 = 24 * 60 * 60 * 1000;

fn key(n: u32) -> SigningKey {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    SigningKey::from_seed(&Secret::from_slice(&seed).unwrap())
}
fn public(n: u32) -> PublicKey {
    PublicKey(key(n).public())
}
fn account(n: u32) -> AccountId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    AccountId(id)
}

/// Account `n` has one device, with key `n`.
#[derive(Default)]
struct Rows {
    members: BTreeMap<AccountId, Member>,
    invites: BTreeMap<PublicKey, Invite>,
    hashes: BTreeMap<u64, StatementHash>,
    revoked: BTreeMap<AccountId, u64>,
    expired: BTreeMap<AccountId, u64>,
    people: u32,
}

impl MembershipReads for Rows {
    fn member(&self, account: &AccountId) -> Result<Option<Member>, KvError> {
        Ok(self.members.get(account).copied())
    }
    fn invite(&self, key: &PublicKey) -> Result<Option<Invite>, KvError> {
        Ok(self.invites.get(key).copied())
    }
    fn device(
        &self,
        of: &AccountId,
        device: &DeviceId,
        at_ms: WallMs,
        then: bool,
    ) -> Result<DeviceStanding, KvError> {
        if let Some(at) = self.revoked.get(of)
            && !(then && at_ms < *at)
        {
            return Ok(DeviceStanding::Revoked);
        }
        if self.expired.get(of).is_some_and(|at| at_ms >= *at) {
            return Ok(DeviceStanding::Expired);
        }
        let n = u32::from_be_bytes(of.0[..4].try_into().unwrap());
        let public = public(n);
        Ok(if n < self.people && device_id(&public) == *device {
            DeviceStanding::Live { public: public.0 }
        } else {
            DeviceStanding::Unknown
        })
    }
    fn standing(&self, number: u64) -> Result<Option<StatementHash>, KvError> {
        Ok(self.hashes.get(&number).copied())
    }
}

struct World {
    rows: Rows,
    head: ChatHead,
    now: u64,
    source: Source,
    genesis: Envelope,
}

fn sign(payload: &ChatPayload, by: &[u32]) -> Envelope {
    let keys: Vec<SigningKey> = by.iter().map(|n| key(*n)).collect();
    Envelope::sign(
        SIGN_MEMBERSHIP,
        &D,
        payload,
        &keys.iter().collect::<Vec<_>>(),
    )
}

impl World {
    /// Founded by account 1.
    fn new(public: bool) -> Self {
        let g = ChatGenesis {
            deployment: D,
            creator: account(1),
            device: device_id(&super::tests::public(1)),
            public,
            created_ms: T0,
            nonce: Nonce([3; 16]),
        };
        let genesis = sign(&ChatPayload::Genesis(g), &[1]);
        let rows = Rows {
            people: 10_000_000,
            ..Rows::default()
        };
        let ctx = MembershipContext {
            deployment: &D,
            now_ms: T0,
            source: Source::Client,
            reads: &rows,
        };
        let delta = super::genesis(&genesis, &ctx).unwrap().unwrap();
        let mut w = Self {
            head: delta.head,
            rows,
            now: T0,
            source: Source::Client,
            genesis,
        };
        w.take(delta);
        w
    }
    fn take(&mut self, delta: MembershipDelta) {
        self.head = delta.head;
        let h = delta.head.head;
        self.rows.hashes.insert(h.number, h.hash);
        match delta.member {
            Some((who, Some(m))) => drop(self.rows.members.insert(who, m)),
            Some((who, None)) => drop(self.rows.members.remove(&who)),
            None => {}
        }
        match delta.invite {
            Some((k, Some(i))) => drop(self.rows.invites.insert(k, i)),
            Some((k, None)) => drop(self.rows.invites.remove(&k)),
            None => {}
        }
    }
    fn ctx(&self) -> MembershipContext<'_> {
        MembershipContext {
            deployment: &D,
            now_ms: self.now,
            source: self.source,
            reads: &self.rows,
        }
    }
    fn statement(&self, who: u32, change: ChatChange) -> ChatStatement {
        ChatStatement {
            chat: self.head.chat,
            number: self.head.head.number + 1,
            previous: self.head.head.hash,
            at_ms: self.now,
            account: account(who),
            device: device_id(&public(who)),
            change,
        }
    }
    fn offer(&self, e: &Envelope) -> Result<MembershipDelta, MembershipRefusal> {
        advance(&self.head, e, &self.ctx()).unwrap()
    }
    fn act_signed(&mut self, who: u32, change: ChatChange, by: &[u32]) -> &'static str {
        let e = sign(&ChatPayload::Statement(self.statement(who, change)), by);
        match self.offer(&e) {
            Ok(delta) => {
                self.take(delta);
                "ok"
            }
            Err(e) => {
                assert!(!e.to_string().is_empty());
                e.code()
            }
        }
    }
    fn act(&mut self, who: u32, change: ChatChange) -> &'static str {
        self.act_signed(who, change, &[who])
    }
    fn role(&self, n: u32) -> Option<Role> {
        self.rows.members.get(&account(n)).map(|m| m.role)
    }
}

fn add(n: u32, role: Role) -> ChatChange {
    ChatChange::Add {
        account: account(n),
        role,
        from_epoch: 4,
    }
}
fn remove(n: u32) -> ChatChange {
    ChatChange::Remove {
        account: account(n),
    }
}
fn role(n: u32, role: Role) -> ChatChange {
    ChatChange::SetRole {
        account: account(n),
        role,
    }
}
fn invite(n: u32, uses: u32, expires_ms: u64) -> ChatChange {
    ChatChange::Invite {
        key: public(n),
        invite: Invite {
            from_epoch: 4,
            expires_ms,
            uses,
        },
    }
}
fn join(by: Option<u32>, from_epoch: u32) -> ChatChange {
    ChatChange::Join {
        invite: by.map(public),
        from_epoch,
    }
}

#[test]
fn roles_decide_who_changes_whom() {
    use Role::{Admin, Creator};
    let mut w = World::new(false);
    assert_eq!(w.act(1, add(2, Admin)), "ok");
    assert_eq!(w.act(2, add(3, Role::Member)), "ok");
    assert_eq!(w.act(3, add(4, Role::Member)), "role");
    assert_eq!(w.act(3, remove(2)), "role");
    assert_eq!(w.act(3, invite(90, 1, T0 + DAY)), "role");
    assert_eq!(w.act(3, ChatChange::SetPublic { public: true }), "role");
    assert_eq!(w.act(3, role(3, Admin)), "role");
    assert_eq!(w.act(5, add(6, Role::Member)), "not_a_member");
    assert_eq!(w.act(5, ChatChange::Leave), "not_a_member");
    assert_eq!(w.act(2, add(3, Admin)), "already_member");
    assert_eq!(w.act(2, add(5, Creator)), "one_creator");
    assert_eq!(w.act(2, role(3, Admin)), "ok");
    assert_eq!(w.act(2, role(3, Admin)), "same_role");
    assert_eq!(
        w.act(2, role(3, Role::Member)),
        "role",
        "the creator decides"
    );
    assert_eq!(w.act(2, remove(3)), "role");
    assert_eq!(w.act(2, remove(1)), "role", "nobody removes the creator");
    assert_eq!(w.act(2, role(1, Role::Member)), "one_creator");
    assert_eq!(w.act(2, remove(2)), "leave_instead");
    assert_eq!(w.act(2, remove(9)), "not_a_member");
    assert_eq!(w.act(3, role(3, Role::Member)), "ok", "one's own rights");
    assert_eq!(w.act(1, role(2, Role::Member)), "ok");
    assert_eq!(w.act(1, remove(2)), "ok");
    assert_eq!((w.role(2), w.role(3)), (None, Some(Role::Member)));
    assert_eq!(w.rows.members[&account(3)].from_epoch, 4);
}

#[test]
fn a_creator_leaves_and_the_admins_keep_their_rights() {
    use Role::Admin;
    let mut w = World::new(false);
    assert_eq!(w.act(1, add(2, Role::Member)), "ok");
    assert_eq!(w.act(1, ChatChange::Leave), "last_admin");
    assert_eq!(w.act(1, role(2, Admin)), "ok");
    assert_eq!(w.act(1, add(3, Admin)), "ok");
    assert_eq!(w.act(1, ChatChange::Leave), "ok");
    assert_eq!((w.role(1), w.head.creator), (None, false));
    assert_eq!(w.act(1, add(4, Role::Member)), "not_a_member");
    assert_eq!(w.act(2, add(4, Role::Member)), "ok");
    assert_eq!(w.act(2, remove(3)), "ok", "no creator is left to ask");
    assert_eq!(w.act(2, ChatChange::Leave), "last_admin");
    assert_eq!(w.act(2, role(2, Role::Member)), "last_admin");
    assert_eq!(w.act(2, remove(4)), "ok");
    assert_eq!(w.act(2, ChatChange::Leave), "ok", "nobody else is there");
    assert_eq!(w.head.members, 0);
}

#[test]
fn invites_count_until_they_are_revoked_used_up_or_over() {
    let mut w = World::new(false);
    assert_eq!(w.act(2, join(None, 9)), "not_public");
    assert_eq!(w.act_signed(2, join(Some(90), 9), &[2, 90]), "invite");
    for (uses, until) in [(0, T0 + DAY), (1, T0), (1, T0 + INVITE_LIFE_MS_MAX + 1)] {
        assert_eq!(w.act(1, invite(90, uses, until)), "invite");
    }
    assert_eq!(w.act(1, invite(90, 2, T0 + DAY)), "ok");
    assert_eq!(w.act(1, invite(90, 9, T0 + DAY)), "invite");
    assert_eq!(w.act(2, join(Some(90), 4)), "unsigned", "without the link");
    assert_eq!(w.act_signed(2, join(Some(90), 3), &[2, 90]), "invite");
    assert_eq!(w.act_signed(2, join(Some(90), 4), &[2, 90]), "ok");
    assert_eq!(
        w.act_signed(2, join(Some(90), 4), &[2, 90]),
        "already_member"
    );
    assert_eq!(w.role(2), Some(Role::Member));
    assert_eq!(w.act_signed(3, join(Some(90), 9), &[3, 90]), "ok");
    assert_eq!(w.act_signed(4, join(Some(90), 9), &[4, 90]), "invite");
    assert_eq!(w.head.invites, 0);
    assert_eq!(w.act(1, invite(91, 5, T0 + DAY)), "ok");
    let revoke = ChatChange::RevokeInvite { key: public(91) };
    assert_eq!(w.act(2, revoke.clone()), "role");
    assert_eq!(w.act(1, revoke.clone()), "ok");
    assert_eq!(w.act_signed(4, join(Some(91), 9), &[4, 91]), "invite");
    assert_eq!(w.act(1, revoke), "invite");
    assert_eq!(w.act(1, invite(92, 5, T0 + DAY)), "ok");
    w.now += DAY;
    assert_eq!(w.act_signed(4, join(Some(92), 9), &[4, 92]), "invite");
    for n in 1000..1000 + INVITES_MAX - 1 {
        assert_eq!(w.act(1, invite(n, 1, w.now + DAY)), "ok");
    }
    assert_eq!(w.act(1, invite(2000, 1, w.now + DAY)), "full");
    assert_eq!(w.act(1, ChatChange::SetPublic { public: true }), "ok");
    assert_eq!(
        w.act(1, ChatChange::SetPublic { public: true }),
        "same_public"
    );
    assert_eq!(w.act(4, join(None, 0)), "ok");
    assert_eq!(w.act(4, ChatChange::Leave), "ok");
}

#[test]
fn only_a_device_that_may_act_signs() {
    let mut w = World::new(false);
    assert_eq!(w.act_signed(1, add(2, Role::Admin), &[3]), "unsigned");
    let mut s = w.statement(1, add(2, Role::Admin));
    s.device = device_id(&public(3));
    let e = sign(&ChatPayload::Statement(s), &[3]);
    assert_eq!(w.offer(&e).unwrap_err().code(), "device", "invented");
    w.rows.expired.insert(account(1), T0 + DAY);
    w.now = T0 + DAY;
    assert_eq!(w.act(1, add(2, Role::Admin)), "device");
    // Dated back to when the record held.
    let mut s = w.statement(1, add(2, Role::Admin));
    s.at_ms -= 1;
    let back = sign(&ChatPayload::Statement(s), &[1]);
    assert!(w.offer(&back).is_ok(), "within the hour");
    w.now += 2 * 60 * 60 * 1000;
    assert_eq!(w.offer(&back).unwrap_err().code(), "untimely");
    w.rows.revoked.insert(account(1), T0 + DAY + 1);
    assert_eq!(w.offer(&back).unwrap_err().code(), "device", "revoked");
    // A laggard takes what a blocking set took in before the revocation.
    w.source = Source::Vouched;
    assert!(w.offer(&back).is_ok());
    w.rows.revoked.insert(account(1), T0 + 1);
    assert_eq!(w.offer(&back).unwrap_err().code(), "device");
}

#[test]
fn fork_gap_and_repetition_are_refusals_of_their_own() {
    let mut w = World::new(false);
    let one = sign(
        &ChatPayload::Statement(w.statement(1, add(2, Role::Member))),
        &[1],
    );
    let other = sign(
        &ChatPayload::Statement(w.statement(1, add(3, Role::Member))),
        &[1],
    );
    let mut gap = w.statement(1, add(2, Role::Member));
    gap.number = 7;
    let gap = sign(&ChatPayload::Statement(gap), &[1]);
    let behind = MembershipRefusal::Misplaced(Misplaced::Behind { have: 0, got: 7 });
    assert_eq!(w.offer(&gap), Err(behind));
    assert_eq!(w.offer(&w.genesis).unwrap_err().code(), "wrong_kind");
    let delta = w.offer(&one).unwrap();
    w.take(delta);
    assert_eq!(w.offer(&one).unwrap_err().code(), "already_applied");
    let fork = |w: &World| {
        MembershipRefusal::Misplaced(Misplaced::Fork {
            number: 1,
            ours: StatementHash(one.hash()),
            theirs: StatementHash(w.rows.hashes.get(&99).map_or(other.hash(), |h| h.0)),
        })
    };
    assert_eq!(w.offer(&other), Err(fork(&w)));
    assert_eq!(w.act(1, add(4, Role::Member)), "ok");
    assert_eq!(w.offer(&other), Err(fork(&w)), "also of an older number");
    // Strangers prove no fork: not with another's name, not with their own.
    let mut s: ChatStatement = match other.read("t").unwrap() {
        ChatPayload::Statement(s) => s,
        ChatPayload::Genesis(_) => unreachable!("a statement"),
    };
    let forged = sign(&ChatPayload::Statement(s.clone()), &[9]);
    assert_eq!(w.offer(&forged).unwrap_err().code(), "unsigned");
    s.account = account(9);
    s.device = device_id(&public(9));
    let own = sign(&ChatPayload::Statement(s.clone()), &[9]);
    assert_eq!(w.offer(&own).unwrap_err().code(), "not_a_member");
    s.chat = ChatId([9; 32]);
    let elsewhere = sign(&ChatPayload::Statement(s), &[9]);
    assert_eq!(w.offer(&elsewhere).unwrap_err().code(), "other_chat");
}

#[test]
fn a_genesis_is_the_creators_and_of_this_deployment() {
    let w = World::new(false);
    assert_eq!(chat_id(&w.genesis), w.head.chat);
    let ChatPayload::Genesis(g) = w.genesis.read("t").unwrap() else {
        unreachable!("founded above")
    };
    let code = |g: &ChatGenesis, by: u32| {
        let e = sign(&ChatPayload::Genesis(g.clone()), &[by]);
        super::genesis(&e, &w.ctx())
            .unwrap()
            .map_err(|e| e.code())
            .err()
    };
    assert_eq!(code(&g, 1), None);
    assert_eq!(code(&g, 2), Some("unsigned"));
    let other = |change: fn(&mut ChatGenesis)| {
        let mut g = g.clone();
        change(&mut g);
        code(&g, 1)
    };
    assert_eq!(
        other(|g| g.deployment = DeploymentId([2; 16])),
        Some("other_deployment")
    );
    assert_eq!(other(|g| g.creator = account(2)), Some("device"));
    assert_eq!(other(|g| g.created_ms += DAY), Some("untimely"));
}

#[test]
fn a_join_among_ten_thousand_is_as_small_as_among_two() {
    let mut w = World::new(true);
    let size = |w: &World, n: u32| {
        let e = sign(&ChatPayload::Statement(w.statement(n, join(None, 1))), &[n]);
        let delta = w.offer(&e).unwrap();
        (
            codec::encode(1, &(delta.head, delta.member)).len(),
            e.payload.len(),
        )
    };
    let small = size(&w, 2);
    // The rows of ten thousand, as their joins would have left them.
    for n in 10..10_010 {
        let member = Member {
            role: Role::Member,
            from_epoch: 1,
        };
        w.rows.members.insert(account(n), member);
        w.head.members += 1;
    }
    let large = size(&w, 3);
    assert!(
        large.0 <= small.0 + 4,
        "{} bytes among two, {} among ten thousand",
        small.0,
        large.0
    );
    assert_eq!(small.1, large.1);
    assert!(large.0 < 200, "{} bytes", large.0);
}

/// Who is in, in words of one syllable.
#[derive(Default)]
struct Model {
    roles: BTreeMap<u32, Role>,
    links: BTreeMap<u32, u32>,
    open: bool,
}

impl Model {
    /// Whether the change is allowed; makes it if it is.
    fn act(&mut self, who: u32, change: &Try) -> bool {
        let mut next = (self.roles.clone(), self.links.clone(), self.open);
        let mine = self.roles.get(&who).copied();
        let boss = mine.is_some_and(|r| r != Role::Member);
        let has_creator = self.roles.values().any(|r| *r == Role::Creator);
        let of = |n: &u32| self.roles.get(n).copied();
        let over_admins = mine == Some(Role::Creator) || (boss && !has_creator);
        let ok = match change {
            Try::Add(n, r) => {
                next.0.insert(*n, *r);
                boss && of(n).is_none() && *r != Role::Creator
            }
            Try::Remove(n) => {
                next.0.remove(n);
                *n != who
                    && match of(n) {
                        Some(Role::Member) => boss,
                        Some(Role::Admin) => over_admins,
                        _ => false,
                    }
            }
            Try::Role(n, r) => {
                next.0.insert(*n, *r);
                match (of(n), *r) {
                    (Some(Role::Member), Role::Admin) => boss,
                    (Some(Role::Admin), Role::Member) => over_admins || *n == who,
                    _ => false,
                }
            }
            Try::Leave => next.0.remove(&who).is_some(),
            Try::Link(n, uses) => {
                next.1.insert(*n, *uses);
                boss && !self.links.contains_key(n)
            }
            Try::Unlink(n) => next.1.remove(n).is_some() && boss,
            Try::Join(by) => {
                next.0.insert(who, Role::Member);
                let way = match by {
                    None => self.open,
                    Some(n) => match next.1.get_mut(n) {
                        None => false,
                        Some(uses) => {
                            *uses -= 1;
                            next.1.retain(|_, uses| *uses > 0);
                            true
                        }
                    },
                };
                way && mine.is_none()
            }
            Try::Open(open) => {
                next.2 = *open;
                boss && self.open != *open
            }
        };
        let led = next.0.is_empty() || next.0.values().any(|r| *r != Role::Member);
        let may = ok && led;
        if may {
            (self.roles, self.links, self.open) = next;
        }
        may
    }
}

#[derive(Debug)]
enum Try {
    Add(u32, Role),
    Remove(u32),
    Role(u32, Role),
    Leave,
    Link(u32, u32),
    Unlink(u32),
    Join(Option<u32>),
    Open(bool),
}

#[test]
fn random_statements_agree_with_the_model() {
    let (mut done, mut refused) = (0, 0);
    for seed in 0..24 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut w = World::new(false);
        let mut model = Model {
            roles: BTreeMap::from([(1, Role::Creator)]),
            ..Model::default()
        };
        for step in 0..120 {
            let who = rng.random_range(1..7);
            let n = rng.random_range(1..7);
            let r = [Role::Member, Role::Admin, Role::Creator][rng.random_range(0..3)];
            let link = rng.random_range(80..83);
            let attempt = match rng.random_range(0..12) {
                0..=2 => Try::Add(n, r),
                3 => Try::Remove(n),
                4 | 5 => Try::Role(n, r),
                6 => Try::Leave,
                7 => Try::Link(link, rng.random_range(1..3)),
                8 => Try::Unlink(link),
                9 => Try::Join(None),
                10 => Try::Join(Some(link)),
                _ => Try::Open(rng.random()),
            };
            let (change, by) = match &attempt {
                Try::Add(n, r) => (add(*n, *r), vec![who]),
                Try::Remove(n) => (remove(*n), vec![who]),
                Try::Role(n, r) => (role(*n, *r), vec![who]),
                Try::Leave => (ChatChange::Leave, vec![who]),
                Try::Link(n, uses) => (invite(*n, *uses, w.now + DAY), vec![who]),
                Try::Unlink(n) => (ChatChange::RevokeInvite { key: public(*n) }, vec![who]),
                Try::Join(None) => (join(None, 4), vec![who]),
                Try::Join(Some(n)) => (join(Some(*n), 4), vec![who, *n]),
                Try::Open(public) => (ChatChange::SetPublic { public: *public }, vec![who]),
            };
            let code = w.act_signed(who, change, &by);
            let may = model.act(who, &attempt);
            assert_eq!(
                code == "ok",
                may,
                "seed {seed}, step {step}: {who} {attempt:?}: {code}"
            );
            if may {
                done += 1
            } else {
                refused += 1
            }
            let roles: BTreeMap<AccountId, Role> =
                model.roles.iter().map(|(n, r)| (account(*n), *r)).collect();
            let held: BTreeMap<AccountId, Role> =
                w.rows.members.iter().map(|(a, m)| (*a, m.role)).collect();
            assert_eq!(held, roles, "seed {seed}, step {step}");
            assert_eq!(w.head.members as usize, roles.len());
            let admins = roles.values().filter(|r| **r == Role::Admin).count();
            assert_eq!(w.head.admins as usize, admins);
            assert_eq!(w.head.invites as usize, model.links.len());
            w.now += 1000;
            if model.roles.is_empty() {
                // Nothing happens in it any more: another chat.
                w = World::new(false);
                model = Model {
                    roles: BTreeMap::from([(1, Role::Creator)]),
                    ..Model::default()
                };
            }
        }
    }
    assert!(
        done > 150 && refused > 300,
        "{done} done, {refused} refused"
    );
}
