//! `podtrail`: the trail for people and scripts.

use std::process::ExitCode;

fn main() -> ExitCode {
    podtrail::cli::main()
}
