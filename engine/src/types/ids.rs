//! Identifiers. Each is its own type; bytes print as lowercase hex.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Why a text is not the identifier it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not hex, or not of the right length.
    #[error("{what}: expected {chars} hex characters, got {got:?}")]
    Hex {
        /// Which identifier was being read.
        what: &'static str,
        /// Characters it should have.
        chars: usize,
        /// The text given, cut to 80 characters.
        got: String,
    },
    /// A name outside `[a-z0-9-]`, or not 1 to 32 characters long.
    #[error(
        "{what}: {got:?} must be 1 to 32 characters of a-z, 0-9 and '-', starting with a letter"
    )]
    Name {
        /// Which name was being read.
        what: &'static str,
        /// The text given, cut to 80 characters.
        got: String,
    },
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $len] { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&hex::encode(self.0)) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                let mut out = [0u8; $len];
                hex::decode_to_slice(s, &mut out).map_err(|_| IdError::Hex {
                    what: stringify!($name), chars: $len * 2, got: s.chars().take(80).collect(),
                })?;
                Ok(Self(out))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                    s.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(d).map(Self)
                }
            }
        }
    };
}

byte_id!(
    /// One deployment: a home and the custodians it deals to.
    DeploymentId, 16
);
byte_id!(
    /// A chat: the hash of its genesis statement.
    ChatId, 32
);
byte_id!(
    /// One dealing of one data key; fresh random bytes, never reused.
    KeyId, 16
);
byte_id!(
    /// The hash of a policy's canonical form.
    PolicyId, 32
);
byte_id!(
    /// A caller's id of one request; repeating it is a repetition, not a new request.
    RequestId, 16
);
byte_id!(
    /// One HPKE encapsulation that many shares are sealed under.
    SessionId, 16
);

byte_id!(
    /// A large object; fresh random bytes.
    BlobId, 16
);

byte_id!(
    /// An account: the hash of its genesis statement.
    AccountId, 32
);
byte_id!(
    /// A device: the hash of its public key.
    DeviceId, 32
);
byte_id!(
    /// One grant; fresh random bytes drawn by the device that signs it.
    GrantId, 16
);
byte_id!(
    /// A disclosure order: the hash of its bytes, the same at every custodian.
    OrderId, 32
);
byte_id!(
    /// An officer of a custodian: the hash of the officer's public key.
    OfficerId, 32
);

byte_id!(
    /// An auditor of a custodian: the hash of the auditor's public key.
    AuditorId, 32
);

byte_id!(
    /// A service credential of a home: the hash of its public key.
    ServiceId, 32
);

byte_id!(
    /// An Ed25519 public key, as signed statements name one.
    PublicKey, 32
);
byte_id!(
    /// The hash of a signed statement, which its successor in the chain carries.
    StatementHash, 32
);
byte_id!(
    /// Fresh random bytes that make a statement unlike every other.
    Nonce, 16
);

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Parses a name: 1 to 32 characters of `a-z`, `0-9`, `-`, starting with a letter.
            ///
            /// # Errors
            /// [`IdError::Name`] otherwise.
            pub fn new(s: &str) -> Result<Self, IdError> {
                let ok = (1..=32).contains(&s.len())
                    && s.as_bytes()[0].is_ascii_lowercase()
                    && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                if ok { Ok(Self(s.to_owned())) } else {
                    Err(IdError::Name { what: stringify!($name), got: s.chars().take(80).collect() })
                }
            }
            /// The name as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> { Self::new(s) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_id!(
    /// A custodian, unique within a deployment (`ch`, `is`, …).
    CustodianId
);
name_id!(
    /// A home, unique among the homes a custodian knows (`ae`, …).
    HomeId
);

name_id!(
    /// An identity authority, unique within a deployment.
    AuthorityId
);

/// A raft node id, unique within its cluster and never reused.
pub type NodeId = u64;
/// A key epoch's number within its chat, from 0, without gaps for opened epochs.
pub type EpochNo = u32;
/// A message's number within its chat. 0 is the chat's profile record.
pub type MessageId = u64;
/// A message's revision: 0 as first written, one more with every edit.
pub type Revision = u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text_and_refuse_the_rest() {
        let id = KeyId([0xab; 16]);
        assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
        assert!("ab".parse::<KeyId>().is_err());
        assert!("zz".repeat(16).parse::<KeyId>().is_err());
        for bad in ["", "Ch", "c h", "1ch", "c/../h", &"c".repeat(33)] {
            assert!(CustodianId::new(bad).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(CustodianId::new("ch").unwrap().as_str(), "ch");
    }
}
