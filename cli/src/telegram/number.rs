//! Numbers that no machine type holds.
//!
//! JSON has no limit on a number's digits (RFC 8259 section 6), and exporters
//! do write `document_id` past 2^64. A number survives here if printing it
//! again gives the same decimal; else its text is kept under
//! [`super::value::NUMBER`], digit for digit.

use serde_json::Number;

/// Largest exponent that is still compared digit by digit.
const EXPONENT_MAX: i64 = 1 << 40;

/// The machine number that prints as the same decimal as `text`, if there is one.
/// `text` must satisfy [`is_number`].
pub fn exact(text: &str) -> Option<Number> {
    // The same parser that the home uses: what survives here survives there.
    let number: Number = serde_json::from_str(text).ok()?;
    let printed = number.to_string();
    (printed == text || (decimal(&printed).is_some() && decimal(&printed) == decimal(text)))
        .then_some(number)
}

/// Whether `text` is a number by JSON's grammar.
pub fn is_number(text: &str) -> bool {
    let rest = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e)),
        None => (rest, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((w, f)) => (w, Some(f)),
        None => (mantissa, None),
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

/// Sign, significant digits, and power of ten of the last digit.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i64 = exponent
        .strip_prefix('+')
        .unwrap_or(exponent)
        .parse()
        .ok()?;
    if exponent.abs() > EXPONENT_MAX {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let trimmed = digits.trim_end_matches('0');
    let power = exponent - fraction.len() as i64 + (digits.len() - trimmed.len()) as i64;
    let significant = trimmed.trim_start_matches('0');
    if significant.is_empty() {
        return Some((negative, String::new(), 0));
    }
    Some((negative, significant.to_owned(), power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits_is_a_number_and_the_rest_is_text() {
        for fits in [
            "0",
            "-0",
            "18446744073709551615",
            "-9223372036854775808",
            "40.7128",
            "1.50",
            "1e3",
            "1E+2",
        ] {
            assert!(is_number(fits) && exact(fits).is_some(), "{fits}");
        }
        for long in [
            "18446744073709551616",
            "-9223372036854775809",
            "1e400",
            "0.12345678901234567890123",
            "1e-9999999999999999999999",
            "1e99999999999999999999",
        ] {
            assert!(is_number(long) && exact(long).is_none(), "{long}");
        }
        for not in [
            "", "-", "01", "1.", ".5", "+1", "1e", "1e+", "0x10", "NaN", "1 ",
        ] {
            assert!(!is_number(not), "{not}");
        }
    }

    proptest! {
        #[test]
        fn an_exact_number_prints_as_the_same_decimal(text in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?") {
            prop_assert!(is_number(&text));
            if let Some(number) = exact(&text) {
                prop_assert_eq!(decimal(&number.to_string()), decimal(&text));
            }
        }
        #[test]
        fn every_u64_and_i64_is_exact(a in any::<u64>(), b in any::<i64>()) {
            prop_assert_eq!(exact(&a.to_string()).and_then(|n| n.as_u64()), Some(a));
            prop_assert_eq!(exact(&b.to_string()).and_then(|n| n.as_i64()), Some(b));
        }
    }
}
