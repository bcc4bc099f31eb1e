//! What this process knows is kept to it: no core dump, and no reading of its memory by other processes of its user.
//!
//! Root is not kept out, nor is whoever debugs as root.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Closes the process for as long as it lives; nothing opens it again. A system that refuses gives the reason.
///
/// # Errors
/// A line fit for the log; the process goes on as open as it was.
pub(super) fn close() -> Result<(), String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Both, because each leaves a gap: a handler that the kernel pipes dumps to ignores the limit, and a program
    // that is run from here begins anew as one that may be dumped.
    setrlimit(Resource::Core, none)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|error| {
            format!("core dumps cannot be turned off: {error}: a crash may leave secrets on disk")
        })
}
