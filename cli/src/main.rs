//! `quorate`, for people. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_cli::main()
}
