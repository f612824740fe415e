//! Looks for the bytes of every secret type in whatever can be printed of it,
//! and holds that none can be cloned or serialised.

use super::blob::BlobKey;
use super::seal::{Receiver, RecipientKey, Sender};
use super::sign::SigningKey;
use super::subkeys::Subkeys;
use crate::types::{DataKey, RootKey, Secret, Share, WrappingKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rand::SeedableRng;
use std::fmt::Debug;

/// Holds at compile time that a type lacks a trait: with the trait, two impls
/// fit and the call below is ambiguous.
macro_rules! lacks {
    ($bound:path : $($type:ty),+) => {
        $(const _: fn() = || {
            struct WithTrait;
            trait EitherOr<T> { fn pick() {} }
            impl<T: ?Sized> EitherOr<()> for T {}
            impl<T: ?Sized + $bound> EitherOr<WithTrait> for T {}
            <$type as EitherOr<_>>::pick()
        };)+
    };
}
macro_rules! every_secret_type_lacks {
    ($bound:path) => {
        lacks!(
            $bound: Secret<32>, Secret<64>, DataKey, Share, WrappingKey, RootKey, Subkeys, BlobKey,
            RecipientKey, Sender, Receiver, SigningKey
        );
    };
}
every_secret_type_lacks!(Clone);
every_secret_type_lacks!(Copy);
every_secret_type_lacks!(serde::Serialize);
every_secret_type_lacks!(serde::de::DeserializeOwned);
every_secret_type_lacks!(std::fmt::Display);
every_secret_type_lacks!(std::hash::Hash);
every_secret_type_lacks!(PartialEq);

/// Every form in which `secret` could show up in `text`: hex of either case,
/// lists of decimal or hex numbers, base64 at any offset; also only a part of it.
fn shows(text: &str, secret: &[u8]) -> Option<String> {
    const WINDOW: usize = 6;
    let squeezed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let lower = squeezed.to_lowercase();
    for part in secret.windows(WINDOW) {
        let list = |f: &dyn Fn(&u8) -> String| part.iter().map(f).collect::<Vec<_>>().join(",");
        for form in [
            hex::encode(part),
            list(&|b| b.to_string()),
            list(&|b| format!("0x{b:02x}")),
            list(&|b| format!("{b:x}")),
        ] {
            if lower.contains(&form) {
                return Some(form);
            }
        }
        if let Ok(form) = std::str::from_utf8(part)
            && text.contains(form)
        {
            return Some(form.to_owned());
        }
    }
    for offset in 0..3 {
        for form in [
            STANDARD_NO_PAD.encode(&secret[offset..]),
            URL_SAFE_NO_PAD.encode(&secret[offset..]),
        ] {
            // The last characters depend on what follows.
            if squeezed.contains(&form[..12]) {
                return Some(form);
            }
        }
    }
    None
}

fn assert_prints_nothing<T: Debug>(value: T, secrets: &[&[u8; 32]]) {
    let texts = [
        format!("{value:?}"),
        format!("{value:#?}"),
        format!("{value:x?}"),
        format!("{:?}", Some(&value)),
        format!("{:#?}", Ok::<_, ()>(&value)),
        format!("{:?}", Err::<(), _>(&value)),
        format!("{:?}", vec![(7, &value)]),
    ];
    for text in &texts {
        for secret in secrets {
            assert_eq!(shows(text, &secret[..]), None, "{text}");
        }
    }
    // A panic message is made by Debug too; nothing else of these types prints.
    assert!(texts[0].len() < 300, "{}", texts[0]);
}

#[test]
fn no_secret_type_prints_its_bytes() {
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(0x5ec2e7);
    for _ in 0..50 {
        let secret = Secret::<32>::generate(&mut rng);
        let s = secret.expose();
        assert_prints_nothing(secret.duplicate(), &[s]);
        assert_prints_nothing(DataKey(secret.duplicate()), &[s]);
        assert_prints_nothing(Share(secret.duplicate()), &[s]);
        assert_prints_nothing(WrappingKey(secret.duplicate()), &[s]);
        assert_prints_nothing(RootKey(secret.duplicate()), &[s]);
        assert_prints_nothing(BlobKey(secret.duplicate()), &[s]);
        assert_prints_nothing(SigningKey::from_seed(&secret), &[s]);
        assert_prints_nothing(RecipientKey::from_seed(&secret), &[s]);
        let keys = Subkeys::derive(&DataKey(secret.duplicate()));
        let inner =
            [&keys.message, &keys.blob_wrap, &keys.index, &keys.digest].map(Secret::duplicate);
        let inner = [
            inner[0].expose(),
            inner[1].expose(),
            inner[2].expose(),
            inner[3].expose(),
            s,
        ];
        assert_prints_nothing(keys, &inner);
        let key = RecipientKey::from_seed(&secret);
        let (sender, encapsulated) = Sender::new(&key.public(), b"i", &mut rng).unwrap();
        assert_prints_nothing(sender, &[s]);
        assert_prints_nothing(Receiver::new(&key, &encapsulated, b"i").unwrap(), &[s]);
    }
}

/// The search itself must be able to find something.
#[test]
fn the_search_finds_a_type_that_prints() {
    #[derive(Debug)]
    struct Leaky(#[allow(dead_code)] [u8; 32]);
    let secret = *b"\xde\xad\xbe\xef0123456789abcdefghijklmnopqr";
    for text in [
        format!("{:?}", Leaky(secret)),
        format!("{:#?}", Leaky(secret)),
        format!("{:x?}", Leaky(secret)),
        format!("{:02X?}", Leaky(secret)),
        hex::encode(secret),
        hex::encode_upper(secret),
        STANDARD_NO_PAD.encode(secret),
        format!("xx{}", STANDARD_NO_PAD.encode([&[1][..], &secret].concat())),
        URL_SAFE_NO_PAD.encode(secret),
        format!("{:?}", &secret[10..20]),
        String::from_utf8_lossy(&secret).into_owned(),
    ] {
        assert!(shows(&text, &secret).is_some(), "{text}");
    }
}
