//! JWS compact serialization (RFC 7515, section 7.1), as narrow as grants and services' tokens
//! need it: one algorithm, no extension, one way to write each part.

use super::grant::{GRANT_ALG, GrantRefusal};
use super::service::SERVICE_TYP;
use crate::crypto::sign::{self, PUBLIC_LEN, SIGNATURE_LEN, SigningKey};
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
pub(super) struct Object<T>(pub(super) T);

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
pub(super) fn canonical<'de, D, T>(d: D) -> Result<T, D::Error>
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
pub(super) fn there<'de, D, T>(d: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(d).map(Some)
}

pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The engine refuses padding, foreign characters and trailing bits that are not zero.
fn decode(part: &str) -> Result<Vec<u8>, GrantRefusal> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| GrantRefusal::NotBase64url)
}

/// The parts of a compact serialization, decoded.
struct Parts {
    header: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Writes and signs a token of type `typ`; `kid` names the key.
///
/// # Panics
/// Never: claims serialise.
pub(super) fn sign<C: Serialize>(
    key: &SigningKey,
    typ: &str,
    kid: &impl fmt::Display,
    claims: &C,
) -> (String, [u8; SIGNATURE_LEN]) {
    let header = header(GRANT_ALG, typ, &kid.to_string());
    let payload = serde_json::to_string(claims).expect("claims serialise");
    let signed = format!(
        "{}.{}",
        encode(header.as_bytes()),
        encode(payload.as_bytes())
    );
    let signature = key.sign(signed.as_bytes());
    (format!("{signed}.{}", encode(&signature)), signature)
}

/// Reads a token of type `typ`: its key's id, in the one way it prints, its claims, and the
/// bytes in the signature's place, for [`signature`].
pub(super) fn read<K: FromStr + fmt::Display, C: DeserializeOwned>(
    compact: &str,
    bytes_max: usize,
    typ: &str,
) -> Result<(K, C, Vec<u8>), GrantRefusal> {
    let parts = split(compact, bytes_max)?;
    let text = kid(&parts.header, GRANT_ALG, typ)?;
    let key: K = text.parse().map_err(|_| GrantRefusal::Header)?;
    if key.to_string() != text {
        return Err(GrantRefusal::Header);
    }
    let Object(claims) =
        serde_json::from_slice::<Object<C>>(&parts.payload).map_err(|_| GrantRefusal::Payload)?;
    Ok((key, claims, parts.signature))
}

/// The signature, if the bytes in its place have its length.
pub(super) fn signature(bytes: &[u8]) -> Result<[u8; SIGNATURE_LEN], GrantRefusal> {
    bytes.try_into().map_err(|_| GrantRefusal::SignatureForm)
}

/// Whether `public` signed a token that was read; strictly, see [`sign::verify`].
pub(super) fn holds(
    compact: &str,
    signature: &[u8; SIGNATURE_LEN],
    public: &[u8; PUBLIC_LEN],
) -> bool {
    let signed = compact.rsplit_once('.').map_or("", |(s, _)| s);
    sign::verify(public, signed.as_bytes(), signature).is_ok()
}

fn split(compact: &str, bytes_max: usize) -> Result<Parts, GrantRefusal> {
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
fn header(alg: &str, typ: &str, kid: &str) -> String {
    let header = Header {
        alg: alg.to_owned(),
        typ: typ.to_owned(),
        kid: kid.to_owned(),
    };
    serde_json::to_string(&header).expect("three strings serialise")
}

/// Reads a header: `alg`, `typ` and `kid`, each once, nothing else. What kind
/// of header it is instead is said where that helps whoever wrote it.
fn kid(header: &[u8], alg: &str, typ: &str) -> Result<String, GrantRefusal> {
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
