//! Published vectors through our boundary and through an implementation in
//! Rust, which must agree with ours on everything else too.

use super::*;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use proptest::prelude::*;

const WYCHEPROOF: &str = include_str!("../../testdata/wycheproof-aead.txt");
/// Vectors in the file; a truncated file must not pass.
const WYCHEPROOF_COUNT: usize = 573;

fn hex_field(field: &str) -> Vec<u8> {
    if field == "-" {
        vec![]
    } else {
        hex::decode(field).unwrap()
    }
}

fn chacha20(key: [u8; 32], nonce: [u8; 12], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut out = plaintext.to_vec();
    let tag = ChaCha20Poly1305::new(&key.into())
        .encrypt_inout_detached(&nonce.into(), aad, out.as_mut_slice().into())
        .unwrap();
    out.extend_from_slice(&tag);
    out
}

fn chacha20_open(key: [u8; 32], nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (body, tag) = sealed.split_at(sealed.len() - TAG_LEN);
    let mut out = body.to_vec();
    let tag: [u8; TAG_LEN] = tag.try_into().unwrap();
    ChaCha20Poly1305::new(&key.into())
        .decrypt_inout_detached(&nonce.into(), aad, out.as_mut_slice().into(), &tag.into())
        .ok()?;
    Some(out)
}

#[test]
fn wycheproof_vectors() {
    let mut seen = 0;
    for line in WYCHEPROOF.lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [cipher, result, key, nonce, aad, plaintext, ciphertext] = fields[..] else {
            panic!("seven fields: {line}");
        };
        let [key, nonce, aad, plaintext, ciphertext] =
            [key, nonce, aad, plaintext, ciphertext].map(hex_field);
        let key: [u8; 32] = key.try_into().unwrap();
        let opened = if cipher == "chacha20" {
            let nonce: [u8; 12] = nonce.try_into().unwrap();
            if result == "valid" {
                assert_eq!(chacha20(key, nonce, &aad, &plaintext), ciphertext, "{line}");
            }
            chacha20_open(key, nonce, &aad, &ciphertext)
        } else {
            let sealed = [&nonce[..], &ciphertext].concat();
            if result == "valid" {
                assert_eq!(
                    seal(&key, nonce.try_into().unwrap(), &aad, &plaintext),
                    sealed,
                    "{line}"
                );
            }
            open(&key, &aad, &sealed).ok().map(|p| p.to_vec())
        };
        assert_eq!(opened, (result == "valid").then_some(plaintext), "{line}");
        seen += 1;
    }
    assert_eq!(seen, WYCHEPROOF_COUNT);
}

fn sunscreen() -> ([u8; 32], Vec<u8>, &'static [u8]) {
    let key = std::array::from_fn(|i| 0x80 + i as u8);
    let aad = hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap();
    let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    (key, aad, text)
}

/// RFC 8439, section 2.8.2.
#[test]
fn rfc_8439_vector() {
    let (key, aad, text) = sunscreen();
    let nonce = hex::decode("070000004041424344454647")
        .unwrap()
        .try_into()
        .unwrap();
    let sealed = chacha20(key, nonce, &aad, text);
    assert_eq!(
        hex::encode(&sealed),
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
         1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
         3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    );
    assert_eq!(chacha20_open(key, nonce, &aad, &sealed).unwrap(), text);
}

/// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
#[test]
fn xchacha_draft_vector() {
    let (key, aad, text) = sunscreen();
    let nonce = std::array::from_fn(|i| 0x40 + i as u8);
    assert_eq!(
        hex::encode(&seal(&key, nonce, &aad, text)[NONCE_LEN..]),
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39\
         ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
         21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
    );
}

#[test]
fn nothing_is_left_unless_the_tag_holds() {
    let mut sealed = seal(&[1; 32], [2; 24], b"aad", b"plaintext");
    *sealed.last_mut().unwrap() ^= 1;
    let mut out = [7; 9];
    assert_eq!(
        open_into(&[1; 32], b"aad", &sealed, &mut out),
        Err(Mismatch)
    );
    assert_eq!(out, [0; 9]);
    let mut sealed = seal(&[1; 32], [2; 24], b"aad", &[3; 70_000]);
    sealed[NONCE_LEN] ^= 1;
    let mut out = vec![7; 70_000];
    assert_eq!(
        open_into(&[1; 32], b"aad", &sealed, &mut out),
        Err(Mismatch)
    );
    assert!(out.iter().all(|b| *b == 0));
    for len in 0..OVERHEAD {
        assert_eq!(
            open(&[1; 32], b"aad", &sealed[..len]).unwrap_err(),
            Mismatch
        );
    }
}

/// What the backend before this one made of the same input.
fn in_rust(key: &[u8; 32], nonce: [u8; NONCE_LEN], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut body = plaintext.to_vec();
    let tag = XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(&nonce.into(), aad, body.as_mut_slice().into())
        .unwrap();
    [&nonce[..], &body, &tag].concat()
}

#[test]
fn every_length_around_a_block_seals_as_in_rust() {
    let text: Vec<u8> = (0..70_000u32).map(|i| (i * 7) as u8).collect();
    for len in (0..1100).chain([4095, 4096, 4097, 65_535, 65_536, 65_537, 70_000]) {
        let (key, nonce) = ([len as u8; 32], [(len >> 3) as u8; NONCE_LEN]);
        let aad = &text[..len % 41];
        let sealed = seal(&key, nonce, aad, &text[..len]);
        assert_eq!(sealed, in_rust(&key, nonce, aad, &text[..len]), "{len}");
        assert_eq!(open(&key, aad, &sealed).unwrap()[..], text[..len], "{len}");
    }
}

proptest! {
    #[test]
    fn seals_as_in_rust(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; NONCE_LEN]>(),
        aad in proptest::collection::vec(any::<u8>(), 0..200),
        text in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        prop_assert_eq!(seal(&key, nonce, &aad, &text), in_rust(&key, nonce, &aad, &text));
    }
}
