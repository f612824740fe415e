//! What another machine needs to know of an account before it can sign a
//! statement about it: where its chain ends, and who attests it. Written by
//! whoever knows, a device of the account or one of its authorities. Nobody
//! has to believe it: what is signed on false numbers is refused.

use super::account::head_of;
use super::wallet::Wallet;
use crate::deployment::read_limited;
use crate::exit::Failure;
use quorate_engine::api::registry::Account;
use quorate_engine::types::{AccountId, AuthorityId, DeploymentId, StatementHash};
use quorate_node::pki::files::{self, Access};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// The format of cards.
const FORMAT: u32 = 1;

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    format: u32,
    /// Where the account counts.
    pub deployment: DeploymentId,
    /// The account.
    pub account: AccountId,
    /// Number of its newest statement.
    pub number: u64,
    /// Its hash.
    pub hash: StatementHash,
    /// Who attests the person.
    pub authorities: BTreeSet<AuthorityId>,
    /// Whether an account secret must sign a recovery.
    pub secret: bool,
}

fn wrong(path: &Path, e: impl std::fmt::Display) -> Failure {
    Failure::usage(
        format!("{} is no account card of this version: {e}", path.display()),
        "ask for the file that `quorate device card` or `quorate identity card` wrote",
    )
}

impl Card {
    /// As a wallet knows its account.
    pub fn of_wallet(wallet: &Wallet) -> Self {
        Self {
            format: FORMAT,
            deployment: wallet.deployment,
            account: wallet.account,
            number: wallet.head.0,
            hash: wallet.head.1,
            authorities: wallet.authorities.clone(),
            secret: wallet.has_secret(),
        }
    }

    /// As a custodian's registry shows an account.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of_registry(
        account: AccountId,
        deployment: DeploymentId,
        seen: &Account,
    ) -> Result<Self, Failure> {
        let (number, hash) = head_of(seen)?;
        let ids = seen.authorities.iter().map(|a| AuthorityId::new(a));
        let authorities = ids.collect::<Result<_, _>>().map_err(|e| {
            Failure::usage(
                format!("a custodian names an authority that cannot be one: {e}"),
                "look at the custodian's log",
            )
        })?;
        Ok(Self {
            format: FORMAT,
            deployment,
            account,
            number,
            hash,
            authorities,
            secret: seen.secret,
        })
    }

    /// Number and hash that the next statement follows.
    pub fn head(&self) -> (u64, StatementHash) {
        (self.number, self.hash)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let bytes = read_limited(path).map_err(|e| Failure::file("read", path, &e))?;
        let card: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(path, e))?;
        if card.format != FORMAT {
            return Err(wrong(path, format!("format {}", card.format)));
        }
        Ok(card)
    }

    /// Writes it to `path`, over what is there.
    ///
    /// # Errors
    /// As the disk does.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec(self).map_err(|e| wrong(path, e))?;
        files::replace(path, &text, Access::Public).map_err(|e| wrong(path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_read_as_it_was_written_and_nothing_else_is_one() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("card.json");
        let card = Card {
            format: FORMAT,
            deployment: DeploymentId([1; 16]),
            account: AccountId([2; 32]),
            number: 7,
            hash: StatementHash([3; 32]),
            authorities: [AuthorityId::new("id-ee").unwrap()].into(),
            secret: true,
        };
        card.save(&path).unwrap();
        assert_eq!(Card::load(&path).unwrap(), card);
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("\"format\":1", "\"format\":2"),
            ("\"number\":7", "\"number\":7,\"more\":1"),
            ("id-ee", "ID"),
            ("0303", "03"),
        ] {
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            assert!(Card::load(&path).is_err(), "{from}");
        }
    }
}
