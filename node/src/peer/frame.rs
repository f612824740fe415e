//! Frames of the peer plane.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | length of what follows, little-endian; 12 to [`FRAME_BYTES_MAX`] |
//! | 4 | 1 | kind: 1 request, 2 reply, 3 error, 4 ping, 5 pong |
//! | 5 | 1 | zero |
//! | 6 | 2 | service id, little-endian; zero unless a request |
//! | 8 | 8 | request id, little-endian; the connecting side's count |
//! | 16 | … | body |
//!
//! A frame that breaks a rule ends its connection: after a wrong length nothing
//! that follows can be believed. The length is checked before any memory is
//! taken for it, and memory is taken as bytes arrive, not as they are promised.

use super::ServiceId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes before the body, length field included.
pub const HEADER_BYTES: usize = 16;
/// Largest value of the length field: header rest and body.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Largest body.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - (HEADER_BYTES - 4);
/// Memory taken at once for a body that is still arriving.
const READ_STEP_BYTES: usize = 256 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks a service.
    Request,
    /// A service's answer.
    Reply,
    /// A [`super::ServiceError`].
    Error,
    /// Asks whether anybody is there.
    Ping,
    /// Says so.
    Pong,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Error => 3,
            Self::Ping => 4,
            Self::Pong => 5,
        }
    }
    fn from_code(code: u8) -> Option<Self> {
        [
            Self::Request,
            Self::Reply,
            Self::Error,
            Self::Ping,
            Self::Pong,
        ]
        .into_iter()
        .find(|k| k.code() == code)
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// The service asked; 0 unless a request.
    pub service: ServiceId,
    /// The connecting side's number for the request.
    pub id: u64,
    /// The body.
    pub body: Bytes,
}

/// Why a connection's bytes are not frames.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed between two frames.
    #[error("closed by the peer")]
    Closed,
    /// The socket failed, or closed inside a frame.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// A length outside the limits.
    #[error("frame length {0}, allowed are 12 to {FRAME_BYTES_MAX}")]
    Length(u64),
    /// A kind, service or reserved byte that does not exist.
    #[error("malformed frame header (kind {kind}, reserved {reserved}, service {service})")]
    Header {
        /// Kind byte.
        kind: u8,
        /// Reserved byte.
        reserved: u8,
        /// Service field.
        service: u16,
    },
}

/// Appends a frame to `out`.
///
/// # Panics
/// When `body` is over [`BODY_BYTES_MAX`]: callers check.
pub fn put(out: &mut BytesMut, kind: Kind, service: ServiceId, id: u64, body: &[u8]) {
    assert!(
        body.len() <= BODY_BYTES_MAX,
        "callers check the length of a body"
    );
    out.reserve(HEADER_BYTES + body.len());
    out.put_u32_le((HEADER_BYTES - 4 + body.len()) as u32);
    out.put_u8(kind.code());
    out.put_u8(0);
    out.put_u16_le(service);
    out.put_u64_le(id);
    out.put_slice(body);
}

/// Reads one frame.
///
/// # Errors
/// [`FrameError`]; the connection must then be dropped.
pub async fn read<R: AsyncRead + Unpin>(from: &mut R) -> Result<Frame, FrameError> {
    let mut header = [0u8; HEADER_BYTES];
    let first = from.read(&mut header).await?;
    if first == 0 {
        return Err(FrameError::Closed);
    }
    // The length is judged as soon as it is there: who promises too much need not send the rest.
    let mut have = first;
    while have < 4 {
        let n = from.read(&mut header[have..]).await?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        have += n;
    }
    let mut fields = &header[..];
    let length = fields.get_u32_le() as usize;
    if !(HEADER_BYTES - 4..=FRAME_BYTES_MAX).contains(&length) {
        return Err(FrameError::Length(length as u64));
    }
    from.read_exact(&mut header[have..]).await?;
    let mut fields = &header[4..];
    let (kind, reserved) = (fields.get_u8(), fields.get_u8());
    let (service, id) = (fields.get_u16_le(), fields.get_u64_le());
    let bad = FrameError::Header {
        kind,
        reserved,
        service,
    };
    let kind = match Kind::from_code(kind) {
        Some(k) if reserved == 0 && (service == 0) == (k != Kind::Request) => k,
        _ => return Err(bad),
    };
    let want = length - (HEADER_BYTES - 4);
    let mut body = BytesMut::with_capacity(want.min(READ_STEP_BYTES));
    while body.len() < want {
        let left = want - body.len();
        body.reserve(left.min(READ_STEP_BYTES));
        if from.read_buf(&mut (&mut body).limit(left)).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(Frame {
        kind,
        service,
        id,
        body: body.freeze(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> Result<Frame, FrameError> {
        futures::executor::block_on(read(&mut &bytes[..]))
    }

    #[test]
    fn frozen_bytes() {
        let mut out = BytesMut::new();
        put(&mut out, Kind::Request, 2, 7, b"hi");
        assert_eq!(hex::encode(&out), "0e0000000100020007000000000000006869");
    }

    proptest! {
        #[test]
        fn frames_round_trip(service in 1u16.., id: u64, body in prop::collection::vec(any::<u8>(), 0..5_000)) {
            let mut out = BytesMut::new();
            put(&mut out, Kind::Request, service, id, &body);
            put(&mut out, Kind::Pong, 0, id, &[]);
            let f = read_all(&out).unwrap();
            prop_assert_eq!(f, Frame { kind: Kind::Request, service, id, body: body.into() });
        }

        #[test]
        fn a_cut_frame_is_an_error_at_every_length(cut in 1usize..40) {
            let mut out = BytesMut::new();
            put(&mut out, Kind::Reply, 0, 1, &[5; 24]);
            let r = read_all(&out[..cut]);
            prop_assert_eq!(r.is_ok(), cut == 40);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }
    }

    #[test]
    fn hostile_lengths_are_refused_before_memory_is_taken() {
        for length in [0u32, 11, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend_from_slice(&[1; 12]);
            assert!(
                matches!(read_all(&bytes), Err(FrameError::Length(l)) if l == u64::from(length))
            );
        }
        // 2^62, as eight bytes: the low half is 0, which is no length.
        assert!(matches!(
            read_all(&(1u64 << 62).to_le_bytes()),
            Err(FrameError::Length(0))
        ));
    }

    #[test]
    fn unknown_kinds_and_reserved_bits_are_refused() {
        let mut out = BytesMut::new();
        put(&mut out, Kind::Request, 2, 7, b"hi");
        for (at, value) in [(4, 0u8), (4, 9), (5, 1), (6, 0)] {
            let mut bytes = out.to_vec();
            bytes[at] = value;
            assert!(
                matches!(read_all(&bytes), Err(FrameError::Header { .. })),
                "{at}={value}"
            );
        }
    }
}
