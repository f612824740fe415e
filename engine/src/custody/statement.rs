//! Signing and checking what a custodian states: sealing keys and receipts.

use super::protocol::{ChainId, Receipt, SealingKeyStatement, SignedHead};
use crate::audit::EntryRef;
use crate::crypto::seal::RecipientPublic;
use crate::crypto::sign::{self, SigningKey};
use crate::types::{CustodianId, DeploymentId, RequestId, WallMs};

/// Longest life of a sealing version, in milliseconds (7 days).
pub const SEALING_LIFE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;

/// Why a statement or receipt is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// The signature is not by the key in the custodian's descriptor.
    #[error("custodian {0}: the signature does not verify under the key in its descriptor")]
    Signature(CustodianId),
    /// It speaks for another custodian.
    #[error("a statement of custodian {got} where {expected} was asked")]
    Custodian {
        /// Named in it.
        got: CustodianId,
        /// Asked.
        expected: CustodianId,
    },
    /// Its time is over.
    #[error("custodian {0}: the sealing key has expired; ask again")]
    Expired(CustodianId),
    /// It would live longer than allowed.
    #[error("custodian {0}: the sealing key states a life over seven days")]
    TooLong(CustodianId),
    /// It is about another chain.
    #[error("custodian {0}: the acknowledgement is about another chat or account")]
    Chain(CustodianId),
    /// It answers another request.
    #[error("custodian {0}: the receipt answers another request")]
    Request(CustodianId),
}

impl SealingKeyStatement {
    /// Signs a statement with the log key, which the descriptor names.
    pub fn sign(
        deployment: &DeploymentId,
        custodian: CustodianId,
        version: u32,
        public: RecipientPublic,
        expires_ms: WallMs,
        log_key: &SigningKey,
    ) -> Self {
        let mut out = Self {
            custodian,
            version,
            public,
            expires_ms,
            signature: Vec::new(),
        };
        out.signature = log_key.sign(&out.signed_bytes(deployment)).to_vec();
        out
    }

    /// Checks who signed it, for whom it speaks, and that it lives at `now_ms`.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        &self,
        deployment: &DeploymentId,
        custodian: &CustodianId,
        log_key: &[u8; 32],
        now_ms: WallMs,
    ) -> Result<(), StatementError> {
        named(&self.custodian, custodian)?;
        signed(
            log_key,
            &self.signed_bytes(deployment),
            &self.signature,
            custodian,
        )?;
        if self.expires_ms <= now_ms {
            return Err(StatementError::Expired(custodian.clone()));
        }
        // A minute for clocks that differ.
        if self.expires_ms > now_ms.saturating_add(SEALING_LIFE_MS_MAX + 60_000) {
            return Err(StatementError::TooLong(custodian.clone()));
        }
        Ok(())
    }
}

impl Receipt {
    /// Signs a receipt with the log key.
    pub fn sign(
        deployment: &DeploymentId,
        custodian: CustodianId,
        entry: &EntryRef,
        request: RequestId,
        log_key: &SigningKey,
    ) -> Self {
        let mut out = Self {
            custodian,
            entry: entry.index,
            leaf: entry.leaf,
            time_ms: entry.time_ms,
            request,
            signature: Vec::new(),
        };
        out.signature = log_key.sign(&out.signed_bytes(deployment)).to_vec();
        out
    }

    /// Checks who signed it and which request it answers.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        &self,
        deployment: &DeploymentId,
        custodian: &CustodianId,
        request: &RequestId,
        log_key: &[u8; 32],
    ) -> Result<(), StatementError> {
        named(&self.custodian, custodian)?;
        if self.request != *request {
            return Err(StatementError::Request(custodian.clone()));
        }
        signed(
            log_key,
            &self.signed_bytes(deployment),
            &self.signature,
            custodian,
        )
    }
}

impl SignedHead {
    /// Signs that a chain ends here, as `entry` of the log found it.
    pub fn sign(
        deployment: &DeploymentId,
        custodian: CustodianId,
        chain: ChainId,
        (number, hash): (u64, [u8; 32]),
        entry: &EntryRef,
        log_key: &SigningKey,
    ) -> Self {
        let mut out = Self {
            custodian,
            chain,
            number,
            hash,
            entry: entry.index,
            time_ms: entry.time_ms,
            signature: Vec::new(),
        };
        out.signature = log_key.sign(&out.signed_bytes(deployment)).to_vec();
        out
    }

