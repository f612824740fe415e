//! Reading the project's own sources: enough of Rust's lexical grammar to
//! tell code from comments and texts, tests from the rest, and to follow
//! paths. Layering and tidiness are tests that stand on this.
//!
//! Not a parser: macros are read as plain tokens, which is right for the
//! paths inside `vec![…]` and harmless elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One token of code. Comments, texts and white space are not tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// An identifier, a number, `::`, or one other character.
    pub text: String,
    /// Counted from 1.
    pub line: usize,
    /// Inside an item under `#[cfg(test)]`.
    pub test: bool,
}

/// A path in the code, resolved: `crate::a::b` and `super::b` are `[a, b]`
/// inside the crate, `quorate_engine::api` is `[quorate_engine, api]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// True for paths inside the own crate.
    pub own: bool,
    /// The segments.
    pub segments: Vec<String>,
    /// Counted from 1.
    pub line: usize,
    /// Inside an item under `#[cfg(test)]`.
    pub test: bool,
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// Files under `dir` with one of these extensions, as paths relative to the
/// root, sorted. Build output and hidden directories are left out, `.ci` is not.
///
/// # Panics
/// When a directory cannot be read.
pub fn files(dir: &str, extensions: &[&str]) -> Vec<PathBuf> {
    fn walk(root: &Path, dir: &Path, extensions: &[&str], out: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(root.join(dir))
            .unwrap_or_else(|e| panic!("{} cannot be read: {e}", dir.display()));
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = dir.join(&name);
            let hidden = name.starts_with('.') && name != ".ci";
            if entry.path().is_dir() {
                if !hidden && name != "target" {
                    walk(root, &path, extensions, out);
                }
            } else if extensions.is_empty()
                || path
                    .extension()
                    .is_some_and(|e| extensions.iter().any(|x| *x == e))
            {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    walk(&root(), Path::new(dir), extensions, &mut out);
    out.sort();
    out
}

/// The text of a file given by its path from the root.
///
/// # Panics
/// When it cannot be read.
pub fn read(path: &Path) -> String {
    let bytes = std::fs::read(root().join(path))
        .unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Splits Rust source into tokens.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut out, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let (end, text) = lexeme(&chars, at);
        if let Some(text) = text {
            out.push(Token {
                text,
                line,
                test: false,
            });
        }
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    mark_tests(&mut out);
    out
}

/// Where the lexeme at `at` ends, and its text if it is a token.
fn lexeme(chars: &[char], at: usize) -> (usize, Option<String>) {
    let c = chars[at];
    let next = chars.get(at + 1).copied().unwrap_or(' ');
    let upto = |end: usize| Some(chars[at..end].iter().collect::<String>());
    match c {
        '/' if next == '/' => (find(chars, at, |c| c == '\n'), None),
        '/' if next == '*' => (block_comment(chars, at), None),
        '"' => (text_end(chars, at + 1), None),
        '\'' if next == '\\' => {
            // The character after the backslash may itself be a quote.
            (find(chars, at + 3, |c| c == '\'') + 1, None)
        }
        '\'' if chars.get(at + 2) == Some(&'\'') => (at + 3, None),
        ':' if next == ':' => (at + 2, upto(at + 2)),
        c if c.is_alphanumeric() || c == '_' => {
            let end = find(chars, at, |c| !(c.is_alphanumeric() || c == '_'));
            let word: String = chars[at..end].iter().collect();
            let raw = matches!(word.as_str(), "r" | "br" | "cr");
            match chars.get(end) {
                Some('"') if raw => (raw_end(chars, end, 0), None),
                Some('"') if matches!(word.as_str(), "b" | "c") => (text_end(chars, end + 1), None),
                Some('\'') if word == "b" => (byte_end(chars, end), None),
                Some('#') if raw => {
                    let quote = find(chars, end, |c| c != '#');
                    if chars.get(quote) == Some(&'"') {
                        (raw_end(chars, quote, quote - end), None)
                    } else {
                        (end, Some(word))
                    }
                }
                _ => (end, Some(word)),
            }
        }
        c if c.is_whitespace() => (at + 1, None),
        _ => (at + 1, upto(at + 1)),
    }
}

fn find(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len())
        .find(|i| wanted(chars[*i]))
        .unwrap_or(chars.len())
}

fn text_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn byte_end(chars: &[char], quote: usize) -> usize {
    let first = quote + 1;
    let skip = if chars.get(first) == Some(&'\\') {
        2
    } else {
        1
    };
    (find(chars, first + skip, |c| c == '\'') + 1).min(chars.len())
}

fn raw_end(chars: &[char], quote: usize, hashes: usize) -> usize {
    (quote + 1..chars.len())
        .find(|i| {
            chars[*i] == '"'
                && chars[i + 1..]
                    .iter()
                    .take(hashes)
                    .filter(|c| **c == '#')
                    .count()
                    == hashes
        })
        .map_or(chars.len(), |i| i + 1 + hashes)
}

fn block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

/// Whether the attribute whose `[` stands at `open` is `cfg(test)` or `cfg(any(test, …))`,
/// and the index after its `]`.
fn attribute(tokens: &[Token], open: usize) -> (bool, usize) {
    let mut depth = 0;
    let mut words = Vec::new();
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "[" | "(" => depth += 1,
            "]" | ")" => {
                depth -= 1;
                if depth == 0 {
                    let test = words.first() == Some(&"cfg")
                        && words.contains(&"test")
                        && !words.contains(&"not");
                    return (test, i + 1);
                }
            }
            word => words.push(word),
        }
    }
    (false, tokens.len())
}

fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at < tokens.len() {
        let inner = tokens[at].text == "#"
            && tokens.get(at + 1).is_some_and(|t| t.text == "!")
            && tokens.get(at + 2).is_some_and(|t| t.text == "[");
        let outer = tokens[at].text == "#" && tokens.get(at + 1).is_some_and(|t| t.text == "[");
        if inner && attribute(tokens, at + 2).0 {
            tokens.iter_mut().for_each(|t| t.test = true);
            return;
        }
        if !outer {
            at += 1;
            continue;
        }
        let (test, after) = attribute(tokens, at + 1);
        if !test {
            at = after;
            continue;
        }
        let end = item_end(tokens, after);
        tokens[at..end].iter_mut().for_each(|t| t.test = true);
        at = end;
    }
}

/// The index after the item that begins at `at`: its `;`, or its closing brace.
fn item_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" if depth == 1 => return i + 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The module a source file is, from its path below `src`: `a/b.rs` is `[a, b]`.
pub fn module_of(below_src: &Path) -> Vec<String> {
    let mut parts: Vec<String> = below_src
        .with_extension("")
        .components()
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    parts
}

/// Modules that `source`, being `module`, declares for tests only, as paths.
pub fn test_modules(module: &[String], source: &str) -> BTreeSet<Vec<String>> {
    let tokens = tokens(source);
    tokens
        .windows(3)
        .filter(|w| w[0].test && w[0].text == "mod" && w[2].text == ";")
        .map(|w| {
            let mut path = module.to_vec();
            path.push(w[1].text.clone());
            path
        })
        .collect()
}

/// Every path in `source` that begins with `crate`, `self`, `super`, or one of
/// `external` crates, resolved from `module`.
pub fn references(module: &[String], source: &str, external: &[&str]) -> Vec<Reference> {
    let tokens = tokens(source);
    let mut out = Vec::new();
    // Inline modules around the token: depth of their brace, and their name.
    let mut inline: Vec<(usize, String)> = Vec::new();
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => {
                depth += 1;
                if i >= 2 && tokens[i - 2].text == "mod" {
                    inline.push((depth, tokens[i - 1].text.clone()));
                }
            }
            "}" => {
                if inline.last().is_some_and(|(d, _)| *d == depth) {
                    inline.pop();
                }
                depth -= 1;
            }
            word => {
                let follows = i > 0 && tokens[i - 1].text == "::";
                let leads = tokens.get(i + 1).is_some_and(|t| t.text == "::");
                let starts = matches!(word, "crate" | "self" | "super") || external.contains(&word);
                if follows || !leads || !starts {
                    continue;
                }
                let mut paths = Vec::new();
                tree(&tokens, i, Vec::new(), &mut paths);
                let mut here = module.to_vec();
                here.extend(inline.iter().map(|(_, name)| name.clone()));
                for path in paths {
                    let (own, segments) = resolve(&here, path);
                    let (line, test) = (token.line, token.test);
                    out.push(Reference {
                        own,
                        segments,
                        line,
                        test,
                    });
                }
            }
        }
    }
    out
}

