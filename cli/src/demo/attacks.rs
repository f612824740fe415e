//! The attack table: who tried what, and what each got. Every row is computed by
//! really trying against the running custodians, and every kind of attack has a
//! control beside it that must succeed.

use super::attacker::{Dealing, Disk, Given, Root, shares};
use super::{Stage, failed, say};
use crate::exit::Failure;
use crate::people::{Person, Registry, Wants, now_ms};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Action, ChatRange, Claims, Grant};
use quorate_engine::authz::identity::{
    AccountChange, AccountGenesis, AccountPayload, AccountStatement, account_id, device_id,
};
use quorate_engine::crypto::labels::SIGN_ACCOUNT;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{
    AccountId, AuthorityId, ChatId, CustodianId, GrantId, Nonce, PublicKey, Secret, Share,
};
use quorate_node::pki::Entity;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Grants in this table hold for so long, in seconds.
const LIFE_S: u64 = 600;
/// A grant that ran out did so this long ago, in seconds.
const STALE_S: u64 = 3_600;

/// One attack, or one control.
#[derive(Clone, Debug, Serialize)]
pub struct Attack {
    /// Who.
    pub who: &'static str,
    /// What was tried.
    pub tried: &'static str,
    /// What came of it.
    pub got: String,
    /// A control: it is meant to succeed.
    pub control: bool,
    /// Whether it went as it should.
    pub held: bool,
}

fn nobody_gave(who: &'static str, tried: &'static str, given: Vec<Given>) -> Attack {
    let asked = given.len();
    let (shares, refused) = shares(given);
    let why: BTreeSet<&str> = refused.iter().map(|(_, why)| why.as_str()).collect();
    let why = why.into_iter().collect::<Vec<_>>().join("; ");
    Attack {
        who,
        tried,
        got: format!("{} shares of {asked} custodians: {why}", shares.len()),
        control: false,
        held: shares.is_empty() && asked > 0,
    }
}

/// Somebody who made up a device, or was given one by an authority.
struct Stranger {
    key: SigningKey,
    account: AccountId,
}

fn key() -> SigningKey {
    SigningKey::from_seed(&Secret::take(&mut rand::random::<[u8; 32]>()))
}

fn claims(root: &Root, account: AccountId, chat: ChatId, not_before_s: u64) -> Claims {
    Claims {
        account,
        deployment: root.deployment(),
        home: root.home.clone(),
        actions: vec![Action::Read],
        chats: vec![ChatRange {
            chat,
            from: 0,
            to: None,
        }],
        ceiling: 16,
        not_before_s,
        expires_s: not_before_s + LIFE_S,
        id: GrantId(rand::random()),
    }
}

fn minute_ago_s() -> u64 {
    now_ms() / 1000 - 60
}

impl Stranger {
    fn grant(&self, root: &Root, chat: ChatId) -> Result<String, Failure> {
        let device = device_id(&PublicKey(self.key.public()));
        let claims = claims(root, self.account, chat, minute_ago_s());
        let grant = Grant::sign(device, &self.key, claims).map_err(failed)?;
        Ok(grant.compact().to_owned())
    }
}

/// `grant` with another chat in its payload, under the signature it had.
fn stretched(grant: &str, from: &ChatId, to: &ChatId) -> Result<String, Failure> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    let parts: Vec<&str> = grant.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return Err(failed("a grant of this client has not three parts"));
    };
    let payload = B64.decode(payload).map_err(failed)?;
    let payload = String::from_utf8(payload).map_err(failed)?;
    let bent = payload.replace(&from.to_string(), &to.to_string());
    if bent == payload {
        return Err(failed("a grant of this client does not name its chat"));
    }
    Ok(format!("{header}.{}.{signature}", B64.encode(bent)))
}

