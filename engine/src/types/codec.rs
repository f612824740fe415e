//! The one place that knows how values become bytes: bincode 2 (little-endian,
//! varint), always with a limit, always behind a format version byte.
//!
//! bincode is unmaintained (RUSTSEC-2025-0141); everything else speaks to this
//! module, and frozen vectors hold the bytes still, so that a successor is a
//! change to one file.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest value that may be decoded, in bytes: one raft command or one peer
/// message. Frames on the wire are limited to the same size before this.
pub const DECODE_BYTES_MAX: usize = 16 << 20;

/// Why bytes are not the value they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes are of another format version than this build reads.
    #[error("{what}: format version {got}, this build reads {expected}")]
    Version {
        /// What was being decoded.
        what: &'static str,
        /// The version found.
        got: u8,
        /// The version this build reads.
        expected: u8,
    },
    /// Truncated, over a limit, or not of this shape.
    #[error("{what}: cannot be decoded: {reason}")]
    Malformed {
        /// What was being decoded.
        what: &'static str,
        /// What the decoder said.
        reason: String,
    },
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}

/// Encodes `value` behind the version byte `version`.
///
/// # Panics
/// When `value`'s own `Serialize` fails, which the types of this crate never do.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut out = vec![version];
    // Encoding has no limit to hit: only decoding sees hostile lengths.
    bincode::serde::encode_into_std_write(value, &mut out, bincode::config::standard())
        .expect("types of this crate serialize without error into memory");
    out
}

/// Decodes what [`encode`] made. Every byte must be used up.
///
/// # Errors
/// [`CodecError`] naming `what`.
pub fn decode<T: DeserializeOwned>(
    what: &'static str,
    version: u8,
    bytes: &[u8],
) -> Result<T, CodecError> {
    let malformed = |reason: String| CodecError::Malformed { what, reason };
    let (&got, body) = bytes
        .split_first()
        .ok_or_else(|| malformed("empty".into()))?;
    if got != version {
        return Err(CodecError::Version {
            what,
            got,
            expected: version,
        });
    }
    if body.len() > DECODE_BYTES_MAX {
        return Err(malformed(format!(
            "{} bytes, the limit is {DECODE_BYTES_MAX}",
            body.len()
        )));
    }
    let (value, used) =
        bincode::serde::decode_from_slice(body, config()).map_err(|e| malformed(e.to_string()))?;
    if used != body.len() {
        return Err(malformed(format!("{} bytes left over", body.len() - used)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_vector() {
        let v: (u64, String, Vec<u8>, Option<u32>) = (300, "ch".into(), vec![1, 2, 3], Some(7));
        assert_eq!(hex::encode(encode(1, &v)), "01fb2c01026368030102030107");
        assert_eq!(
            decode::<(u64, String, Vec<u8>, Option<u32>)>("t", 1, &encode(1, &v)).unwrap(),
            v
        );
    }

    #[test]
    fn hostile_lengths_are_errors_not_allocations() {
        // Varint marker 0xfd: a u64 length of 2^62 follows.
        let mut bytes = vec![1, 0xfd];
        bytes.extend_from_slice(&(1u64 << 62).to_le_bytes());
        assert!(matches!(
            decode::<Vec<u8>>("t", 1, &bytes),
            Err(CodecError::Malformed { .. })
        ));
        assert!(matches!(
            decode::<String>("t", 1, &bytes),
            Err(CodecError::Malformed { .. })
        ));
    }

    #[test]
    fn version_truncation_and_leftovers_are_named() {
        let bytes = encode(1, &(7u32, 9u32));
        assert!(matches!(
            decode::<(u32, u32)>("t", 2, &bytes),
            Err(CodecError::Version {
                got: 1,
                expected: 2,
                ..
            })
        ));
        assert!(decode::<(u32, u32)>("t", 1, &bytes[..2]).is_err());
        assert!(decode::<u32>("t", 1, &bytes).is_err());
        assert!(decode::<u32>("t", 1, &[]).is_err());
    }
}
