//! Which other users may read or change a file or a directory, by its owner and mode. Changes nothing.
//!
//! Groups are trusted: services often read a file of root's through their group.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};

/// The file type bits. Only files and directories can be changed by writing to them.
const KIND: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
/// The mode bits of every user.
const EVERYBODY_READS: u32 = 0o004;
const EVERYBODY_WRITES: u32 = 0o002;
/// In such a directory (`/tmp`) only its owner may replace a file.
const STICKY: u32 = 0o1000;
/// May change any file.
const ROOT: u32 = 0;

/// The owner and mode of a file or directory, and our own user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePermissions {
    owner: u32,
    mode: u32,
    us: u32,
}

impl FilePermissions {
    /// Of the file at this path; follows links. `None` if there is none or we may not see it.
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::from_metadata(&meta))
    }

    /// Of a file with this metadata.
    pub fn from_metadata(meta: &fs::Metadata) -> Self {
        Self { owner: meta.uid(), mode: meta.mode(), us: rustix::process::geteuid().as_raw() }
    }

    /// Every user may read it.
    pub fn everybody_reads(self) -> bool {
        self.mode & EVERYBODY_READS != 0
    }

    /// Every user may change the file, or replace any file in the directory. False for devices such as `/dev/null`.
    pub fn everybody_writes(self) -> bool {
        [FILE, DIRECTORY].contains(&(self.mode & KIND))
            && self.mode & EVERYBODY_WRITES != 0
            && self.mode & STICKY == 0
    }

    /// The owner, if that is neither us nor root. For root always `None`: it manages the files of other users' services.
    pub fn foreign_owner(self) -> Option<u32> {
        (self.us != ROOT && self.owner != self.us && self.owner != ROOT).then_some(self.owner)
    }
}

/// Whether this user may keep files in the directory: it may read and write there, and is its owner or root, which gives its
/// files to the owner.
pub fn may_keep_files(directory: &Path) -> bool {
    let Some(permissions) = FilePermissions::of(directory) else { return false };
    let wanted = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    (permissions.us == ROOT || permissions.us == permissions.owner)
        && rustix::fs::accessat(CWD, directory, wanted, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_says_what_everybody_may_do() {
        for (mode, reads, writes) in [
            (0o100_600, false, false),
            (0o100_640, false, false),
            (0o100_664, true, false),
            (0o100_602, false, true),
            (0o040_777, true, true),
            (0o041_777, true, false),
            (0o020_666, true, false),
        ] {
            let permissions = FilePermissions { owner: 1000, mode, us: 1000 };
            assert_eq!(
                (permissions.everybody_reads(), permissions.everybody_writes()),
                (reads, writes),
                "{mode:o}"
            );
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
    fn a_foreign_owner_is_neither_us_nor_root_and_root_has_none() {
        for (owner, us, foreign) in
            [(1000, 1000, None), (0, 1000, None), (1001, 1000, Some(1001)), (1001, 0, None)]
        {
            assert_eq!(FilePermissions { owner, mode: 0o600, us }.foreign_owner(), foreign, "{owner} {us}");
        }
    }
}