impl Stage {
    /// Tries everything, prints the table, and fails if one row is not as it must be.
    pub(super) async fn attacks(&mut self, person: &Arc<Person>) -> Result<(), Failure> {
        let home = self.embedded.layout.home().clone();
        let config = home.nodes.first().map(|n| n.config.clone());
        let config = config.ok_or_else(|| failed("the home has no node"))?;
        // While the home is down its disks lie open, and its certificates work as ever.
        self.embedded.stop_cluster(&home.name).await;
        let disk = Disk::read(&config)?;
        let root = Root::of(&config)?;
        let rows = self.try_all(person, &disk, &root).await;
        self.embedded
            .start_cluster(&home.name)
            .await
            .map_err(failed)?;
        self.embedded
            .wait_ready(super::READY_WAIT)
            .await
            .map_err(failed)?;
        let mut rows = rows?;
        self.read_one().await?;
        rows.push(Attack {
            who: "a member",
            tried: "reads through the home",
            got: "the messages".into(),
            control: true,
            held: true,
        });
        for row in &rows {
            let kind = if row.control { "control" } else { "attack " };
            let mark = if row.held { "ok  " } else { "FAIL" };
            let line = format!(
                "{mark} {kind} {}: {}\n       {}",
                row.who, row.tried, row.got
            );
            say(self.output, &line)?;
            if self.output.json {
                self.output.show(row, String::new)?;
            }
        }
        let controls = rows.iter().filter(|r| r.control).count();
        let seen = format!(
            "{} attacks got nothing they should not have, {controls} controls succeeded",
            rows.len() - controls
        );
        self.act(
            rows.iter().all(|r| r.held),
            "nobody reads alone: root at the home, thieves, custodians, an authority",
            seen,
        )
    }

    async fn try_all(
        &self,
        person: &Arc<Person>,
        disk: &Disk,
        root: &Root,
    ) -> Result<Vec<Attack>, Failure> {
        let all = root.custodians();
        let chats = self.chats.iter().filter_map(|c| c.parse::<ChatId>().ok());
        let mut dealings = chats.filter_map(|c| disk.dealing_of(&c));
        let (Some(a), Some(b)) = (dealings.next(), dealings.next()) else {
            return Err(failed("the home's disk has fewer than two chats"));
        };
        let (chat, other) = (a.key.chat, b.key.chat);
        let live = person.grant(&Wants::read(vec![chat])).map_err(failed)?;
        let mut rows = vec![thief(disk)];

        rows.push(nobody_gave(
            "root at the home",
            "asks with no grant",
            root.ask(&all, a, "none").await,
        ));
        let invented = Stranger {
            key: key(),
            account: person.account(),
        };
        rows.push(nobody_gave(
            "root at the home",
            "signs a grant with a device it invented",
            root.ask(&all, a, &invented.grant(root, chat)?).await,
        ));
        let then = minute_ago_s() - STALE_S;
        let stale = person
            .sign_grant(claims(root, person.account(), chat, then))
            .map_err(failed)?;
        rows.push(nobody_gave(
            "root at the home",
            "replays a member's grant of an hour ago",
            root.ask(&all, a, &stale).await,
        ));
        rows.push(nobody_gave(
            "root at the home",
            "writes another chat into a member's live grant",
            root.ask(&all, b, &stretched(&live, &chat, &other)?).await,
        ));
        let (mine, _) = shares(root.ask(&all, a, &live).await);
        let opened = disk.open(a, &mine);
        rows.push(Attack {
            who: "root at the home during a grant",
            tried: "takes the chat that the grant names",
            got: format!("{opened} records of that chat: the risk that remains"),
            control: true,
            held: opened > 0,
        });
        rows.push(nobody_gave(
            "root at the home during a grant",
            "takes another chat with it",
            root.ask(&all, b, &live).await,
        ));
        rows.extend(coalitions(disk, a, &mine));
        rows.extend(self.authority(person, root, a).await?);
        Ok(rows)
    }

