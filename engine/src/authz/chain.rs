//! What the chains of accounts and chats have in common: numbered statements
//! that carry their predecessor's hash.

use crate::types::{AccountId, ChatId, StatementHash, WallMs};
use serde::{Deserialize, Serialize};

/// How old a statement may be when a custodian first hears of it, in
/// milliseconds. Without this bound a device whose record ran out could still
/// sign statements dated back to when it held.
pub const STATEMENT_AGE_MS_MAX: u64 = 60 * 60 * 1000;
/// How far ahead of entry time a signer's clock may be, in milliseconds.
pub const STATEMENT_AHEAD_MS_MAX: u64 = 2 * 60 * 1000;

/// A chain of signed statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainId {
    /// Devices of an account.
    Account(AccountId),
    /// Members of a chat.
    Chat(ChatId),
}

/// How a statement came to this custodian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From a client, an authority or a home: fresh, or refused.
    Client,
    /// Another custodian committed it. It decides as [`Source::Client`] does,
    /// and proves a fork where it contradicts what stands here.
    Peer,
    /// A blocking set of other custodians acknowledged it or a successor: what
    /// it says of time was judged there, and its age no longer counts.
    Vouched,
}

/// The newest statement of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number; the genesis has 0.
    pub number: u64,
    /// Its hash.
    pub hash: StatementHash,
    /// When its signer says it was made.
    pub at_ms: WallMs,
}

/// A statement that is not the next one of its chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// Another statement has this number here.
    #[error(
        "statement {number} is {ours} here and {theirs} there: the chain forked; show officers both statements"
    )]
    Fork {
        /// The number both have.
        number: u64,
        /// The one that stands here.
        ours: StatementHash,
        /// The other.
        theirs: StatementHash,
    },
    /// Statements between are missing here.
    #[error("statement {got} cannot follow {have}: send statements {have} + 1 to {got} in order")]
    Behind {
        /// The newest here.
        have: u64,
        /// What was sent.
        got: u64,
    },
    /// This very statement stands here already.
    #[error("statement {number} stands here already; nothing to do")]
    AlreadyApplied {
        /// Its number.
        number: u64,
    },
}

/// Whether a statement `number` with `hash` that follows `previous` is the next after `head`.
/// `standing` is the hash of the statement that has this number here, if one has.
///
/// # Errors
/// [`Misplaced`].
pub fn place(
    head: &Head,
    number: u64,
    previous: StatementHash,
    hash: StatementHash,
    standing: Option<StatementHash>,
) -> Result<(), Misplaced> {
    let fork = |number, ours, theirs| {
        Err(Misplaced::Fork {
            number,
            ours,
            theirs,
        })
    };
    if number > head.number + 1 {
        return Err(Misplaced::Behind {
            have: head.number,
            got: number,
        });
    }
    if number == head.number + 1 {
        return if previous == head.hash {
            Ok(())
        } else {
            fork(head.number, head.hash, previous)
        };
    }
    let ours = if number == head.number {
        Some(head.hash)
    } else {
        standing
    };
    match ours {
        Some(ours) if ours != hash => fork(number, ours, hash),
        // Never a fork on the word of a row that is not there.
        _ => Err(Misplaced::AlreadyApplied { number }),
    }
}

/// A statement made at a time that does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untimely {
    /// Made later than now.
    #[error(
        "made at {at_ms}, which is after {now_ms} by this custodian's log; set the device's clock"
    )]
    Ahead {
        /// When it says it was made.
        at_ms: WallMs,
        /// Entry time.
        now_ms: WallMs,
    },
    /// Made too long ago.
    #[error(
        "made at {at_ms}, more than an hour before {now_ms}; sign it anew, or bring acknowledgements of a blocking set"
    )]
    Old {
        /// When it says it was made.
        at_ms: WallMs,
        /// Entry time.
        now_ms: WallMs,
    },
    /// Made before its predecessor.
    #[error("made at {at_ms}, before its predecessor at {before_ms}; sign it anew")]
    BeforePredecessor {
        /// When it says it was made.
        at_ms: WallMs,
        /// When the predecessor says it was made.
        before_ms: WallMs,
    },
}

/// Whether a statement made at `at_ms` counts at `now_ms` after one made at `before_ms`.
/// `restricts`: it only takes rights away, and is never too old for that.
///
/// # Errors
/// [`Untimely`].
pub fn timely(
    at_ms: WallMs,
    before_ms: WallMs,
    now_ms: WallMs,
    source: Source,
    restricts: bool,
) -> Result<(), Untimely> {
    if at_ms < before_ms {
        return Err(Untimely::BeforePredecessor { at_ms, before_ms });
    }
    if at_ms > now_ms.saturating_add(STATEMENT_AHEAD_MS_MAX) {
        return Err(Untimely::Ahead { at_ms, now_ms });
    }
    let old = at_ms.saturating_add(STATEMENT_AGE_MS_MAX) < now_ms;
    if old && source != Source::Vouched && !restricts {
        return Err(Untimely::Old { at_ms, now_ms });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn h(n: u8) -> StatementHash {
        StatementHash([n; 32])
    }

    #[test]
    fn next_fork_gap_and_repetition_are_told_apart() {
        let head = Head {
            number: 4,
            hash: h(4),
            at_ms: 0,
        };
        assert_eq!(place(&head, 5, h(4), h(5), None), Ok(()));
        let behind = Err(Misplaced::Behind { have: 4, got: 6 });
        assert_eq!(place(&head, 6, h(5), h(6), None), behind);
        let again = |number| Err(Misplaced::AlreadyApplied { number });
        assert_eq!(place(&head, 4, h(3), h(4), None), again(4));
        assert_eq!(place(&head, 2, h(1), h(2), Some(h(2))), again(2));
        let fork = |number, ours, theirs| {
            Err(Misplaced::Fork {
                number,
                ours,
                theirs,
            })
        };
        assert_eq!(place(&head, 4, h(3), h(9), None), fork(4, h(4), h(9)));
        assert_eq!(place(&head, 5, h(9), h(5), None), fork(4, h(4), h(9)));
        assert_eq!(place(&head, 2, h(1), h(9), Some(h(2))), fork(2, h(2), h(9)));
    }

    proptest! {
        #[test]
        fn only_restrictions_and_vouched_statements_may_be_old(at in 0u64..20_000_000, before in 0u64..20_000_000, now in 0u64..20_000_000, restricts: bool, which in 0u8..3) {
            let source = [Source::Client, Source::Peer, Source::Vouched][which as usize];
            let ok = timely(at, before, now, source, restricts).is_ok();
            let old = at + STATEMENT_AGE_MS_MAX < now;
            let expected = at >= before && at <= now + STATEMENT_AHEAD_MS_MAX && (!old || restricts || source == Source::Vouched);
            prop_assert_eq!(ok, expected);
        }
    }
}
