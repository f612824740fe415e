//! Finds texts in raw bytes however they were written down: as they are, in
//! hex, in base64 of either alphabet at any of the three alignments, and all
//! of these inside zstd and LZ4 frames, also frames within frames.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Shortest text that can be looked for, in bytes.
pub const TEXT_BYTES_MIN: usize = 16;
/// Most bytes that one frame is unpacked to.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;
/// Deepest nesting of frames.
const FRAMES_DEPTH_MAX: usize = 3;
/// Bytes that two patterns are told apart by at first sight.
const PREFIX: usize = 8;
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const LZ4: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// One place where a text was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// Which text, by its place in the list.
    pub text: usize,
    /// In what form.
    pub form: &'static str,
    /// At which byte; for a frame, where the outermost frame begins.
    pub at: usize,
}

struct Pattern {
    bytes: Vec<u8>,
    text: usize,
    form: &'static str,
}

/// Texts to look for, all at once.
pub struct Needles {
    patterns: Vec<Pattern>,
    by_prefix: BTreeMap<u64, Vec<usize>>,
    /// Which of 2^16 hashes of a prefix exist: most places are passed over with one look.
    maybe: Vec<bool>,
}

fn slot(prefix: u64) -> usize {
    (prefix.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize
}

fn prefix(bytes: &[u8]) -> u64 {
    bytes[..PREFIX]
        .iter()
        .fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Base64 of `bytes` as it looks when `skipped` bytes stand before it, without
/// characters that hold bits of neighbours.
fn base64_at(bytes: &[u8], skipped: usize, url: bool) -> Vec<u8> {
    let mut all = vec![0; skipped];
    all.extend(bytes);
    let text = if url {
        URL_SAFE_NO_PAD.encode(&all)
    } else {
        STANDARD_NO_PAD.encode(&all)
    };
    text.as_bytes()[(skipped * 8).div_ceil(6)..all.len() * 8 / 6].to_vec()
}

impl Needles {
    /// Texts in all their forms.
    ///
    /// # Errors
    /// For a text shorter than [`TEXT_BYTES_MIN`]: it would be found by chance.
    pub fn new<T: AsRef<[u8]>>(texts: &[T]) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for (text, bytes) in texts.iter().enumerate() {
            let bytes = bytes.as_ref();
            if bytes.len() < TEXT_BYTES_MIN {
                return Err(format!(
                    "text {text} has {} bytes, at least {TEXT_BYTES_MIN}",
                    bytes.len()
                ));
            }
            let hex = hex::encode(bytes);
            let mut add = |form, bytes| patterns.push(Pattern { bytes, text, form });
            add("raw", bytes.to_vec());
            add("HEX", hex.to_uppercase().into_bytes());
            add("hex", hex.into_bytes());
            for skipped in 0..3 {
                add("base64", base64_at(bytes, skipped, false));
                add("base64url", base64_at(bytes, skipped, true));
            }
        }
        Ok(Self::of(patterns))
    }

    /// Bytes as they are, such as identifiers.
    ///
    /// # Errors
    /// As [`Needles::new`].
    pub fn raw<T: AsRef<[u8]>>(texts: &[T]) -> Result<Self, String> {
        let mut all = Self::new(texts)?.patterns;
        all.retain(|p| p.form == "raw");
        Ok(Self::of(all))
    }

    fn of(patterns: Vec<Pattern>) -> Self {
        let mut by_prefix: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let mut maybe = vec![false; 1 << 16];
        for (i, pattern) in patterns.iter().enumerate() {
            let prefix = prefix(&pattern.bytes);
            by_prefix.entry(prefix).or_default().push(i);
            maybe[slot(prefix)] = true;
        }
        Self {
            patterns,
            by_prefix,
            maybe,
        }
    }

    /// All places in `bytes`, frames unpacked.
    pub fn find(&self, bytes: &[u8]) -> BTreeSet<Hit> {
        let mut out = BTreeSet::new();
        self.find_in(bytes, 0, None, &mut out);
        out
    }

    fn find_in(&self, bytes: &[u8], depth: usize, outer: Option<usize>, out: &mut BTreeSet<Hit>) {
        let mut window = 0_u64;
        for (i, byte) in bytes.iter().enumerate() {
            window = window << 8 | u64::from(*byte);
            if i + 1 >= 4 && depth < FRAMES_DEPTH_MAX {
                let start = i - 3;
                let magic = (window as u32).to_be_bytes();
                if magic == ZSTD || magic == LZ4 {
                    let inner = unpacked(&bytes[start..], magic == ZSTD);
                    self.find_in(&inner, depth + 1, Some(outer.unwrap_or(start)), out);
                }
            }
            if i + 1 < PREFIX || !self.maybe[slot(window)] {
                continue;
            }
            let start = i + 1 - PREFIX;
            for place in self.by_prefix.get(&window).into_iter().flatten() {
                let pattern = &self.patterns[*place];
                if bytes[start..].starts_with(&pattern.bytes) {
                    out.insert(Hit {
                        text: pattern.text,
                        form: pattern.form,
                        at: outer.unwrap_or(start),
                    });
                }
            }
        }
    }
}

/// What a frame holds, as far as it can be read: damaged ones and such that only look like one end early.
fn unpacked(from: &[u8], zstd: bool) -> Vec<u8> {
    let mut out = Vec::new();
    // An error is where the frame, or what looked like one, ends; what came before it counts.
    if zstd {
        if let Ok(decoder) = ruzstd::decoding::StreamingDecoder::new(from) {
            let _ = decoder.take(UNPACKED_BYTES_MAX).read_to_end(&mut out);
        }
    } else {
        let decoder = lz4_flex::frame::FrameDecoder::new(from);
        let _ = decoder.take(UNPACKED_BYTES_MAX).read_to_end(&mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const TEXT: &[u8] = b"canary-\x00\xff7e1f99aa-0123456789abcdef";

    fn forms(around: &[u8]) -> Vec<&'static str> {
        let needles = Needles::new(&[b"another text that is not there".as_slice(), TEXT]).unwrap();
        let hits = needles.find(around);
        assert!(hits.iter().all(|h| h.text == 1), "{hits:?}");
        hits.into_iter().map(|h| h.form).collect()
    }

    fn among(bytes: &[u8]) -> Vec<u8> {
        [
            b"noise \x28\xb5\x2f\xfd and \x04\x22\x4d\x18 noise".as_slice(),
            bytes,
            &[0x55; 100],
        ]
        .concat()
    }

    #[test]
    fn every_form_is_found_and_nothing_else_is() {
        assert_eq!(forms(&among(TEXT)), ["raw"]);
        assert_eq!(forms(&among(hex::encode(TEXT).as_bytes())), ["hex"]);
        assert_eq!(forms(&among(hex::encode_upper(TEXT).as_bytes())), ["HEX"]);
        assert_eq!(forms(&among(&TEXT[1..])), [""; 0]);
        for before in [&b""[..], b"a", b"ab", b"abc", b"abcdefg"] {
            let inner = [before, TEXT, b"after"].concat();
            let found = forms(&among(STANDARD_NO_PAD.encode(&inner).as_bytes()));
            assert!(found.contains(&"base64"), "{before:?}: {found:?}");
            let found = forms(&among(URL_SAFE_NO_PAD.encode(&inner).as_bytes()));
            assert!(found.contains(&"base64url"), "{before:?}: {found:?}");
        }
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    #[test]
    fn frames_are_unpacked_also_within_frames() {
        let text = [TEXT, TEXT, TEXT].concat();
        for frame in [
            zstd(&text),
            lz4(&text),
            lz4(&zstd(&text)),
            zstd(&lz4(&lz4(&text))),
        ] {
            // The second may lie open in the frame as well, and is found in both places.
            let found = forms(&among(&frame));
            assert!(
                !found.is_empty() && found.iter().all(|f| *f == "raw"),
                "{found:?}"
            );
        }
        let broken = lz4(&[TEXT, &[7; 100_000]].concat());
        assert_eq!(forms(&among(&broken[..broken.len() - 20])), ["raw"]);
    }

    #[test]
    fn a_text_that_chance_could_write_is_refused() {
        assert!(Needles::new(&[b"short"]).is_err());
    }
}
