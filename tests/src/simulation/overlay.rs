//! Planted bugs of custodians' state machines: what `apply` reads, or the command
//! it is given, is changed on its way, on every replica alike.

use super::Mutant;
use super::watch::custody_table;
use super::world::DEPLOYMENT;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::Grant;
use quorate_engine::authz::membership::Member;
use quorate_engine::authz::officers::{Roster, Statement};
use quorate_engine::authz::orders::OrderState;
use quorate_engine::authz::standing::Role;
use quorate_engine::crypto::labels::SIGN_OFFICER;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::{AccountRow, Command, Proposal};
use quorate_engine::types::kv::{Kv, KvError, KvRead, Row};
use quorate_engine::types::{Secret, codec};

/// Rows as a custodian with the planted bug sees them while it decides about releases.
pub struct Blind<'a, K: Kv> {
    kv: &'a mut K,
    mutant: Option<Mutant>,
}

impl<'a, K: Kv> Blind<'a, K> {
    /// Sees everything, unless `mutant` is about what it sees and `bytes` ask for releases.
    pub fn new(kv: &'a mut K, mutant: Option<Mutant>, bytes: &[u8]) -> Self {
        let about = matches!(
            mutant,
            Some(
                Mutant::SkipsMembers
                    | Mutant::SkipsDevices
                    | Mutant::SkipsCeilings
                    | Mutant::SkipsApprovals
                    | Mutant::SkipsCoolOff
                    | Mutant::SkipsDates
                    | Mutant::SkipsMandates
            )
        );
        let releases = |p: Proposal| {
            let release = |c: &Command| {
                matches!(
                    c,
                    Command::Release(_) | Command::OrderRelease(_) | Command::MandateRelease(_)
                )
            };
            p.commands.iter().any(|s| release(&s.command))
        };
        let blind = about && Proposal::decode(bytes).is_ok_and(releases);
        let mutant = mutant.filter(|_| blind);
        Self { kv, mutant }
    }
}

impl<K: Kv> Blind<'_, K> {
    /// An order whose approvals are all there, or are old, or which is about all times.
    fn wider(&self, row: &[u8]) -> Result<Vec<u8>, KvError> {
        let mut order: OrderState = codec::decode("order", 1, row).expect("applied rows decode");
        if self.mutant == Some(Mutant::SkipsCoolOff) {
            order.approvals.values_mut().for_each(|at| *at = 0);
        } else if self.mutant == Some(Mutant::SkipsDates) {
            let mut asked = order.order().expect("kept orders read");
            (asked.scope.from_ms, asked.scope.to_ms) = (0, u64::MAX);
            // Nobody looks at the signature once it was taken in.
            let key = SigningKey::from_seed(&Secret::take(&mut [1; 32]));
            let asked = Statement::Order(asked);
            order.envelope = Envelope::sign(SIGN_OFFICER, &DEPLOYMENT, &asked, &[&key]);
        } else if let Some(roster) = self.kv.get(&[custody_table("roster")])? {
            let roster: Roster = codec::decode("roster", 1, &roster).expect("applied rows decode");
            let all = roster.officers().keys().map(|id| (*id, 0));
            order.approvals = all.collect();
            order.rejections.clear();
        }
        Ok(codec::encode(1, &order))
    }
}

impl<K: Kv> KvRead for Blind<'_, K> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let row = self.kv.get(key)?;
        let of = |name| key.first() == Some(&custody_table(name));
        Ok(match self.mutant {
            Some(Mutant::SkipsMembers) if of("member") => {
                let anyone = Member {
                    role: Role::Member,
                    from_epoch: 0,
                };
                Some(codec::encode(1, &anyone))
            }
            Some(Mutant::SkipsDevices) if of("account") => row.map(|row| {
                let mut row: AccountRow =
                    codec::decode("account", 1, &row).expect("applied rows decode");
                for (id, gone) in std::mem::take(&mut row.state.revoked) {
                    row.state.devices.insert(id, gone.record);
                }
                codec::encode(1, &row)
            }),
            Some(Mutant::SkipsCeilings) if of("grant") => None,
            Some(Mutant::SkipsMandates) if of("mandate") => None,
            Some(Mutant::SkipsApprovals | Mutant::SkipsCoolOff | Mutant::SkipsDates)
                if of("order") =>
            {
                row.map(|row| self.wider(&row)).transpose()?
            }
            _ => row,
        })
    }
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Row>, KvError> {
        self.kv.scan(from, to, limit, reverse)
    }
}

impl<K: Kv> Kv for Blind<'_, K> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.kv.put(key, value)
    }
    fn delete(&mut self, key: &[u8]) -> Result<(), KvError> {
        self.kv.delete(key)
    }
}

/// The proposal with the epochs of its grants forgotten.
pub fn all_epochs(bytes: &[u8]) -> Vec<u8> {
    let Ok(mut proposal) = Proposal::decode(bytes) else {
        return bytes.to_vec();
    };
    for stamped in &mut proposal.commands {
        let Command::Release(release) = &mut stamped.command else {
            continue;
        };
        let Ok(grant) = Grant::parse(&release.grant) else {
            continue;
        };
        let mut claims = grant.claims().clone();
        for chat in &mut claims.chats {
            (chat.from, chat.to) = (0, None);
        }
        if claims == *grant.claims() {
            continue;
        }
        // Nobody looks at the signature once the leader did.
        let key = SigningKey::from_seed(&Secret::take(&mut [1; 32]));
        let wide = Grant::sign(*grant.device(), &key, claims).expect("well-formed claims");
        release.grant = wide.compact().to_owned();
    }
    proposal.encode()
}
