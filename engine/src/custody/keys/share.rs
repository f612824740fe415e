//! One holder's share, as the text file that a holder keeps.
//!
//! ```text
//! quorate share 1
//! deployment 00112233445566778899aabbccddeeff
//! custodian ch
//! slot main
//! ceremony 5f…                       (32 hex characters)
//! holder anna
//! share 9c…                          (64 hex characters: secret)
//! check 1b2c3d4e                     (of the lines above: catches slips of typing)
//! ```

use crate::crypto::{keyslot, labels};
use crate::types::{CustodianId, DeploymentId, Secret, Share};
use std::fmt::Write as _;
use std::str::FromStr;
use zeroize::{Zeroize, Zeroizing};

const HEAD: &str = "quorate share 1";
/// Longest share file, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 10;

/// Why a text is no share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a share file: {what}; use the file this holder got from `custodian keys collect`")]
pub struct ShareTextError {
    what: String,
}

/// One holder's share of one slot's unlock key.
pub struct HeldShare {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The custodian.
    pub custodian: CustodianId,
    /// The slot.
    pub slot: CustodianId,
    /// The ceremony that dealt it.
    pub ceremony: [u8; 16],
    /// Whose it is.
    pub holder: CustodianId,
    /// The share.
    pub share: Share,
}

impl std::fmt::Debug for HeldShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "HeldShare({} of {} at {})",
            self.holder, self.slot, self.custodian
        )
    }
}

impl HeldShare {
    /// The file's text.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut hex = Zeroizing::new([0u8; 64]);
        hex::encode_to_slice(self.share.expose(), hex.as_mut())
            .expect("64 characters for 32 bytes");
        // Large enough from the start: growing would leave copies behind.
        let mut out = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX));
        let _ = write!(
            out,
            "{HEAD}\ndeployment {}\ncustodian {}\nslot {}\nceremony {}\nholder {}\nshare ",
            self.deployment,
            self.custodian,
            self.slot,
            hex::encode(self.ceremony),
            self.holder
        );
        out.push_str(std::str::from_utf8(hex.as_ref()).expect("hex is text"));
        out.push('\n');
        let check = check(&out);
        let _ = writeln!(out, "check {check}");
        out
    }

    /// Reads what [`Self::to_text`] wrote; spaces and blank lines do not matter.
    ///
    /// # Errors
    /// [`ShareTextError`], which never shows the share.
    pub fn parse(text: &str) -> Result<Self, ShareTextError> {
        let wrong = |what: &str| ShareTextError { what: what.into() };
        if text.len() > TEXT_BYTES_MAX {
            return Err(wrong("it is too long"));
        }
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        if lines.next() != Some(HEAD) {
            return Err(wrong("it does not begin with `quorate share 1`"));
        }
        let mut field = |name: &str| {
            lines
                .next()
                .and_then(|l| l.strip_prefix(name)?.strip_prefix(' '))
                .map(str::trim)
                .ok_or_else(|| wrong(&format!("the line `{name}` is missing")))
        };
        fn id<T: FromStr>(name: &str, text: &str) -> Result<T, ShareTextError> {
            text.parse().map_err(|_| ShareTextError {
                what: format!("the line `{name}` is damaged"),
            })
        }
        let deployment = id("deployment", field("deployment")?)?;
        let custodian = id("custodian", field("custodian")?)?;
        let slot = id("slot", field("slot")?)?;
        let mut ceremony = [0; 16];
        hex::decode_to_slice(field("ceremony")?, &mut ceremony)
            .map_err(|_| wrong("the line `ceremony` is damaged"))?;
        let holder = id("holder", field("holder")?)?;
        let mut bytes = [0u8; 32];
        let decoded = hex::decode_to_slice(field("share")?, &mut bytes);
        let share = Share(Secret::take(&mut bytes));
        decoded.map_err(|_| wrong("the line `share` is damaged"))?;
        let said = field("check")?.to_owned();
        let out = Self {
            deployment,
            custodian,
            slot,
            ceremony,
            holder,
            share,
        };
        let again = out.to_text();
        if !again.ends_with(&format!("check {said}\n")) {
            return Err(wrong("its check does not hold: a character is wrong"));
        }
        Ok(out)
    }

    /// The proof of possession that a ceremony asks for.
    pub fn prove(&self, challenge: &[u8; 32]) -> [u8; 32] {
        keyslot::possession(&self.ceremony, &self.holder, challenge, &self.share)
    }
}

fn check(text: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(labels::KEYSLOT_TEXT);
    hasher.update(text.as_bytes());
    let out = hex::encode(&hasher.finalize().as_bytes()[..4]);
    hasher.zeroize();
    out
}