/// Reads the use tree at `at`, below `prefix`; the index after it.
fn tree(tokens: &[Token], at: usize, prefix: Vec<String>, out: &mut Vec<Vec<String>>) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    let mut path = prefix;
    let mut i = at;
    loop {
        match text(i) {
            "{" => {
                i += 1;
                while !matches!(text(i), "}" | "") {
                    let before = i;
                    i = tree(tokens, i, path.clone(), out);
                    while !matches!(text(i), "," | "}" | "") {
                        i += 1;
                    }
                    if text(i) == "," {
                        i += 1;
                    }
                    debug_assert!(i > before);
                }
                return i + 1;
            }
            word if word.starts_with(|c: char| c.is_alphanumeric() || c == '_') => {
                path.push(word.to_owned());
                i += 1;
            }
            _ => {
                out.push(path);
                return i;
            }
        }
        if text(i) != "::" {
            out.push(path);
            return i;
        }
        i += 1;
    }
}

fn resolve(here: &[String], path: Vec<String>) -> (bool, Vec<String>) {
    let mut base = match path[0].as_str() {
        "crate" => Vec::new(),
        "self" | "super" => here.to_vec(),
        _ => return (false, path),
    };
    for segment in path {
        match segment.as_str() {
            "crate" | "self" => {}
            "super" => {
                base.pop();
            }
            _ => base.push(segment),
        }
    }
    (true, base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(module: &[&str], source: &str) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|s| (*s).to_owned()).collect();
        references(&module, source, &["quorate_engine"])
            .into_iter()
            .map(|r| r.segments.join("::"))
            .collect()
    }

    #[test]
    fn code_is_told_from_comments_and_texts() {
        let source = r####"
            // a // b
            /* c /* d */ e */ let x = "f \" g"; let y = r#"h " i"#; let z = b"j"; 'k: loop {}
            let q = ['l', '\'', '\\', b'm', b'\'']; fn n<'o>(p: &'o str) {}
        "####;
        let words: Vec<String> = tokens(source)
            .into_iter()
            .filter(|t| t.text.len() == 1 && t.text.chars().all(char::is_alphabetic))
            .map(|t| t.text)
            .collect();
        assert_eq!(words, ["x", "y", "z", "k", "q", "n", "o", "p", "o"]);
        assert_eq!(
            tokens("a\n/*\n*/ b \"\n\" c")
                .iter()
                .map(|t| t.line)
                .collect::<Vec<_>>(),
            [1, 3, 4]
        );
    }

    #[test]
    fn items_under_cfg_test_are_tests() {
        let source = "fn a() {} #[cfg(test)] #[allow(lint)] mod t { fn b() {} } fn c() {}
            #[cfg(test)] use d; #[cfg(not(test))] fn e() {} #[cfg(any(test, feature))] fn f(x: [u8; 2]) {} fn g() {}";
        let tests: Vec<String> = tokens(source)
            .into_iter()
            .filter(|t| t.test && t.text.len() == 1 && t.text.chars().all(char::is_alphabetic))
            .map(|t| t.text)
            .collect();
        assert_eq!(tests, ["t", "b", "d", "f", "x"]);
        assert!(tokens("#![cfg(test)] fn a() {}").iter().all(|t| t.test));
        let found = test_modules(
            &["m".into()],
            "#[cfg(test)] mod t; mod u; #[cfg(test)] mod v {}",
        );
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [["m", "t"]]);
    }

    #[test]
    fn paths_are_followed_through_groups_supers_and_inline_modules() {
        let m = &["custody", "apply"];
        assert_eq!(
            paths(
                m,
                "use crate::{types::{ids::KeyId, self}, home::*, policy as p}; pub(crate) fn f() {}"
            ),
            ["types::ids::KeyId", "types", "home", "policy"]
        );
        assert_eq!(
            paths(m, "use super::super::audit::Log; x(self::y::Z);"),
            ["audit::Log", "custody::apply::y::Z"]
        );
        assert_eq!(
            paths(
                m,
                "mod inner { use super::super::rows; fn f() { super::g() } } fn h() { super::i() }"
            ),
            ["custody::rows", "custody::apply::g", "custody::i"]
        );
        assert_eq!(
            paths(
                m,
                "let x: Vec<crate::api::Chat> = vec![quorate_engine::api::y];"
            ),
            ["api::Chat", "quorate_engine::api::y"]
        );
        assert_eq!(
            paths(m, "// crate::home::x\n\"crate::home::y\""),
            Vec::<String>::new()
        );
    }
}
