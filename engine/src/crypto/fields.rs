//! Length-prefixed concatenation: how several values become one string of
//! bytes that is bound into a seal.
//!
//! Each field is preceded by its length as four little-endian bytes, so no two
//! different lists of fields give the same bytes. The first field is always a
//! label of [`labels`](super::labels).

/// A list of fields under a label.
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    /// Starts with `label`.
    pub(crate) fn new(label: &str) -> Self {
        Self(Vec::with_capacity(256)).add(label.as_bytes())
    }
    /// One more field.
    pub(crate) fn add(mut self, field: &[u8]) -> Self {
        let len =
            u32::try_from(field.len()).expect("fields are ids, names and hashes, never 4 GiB");
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(field);
        self
    }
    /// The bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn different_lists_give_different_bytes(
            a in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
            b in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
        ) {
            let join = |list: &[Vec<u8>]| list.iter().fold(Fields::new("l"), |f, x| f.add(x)).finish();
            prop_assert_eq!(join(&a) == join(&b), a == b);
        }
    }

    #[test]
    fn frozen_vector() {
        let bytes = Fields::new("ab").add(&[]).add(&[7; 3]).finish();
        assert_eq!(hex::encode(bytes), "0200000061620000000003000000070707");
    }
}
