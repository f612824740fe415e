//! Sessions of browsers: a cookie stands for a grant where no header can be sent.
//!
//! A browser that shows a picture or follows a stream sends no header of a
//! page's choosing, only cookies. So a page trades its grant for a random token
//! in a cookie that pages cannot read. The node that made it keeps the token's hash and the
//! grant, in memory alone, and tells the home's other nodes when they ask.
//!
//! The grant decides as it would in a header, at every use: nothing is allowed
//! by the cookie that it does not allow, and nothing after it ended. Which
//! routes take a cookie at all, `http::client` says.

use quorate_engine::authz::grant::Grant;
use quorate_engine::types::{AccountId, NodeId, WallMs};
use rand::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sessions kept at most.
const SESSIONS_MAX: usize = 16_384;
/// Sessions of one account kept at most; the oldest makes room.
const OF_ACCOUNT_MAX: usize = 32;
/// Random bytes of a token.
const TOKEN_LEN: usize = 32;

/// The hash of a token: what is kept, and what nodes ask each other about.
pub(super) type TokenHash = [u8; 32];

/// A session as its cookie carries it.
#[derive(Clone, Debug)]
pub struct Session {
    /// The cookie's value.
    pub token: String,
    /// Seconds that the grant still holds.
    pub rest_s: u64,
}

/// The node that made a token, and what it keeps of it; `None` for what is no token.
pub(super) fn place_of(token: &str) -> Option<(NodeId, TokenHash)> {
    let (node, secret) = token.split_once('.')?;
    let lower = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let formed = secret.len() == 2 * TOKEN_LEN && secret.bytes().all(lower);
    let node = node
        .parse::<NodeId>()
        .ok()
        .filter(|n| n.to_string() == node)?;
    formed.then(|| (node, *blake3::hash(token.as_bytes()).as_bytes()))
}

struct Row {
    grant: Arc<Grant>,
    expires_ms: WallMs,
}

#[derive(Default)]
struct Kept {
    by: BTreeMap<TokenHash, Row>,
    of: BTreeMap<AccountId, VecDeque<TokenHash>>,
}

impl Kept {
    fn remove(&mut self, hash: &TokenHash) {
        let Some(row) = self.by.remove(hash) else {
            return;
        };
        let account = row.grant.claims().account;
        if let Some(of) = self.of.get_mut(&account) {
            of.retain(|h| h != hash);
            if of.is_empty() {
                self.of.remove(&account);
            }
        }
    }

    fn sweep(&mut self, now_ms: WallMs) {
        let over = self.by.iter().filter(|(_, row)| now_ms >= row.expires_ms);
        let over: Vec<TokenHash> = over.map(|(hash, _)| *hash).collect();
        over.iter().for_each(|hash| self.remove(hash));
    }
}

/// The sessions that this node made.
#[derive(Default)]
pub struct BrowserSessions(Mutex<Kept>);

impl BrowserSessions {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a session for a grant that was admitted; `None` when as many as may be live already.
    pub(super) fn open(&self, node: NodeId, grant: &Arc<Grant>, now_ms: WallMs) -> Option<Session> {
        let mut secret = [0; TOKEN_LEN];
        rand::rng().fill_bytes(&mut secret);
        let token = format!("{node}.{}", hex::encode(secret));
        let (_, hash) = place_of(&token)?;
        let mut kept = self.kept();
        if kept.by.len() >= SESSIONS_MAX {
            kept.sweep(now_ms);
        }
        let account = grant.claims().account;
        let of = kept
            .of
            .get(&account)
            .filter(|of| of.len() >= OF_ACCOUNT_MAX);
        if let Some(oldest) = of.and_then(|of| of.front()).copied() {
            kept.remove(&oldest);
        }
        if kept.by.len() >= SESSIONS_MAX {
            return None;
        }
        let expires_ms = grant.expires_ms();
        let row = Row {
            grant: grant.clone(),
            expires_ms,
        };
        kept.by.insert(hash, row);
        kept.of.entry(account).or_default().push_back(hash);
        Some(Session {
            token,
            rest_s: expires_ms.saturating_sub(now_ms) / 1000,
        })
    }

    /// The grant behind a token, while it holds.
    pub(super) fn grant(&self, hash: &TokenHash, now_ms: WallMs) -> Option<String> {
        let mut kept = self.kept();
        let row = kept.by.get(hash)?;
        if now_ms >= row.expires_ms {
            kept.remove(hash);
            return None;
        }
        Some(row.grant.compact().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::people::{ANNA, BORIS};
    use super::*;

    fn granted(who: super::super::tests::people::Person) -> Arc<Grant> {
        Arc::new(Grant::parse(&who.calls(&[]).grant).unwrap())
    }

    #[test]
    fn a_token_leads_to_its_grant_until_that_ends() {
        let (sessions, grant) = (BrowserSessions::default(), granted(ANNA));
        let now = grant.expires_ms() - 5_500;
        let s = sessions.open(7, &grant, now).unwrap();
        assert_eq!(s.rest_s, 5);
        let (node, hash) = place_of(&s.token).unwrap();
        assert_eq!(node, 7);
        assert_eq!(sessions.grant(&hash, now).as_deref(), Some(grant.compact()));
        assert_eq!(sessions.grant(&[0; 32], now), None);
        assert_eq!(sessions.grant(&hash, grant.expires_ms()), None);
        assert_eq!(sessions.grant(&hash, now), None, "it is forgotten");
        assert!(sessions.kept().of.is_empty());
        for bad in [
            "",
            "7",
            "7.",
            ".ab",
            "7.zz",
            &s.token[..40],
            &s.token.to_uppercase(),
        ] {
            assert_eq!(place_of(bad), None, "{bad}");
        }
        let other = s.token.replacen("7.", "07.", 1);
        assert_eq!(place_of(&other), None);
    }

    #[test]
    fn one_account_cannot_take_the_room_of_others() {
        let (sessions, anna, boris) = (BrowserSessions::default(), granted(ANNA), granted(BORIS));
        let now = anna.expires_ms() - 1_000;
        let hash = |s: Session| place_of(&s.token).unwrap().1;
        let his = hash(sessions.open(1, &boris, now).unwrap());
        let first = hash(sessions.open(1, &anna, now).unwrap());
        for _ in 0..OF_ACCOUNT_MAX {
            sessions.open(1, &anna, now).unwrap();
        }
        assert_eq!(sessions.grant(&first, now), None, "the oldest made room");
        assert!(sessions.grant(&his, now).is_some());
        assert_eq!(sessions.kept().by.len(), OF_ACCOUNT_MAX + 1);
    }
}
