//! The program. Its code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    hs100d::commands::main()
}
