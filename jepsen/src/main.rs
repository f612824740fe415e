//! `quorate-jepsen`: see the library.

fn main() -> std::process::ExitCode {
    quorate_jepsen::cli::main()
}
