//! The form of a deletion statement, and every reason to refuse its mandate.

use super::*;
use crate::types::Secret;

const D: DeploymentId = DeploymentId([0xde; 16]);
const T: u64 = 1_800_000_000_000;
const CHAT: ChatId = ChatId([1; 32]);

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}

fn home() -> HomeId {
    HomeId::new("ae").unwrap()
}

fn good() -> Deletion {
    Deletion {
        deployment: D,
        home: home(),
        chat: CHAT,
        account: AccountId([0xac; 32]),
        device: DeviceId([0xd1; 32]),
        whose: Whose::Own,
        messages: vec![1, 4, 700],
        epochs: vec![2, 3, 9],
        at_ms: T,
        nonce: Nonce([0x22; 16]),
    }
}

fn live() -> DeviceStanding {
    DeviceStanding::Live {
        public: key(1).public(),
    }
}

fn decide(
    d: &Deletion,
    by: &[&SigningKey],
    device: DeviceStanding,
    now_ms: u64,
) -> Option<&'static str> {
    let envelope = Envelope::sign(SIGN_DELETION, &d.deployment, d, by);
    let home = home();
    let shown = Shown {
        deployment: &D,
        home: &home,
        device,
        now_ms,
    };
    let decided = Mandate::read(&envelope).and_then(|m| m.decide(&shown));
    decided.err().map(MandateRefusal::code)
}

