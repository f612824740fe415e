//! Negative properties of sealing: whatever field is changed, it does not open.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// Bindings for the tests of this module and of `wrap`.
pub(crate) mod testing {
    use super::*;

    /// Any binding.
    pub(crate) fn binding() -> impl Strategy<Value = ShareBinding> {
        (
            any::<[u8; 16]>(),
            "[a-z][a-z0-9-]{0,8}",
            any::<[u8; 32]>(),
            any::<[u8; 16]>(),
            any::<[u8; 32]>(),
        )
            .prop_map(|(d, custodian, c, k, p)| ShareBinding {
                deployment: DeploymentId(d),
                custodian: CustodianId::new(&custodian).unwrap(),
                chat: ChatId(c),
                key_id: KeyId(k),
                policy: PolicyId(p),
            })
    }

    /// The one of the frozen vectors.
    pub(crate) fn fixed() -> ShareBinding {
        ShareBinding {
            deployment: DeploymentId([0x11; 16]),
            custodian: CustodianId::new("ch").unwrap(),
            chat: ChatId([0x22; 32]),
            key_id: KeyId([0x33; 16]),
            policy: PolicyId([0x44; 32]),
        }
    }

    /// Every binding that differs in exactly one field, by one bit or character.
    pub(crate) fn neighbours(b: &ShareBinding, bit: u32) -> Vec<ShareBinding> {
        let flip = |bytes: &mut [u8]| {
            let n = bit as usize % (bytes.len() * 8);
            bytes[n / 8] ^= 1 << (n % 8);
        };
        let mut all = vec![b.clone(); 5];
        flip(&mut all[0].deployment.0);
        all[1].custodian = CustodianId::new(&format!("{}x", b.custodian)).unwrap();
        flip(&mut all[2].chat.0);
        flip(&mut all[3].key_id.0);
        flip(&mut all[4].policy.0);
        all
    }
}
use testing::{binding, fixed, neighbours};

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

fn share(byte: u8) -> Share {
    Share(Secret::from_slice(&[byte; 32]).unwrap())
}

fn pair(info: &[u8], seed: u64) -> (Sender, Receiver, Vec<u8>, RecipientKey) {
    let key = RecipientKey::generate(&mut rng(seed));
    let (sender, encapsulated) = Sender::new(&key.public(), info, &mut rng(seed + 1)).unwrap();
    let receiver = Receiver::new(&key, &encapsulated, info).unwrap();
    (sender, receiver, encapsulated, key)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changed_field_does_not_open(
        b in binding(), node in any::<u64>(), authority in any::<[u8; 32]>(), bit in any::<u32>(), seed in any::<u32>(),
    ) {
        let (sender, receiver, encapsulated, key) = pair(b"info", seed.into());
        let release = ReleaseBinding { authority, node, lease_key: key.public().hash() };
        for r in [None, Some(&release)] {
            let sealed = sender.seal(&b, r, [7; 24], &share(1));
            prop_assert_eq!(sealed.len(), SEALED_LEN);
            prop_assert_eq!(*receiver.open(&b, r, &sealed).unwrap().expose(), [1; 32]);
            for n in neighbours(&b, bit) {
                prop_assert_eq!(receiver.open(&n, r, &sealed).unwrap_err(), SealError::DoesNotOpen);
            }
            let mut bad = sealed.clone();
            bad[bit as usize % SEALED_LEN] ^= 1 << (bit >> 29);
            prop_assert!(receiver.open(&b, r, &bad).is_err());
            prop_assert!(receiver.open(&b, r, &sealed[..bit as usize % SEALED_LEN]).is_err());
        }
        // A dealt share is not a released one, nor one released to somebody else.
        let sealed = sender.seal(&b, Some(&release), [7; 24], &share(1));
        let mut others = vec![release.clone(); 3];
        others[0].authority[bit as usize % 32] ^= 1;
        others[1].node ^= 1 << (bit % 64);
        others[2].lease_key[bit as usize % 32] ^= 1;
        for other in others.iter().map(Some).chain([None]) {
            prop_assert!(receiver.open(&b, other, &sealed).is_err());
        }
        prop_assert!(receiver.open(&b, Some(&release), &sender.seal(&b, None, [7; 24], &share(1))).is_err());
        // Another key, another encapsulation.
        let stranger = RecipientKey::generate(&mut rng(u64::from(seed) + 99));
        prop_assert!(Receiver::new(&stranger, &encapsulated, b"info").unwrap().open(&b, Some(&release), &sealed).is_err());
        let mut garbled = encapsulated.clone();
        garbled[bit as usize % ENCAPSULATED_LEN] ^= 1 << (bit >> 29);
        if let Ok(r) = Receiver::new(&key, &garbled, b"info") {
            prop_assert!(r.open(&b, Some(&release), &sealed).is_err());
        }
    }

    #[test]
    fn shares_open_in_any_order_and_again(bindings in prop::collection::vec(binding(), 1..8), turn in any::<prop::sample::Index>()) {
        let (sender, receiver, _, _) = pair(b"info", 5);
        let mut sealed: Vec<_> = bindings.iter().enumerate()
            .map(|(i, b)| (i, sender.seal(b, None, [i as u8; 24], &share(i as u8)))).collect();
        sealed.rotate_left(turn.index(bindings.len()));
        for (i, s) in sealed.iter().chain(&sealed) {
            prop_assert_eq!(*receiver.open(&bindings[*i], None, s).unwrap().expose(), [*i as u8; 32]);
        }
    }

    #[test]
    fn hostile_keys_and_encapsulations_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
        let key = RecipientKey::generate(&mut rng(1));
        if bytes.len() != PUBLIC_LEN {
            let e = Sender::new(&RecipientPublic(bytes.clone()), b"", &mut rng(2)).unwrap_err();
            prop_assert_eq!(e, SealError::BadPublicKey { len: bytes.len() });
        }
        if bytes.len() != ENCAPSULATED_LEN {
            let e = Receiver::new(&key, &bytes, b"").unwrap_err();
            prop_assert_eq!(e, SealError::BadEncapsulation { len: bytes.len() });
        }
    }
}

