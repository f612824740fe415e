//! The way of a share through a custodian: opened, wrapped, released, sealed.

use super::*;
use crate::authz::{Authorised, Claimed, HomePeer, authorise_peer};
use crate::crypto::seal::{
    Receiver, RecipientKey, ReleaseBinding, Sender, ShareBinding, deal_info, release_info,
};
use crate::sharing::commitment;

struct Keys(WrappingKey);
impl WrappingKeys for Keys {
    fn wrapping_key(&self, version: u32) -> Option<&WrappingKey> {
        (version == 1).then_some(&self.0)
    }
}

fn live(_: &AccountId, _: &DeviceId) -> Result<DeviceStanding, RequestError> {
    Ok(DeviceStanding::Live {
        public: device_key().public(),
    })
}

fn log_key_of_another() -> [u8; 32] {
    SigningKey::from_seed(&Secret::from_slice(&[9; 32]).unwrap()).public()
}

fn authorised(place: &Place, node: NodeId) -> Authorised {
    let peer = HomePeer {
        deployment: place.deployment,
        home: home("ae"),
        node,
    };
    let claimed = Claimed {
        deployment: place.deployment,
        home: home("ae"),
        node: Some(node),
    };
    authorise_peer(
        &place.deployment,
        &BTreeSet::from([home("ae")]),
        &peer,
        &claimed,
    )
    .unwrap()
}

