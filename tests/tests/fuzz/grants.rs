//! Grants: text that any home may hand to any custodian.

use super::mutate::{Dice, Kind};
use super::run::Target;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quorate_engine::authz::grant::{Action, ChatRange, Claims, Grant};
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::*;

/// Mutated as text `header LF payload`, which is then encoded and rightly
/// signed, and as the compact text itself: neither an unknown form nor
/// anything but the very text that was signed may pass.
pub(crate) fn grant() -> Target {
    let mut dice = Dice::new(0, "grant", 0);
    let key = SigningKey::generate(dice.rng());
    let chats = [(1, None), (2, Some(9))].map(|(n, to)| ChatRange {
        chat: ChatId([n; 32]),
        from: 3,
        to,
    });
    let claims = Claims {
        account: AccountId([1; 32]),
        deployment: DeploymentId([2; 16]),
        home: HomeId::new("ae").expect("a valid name"),
        actions: vec![Action::Read, Action::Write],
        chats: chats.to_vec(),
        ceiling: 100,
        not_before_s: 1_800_000_000,
        expires_s: 1_800_000_900,
        id: GrantId([3; 16]),
    };
    let original = Grant::sign(DeviceId([4; 32]), &key, claims).expect("a valid grant");
    let decoded: Vec<String> = original
        .compact()
        .split('.')
        .take(2)
        .map(|part| URL_SAFE_NO_PAD.decode(part).expect("our own encoding"))
        .map(|bytes| String::from_utf8(bytes).expect("JSON"))
        .collect();
    let corpus = vec![
        original.compact().as_bytes().to_vec(),
        decoded.join("\n").into_bytes(),
    ];
    let check = move |bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return false;
        };
        if let Some((header, payload)) = text.split_once('\n') {
            let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
            let signed = format!("{}.{}", encode(header), encode(payload));
            let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
            let Ok(grant) = Grant::parse(&format!("{signed}.{signature}")) else {
                return false;
            };
            assert_eq!(grant.verify(&key.public()), Ok(()));
            // Whatever was accepted can be said by us in the same words.
            let again = Grant::sign(*grant.device(), &key, grant.claims().clone());
            let again = again.expect("accepted claims can be signed");
            assert_eq!(again.claims(), grant.claims());
            return true;
        }
        let Ok(grant) = Grant::parse(text) else {
            return false;
        };
        let holds = grant.verify(&key.public()).is_ok();
        assert_eq!(holds, text == original.compact(), "{text}");
        holds
    };
    Target {
        corpus,
        kind: Kind::Text,
        iterations: 25_000,
        allocation_bytes_max: 4 << 20,
        check: Box::new(check),
    }
}
