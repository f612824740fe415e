//! A policy file as TOML has it, before any of it is believed.

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    #[serde(default)]
    pub(super) policy: BTreeMap<String, RawPolicy>,
    #[serde(default)]
    pub(super) bloc: BTreeMap<String, Vec<String>>,
}

/// Thresholds and members are optional here so that their absence gets a reason
/// of its own, not so that they may be absent.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub(super) threshold: Option<i64>,
    pub(super) members: Option<Vec<RawMember>>,
    pub(super) write_margin: Option<i64>,
    #[serde(default)]
    pub(super) require_margin: bool,
    #[serde(default)]
    pub(super) accept_no_tolerance: bool,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBloc {
    pub(super) bloc: String,
    pub(super) threshold: Option<i64>,
    pub(super) members: Option<Vec<RawMember>>,
}

pub(super) enum RawMember {
    Custodian(String),
    Bloc(RawBloc),
}

// By hand rather than `untagged`, whose errors name neither key nor place.
impl<'de> Deserialize<'de> for RawMember {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Member;
        impl<'de> Visitor<'de> for Member {
            type Value = RawMember;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a custodian's name or { bloc = NAME, threshold = N, members = [...] }")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<RawMember, E> {
                Ok(RawMember::Custodian(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawMember, A::Error> {
                RawBloc::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(RawMember::Bloc)
            }
        }
        deserializer.deserialize_any(Member)
    }
}