    /// Checks who signed it and which chain it is about.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        &self,
        deployment: &DeploymentId,
        custodian: &CustodianId,
        chain: &ChainId,
        log_key: &[u8; 32],
    ) -> Result<(), StatementError> {
        named(&self.custodian, custodian)?;
        if self.chain != *chain {
            return Err(StatementError::Chain(custodian.clone()));
        }
        signed(
            log_key,
            &self.signed_bytes(deployment),
            &self.signature,
            custodian,
        )
    }
}

fn named(got: &CustodianId, expected: &CustodianId) -> Result<(), StatementError> {
    if got == expected {
        return Ok(());
    }
    Err(StatementError::Custodian {
        got: got.clone(),
        expected: expected.clone(),
    })
}

fn signed(
    key: &[u8; 32],
    bytes: &[u8],
    signature: &[u8],
    custodian: &CustodianId,
) -> Result<(), StatementError> {
    sign::verify(key, bytes, signature).map_err(|_| StatementError::Signature(custodian.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    #[test]
    fn statements_and_receipts_are_bound_to_all_they_say() {
        let key = SigningKey::from_seed(&Secret::take(&mut [3; 32]));
        let other = SigningKey::from_seed(&Secret::take(&mut [4; 32]));
        let (d, ch) = (DeploymentId([1; 16]), CustodianId::new("ch").unwrap());
        let is = CustodianId::new("is").unwrap();
        let public = RecipientPublic(vec![1, 2, 3]);
        let s = SealingKeyStatement::sign(&d, ch.clone(), 2, public, 1_000, &key);
        let vk = key.public();
        assert_eq!(s.verify(&d, &ch, &vk, 999), Ok(()));
        assert_eq!(
            s.verify(&d, &ch, &vk, 1_000),
            Err(StatementError::Expired(ch.clone()))
        );
        let bad_signature = Err(StatementError::Signature(ch.clone()));
        assert_eq!(s.verify(&d, &ch, &other.public(), 999), bad_signature);
        assert_eq!(
            s.verify(&DeploymentId([2; 16]), &ch, &vk, 999),
            bad_signature
        );
        let mut renumbered = s.clone();
        renumbered.version = 3;
        assert_eq!(renumbered.verify(&d, &ch, &vk, 999), bad_signature);
        assert!(matches!(
            s.verify(&d, &is, &vk, 999),
            Err(StatementError::Custodian { .. })
        ));
        let far = SEALING_LIFE_MS_MAX + 100_000;
        let long = SealingKeyStatement::sign(&d, ch.clone(), 2, RecipientPublic(vec![]), far, &key);
        assert_eq!(
            long.verify(&d, &ch, &vk, 0),
            Err(StatementError::TooLong(ch.clone()))
        );

        let entry = EntryRef {
            index: 4,
            leaf: [9; 32],
            time_ms: 5,
        };
        let r = Receipt::sign(&d, ch.clone(), &entry, RequestId([7; 16]), &key);
        assert_eq!(r.verify(&d, &ch, &RequestId([7; 16]), &vk), Ok(()));
        assert_eq!(
            r.verify(&d, &ch, &RequestId([8; 16]), &vk),
            Err(StatementError::Request(ch.clone()))
        );
        let mut moved = r.clone();
        moved.entry = 5;
        assert_eq!(
            moved.verify(&d, &ch, &RequestId([7; 16]), &vk),
            bad_signature
        );
    }
    #[test]
    fn heads_are_bound_to_all_they_say() {
        let key = SigningKey::from_seed(&Secret::take(&mut [3; 32]));
        let (d, ch) = (DeploymentId([1; 16]), CustodianId::new("ch").unwrap());
        let chain = ChainId::Chat(crate::types::ChatId([5; 32]));
        let entry = EntryRef {
            index: 4,
            leaf: [9; 32],
            time_ms: 5,
        };
        let head = SignedHead::sign(&d, ch.clone(), chain, (2, [6; 32]), &entry, &key);
        let vk = key.public();
        assert_eq!(head.verify(&d, &ch, &chain, &vk), Ok(()));
        // The same bytes as an account's id are another chain.
        let account = ChainId::Account(crate::types::AccountId([5; 32]));
        assert_eq!(
            head.verify(&d, &ch, &account, &vk),
            Err(StatementError::Chain(ch.clone()))
        );
        let bad = Err(StatementError::Signature(ch.clone()));
        let changed: [fn(&mut SignedHead); 5] = [
            |h| h.number = 3,
            |h| h.hash = [7; 32],
            |h| h.entry = 5,
            |h| h.time_ms = 6,
            |h| h.signature[0] ^= 1,
        ];
        for change in changed {
            let mut other = head.clone();
            change(&mut other);
            assert_eq!(other.verify(&d, &ch, &chain, &vk), bad);
        }
    }
}