#[test]
fn a_public_key_with_coefficients_out_of_range_is_refused() {
    // FIPS 203 section 7.2: encapsulation keys must be checked for it.
    let public = RecipientPublic(vec![0xff; PUBLIC_LEN]);
    assert_eq!(
        public.validate().unwrap_err(),
        SealError::BadPublicKey { len: PUBLIC_LEN }
    );
}

#[test]
fn every_field_of_the_info_counts() {
    let (d, c) = (DeploymentId([1; 16]), CustodianId::new("ch").unwrap());
    let (d2, c2) = (DeploymentId([2; 16]), CustodianId::new("is").unwrap());
    let infos = [
        deal_info(&d, &c, 1),
        deal_info(&d, &c, 2),
        deal_info(&d2, &c, 1),
        deal_info(&d, &c2, 1),
        release_info(&d, &c),
        release_info(&d2, &c),
        release_info(&d, &c2),
    ];
    let key = RecipientKey::generate(&mut rng(1));
    for (i, info) in infos.iter().enumerate() {
        let (sender, encapsulated) = Sender::new(&key.public(), info, &mut rng(2)).unwrap();
        let sealed = sender.seal(&fixed(), None, [0; 24], &share(3));
        for (j, other) in infos.iter().enumerate() {
            let opened =
                Receiver::new(&key, &encapsulated, other)
                    .unwrap()
                    .open(&fixed(), None, &sealed);
            assert_eq!(opened.is_ok(), i == j, "{i} {j}");
        }
    }
}

#[test]
fn a_seed_gives_the_pair_again() {
    let key = RecipientKey::generate(&mut rng(1));
    let again = RecipientKey::from_seed(&key.seed());
    assert_eq!(key.public(), again.public());
    assert_eq!(key.public().0.len(), PUBLIC_LEN);
    let (sender, encapsulated) = Sender::new(&key.public(), b"i", &mut rng(2)).unwrap();
    let sealed = sender.seal(&fixed(), None, [0; 24], &share(3));
    let receiver = Receiver::new(&again, &encapsulated, b"i").unwrap();
    assert_eq!(
        receiver.open(&fixed(), None, &sealed).unwrap().expose(),
        &[3; 32]
    );
}

#[test]
fn frozen_vector() {
    let b = fixed();
    let key = RecipientKey::from_seed(&Secret::from_slice(&[0xaa; 32]).unwrap());
    assert_eq!(
        hex::encode(key.public().hash()),
        "f8041d61758c87a8c44253e38a706e96614e73bb2ca9083036086b55ad69a47a"
    );
    let info = deal_info(&b.deployment, &b.custodian, 3);
    assert_eq!(
        hex::encode(&info),
        "1300000071756f726174652f7365616c2f6465616c2f3110000000111111111111111111111111111111110200000063680400000003000000"
    );
    let (sender, encapsulated) = Sender::new(&key.public(), &info, &mut rng(0)).unwrap();
    assert_eq!(
        blake3::hash(&encapsulated).to_hex().as_str(),
        "0c42295b440af0e429aeb7de60bbea3dab9e3b51e8ccd2e0133f16526f5d6823"
    );
    assert_eq!(
        hex::encode(sender.seal(&b, None, [0x55; 24], &share(0x77))),
        "5555555555555555555555555555555555555555555555550062f884ebbc94981d872098a7863ad07a8b3a8b432cc493672e36d352640d884dcc7b57d52ebf903f4e47b30dff0ea7"
    );
    let r = ReleaseBinding {
        authority: [0xbb; 32],
        node: 2,
        lease_key: [0xcc; 32],
    };
    assert_eq!(
        hex::encode(sender.seal(&b, Some(&r), [0x55; 24], &share(0x77))),
        "5555555555555555555555555555555555555555555555550062f884ebbc94981d872098a7863ad07a8b3a8b432cc493672e36d352640d888c4451c7bc57615b7de2a50da03cd050"
    );
}
