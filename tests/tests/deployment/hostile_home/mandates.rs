//! A mandate in the hands of a home that was taken over: forged, stretched,
//! replayed, outlived.

use super::taken::{Dealt, Hostile, Person, draw, home, now_ms, public, signing_key};
use quorate_engine::authz::deletion::{
    Deletion, MANDATE_LIFE_MS, MANDATE_RELEASES_MAX, MandateRefusal, Whose,
};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::device_id;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::types::{AccountId, ChatId, HomeId, KeyId, Nonce, RequestId, Share};

type Told = Result<Share, Refusal>;

struct Hand<'a> {
    h: &'a Hostile<'a>,
    at: &'a Dealt,
    chat: ChatId,
}

impl Hand<'_> {
    fn of(&self, who: &Person) -> Deletion {
        Deletion {
            deployment: self.h.deployment,
            home: home(),
            chat: self.chat,
            account: who.account,
            device: device_id(&public(&who.device)),
            whose: Whose::Own,
            messages: vec![1],
            epochs: vec![0],
            at_ms: now_ms(),
            nonce: Nonce(draw()),
        }
    }

    fn request(&self, s: &Envelope, lease: &RecipientKey, key_id: KeyId) -> MandateReleaseRequest {
        MandateReleaseRequest {
            request: RequestId(draw()),
            home: home(),
            node: 1,
            deployment: self.h.deployment,
            lease_key: lease.public(),
            statement: s.clone(),
            keys: vec![KeyRef {
                chat: self.chat,
                key_id,
            }],
        }
    }

    fn send(&self, r: &MandateReleaseRequest, lease: &RecipientKey) -> Told {
        let request = CustodianRequest::MandateRelease(r.clone());
        let authority = r.statement.hash();
        self.at
            .answered(self.h, lease, &request, authority, r.keys[0])
    }

    /// Under a fresh lease key and request id.
    fn ask(&self, s: &Envelope, key_id: KeyId) -> Told {
        let lease = RecipientKey::generate(&mut rand::rng());
        self.send(&self.request(s, &lease, key_id), &lease)
    }
}

pub(super) fn attack(
    h: &Hostile<'_>,
    ch: &Dealt,
    (alice, mallory): (&Person, &Person),
    chat: ChatId,
    (first, second): (KeyId, KeyId),
) {
    use MandateRefusal as M;
    let hand = Hand { h, at: ch, chat };
    let good = || hand.of(alice).sign(&alice.device).unwrap();
    let with = |change: fn(&mut Deletion)| {
        let mut d = hand.of(alice);
        change(&mut d);
        d.sign(&alice.device).unwrap()
    };
    // Control: what alice's device signed, without any grant.
    let opened = hand.ask(&good(), first).unwrap();
    assert_eq!(opened.expose(), super::share(&first).expose());

    let by = |who: AccountId, key: &SigningKey| {
        let d = Deletion {
            account: who,
            device: device_id(&public(key)),
            ..hand.of(alice)
        };
        d.sign(key).unwrap()
    };
    let stretched = {
        let mut s = good();
        s.payload = s.payload.replace("\"epochs\":[0]", "\"epochs\":[0,1]");
        s
    };
    let both = {
        // The home adds a signature of its own under alice's.
        let mut s = good();
        let label = quorate_engine::crypto::labels::SIGN_DELETION;
        s.add(label, &h.deployment, &signing_key());
        s
    };
    let mut bent = good();
    bent.payload = bent.payload.replace("\"messages\":[1]", "\"messages\":[0]");
    let stranger = signing_key();
    let forged = hand.of(alice).sign(&mallory.device).unwrap();
    let table = [
        ("not of the form", bent, first, M::Form),
        ("forged", forged, first, M::Signature),
        ("stretched", stretched, second, M::Signature),
        ("signed by two", both, first, M::Signature),
        ("another epoch's", good(), second, M::EpochNotNamed),
        (
            "another chat's",
            with(|d| d.chat = ChatId([3; 32])),
            first,
            M::ChatNotNamed,
        ),
        (
            "another home's",
            with(|d| d.home = HomeId::new("zz").unwrap()),
            first,
            M::OtherHome,
        ),
        (
            "yesterday's",
            with(|d| d.at_ms -= MANDATE_LIFE_MS),
            first,
            M::HorizonOver,
        ),
        (
            "tomorrow's",
            with(|d| d.at_ms += MANDATE_LIFE_MS),
            first,
            M::NotYetValid,
        ),
        (
            "somebody else's",
            by(mallory.account, &mallory.device),
            first,
            M::NotMember,
        ),
        (
            "an invented device's",
            by(alice.account, &stranger),
            first,
            M::DeviceUnknown,
        ),
    ];
    for (what, statement, key, why) in &table {
        let told = hand.ask(statement, *key).map(|_| ());
        assert_eq!(told, Err(Refusal::Mandate(*why)), "{what}");
    }
    // A grant is no mandate, and no statement at all is not even proposed.
    let none = Envelope {
        payload: String::new(),
        signatures: Vec::new(),
    };
    let lease = RecipientKey::generate(&mut rand::rng());
    let nothing = CustodianRequest::MandateRelease(hand.request(&none, &lease, first));
    let reply = h.ask("ch", &nothing);
    assert!(matches!(reply, CustodianReply::Invalid { .. }), "{reply:?}");

    replayed(&hand, &good(), first);
    let seen = super::counted(h.world, "ch");
    for (what, _, _, why) in &table {
        let reason = format!("mandate_{}", why.code());
        assert!(seen.contains(&reason), "{what}: {reason} in {seen:?}");
    }
}

/// To a lease key that has it, and again and again to fresh ones.
fn replayed(hand: &Hand<'_>, statement: &Envelope, key: KeyId) {
    let lease = RecipientKey::generate(&mut rand::rng());
    let request = hand.request(statement, &lease, key);
    hand.send(&request, &lease).unwrap();
    let used = Err(Refusal::Mandate(MandateRefusal::LeaseKeyUsed));
    assert_eq!(hand.send(&request, &lease).map(|_| ()), used);
    let other = hand.request(statement, &lease, key);
    assert_eq!(hand.send(&other, &lease).map(|_| ()), used);
    for _ in 1..MANDATE_RELEASES_MAX {
        hand.ask(statement, key).unwrap();
    }
    let spent = Err(Refusal::Mandate(MandateRefusal::ReleasesSpent));
    assert_eq!(hand.ask(statement, key).map(|_| ()), spent);
}
