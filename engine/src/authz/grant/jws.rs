//! JWS compact serialization (RFC 7515, section 7.1), as narrow as a grant
//! needs it: one algorithm, no extension, one way to write each part.

use super::GrantRefusal;
use crate::authz::service::SERVICE_TYP;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// A value that must be written as an object. `serde`'s derived structs also
/// read arrays; this does not.
pub(in crate::authz) struct Object<T>(pub(in crate::authz) T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OfMap<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for OfMap<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        d.deserialize_map(OfMap(PhantomData)).map(Object)
    }
}

/// An id as text in the one way it prints: hex that is not lowercase is refused.
pub(in crate::authz) fn canonical<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr + fmt::Display,
{
    let text = String::deserialize(d)?;
    let id = T::from_str(&text).map_err(|_| D::Error::custom("not an id"))?;
    if id.to_string() == text {
        Ok(id)
    } else {
        Err(D::Error::custom("an id in other than lowercase hex"))
    }
}

/// An optional value that is absent or there, never `null`.
pub(in crate::authz) fn there<'de, D, T>(d: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(d).map(Some)
}

pub(in crate::authz) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The engine refuses padding, foreign characters and trailing bits that are not zero.
fn decode(part: &str) -> Result<Vec<u8>, GrantRefusal> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| GrantRefusal::NotBase64url)
}

/// The parts of a compact serialization, decoded.
pub(in crate::authz) struct Parts {
    pub(in crate::authz) header: Vec<u8>,
    pub(in crate::authz) payload: Vec<u8>,
    pub(in crate::authz) signature: Vec<u8>,
}

pub(in crate::authz) fn split(compact: &str, bytes_max: usize) -> Result<Parts, GrantRefusal> {
    if compact.len() > bytes_max {
        return Err(GrantRefusal::TooLong);
    }
    let (signed, signature) = compact.rsplit_once('.').ok_or(GrantRefusal::NotCompact)?;
    let (header, payload) = signed.split_once('.').ok_or(GrantRefusal::NotCompact)?;
    if payload.contains('.') || header.is_empty() || payload.is_empty() {
        return Err(GrantRefusal::NotCompact);
    }
    Ok(Parts {
        header: decode(header)?,
        payload: decode(payload)?,
        signature: decode(signature)?,
    })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// Writes the header; `kid` names the key.
pub(in crate::authz) fn header(alg: &str, typ: &str, kid: &str) -> String {
    let header = Header {
        alg: alg.to_owned(),
        typ: typ.to_owned(),
        kid: kid.to_owned(),
    };
    serde_json::to_string(&header).expect("three strings serialise")
}

/// Reads a header: `alg`, `typ` and `kid`, each once, nothing else. What kind
/// of header it is instead is said where that helps whoever wrote it.
pub(in crate::authz) fn kid(header: &[u8], alg: &str, typ: &str) -> Result<String, GrantRefusal> {
    /// Looks past strangers for the two slips with names of their own.
    #[derive(Deserialize)]
    struct Peek {
        alg: Option<serde_json::Value>,
        crit: Option<serde_json::Value>,
    }
    let read = serde_json::from_slice::<Object<Header>>(header);
    let Ok(Object(read)) = read else {
        let peek = serde_json::from_slice::<Object<Peek>>(header);
        return Err(match peek {
            Ok(Object(p)) if p.crit.is_some() => GrantRefusal::Critical,
            Ok(Object(p)) if p.alg.as_ref().is_some_and(|a| a != alg) => GrantRefusal::Algorithm,
            _ => GrantRefusal::Header,
        });
    };
    if read.alg != alg {
        return Err(GrantRefusal::Algorithm);
    }
    if read.typ != typ {
        let service = read.typ == SERVICE_TYP;
        return Err(match service {
            true => GrantRefusal::ServiceCredential,
            false => GrantRefusal::Type,
        });
    }
    Ok(read.kid)
}
