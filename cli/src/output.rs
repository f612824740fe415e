//! Standard output: text for people, one JSON value a line for programs.

use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
}

impl Output {
    /// Prints `value` as JSON, or `text` of it for people.
    ///
    /// # Errors
    /// When standard output cannot be written. A reader that went away is none.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if !self.json {
            return self.line(&text());
        }
        let json = serde_json::to_string(value).map_err(|e| {
            Failure::new(
                Exit::Failed,
                "internal",
                format!("a result is not JSON: {e}"),
                "report it",
            )
        })?;
        self.line(&json)
    }

    /// Prints a line as it is.
    ///
    /// # Errors
    /// As [`Self::show`].
    pub fn line(&self, text: &dyn Display) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
                Exit::Failed,
                "stdout",
                format!("cannot write to standard output: {e}"),
                "check where it goes",
            )),
            _ => Ok(()),
        }
    }
}

/// Prints a remark for people to standard error.
pub fn remark(text: &dyn Display) {
    // A remark that nobody can see is no failure.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Makes control characters visible, so that content cannot steer a terminal.
pub fn plain(text: &str) -> String {
    let visible = |c: char| {
        if c.is_control() && c != '\n' && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(visible).collect()
}

/// Unix milliseconds as `2026-11-21 02:15:00Z` (civil-from-days, H. Hinnant).
pub fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let z = seconds / 86_400 + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_control_characters() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_827_696_000), "2000-02-29 12:34:56Z");
        assert_eq!(time(1_100_521_080_000), "2004-11-15 12:18:00Z");
        assert_eq!(plain("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\n");
    }
}