/// A share dealt, stored, released and opened again, with everything that may go wrong on the way.
#[test]
fn a_share_goes_through_a_custodian_and_comes_back() {
    let mut b = Bench::ready();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let place = Place {
        deployment: DEPLOYMENT,
        custodian: custodian("ch"),
    };
    let keys = Keys(WrappingKey::generate(&mut rng));
    let sealing = RecipientKey::generate(&mut rng);
    let info = deal_info(&place.deployment, &place.custodian, 3);
    let (sender, encapsulated) = Sender::new(&sealing.public(), &info, &mut rng).unwrap();
    let session = SealSession {
        id: SessionId([1; 16]),
        custodian: place.custodian.clone(),
        version: 3,
        expires_ms: T0 + HOUR,
        encapsulated,
    };
    let policy = policy().id();
    let shares: Vec<Share> = (0..3).map(|_| Share::generate(&mut rng)).collect();
    let sealed = |n: usize, k: u8| {
        let binding = ShareBinding {
            deployment: place.deployment,
            custodian: place.custodian.clone(),
            chat: chat(1),
            key_id: key(k),
            policy,
        };
        SealedItem {
            chat: chat(1),
            epoch: EPOCH,
            key_id: key(k),
            policy,
            commitment: commitment(&key(k), &place.custodian, &shares[n]),
            sealed: sender.seal(&binding, None, [n as u8; 24], &shares[n]),
            expires_ms: None,
        }
    };
    let mut lying = sealed(1, 2);
    lying.commitment[0] ^= 1;
    let mut request = StoreRequest {
        home: home("ae"),
        deployment: place.deployment,
        session,
        items: vec![sealed(0, 1), lying, sealed(2, 3)],
    };
    let who = authorised(&place, 4);
    check_store(&place, &who, &request).unwrap();
    assert_eq!(
        open_session(&place, None, &request.session, T0).unwrap_err(),
        StoreOutcome::SealingKeyGone
    );
    assert_eq!(
        open_session(&place, Some(&sealing), &request.session, T0 + HOUR).unwrap_err(),
        StoreOutcome::SealingKeyGone
    );
    let receiver: Receiver = open_session(&place, Some(&sealing), &request.session, T0).unwrap();
    let prepared = prepare_store(&place, &receiver, (1, &keys.0), &request, &mut rng);
    assert_eq!(prepared.early_outcomes(), None);
    let command = prepared.command.clone().unwrap();
    let bytes = format!("{command:?}").into_bytes();
    let share_hex = hex::encode(shares[0].expose());
    assert!(!String::from_utf8(bytes).unwrap().contains(&share_hex));
    let done = b.propose(vec![command]).remove(0);
    use StoreOutcome::*;
    assert_eq!(
        prepared.decide(&done),
        StoreDecision::Outcomes(vec![Stored, BadShare, Stored])
    );
    request.items.push(sealed(0, 1));
    assert_eq!(
        check_store(&place, &who, &request),
        Err(RequestError::Twice(key(1)))
    );

    // Asking for it.
    let lease_key = RecipientKey::generate(&mut rng);
    let keys_asked = vec![key_ref(1, 1), key_ref(1, 2), key_ref(1, 3)];
    let grant = claims(&home("ae"), &keys_asked, T0);
    let grant = Grant::sign(phone(), &device_key(), grant).unwrap();
    let ask = ReleaseRequest {
        grant: grant.compact().to_owned(),
        request: RequestId([5; 16]),
        home: home("ae"),
        node: 4,
        deployment: place.deployment,
        lease_key: lease_key.public(),
        reason: Reason::Read,
        keys: keys_asked,
    };
    assert_eq!(
        prepare_release(
            &place,
            &authorised(&place, 5),
            &ask,
            &Afresh,
            |_| false,
            live
        ),
        Err(RequestError::NotTheAuthorised)
    );
    let signed = |ask: &ReleaseRequest, key: [u8; 32]| {
        let by = |_: &AccountId, _: &DeviceId| {
            Ok::<_, RequestError>(DeviceStanding::Live { public: key })
        };
        match prepare_release(&place, &who, ask, &Afresh, |_| false, by).unwrap() {
            Command::Release(c) => c.signature_holds,
            other => panic!("not a release: {other:?}"),
        }
    };
    assert!(signed(&ask, device_key().public()));
    assert!(!signed(&ask, log_key_of_another()));
    let mut malformed = ask.clone();
    malformed.grant.push('.');
    assert!(!signed(&malformed, device_key().public()));
    malformed.grant = "a".repeat(9000);
    assert_eq!(
        prepare_release(&place, &who, &malformed, &Afresh, |_| false, live),
        Err(RequestError::GrantLength(9000))
    );
    // A lease key that is none is refused, unless it was looked at before: by its own hash.
    let mut keyless = ask.clone();
    keyless.lease_key.0.truncate(9);
    let refused = prepare_release(&place, &who, &keyless, &Afresh, |_| false, live);
    assert!(
        matches!(refused, Err(RequestError::LeaseKey(_))),
        "{refused:?}"
    );
    let checked = |hash: &[u8; 32]| {
        assert_eq!(*hash, ask.lease_key.hash());
        true
    };
    prepare_release(&place, &who, &ask, &Afresh, checked, live).unwrap();
    let command = prepare_release(&place, &who, &ask, &Afresh, |_| false, live).unwrap();
    // Damage one wrapped share at rest.
    let Held::Share(mut row) = share(&b.kv, &key(3)).unwrap() else {
        panic!("stored above")
    };
    row.wrapped.0[30] ^= 1;
    rows::put(&mut b.kv, &rows::share_key(&key(3)), &row).unwrap();
    let granted = b.propose(vec![command]).remove(0).granted().unwrap();
    let log_key = SigningKey::generate(&mut rng);
    let lease = LeaseSender::new(&place, &ask.lease_key, &mut rng).unwrap();
    let reply = finish_release(&place, &keys, &granted, &lease, &log_key, &mut rng);
    reply
        .receipt
        .verify(
            &place.deployment,
            &place.custodian,
            &ask.request,
            &log_key.public(),
        )
        .unwrap();
    assert_eq!(reply.receipt.entry, b.last_entry().index);
    assert_eq!(
        reply.shares[1..],
        [
            ShareResult::Refused(Refusal::NotHeld),
            ShareResult::Refused(Refusal::Damaged)
        ]
    );
    let ShareResult::Share { sealed } = &reply.shares[0] else {
        panic!("released")
    };
    let info = release_info(&place.deployment, &place.custodian);
    let opener = Receiver::new(&lease_key, &reply.encapsulated, &info).unwrap();
    let binding = ShareBinding {
        deployment: place.deployment,
        custodian: place.custodian.clone(),
        chat: chat(1),
        key_id: key(1),
        policy,
    };
    let context = ReleaseBinding {
        authority: grant.hash().0,
        node: 4,
        lease_key: ask.lease_key.hash(),
    };
    let got = opener.open(&binding, Some(&context), sealed).unwrap();
    assert_eq!(got.expose(), shares[0].expose());
    // Sealed to another lease key than the committed one: nothing is opened.
    let other = RecipientKey::generate(&mut rng).public();
    let other = LeaseSender::new(&place, &other, &mut rng).unwrap();
    let reply = finish_release(&place, &keys, &granted, &other, &log_key, &mut rng);
    assert_eq!(
        reply.shares[0],
        ShareResult::Refused(Refusal::RequestMismatch)
    );
    assert!(reply.encapsulated.is_empty());
}
