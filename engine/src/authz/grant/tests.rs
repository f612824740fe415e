//! Grants: form, signature, decisions; every reason is met by something that has it.

mod vectors;

use super::*;
use crate::authz::standing::Role;
use crate::types::Secret;
use proptest::prelude::*;
use serde_json::{Value, json};

const T: u64 = 1_800_000_000;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}

fn device(n: u8) -> DeviceId {
    DeviceId(blake3::derive_key(labels::DEVICE_ID, &key(n).public()))
}

fn claims() -> Claims {
    Claims {
        account: AccountId([0xac; 32]),
        deployment: DeploymentId([0xde; 16]),
        home: HomeId::new("ae").unwrap(),
        actions: vec![Action::Read],
        chats: vec![
            ChatRange {
                chat: ChatId([1; 32]),
                from: 3,
                to: Some(4),
            },
            ChatRange {
                chat: ChatId([2; 32]),
                from: 7,
                to: None,
            },
        ],
        ceiling: 8,
        not_before_s: T,
        expires_s: T + 900,
        id: GrantId([0x1d; 16]),
    }
}

fn grant() -> Grant {
    Grant::sign(device(1), &key(1), claims()).unwrap()
}

/// A compact form of any header and payload, truly signed.
fn forged(header: &str, payload: &str) -> String {
    let signed = format!(
        "{}.{}",
        jws::encode(header.as_bytes()),
        jws::encode(payload.as_bytes())
    );
    let signature = jws::encode(&key(1).sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn header() -> Value {
    json!({"alg": GRANT_ALG, "typ": GRANT_TYP, "kid": device(1)})
}

fn payload() -> Value {
    serde_json::to_value(claims()).unwrap()
}

/// The payload with one claim set to other JSON text.
fn with(claim: &str, text: &str) -> String {
    let mut p = payload();
    p[claim] = json!("@");
    forged(&header().to_string(), &p.to_string().replace("\"@\"", text))
}

fn with_header(field: &str, value: Value) -> String {
    let mut h = header();
    h[field] = value;
    forged(&h.to_string(), &payload().to_string())
}

/// The same last character but with a bit set that no byte takes up.
fn bent(part: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = part.split_at(part.len() - 1);
    let at = ALPHABET
        .iter()
        .position(|c| *c == last.as_bytes()[0])
        .unwrap();
    format!("{rest}{}", ALPHABET[at | 1] as char)
}

/// Texts that must be refused, each with its reason.
fn hostile() -> Vec<(&'static str, String, GrantRefusal)> {
    use GrantRefusal as R;
    let good = grant().compact().to_owned();
    let parts: Vec<&str> = good.split('.').collect();
    let h = header().to_string();
    let p = payload().to_string();
    let (chat, chat_2) = (ChatId([1; 32]), ChatId([2; 32]));
    let range = |n: u8| json!({"chat": ChatId([n; 32]), "from": 0});
    let many: Vec<Value> = (0..65).map(range).collect();
    let twice = |text: &str, field: &str, more: &str| {
        text.replacen(
            &format!("\"{field}\":"),
            &format!("\"{field}\":{more},\"{field}\":"),
            1,
        )
    };
    vec![
        ("empty", String::new(), R::NotCompact),
        (
            "two parts",
            format!("{}.{}", parts[0], parts[1]),
            R::NotCompact,
        ),
        ("an extra dot at the end", format!("{good}."), R::NotCompact),
        (
            "an extra dot at the start",
            format!(".{good}"),
            R::NotCompact,
        ),
        (
            "five parts, as in encryption",
            format!("{good}.a.a"),
            R::NotCompact,
        ),
        (
            "too long",
            format!("{good}{}", "A".repeat(GRANT_BYTES_MAX)),
            R::TooLong,
        ),
        ("padding", format!("{good}=="), R::NotBase64url),
        ("a space", format!("{good} "), R::NotBase64url),
        ("a newline in front", format!("\n{good}"), R::NotBase64url),
        (
            "the other alphabet",
            format!("{}.{}.{}", parts[0], parts[1], "+/".repeat(43)),
            R::NotBase64url,
        ),
        (
            "bits that no byte takes up",
            format!("{}.{}.{}", parts[0], parts[1], bent(parts[2])),
            R::NotBase64url,
        ),
        (
            "no signature",
            format!("{}.{}.", parts[0], parts[1]),
            R::SignatureForm,
        ),
        (
            "a short signature",
            format!("{}.{}.AAAA", parts[0], parts[1]),
            R::SignatureForm,
        ),
        ("alg none", with_header("alg", json!("none")), R::Algorithm),
        ("alg None", with_header("alg", json!("None")), R::Algorithm),
        (
            "alg HS256",
            with_header("alg", json!("HS256")),
            R::Algorithm,
        ),
        (
            "alg Ed25519",
            with_header("alg", json!("Ed25519")),
            R::Algorithm,
        ),
        ("alg null", with_header("alg", Value::Null), R::Header),
        (
            "alg a list",
            with_header("alg", json!(["EdDSA"])),
            R::Algorithm,
        ),
        (
            "alg none, unsigned, no kid",
            format!("{}.{}.", jws::encode(br#"{"alg":"none"}"#), parts[1]),
            R::Algorithm,
        ),
        ("crit", with_header("crit", json!(["exp"])), R::Critical),
        ("crit, empty", with_header("crit", json!([])), R::Critical),
        ("typ JWT", with_header("typ", json!("JWT")), R::Type),
        (
            "typ of a manifest",
            with_header("typ", json!("quorate-manifest+jwt")),
            R::Type,
        ),
        (
            "a key in the header",
            with_header("jwk", json!({})),
            R::Header,
        ),
        ("b64 false", with_header("b64", json!(false)), R::Header),
        ("kid a number", with_header("kid", json!(1)), R::Header),
        ("kid too short", with_header("kid", json!("ab")), R::Header),
        (
            "kid in capitals",
            with_header("kid", json!(device(1).to_string().to_uppercase())),
            R::Header,
        ),
        (
            "alg twice",
            forged(&twice(&h, "alg", "\"EdDSA\""), &p),
            R::Header,
        ),
        (
            "alg twice, none first",
            forged(&twice(&h, "alg", "\"none\""), &p),
            R::Header,
        ),
        (
            "a header as a list",
            forged(&json!([GRANT_ALG, GRANT_TYP, device(1)]).to_string(), &p),
            R::Header,
        ),
        (
            "bytes after the header",
            forged(&format!("{h}{{}}"), &p),
            R::Header,
        ),
        (
            "a payload as a list",
            forged(&h, "[1,2,3,4,5,6,7,8,9]"),
            R::Payload,
        ),
        (
            "bytes after the payload",
            forged(&h, &format!("{p} x")),
            R::Payload,
        ),
        ("two payloads", forged(&h, &format!("{p}{p}")), R::Payload),
        ("exp twice", forged(&h, &twice(&p, "exp", "1")), R::Payload),
        ("a claim nobody knows", with("sub", "1"), R::Payload),
        (
            "aud in place of home",
            forged(&h, &p.replace("\"home\"", "\"aud\"")),
            R::Payload,
        ),
        (
            "a claim missing",
            forged(&h, &p.replace("\"ceiling\":8,", "")),
            R::Payload,
        ),
        ("exp 1e3", with("exp", "1e3"), R::Payload),
        (
            "exp with a fraction",
            with("exp", "1800000900.0"),
            R::Payload,
        ),
        ("exp negative", with("exp", "-1"), R::Payload),
        (
            "exp beyond 64 bits",
            with("exp", "18446744073709551616"),
            R::Payload,
        ),
        (
            "exp of a thousand digits",
            with("exp", &"9".repeat(1000)),
            R::Payload,
        ),
        ("exp as text", with("exp", "\"1800000900\""), R::Payload),
        (
            "ceiling beyond 32 bits",
            with("ceiling", "4294967296"),
            R::Payload,
        ),
        ("ceiling 0", with("ceiling", "0"), R::Ceiling),
        (
            "exp and nbf equal",
            with("exp", &T.to_string()),
            R::Lifetime,
        ),
        ("exp before nbf", with("exp", "0"), R::Lifetime),
        (
            "901 seconds",
            with("exp", &(T + 901).to_string()),
            R::Lifetime,
        ),
        (
            "the longest life there is",
            with("exp", &u64::MAX.to_string()),
            R::Lifetime,
        ),
        ("no action", with("act", "[]"), R::Actions),
        (
            "an action twice",
            with("act", r#"["read","read"]"#),
            R::Actions,
        ),
        (
            "an action nobody knows",
            with("act", r#"["admin"]"#),
            R::Payload,
        ),
        (
            "an action as an object",
            with("act", r#"[{"read":[]}]"#),
            R::Payload,
        ),
        ("an action as text", with("act", r#""read""#), R::Payload),
        (
            "iss in capitals",
            with("iss", &format!("\"{}\"", "AC".repeat(32))),
            R::Payload,
        ),
        (
            "a home's name in capitals",
            with("home", "\"AE\""),
            R::Payload,
        ),
        (
            "65 chats",
            with("chats", &json!(many).to_string()),
            R::Chats,
        ),
        (
            "a chat twice",
            with("chats", &json!([range(1), range(1)]).to_string()),
            R::Chats,
        ),
        (
            "a range backwards",
            with(
                "chats",
                &json!([{"chat": chat, "from": 2, "to": 1}]).to_string(),
            ),
            R::Chats,
        ),
        (
            "a range to null",
            with(
                "chats",
                &json!([{"chat": chat, "from": 2, "to": null}]).to_string(),
            ),
            R::Payload,
        ),
        (
            "a range without from",
            with("chats", &json!([{"chat": chat}]).to_string()),
            R::Payload,
        ),
        (
            "a range as a list",
            with("chats", &json!([[chat, 0, 9]]).to_string()),
            R::Payload,
        ),
        (
            "a field nobody knows in a range",
            with(
                "chats",
                &json!([{"chat": chat_2, "from": 0, "all": true}]).to_string(),
            ),
            R::Payload,
        ),
        (
            "nested a thousand deep",
            with(
                "chats",
                &format!("{}{}", "[".repeat(1000), "]".repeat(1000)),
            ),
            R::Payload,
        ),
    ]
}

#[test]
fn hostile_texts_are_refused_each_for_its_reason() {
    for (what, text, why) in hostile() {
        assert_eq!(Grant::parse(&text).map(|_| ()), Err(why), "{what}: {text}");
    }
}

#[test]
fn a_grant_is_read_as_it_was_written() {
    let g = grant();
    let read = Grant::parse(g.compact()).unwrap();
    assert_eq!(read, g);
    assert_eq!(read.claims(), &claims());
    assert_eq!(read.verify(&key(1).public()), Ok(()));
    assert_eq!(read.verify(&key(2).public()), Err(GrantRefusal::Signature));
    // Order of fields and white space are the client's business: the text is what is signed.
    let shuffled = forged(
        &format!(
            r#"{{ "kid":"{}", "typ":"{GRANT_TYP}", "alg":"EdDSA" }}"#,
            device(1)
        ),
        &serde_json::to_string_pretty(&payload()).unwrap(),
    );
    let read = Grant::parse(&shuffled).unwrap();
    assert_eq!(read.claims(), &claims());
    assert_eq!(read.verify(&key(1).public()), Ok(()));
    assert_ne!(read.hash(), g.hash());
}

#[test]
fn a_signature_of_another_grant_does_not_hold() {
    let other = Claims {
        ceiling: 9,
        ..claims()
    };
    let other = Grant::sign(device(1), &key(1), other).unwrap();
    let (signed, _) = grant()
        .compact()
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let (_, signature) = other.compact().rsplit_once('.').unwrap();
    let swapped = Grant::parse(&format!("{signed}.{signature}")).unwrap();
    assert_eq!(
        swapped.verify(&key(1).public()),
        Err(GrantRefusal::Signature)
    );
}

#[test]
fn what_would_be_refused_is_not_signed() {
    let broken = |f: fn(&mut Claims)| {
        let mut c = claims();
        f(&mut c);
        Grant::sign(device(1), &key(1), c).map(|_| ())
    };
    assert_eq!(broken(|c| c.actions.clear()), Err(GrantRefusal::Actions));
    assert_eq!(broken(|c| c.ceiling = 0), Err(GrantRefusal::Ceiling));
    assert_eq!(broken(|c| c.expires_s += 1), Err(GrantRefusal::Lifetime));
    // 48 of the longest ranges fit, 64 do not.
    let range = |n: usize| ChatRange {
        chat: ChatId([n as u8; 32]),
        from: u32::MAX,
        to: Some(u32::MAX),
    };
    let of = |n: usize| {
        let chats = (0..n).map(range).collect();
        Grant::sign(device(1), &key(1), Claims { chats, ..claims() }).map(|_| ())
    };
    assert_eq!(of(48), Ok(()));
    assert_eq!(of(GRANT_CHATS_MAX), Err(GrantRefusal::TooLong));
}

fn shown<'a>(deployment: &'a DeploymentId, home: &'a HomeId) -> Shown<'a> {
    Shown {
        deployment,
        home,
        device: DeviceStanding::Live {
            public: key(1).public(),
        },
        signature_holds: true,
        action: Action::Read,
        now_ms: T * 1000,
    }
}

fn member(from_epoch: EpochNo) -> MemberStanding {
    MemberStanding::Member {
        role: Role::Member,
        from_epoch,
    }
}

#[test]
fn every_reason_of_a_decision_is_its_own() {
    use GrantRefusal as R;
    let (g, c) = (grant(), claims());
    let good = shown(&c.deployment, &c.home);
    let whole = |s: Shown<'_>| decide(&g, &s, member(0), &ChatId([1; 32]), 3);
    assert_eq!(whole(good), Ok(()));
    assert_eq!(
        whole(Shown {
            now_ms: (T + 900) * 1000 - 1,
            ..good
        }),
        Ok(())
    );
    let (d, h) = (DeploymentId([9; 16]), HomeId::new("zz").unwrap());
    for (s, why) in [
        (
            Shown {
                deployment: &d,
                ..good
            },
            R::OtherDeployment,
        ),
        (Shown { home: &h, ..good }, R::OtherHome),
        (
            Shown {
                device: DeviceStanding::Unknown,
                ..good
            },
            R::DeviceUnknown,
        ),
        (
            Shown {
                device: DeviceStanding::Expired,
                ..good
            },
            R::DeviceExpired,
        ),
        (
            Shown {
                device: DeviceStanding::Revoked,
                ..good
            },
            R::DeviceRevoked,
        ),
        (
            Shown {
                signature_holds: false,
                ..good
            },
            R::Signature,
        ),
        (
            Shown {
                now_ms: T * 1000 - 1,
                ..good
            },
            R::NotYetValid,
        ),
        (
            Shown {
                now_ms: (T + 900) * 1000,
                ..good
            },
            R::Expired,
        ),
        (
            Shown {
                now_ms: (T + 10 * 365 * 86_400) * 1000,
                ..good
            },
            R::Expired,
        ),
        (
            Shown {
                action: Action::Write,
                ..good
            },
            R::ActionNotGranted,
        ),
    ] {
        assert_eq!(whole(s), Err(why));
    }
    let (one, two) = (ChatId([1; 32]), ChatId([2; 32]));
    for (m, chat, epoch, want) in [
        (member(0), ChatId([3; 32]), 3, Err(R::ChatNotGranted)),
        (member(0), one, 2, Err(R::EpochBeforeRange)),
        (member(0), one, 3, Ok(())),
        (member(0), one, 4, Ok(())),
        (member(0), one, 5, Err(R::EpochAfterRange)),
        (member(0), two, 6, Err(R::EpochBeforeRange)),
        (member(0), two, u32::MAX, Ok(())),
        (MemberStanding::UnknownChat, one, 3, Err(R::ChatUnknown)),
        (MemberStanding::Forked, one, 3, Err(R::ChatForked)),
        (MemberStanding::NotMember, one, 3, Err(R::NotMember)),
        (member(4), one, 3, Err(R::EpochBeforeMembership)),
        (member(4), one, 4, Ok(())),
    ] {
        assert_eq!(
            decide(&g, &good, m, &chat, epoch),
            want,
            "{m:?} {chat} {epoch}"
        );
    }
}

#[test]
fn write_implies_read_and_not_the_other_way() {
    for (actions, read, write) in [
        (vec![Action::Read], true, false),
        (vec![Action::Write], true, true),
        (vec![Action::Write, Action::Read], true, true),
    ] {
        let g = Grant::sign(
            device(1),
            &key(1),
            Claims {
                actions,
                ..claims()
            },
        )
        .unwrap();
        assert_eq!(
            (g.allows(Action::Read), g.allows(Action::Write)),
            (read, write)
        );
    }
}

proptest! {
    /// Whatever is flipped in a signed grant, it is refused or does not verify.
    #[test]
    fn no_changed_byte_survives(at in any::<prop::sample::Index>(), byte in 0u8..128) {
        let good = grant();
        let mut bytes = good.compact().as_bytes().to_vec();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let text = String::from_utf8(bytes).unwrap();
        let holds = Grant::parse(&text).and_then(|g| g.verify(&key(1).public()));
        prop_assert!(holds.is_err());
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,400}", h in ".{0,60}", p in ".{0,200}") {
        let _ = Grant::parse(&text);
        let _ = Grant::parse(&forged(&h, &p));
        let _ = Grant::parse(&forged(&header().to_string(), &p));
    }

    #[test]
    fn valid_claims_come_back(
        from in any::<u32>(), more in prop::option::of(any::<u32>()), chats in 0usize..=GRANT_CHATS_MAX,
        nbf in 0..u64::MAX - 900, life in 1u64..=900, ceiling in 1..=u32::MAX, write in any::<bool>(),
    ) {
        let range = |n: usize| ChatRange {
            chat: ChatId([n as u8; 32]), from, to: more.map(|m| from.saturating_add(m)),
        };
        let c = Claims {
            chats: (0..chats).map(range).collect(), not_before_s: nbf, expires_s: nbf + life, ceiling,
            actions: vec![if write { Action::Write } else { Action::Read }], ..claims()
        };
        match Grant::sign(device(1), &key(1), c.clone()) {
            Ok(g) => {
                let read = Grant::parse(g.compact());
                prop_assert_eq!(read, Ok(g.clone()));
                prop_assert_eq!(g.claims(), &c);
            }
            Err(why) => prop_assert!(why == GrantRefusal::TooLong && chats > 40),
        }
    }
}