    /// What one identity authority can do that is compelled or stolen.
    async fn authority(
        &self,
        person: &Arc<Person>,
        root: &Root,
        dealing: &Dealing,
    ) -> Result<Vec<Attack>, Failure> {
        let layout = &self.embedded.layout;
        let place = layout.authorities.first();
        let place = place.ok_or_else(|| failed("the deployment has no identity authority"))?;
        let entity = Entity::open(&place.dir).map_err(failed)?;
        let mut seed = entity.statement_key().map_err(failed)?.to_bytes();
        let signing = SigningKey::from_seed(&Secret::take(&mut seed));
        let registry = Registry::of_layout(layout, &place.dir)?;
        let name = AuthorityId::new(&place.name).map_err(failed)?;
        let deployment = root.deployment();
        let sign = |payload: &AccountPayload, device: &SigningKey| {
            Envelope::sign(SIGN_ACCOUNT, &deployment, payload, &[device, &signing])
        };

        // An account of its own making: custodians take it, and it is a member of nothing.
        let device = key();
        let genesis = AccountPayload::Genesis(AccountGenesis {
            deployment,
            authorities: [name].into(),
            device: PublicKey(device.public()),
            expires_ms: now_ms() + 3_600_000,
            secret: None,
            created_ms: now_ms(),
            nonce: Nonce(rand::random()),
        });
        let genesis = sign(&genesis, &device);
        let took = registry.tell(None, &genesis).await.acks.len();
        let stranger = Stranger {
            key: device,
            account: account_id(&genesis),
        };
        let grant = stranger.grant(root, dealing.key.chat)?;
        let mut founded = nobody_gave(
            "an authority, compelled",
            "enrols an account with a device and has that ask",
            root.ask(&root.custodians(), dealing, &grant).await,
        );
        founded.held &= took > 0;
        founded.got = format!("{took} custodians enrolled it; {}", founded.got);

        // A further device for the victim's account.
        let device = key();
        let known = registry.account(&person.account()).await?;
        let add = AccountPayload::Statement(AccountStatement {
            account: person.account(),
            number: known.number + 1,
            previous: known.hash.parse().map_err(failed)?,
            at_ms: now_ms(),
            change: AccountChange::AddDevice {
                public: PublicKey(device.public()),
                expires_ms: now_ms() + 3_600_000,
            },
        });
        let said = registry
            .tell(Some(&person.account()), &sign(&add, &device))
            .await;
        let why: BTreeSet<&str> = said
            .refused
            .iter()
            .map(|(_, code, _)| code.as_str())
            .collect();
        let why = why.into_iter().collect::<Vec<_>>().join(", ");
        let added = Attack {
            who: "an authority, compelled",
            tried: "adds a device to somebody's account",
            got: format!(
                "{} custodians took it, {} refused: {why}",
                said.acks.len(),
                said.refused.len()
            ),
            control: false,
            held: said.acks.is_empty() && !said.refused.is_empty(),
        };
        Ok(vec![founded, added])
    }
}

fn thief(disk: &Disk) -> Attack {
    let opened: usize = disk.dealings.values().map(|d| disk.open(d, &[])).sum();
    Attack {
        who: "a thief with the home's disks",
        tried: "opens the records",
        got: format!(
            "{opened} of {} records, {} keys short of every share",
            disk.records.len(),
            disk.dealings.len()
        ),
        control: false,
        held: opened == 0 && !disk.records.is_empty(),
    }
}

fn of(all: &[(CustodianId, Share)], names: &[&str]) -> Vec<(CustodianId, Share)> {
    let named = all.iter().filter(|(c, _)| names.contains(&c.as_str()));
    named.map(|(c, s)| (c.clone(), s.duplicate())).collect()
}

/// What custodians open who put their shares and the home's disks together.
fn coalitions(disk: &Disk, dealing: &Dealing, all: &[(CustodianId, Share)]) -> Vec<Attack> {
    let names: Vec<&str> = all.iter().map(|(c, _)| c.as_str()).collect();
    let opened = |names: &[&str]| disk.open(dealing, &of(all, names));
    let alone: usize = names.iter().map(|n| opened(&[n])).sum();
    let pairs: Vec<[&str; 2]> = names
        .iter()
        .enumerate()
        .flat_map(|(i, a)| names[i + 1..].iter().map(move |b| [*a, *b]))
        .collect();
    let by_two: usize = pairs.iter().map(|p| opened(p)).sum();
    let bloc = opened(&["ch", "de", "nl"]);
    let three = opened(&["ch", "is", "sg"]);
    let attack = |who, tried, opened: usize, of: usize| Attack {
        who,
        tried,
        got: format!("{opened} records, {of} ways tried"),
        control: false,
        held: opened == 0 && of > 0,
    };
    vec![
        attack(
            "one custodian, or a court over it",
            "opens a chat with its share and the home's disks",
            alone,
            names.len(),
        ),
        attack(
            "two custodians",
            "open a chat with their shares and the home's disks",
            by_two,
            pairs.len(),
        ),
        attack(
            "a bloc of two with one more (de, nl, ch)",
            "opens a chat with its shares and the home's disks",
            bloc,
            1,
        ),
        Attack {
            who: "three independent custodians (ch, is, sg)",
            tried: "open the same chat with their shares and the home's disks",
            got: format!("{three} records"),
            control: true,
            held: three > 0,
        },
    ]
}
