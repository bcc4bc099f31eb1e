//! Who else on this machine may read or change a file or a directory, told from its owner and its mode. Changes nothing.
//!
//! Groups are trusted: a file of root's that a service reads by its group is how services are set up.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};

/// What kind a path is of; only files and directories can be changed by writing to them.
const KIND: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
/// What every user of the machine may do.
const EVERYBODY_READS: u32 = 0o004;
const EVERYBODY_WRITES: u32 = 0o002;
/// The mark of a directory that everybody shares and where nobody may touch what is another's, such as `/tmp`.
const STICKY: u32 = 0o1000;
/// May do everything everywhere anyway.
const ROOT: u32 = 0;

/// The owner and the mode of a file or a directory, and who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePermissions {
    owner: u32,
    mode: u32,
    us: u32,
}

impl FilePermissions {
    /// Of what this path leads to, links followed; `None` where it leads to nothing that may be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::from_metadata(&meta))
    }

    /// As it was just seen.
    pub fn from_metadata(meta: &fs::Metadata) -> Self {
        Self { owner: meta.uid(), mode: meta.mode(), us: rustix::process::geteuid().as_raw() }
    }

    /// Every user may read it.
    pub fn everybody_reads(self) -> bool {
        self.mode & EVERYBODY_READS != 0
    }

    /// Every user may change the file, or put another one in the place of each file in the directory. Nobody changes
    /// `/dev/null` by writing to it.
    pub fn everybody_writes(self) -> bool {
        [FILE, DIRECTORY].contains(&(self.mode & KIND))
            && self.mode & EVERYBODY_WRITES != 0
            && self.mode & STICKY == 0
    }

    /// The user that it belongs to, if that is neither us nor root. Root looks after the files of services that run
    /// as somebody else, so to root nobody is a stranger.
    pub fn stranger(self) -> Option<u32> {
        (self.us != ROOT && self.owner != self.us && self.owner != ROOT).then_some(self.owner)
    }
}

/// Whether this user may read and write in the directory, and what it writes there belongs to the directory's owner: root
/// gives its files to the owner, any other user cannot.
pub fn may_keep_files(directory: &Path) -> bool {
    let Some(access) = FilePermissions::of(directory) else { return false };
    let wanted = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    (access.us == ROOT || access.us == access.owner)
        && rustix::fs::accessat(CWD, directory, wanted, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_may_do_is_told_from_the_mode() {
        for (mode, reads, writes) in [
            (0o100_600, false, false),
            (0o100_640, false, false),
            (0o100_664, true, false),
            (0o100_602, false, true),
            (0o040_777, true, true),
            (0o041_777, true, false),
            (0o020_666, true, false),
        ] {
            let access = FilePermissions { owner: 1000, mode, us: 1000 };
            assert_eq!((access.everybody_reads(), access.everybody_writes()), (reads, writes), "{mode:o}");
        }
    }

    #[test]
    fn files_are_kept_in_a_directory_of_ours_and_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        assert!(may_keep_files(place.path()));
        assert!(!may_keep_files(&place.path().join("missing")));
        if rustix::process::geteuid().as_raw() != ROOT {
            assert!(!may_keep_files(Path::new("/")), "it is root's");
        }
    }

    #[test]
    fn a_stranger_is_neither_us_nor_root_and_root_knows_none() {
        for (owner, us, stranger) in
            [(1000, 1000, None), (0, 1000, None), (1001, 1000, Some(1001)), (1001, 0, None)]
        {
            assert_eq!(FilePermissions { owner, mode: 0o600, us }.stranger(), stranger, "{owner} {us}");
        }
    }
}