#[test]
fn each_form_that_is_not_the_one_documented_is_refused() {
    let many = |n: u64| (1..=n).collect::<Vec<_>>();
    type Change<'a> = &'a dyn Fn(&mut Deletion);
    let changes: [Change<'_>; 10] = [
        &|d| d.messages.clear(),
        &|d| d.messages = vec![0, 1],
        &|d| d.messages = vec![4, 1],
        &|d| d.messages = vec![4, 4],
        &|d| d.messages = many(DELETION_MESSAGES_MAX as u64 + 1),
        &|d| d.epochs.clear(),
        &|d| d.epochs = vec![3, 2],
        &|d| d.epochs = vec![3, 3],
        &|d| d.epochs = (0..=DELETION_EPOCHS_MAX as u32).collect(),
        &|d| (d.messages, d.epochs) = (vec![], vec![]),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut d = good();
        change(&mut d);
        assert_eq!(decide(&d, &[&key(1)], live(), T), Some("form"), "{n}");
        assert_eq!(d.sign(&key(1)), Err(MandateRefusal::Form), "{n}");
    }
    // The largest of each, with the longest numbers, fits.
    let first = u64::MAX - DELETION_MESSAGES_MAX as u64;
    let d = Deletion {
        messages: (first..u64::MAX).collect(),
        epochs: (0..DELETION_EPOCHS_MAX as u32)
            .map(|n| u32::MAX - 15 + n)
            .collect(),
        whose: Whose::Anyone,
        ..good()
    };
    let signed = d.sign(&key(1)).unwrap();
    assert_eq!(Mandate::read(&signed).unwrap().deletion(), &d);
    // Text that is not the form at all.
    let text = signed.payload;
    for payload in [
        String::new(),
        "{}".into(),
        text.replacen('{', r#"{"note":1,"#, 1),
        text.replacen(r#""whose":"anyone""#, r#""whose":"everyone""#, 1),
        text.replacen(r#""whose":"anyone","#, "", 1),
        text.replacen(r#""at_ms":"#, r#""at_ms":1,"at_ms":"#, 1),
    ] {
        let signatures = good().sign(&key(1)).unwrap().signatures;
        let envelope = Envelope {
            payload,
            signatures,
        };
        assert_eq!(Mandate::read(&envelope), Err(MandateRefusal::Form));
    }
}

#[test]
fn a_mandate_is_its_devices_its_homes_and_a_days() {
    let at = |d: &Deletion, now_ms| decide(d, &[&key(1)], live(), now_ms);
    assert_eq!(at(&good(), T), None);
    assert_eq!(at(&good(), T - STATEMENT_AHEAD_MS_MAX), None);
    let early = at(&good(), T - STATEMENT_AHEAD_MS_MAX - 1);
    assert_eq!(early, Some("not_yet_valid"));
    assert_eq!(at(&good(), T + MANDATE_LIFE_MS - 1), None);
    assert_eq!(at(&good(), T + MANDATE_LIFE_MS), Some("horizon_over"));
    // A date that overflows is ahead, not eternal.
    let never = Deletion {
        at_ms: u64::MAX,
        ..good()
    };
    assert_eq!(at(&never, T), Some("not_yet_valid"));
    let elsewhere = Deletion {
        deployment: DeploymentId([1; 16]),
        ..good()
    };
    assert_eq!(at(&elsewhere, T), Some("other_deployment"));
    let anothers = Deletion {
        home: HomeId::new("zz").unwrap(),
        ..good()
    };
    assert_eq!(at(&anothers, T), Some("other_home"));

    for (device, why) in [
        (DeviceStanding::Unknown, "device_unknown"),
        (DeviceStanding::Expired, "device_expired"),
        (DeviceStanding::Revoked, "device_revoked"),
    ] {
        assert_eq!(decide(&good(), &[&key(1)], device, T), Some(why));
    }
    for by in [&[&key(2)][..], &[&key(1), &key(2)]] {
        assert_eq!(decide(&good(), by, live(), T), Some("signature"));
    }
    // Stretched after signing, moved to another label, or another deployment's signature.
    let home = home();
    let shown = Shown {
        deployment: &D,
        home: &home,
        device: live(),
        now_ms: T,
    };
    let refused = |e: &Envelope| Mandate::read(e).unwrap().decide(&shown);
    let mut stretched = good().sign(&key(1)).unwrap();
    stretched.payload = stretched.payload.replace("[2,3,9]", "[2,3,4,9]");
    assert_eq!(refused(&stretched), Err(MandateRefusal::Signature));
    let label = crate::crypto::labels::SIGN_MEMBERSHIP;
    let moved = Envelope::sign(label, &D, &good(), &[&key(1)]);
    assert_eq!(refused(&moved), Err(MandateRefusal::Signature));
    let moved = Envelope::sign(SIGN_DELETION, &DeploymentId([1; 16]), &good(), &[&key(1)]);
    assert_eq!(refused(&moved), Err(MandateRefusal::Signature));
}

#[test]
fn a_key_is_given_for_a_named_epoch_to_a_member_with_the_role() {
    let member = |role, from_epoch| MemberStanding::Member { role, from_epoch };
    let decide = |whose, member, chat: &ChatId, epoch| {
        let d = Deletion { whose, ..good() };
        let mandate = Mandate::read(&d.sign(&key(1)).unwrap()).unwrap();
        let decided = mandate.decide_key(member, chat, epoch);
        decided.err().map(MandateRefusal::code)
    };
    use Role::{Admin, Creator, Member};
    use Whose::{Anyone, Own};
    let plain = member(Member, 0);
    for epoch in [2, 3, 9] {
        assert_eq!(decide(Own, plain, &CHAT, epoch), None);
    }
    for epoch in [0, 1, 4, 8, 10, u32::MAX] {
        let told = decide(Own, plain, &CHAT, epoch);
        assert_eq!(told, Some("epoch_not_named"), "{epoch}");
    }
    let other = decide(Own, plain, &ChatId([2; 32]), 2);
    assert_eq!(other, Some("chat_not_named"));
    for (standing, why) in [
        (MemberStanding::UnknownChat, "chat_unknown"),
        (MemberStanding::Forked, "chat_forked"),
        (MemberStanding::NotMember, "not_member"),
        (member(Member, 3), "epoch_before_membership"),
    ] {
        assert_eq!(decide(Own, standing, &CHAT, 2), Some(why));
    }
    assert_eq!(decide(Anyone, plain, &CHAT, 2), Some("role_missing"));
    for role in [Admin, Creator] {
        assert_eq!(decide(Anyone, member(role, 0), &CHAT, 2), None);
    }
}

#[test]
fn codes_are_distinct_and_documented_with_a_vector() {
    let page = include_str!("../../../../docs/grants.md");
    let mut codes = std::collections::BTreeSet::new();
    for why in MandateRefusal::ALL {
        assert!(codes.insert(why.code()));
        let line = format!("| `{}` | {} |", why.code(), why.text());
        assert!(page.contains(&line), "docs/grants.md lacks: {line}");
    }
    let signed = good().sign(&key(1)).unwrap();
    let vector = format!(
        "{}\n  hash {}\n  signature {}\n",
        signed.payload,
        hex::encode(signed.hash()),
        signed.signatures[0].signature
    );
    assert!(page.contains(&vector), "docs/grants.md lacks:\n{vector}");
}
