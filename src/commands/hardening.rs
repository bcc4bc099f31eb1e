//! Protects the secrets in this process: no core dump, and no access to its memory by other processes of the same user.
//!
//! Root can still read everything.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Protects the process for the rest of its life.
///
/// # Errors
/// The system refuses: a line for the log. The process continues without the protection.
pub(super) fn close() -> Result<(), String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Both, because each leaves a gap: a handler to which the kernel pipes dumps ignores the limit, and a program that
    // this process starts is dumpable again.
    setrlimit(Resource::Core, none)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|error| {
            format!("core dumps cannot be turned off: {error}: a crash may leave secrets on disk")
        })
}
