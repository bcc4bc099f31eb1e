//! The files of the store: read without following links, written for our own user only, replaced atomically.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::permissions::FilePermissions;
use crate::secret::SecretBuf;

/// Names, addresses, terminal and instance.
pub(super) const STATE: &str = "state.json";
/// The account's tokens.
pub(super) const TOKENS: &str = "cloud.token";
/// The account's hashes for KLAP.
pub(super) const HASHES: &str = "klap.hashes";
/// A file that is written to check that the directory is writable.
const PROBE: &str = "probe";
/// The format of all files. A newer hs100d writes a higher number.
pub(super) const VERSION: u32 = 1;
/// For our own user only.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;
/// What group and others may do.
const OTHERS: u32 = 0o077;
/// The sticky bit, of a shared directory such as `/tmp`.
const STICKY: u32 = 0o1000;
/// The largest file that is read: ten thousand plugs need some 2 MB.
const LARGEST: u64 = 64 << 20;
/// No write takes this long: the writer of an older unfinished file is gone.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A file that could not be written, in one line with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written: {error}: make room, or make the directory writable for this user", path.display())]
pub struct Unwritable {
    /// The file.
    pub(crate) path: PathBuf,
    /// Why.
    #[source]
    pub(crate) error: io::Error,
}

impl Unwritable {
    /// Whether it is the file of the tokens, which the account reports itself.
    pub fn is_of_tokens(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == TOKENS)
    }
}

/// The result of reading a file, with texts for the log.
pub(super) enum Loaded<T> {
    Well(T),
    Missing,
    Refused(String),
    Unreadable(String),
}

/// Why the content of a file is not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// What is wrong with it.
    Damaged(String),
    /// A newer hs100d wrote it, with this version.
    Newer(u32),
}

/// Reads a file and gives it to `take`. A file that `take` refuses is renamed.
pub(super) fn load<T>(
    directory: &Path,
    name: &str,
    take: impl FnOnce(&[u8]) -> Result<T, Refused>,
) -> Loaded<T> {
    let path = directory.join(name);
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Loaded::Missing;
        }
        Err(error) => {
            let path = path.display();
            return Loaded::Unreadable(format!(
                "{path} cannot be read: {error}: make it a file that this user may read"
            ));
        }
    };
    match take(&bytes) {
        Ok(value) => Loaded::Well(value),
        Err(refused) => Loaded::Refused(set_aside(&path, &refused)),
    }
}

/// Reads a file without changing anything. A file that is missing or that `take` refuses is `None`.
pub(super) fn look<T>(path: &Path, take: impl FnOnce(&[u8]) -> Result<T, Refused>) -> Option<T> {
    let bytes = open(path).and_then(|file| SecretBuf::read(file, LARGEST));
    let what = match bytes.map(|bytes| take(&bytes)) {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(refused)) => refused.to_string(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => format!("cannot be read: {error}"),
    };
    tracing::debug!("{}: {what}", path.display());
    None
}

/// Reads a file of ours.
fn read(path: &Path) -> io::Result<SecretBuf> {
    let file = open(path)?;
    // A restored backup may be readable for everybody.
    if file.metadata()?.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(PRIVATE_FILE)).ok();
    }
    SecretBuf::read(file, LARGEST)
}

/// Opens a file of ours. Links and files of other users are refused: somebody else chose or may change their content.
fn open(path: &Path) -> io::Result<File> {
    // Without this a pipe would block until somebody writes to it.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let owner_of_all =
        path.parent().and_then(|directory| fs::metadata(directory).ok()).map(|meta| meta.uid());
    let other_owner =
        FilePermissions::from_metadata(&meta).foreign_owner().filter(|owner| Some(*owner) != owner_of_all);
    if let Some(owner) = other_owner {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {owner}")));
    }
    Ok(file)
}

/// Looks at the version first, to tell a newer file from a damaged one.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Refused> {
    match newer_version(bytes)? {
        Some(version) => Err(Refused::Newer(version)),
        None => parse_as_known(bytes),
    }
}

/// The version of a file that a newer hs100d wrote; `None` of one of ours.
pub(super) fn newer_version(bytes: &[u8]) -> Result<Option<u32>, Refused> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = parse_as_known(bytes)?;
    match version {
        0 => Err(Refused::Damaged("it has no version".to_owned())),
        VERSION => Ok(None),
        newer => Ok(Some(newer)),
    }
}

