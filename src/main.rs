//! The program: everything it can do is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    hs100d::commands::main()
}
