//! What a run has shown, in three values, and what went wrong outside of it.
//!
//! Merging is worst first (`false` over `unknown` over `true`), as in Jepsen's
//! `checker/merge-valid`. A failure of the harness is not a verdict: it says
//! nothing about the system under test and has an exit code of its own.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Exit code of a run whose harness failed.
pub const EXIT_HARNESS_FAILED: u8 = 3;

/// What a checker found. Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The history is valid.
    True,
    /// The checker could not tell.
    Unknown,
    /// The history breaks a promise.
    False,
}

impl Verdict {
    /// The worst of all. Nothing checked is nothing known.
    pub fn merge(all: impl IntoIterator<Item = Verdict>) -> Verdict {
        all.into_iter().max().unwrap_or(Verdict::Unknown)
    }

    /// 0 for true, 1 for false, 2 for unknown.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::True => 0,
            Verdict::False => 1,
            Verdict::Unknown => 2,
        }
    }
}

/// The harness could not do its work: a node would not start, a disk was full,
/// a fault could not be healed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the harness failed while {during}: {reason}")]
pub struct HarnessFailure {
    /// What it was doing.
    pub during: String,
    /// Why it could not.
    pub reason: String,
}

/// The exit code of a whole run.
pub fn exit_code(run: &Result<Verdict, HarnessFailure>) -> u8 {
    run.as_ref()
        .map_or(EXIT_HARNESS_FAILED, |verdict| verdict.exit_code())
}

/// `true`, `false`, or `"unknown"`, as in Jepsen's `results.edn`.
impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Verdict::True => s.serialize_bool(true),
            Verdict::False => s.serialize_bool(false),
            Verdict::Unknown => s.serialize_str("unknown"),
        }
    }
}

impl<'de> Deserialize<'de> for Verdict {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(d)? {
            serde_json::Value::Bool(true) => Ok(Verdict::True),
            serde_json::Value::Bool(false) => Ok(Verdict::False),
            serde_json::Value::String(s) if s == "unknown" => Ok(Verdict::Unknown),
            other => Err(serde::de::Error::custom(format!(
                "a verdict is true, false or \"unknown\", not {other}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{False, True, Unknown};
    use super::*;

    #[test]
    fn merging_is_worst_first_and_nothing_is_unknown() {
        assert_eq!(Verdict::merge([True, Unknown, False, True]), False);
        assert_eq!(Verdict::merge([True, Unknown]), Unknown);
        assert_eq!(Verdict::merge([True, True]), True);
        assert_eq!(Verdict::merge([]), Unknown);
    }

    #[test]
    fn exit_codes_tell_the_four_cases_apart() {
        let failed = HarnessFailure {
            during: "starting node 2".into(),
            reason: "port in use".into(),
        };
        assert_eq!(
            [Ok(True), Ok(False), Ok(Unknown), Err(failed)].map(|run| exit_code(&run)),
            [0, 1, 2, 3]
        );
    }

    #[test]
    fn json_is_a_boolean_or_unknown() {
        for (verdict, text) in [(True, "true"), (False, "false"), (Unknown, "\"unknown\"")] {
            assert_eq!(serde_json::to_string(&verdict).unwrap(), text);
            assert_eq!(serde_json::from_str::<Verdict>(text).unwrap(), verdict);
        }
        for bad in ["null", "1", "\"True\"", "\"\""] {
            assert!(serde_json::from_str::<Verdict>(bad).is_err(), "{bad}");
        }
    }
}
