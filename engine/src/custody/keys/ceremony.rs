//! Ceremonies: people come one after the other, and nothing changes between them.
//!
//! Both are pinned when they begin: a [`Gathering`] to the slot as it is then,
//! a [`Rekey`] to its tree and slot name. Whoever comes later joins that
//! ceremony by its nonce or is refused; nobody can change what the others
//! already agreed to.

use super::share::HeldShare;
use super::slot::{Provider, ShareParams, SlotError, SlotPublic};
use super::tree::HolderTree;
use crate::crypto::keyslot;
use crate::custody::Place;
use crate::sharing::{self, SharingError};
use crate::types::{CustodianId, DataKey, Secret, Share, WallMs};
use rand_core::CryptoRng;
use std::collections::{BTreeMap, BTreeSet};
use subtle::ConstantTimeEq;

/// A gathering that nobody joined for so long is forgotten, shares and all, in milliseconds.
pub const CEREMONY_IDLE_MS_MAX: u64 = 15 * 60 * 1000;
/// A rekey not finished after this is forgotten; the old slot stays, in milliseconds.
pub const REKEY_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;

/// Why a step of a ceremony is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CeremonyError {
    /// Not the one under way.
    #[error(
        "this is not the ceremony under way ({under_way}); ask `custodian keys show` and begin again if it ended"
    )]
    OtherCeremony {
        /// Nonce of the one under way.
        under_way: String,
    },
    /// The share is of another deployment, custodian, slot or dealing.
    #[error(
        "the share of {holder} is of another {what}: an older ceremony replaced it, or it belongs elsewhere"
    )]
    OtherShare {
        /// Whose.
        holder: CustodianId,
        /// What differs.
        what: &'static str,
    },
    /// Not a holder.
    #[error("{holder} holds no share of this slot; the holders are {known}")]
    NoHolder {
        /// The name given.
        holder: CustodianId,
        /// Who does.
        known: String,
    },
    /// The share is not the one that was dealt.
    #[error("the share of {0} is wrong: it is not the one dealt to this holder")]
    WrongShare(CustodianId),
    /// The holder's share was handed out already.
    #[error("the share of {0} was handed out already; cancel the ceremony if it got lost")]
    Collected(CustodianId),
    /// It was not handed out yet.
    #[error("{0} has not collected a share yet")]
    NotCollected(CustodianId),
    /// Holders are still missing.
    #[error("not confirmed yet by {0}")]
    Unconfirmed(String),
    /// The slot has no shares.
    #[error("slot {slot} is opened by {provider}, not by shares")]
    NoShares {
        /// The slot.
        slot: CustodianId,
        /// What opens it.
        provider: &'static str,
    },
    /// Splitting or combining.
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// The combined key is not the slot's; shares were dealt wrongly.
    #[error(transparent)]
    Slot(#[from] SlotError),
}

fn nonce<R: CryptoRng + ?Sized>(rng: &mut R) -> [u8; 16] {
    let mut out = [0; 16];
    rng.fill_bytes(&mut out);
    out
}

fn names<'a>(all: impl IntoIterator<Item = &'a CustodianId>) -> String {
    let names: Vec<_> = all.into_iter().map(CustodianId::as_str).collect();
    names.join(", ")
}

/// What a share added to a gathering.
#[derive(Debug)]
pub enum Gathered {
    /// More are needed.
    Waiting,
    /// The slot's unlock key.
    Complete(Secret<32>),
}

/// Holders bring their shares, to open a slot or to check it.
pub struct Gathering {
    nonce: [u8; 16],
    slot: SlotPublic,
    params: ShareParams,
    shares: BTreeMap<CustodianId, Share>,
    touched_ms: WallMs,
}

