//! A lexical scanner over a JSON file of any size.
//!
//! Exporters write files that are almost JSON (`\xNN` in strings, numbers past
//! any machine type), so a strict parser over the whole file would lose
//! everything to one bad byte. This scanner knows only strings, brackets and
//! commas (RFC 8259 section 2): it finds where each element begins and ends in
//! bounded memory, and leaves judging the element to [`super::value`].

use std::io::Read;

/// Bytes read from the file at a time.
const BUFFER_BYTES: usize = 64 << 10;
/// Longest object key, in bytes of its text.
const KEY_BYTES_MAX: usize = 64 << 10;

/// Why scanning cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The file ends inside a value.
    #[error("the file ends at byte {offset}, in the middle of a value")]
    End {
        /// Where it ends.
        offset: u64,
    },
    /// Not JSON from here on.
    #[error("at byte {offset}: expected {expected}, found {found}")]
    Unexpected {
        /// Where.
        offset: u64,
        /// What JSON would have here.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The disk failed, or the file vanished.
    #[error("cannot read at byte {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        source: std::io::Error,
    },
}

impl ScanError {
    /// Where scanning stopped.
    pub fn offset(&self) -> u64 {
        match self {
            Self::End { offset } | Self::Unexpected { offset, .. } | Self::Io { offset, .. } => {
                *offset
            }
        }
    }
}

/// How much of an element was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    Whole,
    /// It is longer than the limit; only its beginning was kept.
    Cut {
        /// Its length in bytes.
        bytes: u64,
    },
}

/// Scans values out of `R`.
pub struct Scanner<R> {
    inner: R,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
    base: u64,
}

impl<R: Read> Scanner<R> {
    /// Scans `inner`, whose first byte is at `offset` of the file.
    pub fn new(inner: R, offset: u64) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self {
            inner,
            buffer,
            at: 0,
            end: 0,
            base: offset,
        }
    }

    /// Where the next byte stands in the file.
    pub fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Gives back what is read from. Bytes in the buffer are gone.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Passes over the byte that [`Self::peek_token`] saw.
    pub fn skip_byte(&mut self) {
        self.at += usize::from(self.at < self.end);
    }

    fn fill(&mut self) -> Result<bool, ScanError> {
        if self.at < self.end {
            return Ok(true);
        }
        self.base += self.end as u64;
        (self.at, self.end) = (0, 0);
        loop {
            match self.inner.read(&mut self.buffer) {
                Ok(n) => {
                    self.end = n;
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.base;
                    return Err(ScanError::Io { offset, source });
                }
            }
        }
    }

    fn peek(&mut self) -> Result<Option<u8>, ScanError> {
        Ok(self.fill()?.then(|| self.buffer[self.at]))
    }

    /// Skips a byte order mark, if the file begins with one.
    ///
    /// # Errors
    /// As the file cannot be read.
    pub fn skip_bom(&mut self) -> Result<bool, ScanError> {
        let found = self.fill()? && self.buffer[self.at..self.end].starts_with(b"\xef\xbb\xbf");
        if found {
            self.at += 3;
        }
        Ok(found)
    }

    /// The next byte that is not white space; it stays where it is.
    ///
    /// # Errors
    /// As the file cannot be read.
    pub fn peek_token(&mut self) -> Result<Option<u8>, ScanError> {
        while let Some(b) = self.peek()? {
            if !matches!(b, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(Some(b));
            }
            self.at += 1;
        }
        Ok(None)
    }

    fn unexpected<T>(&mut self, expected: &'static str) -> Result<T, ScanError> {
        let offset = self.offset();
        match self.peek()? {
            None => Err(ScanError::End { offset }),
            Some(b) => {
                let found = match b {
                    0x20..=0x7e => format!("'{}'", b as char),
                    _ => format!("byte 0x{b:02x}"),
                };
                Err(ScanError::Unexpected {
                    offset,
                    expected,
                    found,
                })
            }
        }
    }

    /// Takes the punctuation `token`, white space before it included.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn expect(&mut self, token: u8, expected: &'static str) -> Result<(), ScanError> {
        if self.peek_token()? == Some(token) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected(expected)
    }

    /// Inside an array or object: true when another item follows, false when
    /// its closing bracket was taken. `first` is set for the first call.
    ///
    /// # Errors
    /// When neither a comma nor the closing bracket stands there.
    pub fn more(&mut self, first: &mut bool, close: u8) -> Result<bool, ScanError> {
        match self.peek_token()? {
            Some(b) if b == close => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !*first => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if *first => {
                *first = false;
                Ok(true)
            }
            _ => self.unexpected("',' or a closing bracket"),
        }
    }

    /// The raw text of an object key, quotes included, and the colon behind it.
    ///
    /// # Errors
    /// When no key stands there.
    pub fn key(&mut self) -> Result<Vec<u8>, ScanError> {
        if self.peek_token()? != Some(b'"') {
            return self.unexpected("a key in quotes");
        }
        let mut raw = Vec::new();
        if self.element(Some(&mut raw), KEY_BYTES_MAX)? != Kept::Whole {
            return self.unexpected("a key of at most 64 KiB");
        }
        self.expect(b':', "':' after a key")?;
        Ok(raw)
    }

    /// Passes over one value, copying at most `bytes_max` of its text into `out`.
    ///
    /// # Errors
    /// When the file ends before the value does, or no value begins here.
    pub fn element(
        &mut self,
        mut out: Option<&mut Vec<u8>>,
        bytes_max: usize,
    ) -> Result<Kept, ScanError> {
        let first = match self.peek_token()? {
            Some(b) if !matches!(b, b',' | b':' | b']' | b'}') => b,
            _ => return self.unexpected("a value"),
        };
        let mut state = Lexer::new(first);
        let mut total = 0u64;
        loop {
            if !self.fill()? {
                let offset = self.offset();
                return Err(ScanError::End { offset });
            }
            let chunk = &self.buffer[self.at..self.end];
            let (used, done) = state.feed(chunk);
            if let Some(out) = out.as_deref_mut() {
                let room = bytes_max.saturating_sub(out.len());
                out.extend_from_slice(&chunk[..used.min(room)]);
            }
            self.at += used;
            total += used as u64;
            if done {
                return Ok(if total > bytes_max as u64 {
                    Kept::Cut { bytes: total }
                } else {
                    Kept::Whole
                });
            }
        }
    }
}

