//! Changes in memory over something that holds still: rows set and removed, read as one key
//! space with what lies under them. A transaction is one such layer over a view
//! ([`super::Txn`]), and redb has one for what it was not given yet.

use quorate_engine::types::kv::{KvError, Row};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Rows set (`Some`) and removed (`None`), by key.
pub(super) type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Which rows to read, and in what order.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    /// First key.
    pub(super) from: &'a [u8],
    /// First key behind the last; `None` for no end.
    pub(super) to: Option<&'a [u8]>,
    pub(super) limit: usize,
    pub(super) reverse: bool,
}

impl Span<'_> {
    fn is_empty(&self) -> bool {
        self.limit == 0 || self.to.is_some_and(|to| self.from >= to)
    }

    /// As a range of keys. Not for an empty one, at which a `BTreeMap` panics.
    pub(super) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (
            Bound::Included(self.from),
            self.to.map_or(Bound::Unbounded, Bound::Excluded),
        )
    }
}

/// The rows of `span` in `over` and, where that says nothing, in what is `under` it, which is
/// asked for further rows only when those it gave are used up.
pub(super) fn merged(
    over: &Rows,
    span: Span<'_>,
    mut under: impl FnMut(Span<'_>) -> Result<Vec<Row>, KvError>,
) -> Result<Vec<Row>, KvError> {
    if span.is_empty() {
        return Ok(Vec::new());
    }
    let page = under(span)?;
    let mut range = over.range::<[u8], _>(span.bounds());
    let mut over = || match span.reverse {
        false => range.next(),
        true => range.next_back(),
    };
    let mut upper = over();
    if upper.is_none() {
        return Ok(page);
    }
    let mut more = page.len() == span.limit;
    let mut page = page.into_iter().peekable();
    let mut out = Vec::new();
    while out.len() < span.limit {
        let order = match (page.peek(), upper) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((lower, _)), Some((upper, _))) if span.reverse => upper.cmp(lower),
            (Some((lower, _)), Some((upper, _))) => lower.cmp(upper),
        };
        let lower = page.next_if(|_| order.is_le());
        let last = lower.as_ref().filter(|_| more && page.peek().is_none());
        let behind = last.map(|(key, _)| match span.reverse {
            false => [key, &[0][..]].concat(),
            true => key.clone(),
        });
        // A row that lies over it says what counts.
        out.extend(lower.filter(|_| order.is_lt()));
        if order.is_ge() {
            if let Some((k, Some(v))) = upper {
                out.push((k.clone(), v.clone()));
            }
            upper = over();
        }
        if let Some(behind) = behind
            && out.len() < span.limit
        {
            let rest = match span.reverse {
                false => Span {
                    from: &behind,
                    ..span
                },
                true => Span {
                    to: Some(&behind),
                    ..span
                },
            };
            let rows = match rest.is_empty() {
                true => Vec::new(),
                false => under(rest)?,
            };
            more = rows.len() == span.limit;
            page = rows.into_iter().peekable();
        }
    }
    Ok(out)
}