impl Gathering {
    /// Begins for `slot` as it is now.
    ///
    /// # Errors
    /// [`CeremonyError::NoShares`].
    pub fn begin<R: CryptoRng + ?Sized>(
        slot: &SlotPublic,
        now_ms: WallMs,
        rng: &mut R,
    ) -> Result<Self, CeremonyError> {
        let Provider::Shares(params) = &slot.provider else {
            return Err(CeremonyError::NoShares {
                slot: slot.name.clone(),
                provider: slot.provider.as_str(),
            });
        };
        Ok(Self {
            nonce: nonce(rng),
            slot: slot.clone(),
            params: params.clone(),
            shares: BTreeMap::new(),
            touched_ms: now_ms,
        })
    }

    /// Its nonce; every holder names it.
    pub fn nonce(&self) -> &[u8; 16] {
        &self.nonce
    }
    /// The slot it is for.
    pub fn slot(&self) -> &SlotPublic {
        &self.slot
    }
    /// Who has come.
    pub fn have(&self) -> Vec<&CustodianId> {
        self.shares.keys().collect()
    }
    /// Who must come together.
    pub fn tree(&self) -> &HolderTree {
        &self.params.tree
    }
    /// Whether nobody came for too long.
    pub fn idle(&self, now_ms: WallMs) -> bool {
        self.touched_ms.saturating_add(CEREMONY_IDLE_MS_MAX) <= now_ms
    }

    /// One holder's share. A holder who comes again changes nothing.
    ///
    /// # Errors
    /// [`CeremonyError`]; then nothing changed.
    pub fn add(
        &mut self,
        place: &Place,
        nonce: &[u8; 16],
        held: HeldShare,
        now_ms: WallMs,
    ) -> Result<Gathered, CeremonyError> {
        if *nonce != self.nonce {
            return Err(CeremonyError::OtherCeremony {
                under_way: hex::encode(self.nonce),
            });
        }
        let holder = held.holder.clone();
        let differs = [
            ("deployment", held.deployment != place.deployment),
            ("custodian", held.custodian != place.custodian),
            ("slot", held.slot != self.slot.name),
            ("ceremony", held.ceremony != self.params.ceremony),
        ];
        if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
            return Err(CeremonyError::OtherShare { holder, what });
        }
        let holders = self.params.tree.holders();
        let at = holders.iter().position(|h| **h == holder);
        let at = at.ok_or_else(|| CeremonyError::NoHolder {
            holder: holder.clone(),
            known: names(holders.iter().copied()),
        })?;
        let expected = &self.params.commitments[at];
        if !keyslot::share_holds(&self.params.ceremony, &holder, &held.share, expected) {
            return Err(CeremonyError::WrongShare(holder));
        }
        self.touched_ms = now_ms;
        self.shares.insert(holder, held.share);
        if !self.params.tree.satisfied(&self.have()) {
            return Ok(Gathered::Waiting);
        }
        let shares: Vec<_> = self.shares.iter().map(|(h, s)| (h.clone(), s)).collect();
        let DataKey(key) = sharing::combine(self.params.tree.structure(), &shares)?;
        if !self.slot.is_of(&key) {
            return Err(SlotError::Keyslot(keyslot::KeyslotError::DoesNotOpen).into());
        }
        Ok(Gathered::Complete(key))
    }
}

/// New shares for a slot. Until it is finished, the old ones hold.
pub struct Rekey {
    ceremony: [u8; 16],
    challenge: [u8; 32],
    slot: SlotPublic,
    tree: HolderTree,
    shares: BTreeMap<CustodianId, Share>,
    collected: BTreeSet<CustodianId>,
    confirmed: BTreeSet<CustodianId>,
    begun_ms: WallMs,
}