/// Where one value ends: strings, brackets, and nothing else.
struct Lexer {
    depth: u32,
    string: bool,
    escaped: bool,
    scalar: bool,
}

impl Lexer {
    fn new(first: u8) -> Self {
        Self {
            depth: 0,
            string: false,
            escaped: false,
            scalar: !matches!(first, b'"' | b'{' | b'['),
        }
    }

    /// Bytes of `chunk` that belong to the value, and whether it is complete.
    fn feed(&mut self, chunk: &[u8]) -> (usize, bool) {
        for (i, &b) in chunk.iter().enumerate() {
            if self.string {
                if self.escaped {
                    self.escaped = false;
                } else if b == b'\\' {
                    self.escaped = true;
                } else if b == b'"' {
                    self.string = false;
                    if self.depth == 0 {
                        return (i + 1, true);
                    }
                }
                continue;
            }
            if self.scalar {
                if matches!(
                    b,
                    b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r' | b'"' | b'{' | b'['
                ) {
                    return (i, true);
                }
                continue;
            }
            match b {
                b'"' => self.string = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return (i + 1, true);
                    }
                }
                _ => {}
            }
        }
        (chunk.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives one byte at a time, so that every state crosses a buffer's edge.
    struct Drip<'a>(&'a [u8]);
    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            out[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn elements_end_where_json_says() {
        for text in [
            "\"a\\\"]\"",
            "{\"a\":[1,{\"b\":\"}\"}]}",
            "-1.5e3",
            "null",
            "[]",
        ] {
            let whole = format!("  {text} ,");
            for drip in [false, true] {
                let mut out = Vec::new();
                let kept = if drip {
                    Scanner::new(Drip(whole.as_bytes()), 0).element(Some(&mut out), 1000)
                } else {
                    Scanner::new(whole.as_bytes(), 0).element(Some(&mut out), 1000)
                };
                assert_eq!(kept.unwrap(), Kept::Whole);
                assert_eq!(String::from_utf8(out).unwrap(), text);
            }
        }
    }

    #[test]
    fn long_elements_are_passed_over_and_counted() {
        let text = format!("[\"{}\"] ", "x".repeat(200_000));
        let mut out = Vec::new();
        let mut s = Scanner::new(text.as_bytes(), 7);
        let kept = s.element(Some(&mut out), 100).unwrap();
        assert_eq!(kept, Kept::Cut { bytes: 200_004 });
        assert_eq!(out.len(), 100);
        assert_eq!(s.offset(), 7 + 200_004);
    }

    #[test]
    fn what_is_not_json_is_named_with_its_place() {
        let mut s = Scanner::new(&b"   <html>"[..], 0);
        let e = s.expect(b'{', "'{'").unwrap_err();
        assert_eq!(e.to_string(), "at byte 3: expected '{', found '<'");
        let mut s = Scanner::new(&b"[1, 2"[..], 0);
        let e = s.element(None, 10).unwrap_err();
        assert!(matches!(e, ScanError::End { offset: 5 }), "{e}");
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic_or_go_on_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut s = Scanner::new(&bytes[..], 0);
            let mut out = Vec::new();
            for _ in 0..1000 {
                let before = s.offset();
                if s.element(Some(&mut out), 64).is_err() && s.expect(b',', "','").is_err() {
                    return Ok(());
                }
                prop_assert!(s.offset() > before);
            }
            prop_assert!(bytes.len() > 500, "made no end");
        }
    }
}
