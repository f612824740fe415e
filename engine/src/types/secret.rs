//! Secrets that cannot be printed, serialised or copied by accident.
//!
//! A [`Secret`] is boxed so that moving it leaves no copy behind, is wiped on
//! drop, compares in constant time, prints nothing and has no `Serialize`.

use rand_core::CryptoRng;
use std::fmt;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroize;

/// `N` secret bytes.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Fresh random bytes.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut out = Self(Box::new([0; N]));
        rng.fill_bytes(out.0.as_mut());
        out
    }
    /// Takes over `bytes` and wipes the place they came from.
    pub fn take(bytes: &mut [u8; N]) -> Self {
        let out = Self(Box::new(*bytes));
        bytes.zeroize();
        out
    }
    /// A copy of `bytes`; `None` when the length is not `N`. The caller wipes the source.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut out = Self(Box::new([0; N]));
        if bytes.len() != N {
            return None;
        }
        out.0.copy_from_slice(bytes);
        Some(out)
    }
    /// The bytes themselves. Named so that every use can be found.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }
    /// The bytes themselves, to be filled in place.
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
    /// A second copy, on purpose: there is no `Clone`.
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
impl<const N: usize> ConstantTimeEq for Secret<N> {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(other.0.as_ref())
    }
}

macro_rules! secret32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(pub Secret<32>);

        impl $name {
            /// Fresh random bytes.
            pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self { Self(Secret::generate(rng)) }
            /// The bytes themselves. Named so that every use can be found.
            pub fn expose(&self) -> &[u8; 32] { self.0.expose() }
            /// A second copy, on purpose: there is no `Clone`.
            pub fn duplicate(&self) -> Self { Self(self.0.duplicate()) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
        impl ConstantTimeEq for $name {
            fn ct_eq(&self, other: &Self) -> Choice { self.0.ct_eq(&other.0) }
        }
    };
}

secret32!(
    /// The key of one chat's one epoch. In a lease, else nowhere.
    DataKey
);
secret32!(
    /// A leaf's part of a dealing: the 32 y values.
    Share
);
secret32!(
    /// A custodian's key for shares at rest, one version of it.
    WrappingKey
);
secret32!(
    /// What a key provider opens: encrypts a node's key file.
    RootKey
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_shows_nothing() {
        let s = Secret::<4>::from_slice(b"\xde\xad\xbe\xef").unwrap();
        let k = DataKey(Secret::from_slice(&[0xab; 32]).unwrap());
        for text in [
            format!("{s:?}"),
            format!("{k:?}"),
            format!("{s:#?}"),
            format!("{:?}", Some(&k)),
        ] {
            assert!(
                !text.to_lowercase().contains("dead")
                    && !text.contains("222")
                    && !text.contains("abab")
                    && !text.contains("171"),
                "{text}"
            );
        }
    }

    #[test]
    fn take_wipes_its_source() {
        let mut bytes = [7u8; 32];
        let s = Secret::take(&mut bytes);
        assert_eq!(bytes, [0; 32]);
        assert_eq!(s.expose(), &[7; 32]);
        assert!(Secret::<32>::from_slice(&[1; 31]).is_none());
    }
}