impl Rekey {
    /// Draws an unlock key for slot `name`, splits it along `tree`, recombines it as a check.
    ///
    /// # Errors
    /// [`CeremonyError::Sharing`]; a [`HolderTree`] does not cause it.
    pub fn begin<R: CryptoRng + ?Sized>(
        name: CustodianId,
        tree: HolderTree,
        now_ms: WallMs,
        rng: &mut R,
    ) -> Result<Self, CeremonyError> {
        let ceremony = nonce(rng);
        let mut challenge = [0; 32];
        rng.fill_bytes(&mut challenge);
        let key = DataKey::generate(rng);
        let shares = sharing::split(tree.structure(), &key, rng)?;
        let again: Vec<_> = shares.iter().map(|(h, s)| (h.clone(), s)).collect();
        let same = sharing::combine(tree.structure(), &again)?.ct_eq(&key);
        assert!(bool::from(same), "what was split recombines");
        let commit = |(h, s): &(CustodianId, Share)| keyslot::share_commitment(&ceremony, h, s);
        let params = ShareParams {
            ceremony,
            tree: tree.clone(),
            commitments: shares.iter().map(commit).collect(),
        };
        Ok(Self {
            ceremony,
            challenge,
            slot: SlotPublic::new(name, Provider::Shares(params), &key.0),
            tree,
            shares: shares.into_iter().collect(),
            collected: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            begun_ms: now_ms,
        })
    }

    /// Its nonce; every share carries it.
    pub fn ceremony(&self) -> &[u8; 16] {
        &self.ceremony
    }
    /// What holders prove possession to.
    pub fn challenge(&self) -> &[u8; 32] {
        &self.challenge
    }
    /// The slot's name.
    pub fn slot(&self) -> &CustodianId {
        &self.slot.name
    }
    /// Who will hold shares.
    pub fn tree(&self) -> &HolderTree {
        &self.tree
    }
    /// Who has proved possession.
    pub fn confirmed(&self) -> &BTreeSet<CustodianId> {
        &self.confirmed
    }
    /// Whether it took too long.
    pub fn expired(&self, now_ms: WallMs) -> bool {
        self.begun_ms.saturating_add(REKEY_MS_MAX) <= now_ms
    }

    fn holder(&self, ceremony: &[u8; 16], holder: &CustodianId) -> Result<&Share, CeremonyError> {
        if *ceremony != self.ceremony {
            return Err(CeremonyError::OtherCeremony {
                under_way: hex::encode(self.ceremony),
            });
        }
        self.shares
            .get(holder)
            .ok_or_else(|| CeremonyError::NoHolder {
                holder: holder.clone(),
                known: names(self.tree.holders()),
            })
    }

    /// Hands a holder's share out, once.
    ///
    /// # Errors
    /// [`CeremonyError`].
    pub fn collect(
        &mut self,
        place: &Place,
        ceremony: &[u8; 16],
        holder: &CustodianId,
    ) -> Result<HeldShare, CeremonyError> {
        let share = Share(self.holder(ceremony, holder)?.0.duplicate());
        if !self.collected.insert(holder.clone()) {
            return Err(CeremonyError::Collected(holder.clone()));
        }
        Ok(HeldShare {
            deployment: place.deployment,
            custodian: place.custodian.clone(),
            slot: self.slot.name.clone(),
            ceremony: self.ceremony,
            holder: holder.clone(),
            share,
        })
    }

    /// A holder proves possession; whether all have now.
    ///
    /// # Errors
    /// [`CeremonyError`].
    pub fn confirm(
        &mut self,
        ceremony: &[u8; 16],
        holder: &CustodianId,
        proof: &[u8; 32],
    ) -> Result<bool, CeremonyError> {
        let share = self.holder(ceremony, holder)?;
        let expected = keyslot::possession(ceremony, holder, &self.challenge, share);
        if !self.collected.contains(holder) {
            return Err(CeremonyError::NotCollected(holder.clone()));
        }
        if !bool::from(expected.ct_eq(proof)) {
            return Err(CeremonyError::WrongShare(holder.clone()));
        }
        self.confirmed.insert(holder.clone());
        Ok(self.confirmed.len() == self.shares.len())
    }

    /// The new slot, once every holder has confirmed.
    ///
    /// # Errors
    /// [`CeremonyError::Unconfirmed`].
    pub fn finished(&self) -> Result<SlotPublic, CeremonyError> {
        let missing = self.shares.keys().filter(|h| !self.confirmed.contains(*h));
        let missing = names(missing);
        match missing.is_empty() {
            true => Ok(self.slot.clone()),
            false => Err(CeremonyError::Unconfirmed(missing)),
        }
    }
}
