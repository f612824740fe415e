//! Reasons to refuse, each with its own code. Codes stand in logs, errors and
//! `docs/grants.md`; they never change their meaning.

macro_rules! refusals {
    ($(#[$about:meta])* $enum:ident: $($(#[$doc:meta])* $name:ident, $code:literal, $text:literal;)+) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $enum {
            $($(#[$doc])* #[doc = $text] $name),+
        }

        impl $enum {
            /// All of them, in the order they are checked.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The stable code of the reason.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code),+ }
            }
            /// What is wrong and what to do.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.text())
            }
        }

        impl std::error::Error for $enum {}
    };
}
pub(super) use refusals;