/// Reads the fields that this version knows, whichever version wrote them.
pub(super) fn parse_as_known<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Refused> {
    // serde's message could quote a token, so only the line is given.
    serde_json::from_slice(bytes).map_err(|error| {
        Refused::Damaged(format!("it is not in the expected format (line {})", error.line()))
    })
}

/// For a line in the log, after the file.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => write!(f, "is damaged: {what}"),
            Self::Newer(version) => {
                write!(f, "is of a newer hs100d (its version is {version}, this hs100d knows {VERSION})")
            }
        }
    }
}

impl From<String> for Refused {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

fn set_aside(path: &Path, refused: &Refused) -> String {
    let mut aside = path.as_os_str().to_owned();
    aside.push(match refused {
        Refused::Damaged(_) => ".damaged",
        Refused::Newer(_) => ".newer",
    });
    let remedy = match refused {
        Refused::Damaged(_) => "",
        Refused::Newer(_) => "; give it its name back when you install that hs100d again",
    };
    match fs::rename(path, &aside) {
        Ok(()) => {
            let aside = Path::new(&aside).display();
            format!("{} {refused}: set aside as {aside} and begun anew{remedy}", path.display())
        }
        Err(error) => format!("{} {refused}: begun anew, not set aside: {error}", path.display()),
    }
}

/// Makes the directory, removes files that killed writers left, and checks that it is writable.
pub(super) fn prepare(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(directory)?;
    close(directory)?;
    for entry in fs::read_dir(directory)?.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_unfinished);
        let age = entry.metadata().ok().and_then(|meta| meta.modified().ok()?.elapsed().ok());
        if is_ours && age.is_some_and(|age| age > ABANDONED) {
            fs::remove_file(entry.path()).ok();
        }
    }
    let probe = unfinished(directory, PROBE);
    private(&probe)?;
    fs::remove_file(probe)
}

/// Makes the directory private if it is ours; somebody may have named `/tmp` by mistake.
fn close(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.permissions().mode();
    let is_ours =
        || Ok::<_, io::Error>(directory.join(STATE).exists() || fs::read_dir(directory)?.next().is_none());
    if mode & OTHERS != 0 && mode & STICKY == 0 && is_ours()? {
        // Fails for a directory of another user, who decides on its mode.
        fs::set_permissions(directory, Permissions::from_mode(PRIVATE_DIRECTORY)).ok();
    }
    Ok(())
}

/// Replaces a file atomically: writes a new file beside it, syncs it, and renames it.
pub(super) fn replace(directory: &Path, name: &str, value: &impl Serialize) -> Result<(), Unwritable> {
    let path = directory.join(name);
    let temporary = unfinished(directory, name);
    write(&temporary, value).and_then(|()| fs::rename(&temporary, &path)).map_err(|error| {
        fs::remove_file(&temporary).ok();
        Unwritable { path, error }
    })?;
    // If this fails, a power cut may leave the old file, which is whole as well.
    File::open(directory).and_then(|directory| directory.sync_all()).ok();
    Ok(())
}

/// The temporary name of a file, with the process id: a command may write while the daemon does.
fn unfinished(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.{}.new", std::process::id()))
}

/// Whether this is such a temporary name, of any process.
fn is_unfinished(name: &str) -> bool {
    let middle = [STATE, TOKENS, HASHES, PROBE]
        .into_iter()
        .find_map(|ours| name.strip_prefix(ours)?.strip_prefix('.'));
    let process = middle.and_then(|rest| rest.strip_suffix(".new"));
    process.is_some_and(|process| !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes a file, if it is there.
pub(super) fn remove(directory: &Path, name: &str) -> Result<(), Unwritable> {
    let path = directory.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Unwritable { path, error }),
        _ => Ok(()),
    }
}

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut bytes = SecretBuf::default();
    serde_json::to_writer_pretty(&mut bytes, value)?;
    let mut file = private(path)?;
    belong_to_the_directory(path, &file);
    file.write_all(&bytes)?;
    file.sync_all()
}

/// Gives the file to the directory's owner: the daemon must be able to read what root's `cloud login` writes. For other
/// users this fails, and is not needed.
fn belong_to_the_directory(path: &Path, file: &File) {
    let owner = path.parent().and_then(|directory| fs::metadata(directory).ok());
    if let Some(owner) = owner {
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid())).ok();
    }
}

/// Makes a new file. An existing one is removed first: a link would be followed, and an old mode kept.
fn private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(path)
}
