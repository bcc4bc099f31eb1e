//! Passwords and tokens as a type: printed as `[redacted]`, wiped when dropped, never serialised by accident. And the
//! texts that hold them on their way to a wire or from a file, as a [`SecretBuf`], wiped as well.
//!
//! A secret comes from text, from a file, from standard input or from systemd's credentials directory, from all of
//! them as one line. What is said when that fails names the file and never what is in it. Logins that a server refused
//! are remembered as [`RefusedLogins`].

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::ops::Deref;
use std::path::Path;
use std::str::Utf8Error;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The largest file that is read for a secret, far more than any password.
const LONGEST: u64 = 4096;
/// So many refused logins are remembered, the newest. Accounts are locked after far fewer.
const REFUSED_LOGINS: usize = 64;

/// A text that must not be seen. Cloning copies it; both copies are wiped.
#[derive(Clone)]
pub struct Secret {
    text: SecretString,
    source: Source,
}

/// Where a secret was read, which decides when a corrected one is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The config, a file that it names, or a terminal: read again at each reload.
    #[default]
    Config,
    /// systemd's credentials directory, which systemd fills at the service's start only.
    Credential,
}

/// Why a file holds no usable secret. None of these says anything of its content.
#[derive(Debug, thiserror::Error)]
pub enum BadSecret {
    /// It cannot be read.
    #[error("cannot be read: {0}: check the path, and that this user may read it")]
    Unreadable(#[from] io::Error),
    /// There is nothing in it, or only blank lines.
    #[error("is empty: write the password into it")]
    Empty,
    /// More than one password can be long.
    #[error("is longer than {LONGEST} bytes: it should hold the password and nothing else")]
    TooLong,
    /// Bytes that are no text.
    #[error("is not UTF-8 text: save it as UTF-8, with the password and nothing else in it")]
    NotText,
    /// Which of the lines is meant, nobody can tell.
    #[error("has text in more than one line: it should hold the password in its first line and nothing else")]
    MoreLines,
}

impl Secret {
    /// Takes the text over, and wipes the place that it stood in.
    pub fn new(mut text: String) -> Self {
        // A text with room to spare would be moved by what it becomes, and its old place not wiped.
        let secret = Self { text: SecretString::from(text.as_str()), source: Source::default() };
        text.zeroize();
        secret
    }

    /// Reads a file that holds the secret and nothing else.
    pub fn from_file(path: &Path) -> Result<Self, BadSecret> {
        Self::read(File::open(path)?)
    }

    /// Reads a secret to the end of what holds it: one line. What editors and shells leave around it is not part of it.
    pub fn read(from: impl Read) -> Result<Self, BadSecret> {
        let bytes = SecretBuf::read(from, LONGEST + 1)?;
        if bytes.len() as u64 > LONGEST {
            return Err(BadSecret::TooLong);
        }
        let text = bytes.into_text().map_err(|_| BadSecret::NotText)?;
        Ok(Self::new(only_line(&text)?.to_owned()))
    }

    /// Reads a credential that systemd may have passed. One that is missing or empty was not given: an empty
    /// one is how a unit says that the credential is optional.
    pub fn from_credential(directory: &Path, name: &str) -> Result<Option<Self>, BadSecret> {
        match Self::from_file(&directory.join(name)) {
            Ok(secret) => Ok(Some(Self { source: Source::Credential, ..secret })),
            Err(BadSecret::Empty) => Ok(None),
            Err(BadSecret::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(bad) => Err(bad),
        }
    }

    /// The text itself, for the one place that sends or stores it.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// Where it was read. Two secrets of one text are equal, wherever they were read.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether these bytes are it, in a time that tells nobody how far they are right.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.expose().as_bytes().ct_eq(bytes).into()
    }
}

/// The one line of a text, without the byte order mark before it and the ends of lines behind it. Spaces in it stay.
fn only_line(text: &str) -> Result<&str, BadSecret> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    if !rest.trim().is_empty() {
        return Err(BadSecret::MoreLines);
    }
    let line = line.trim_end_matches('\r');
    if line.is_empty() { Err(BadSecret::Empty) } else { Ok(line) }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.expose().as_bytes())
    }
}

impl Eq for Secret {}

/// The logins that servers have refused. One that is among them is not sent again while the process lives, however
/// often the config is reloaded. Cheap to clone; the clones share one list.
#[derive(Debug, Clone, Default)]
pub struct RefusedLogins(Arc<Mutex<Vec<Login>>>);

#[derive(Debug, PartialEq, Eq)]
struct Login {
    server: Box<str>,
    username: Box<str>,
    password: Secret,
}

impl Login {
    fn new(server: &str, username: &str, password: &Secret) -> Self {
        Self { server: server.into(), username: username.into(), password: password.clone() }
    }
}

impl RefusedLogins {
    /// Whether this server has refused this login.
    pub fn contains(&self, server: &str, username: &str, password: &Secret) -> bool {
        self.with(|logins| logins.contains(&Login::new(server, username, password)))
    }

    /// The server has refused it.
    pub fn add(&self, server: &str, username: &str, password: &Secret) {
        let login = Login::new(server, username, password);
        self.with(|logins| {
            if !logins.contains(&login) {
                let surplus = (logins.len() + 1).saturating_sub(REFUSED_LOGINS);
                logins.drain(..surplus);
                logins.push(login);
            }
        });
    }

    /// The server has accepted it.
    pub fn remove(&self, server: &str, username: &str, password: &Secret) {
        let login = Login::new(server, username, password);
        self.with(|logins| logins.retain(|refused| *refused != login));
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<Login>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Bytes with a secret in them on their way to or from a wire or a file. They are wiped when dropped, and so is every
/// place that they have outgrown.
#[derive(Default, PartialEq, Eq)]
pub struct SecretBuf(Zeroizing<Vec<u8>>);

impl SecretBuf {
    /// Room for a call to the cloud or a file with a token.
    const ROOM: usize = 1024;

    /// Reads to the end, or as far as `limit`.
    ///
    /// # Errors
    /// As the source has them; what was read until then is wiped.
    pub fn read(from: impl Read, limit: u64) -> io::Result<Self> {
        let (mut from, mut draft) = (from.take(limit), Self::default());
        let mut piece = Zeroizing::new([0; Self::ROOM]);
        loop {
            match from.read(piece.as_mut()) {
                Ok(0) => return Ok(draft),
                Ok(read) => draft.write_all(&piece[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As text, or as it was and where it ceases to be text.
    pub fn into_text(mut self) -> Result<Zeroizing<String>, (Self, Utf8Error)> {
        let text = String::from_utf8(mem::take(&mut *self.0));
        text.map(Zeroizing::new).map_err(|error| {
            let place = error.utf8_error();
            (Self(Zeroizing::new(error.into_bytes())), place)
        })
    }

    /// To be sent: shared by its clones without being copied, and wiped with the last of them.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self.0)
    }
}

impl Deref for SecretBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Write for SecretBuf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(needed.max(self.0.capacity() * 2).max(Self::ROOM));
            larger.extend_from_slice(self);
            self.0 = Zeroizing::new(larger);
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for SecretBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[redacted: {} bytes]", self.len())
    }
}

/// An e-mail address so shortened that its owner knows it and nobody else does: `m…@example.com`.
pub fn shortened(account: &str) -> String {
    let first = account.chars().next().map(String::from).unwrap_or_default();
    match account.rsplit_once('@') {
        Some((_, domain)) => format!("{first}…@{domain}"),
        None => format!("{first}…"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Secret, BadSecret> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Secret::from_file(file.path())
    }

    #[test]
    fn a_secret_prints_as_redacted_however_it_is_printed() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "[redacted] Some(\n    [redacted],\n)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn ends_of_lines_and_a_byte_order_mark_are_not_part_of_the_secret_and_everything_else_is() {
        for (bytes, secret) in [
            (&b"hunter2"[..], "hunter2"),
            (b"hunter2\n", "hunter2"),
            (b"hunter2\r\n", "hunter2"),
            (b"hunter2\r", "hunter2"),
            (b"hunter2\n\n", "hunter2"),
            (b"hunter2\r\n\r\n \t\n", "hunter2"),
            (b"\xef\xbb\xbfhunter2\r\n", "hunter2"),
            (b" hunter2 \n", " hunter2 "),
            ("\"'\\/{}$ü \n".as_bytes(), "\"'\\/{}$ü "),
        ] {
            assert_eq!(read(bytes).unwrap().expose(), secret);
        }
    }

    #[test]
    fn a_file_that_holds_no_secret_is_refused_without_being_quoted() {
        assert!(matches!(read(b""), Err(BadSecret::Empty)));
        assert!(matches!(read(b"\n"), Err(BadSecret::Empty)));
        assert!(matches!(read(b"\xef\xbb\xbf\r\n\n"), Err(BadSecret::Empty)));
        assert!(matches!(read(b"hunter2\nhunter3\n"), Err(BadSecret::MoreLines)));
        assert!(matches!(read(b"\n\nhunter2"), Err(BadSecret::MoreLines)));
        assert!(matches!(read(b"hunter2\xff"), Err(BadSecret::NotText)));
        assert!(matches!(read(&[b'x'; 5000]), Err(BadSecret::TooLong)));
        let missing = Secret::from_file(Path::new("/nonexistent/secret"));
        assert!(matches!(missing, Err(BadSecret::Unreadable(_))));
        assert!(!format!("{:?}", read(b"hunter2\xff")).contains("hunter2"));
    }

    #[test]
    fn a_credential_that_is_missing_or_empty_was_not_given() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Secret::from_credential(directory.path(), "mqtt.password").unwrap(), None);
        std::fs::write(directory.path().join("mqtt.password"), "\n").unwrap();
        assert_eq!(Secret::from_credential(directory.path(), "mqtt.password").unwrap(), None);
        std::fs::write(directory.path().join("mqtt.password"), "\u{feff}hunter2\r\n\r\n").unwrap();
        let given = Secret::from_credential(directory.path(), "mqtt.password").unwrap().unwrap();
        assert_eq!((given.expose(), given.source()), ("hunter2", Source::Credential));
        let written = Secret::from_file(&directory.path().join("mqtt.password")).unwrap();
        assert_eq!(
            (written.source(), &written),
            (Source::Config, &given),
            "where it was read makes no other secret"
        );
        std::fs::write(directory.path().join("mqtt.password"), "hunter2\nhunter3\n").unwrap();
        assert!(matches!(
            Secret::from_credential(directory.path(), "mqtt.password"),
            Err(BadSecret::MoreLines)
        ));
    }

    #[test]
    fn a_refused_login_is_known_by_server_name_and_password_to_all_who_share_the_list() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let (refused, shared) = {
            let refused = RefusedLogins::default();
            (refused.clone(), refused)
        };
        refused.add("cloud", "me", &secret("hunter2"));
        assert!(shared.contains("cloud", "me", &secret("hunter2")));
        for (server, username, password) in
            [("broker", "me", "hunter2"), ("cloud", "you", "hunter2"), ("cloud", "me", "hunter3")]
        {
            assert!(!shared.contains(server, username, &secret(password)));
        }
        assert!(!format!("{shared:?}").contains("hunter"));
        shared.remove("cloud", "me", &secret("hunter2"));
        assert!(!refused.contains("cloud", "me", &secret("hunter2")));
        for number in 0..1000 {
            refused.add("cloud", "me", &secret(&number.to_string()));
        }
        assert!(
            refused.contains("cloud", "me", &secret("999")) && !refused.contains("cloud", "me", &secret("0"))
        );
        assert_eq!(refused.with(|logins| logins.len()), REFUSED_LOGINS);
    }

    /// What stands at a place in this process's memory by now; nothing if the place is gone.
    fn memory(place: usize, room: &mut [u8]) -> &[u8] {
        use std::os::unix::fs::FileExt;
        let memory = File::open("/proc/self/mem").unwrap();
        match memory.read_exact_at(room, place as u64) {
            Ok(()) => room,
            Err(_) => &[],
        }
    }

    #[test]
    fn a_secret_leaves_nothing_behind_where_it_stood() {
        const LEN: usize = 3000;
        let hunter = [b'\x17'; 64];
        let is_there =
            |place, room: &mut [u8]| memory(place, room).windows(hunter.len()).any(|w| w == hunter);
        // Room for looking is made first, or it would be made where the secret stood.
        let mut room = vec![0; LEN];

        let mut text = String::with_capacity(LEN * 2);
        text.extend(std::iter::repeat_n('\x17', LEN));
        let place = text.as_ptr().addr();
        assert!(is_there(place, &mut room), "what is there is seen");
        let secret = Secret::new(text);
        assert!(!is_there(place, &mut room), "where it came from");
        let place = secret.expose().as_ptr().addr();
        let copy = secret.clone();
        drop(secret);
        assert!(!is_there(place, &mut room), "where it was kept");
        drop(copy);

        let mut draft = SecretBuf::default();
        let mut places = Vec::with_capacity(LEN);
        for _ in 0..LEN / hunter.len() {
            draft.write_all(&hunter).unwrap();
            places.push(draft.as_ptr().addr());
        }
        places.dedup();
        assert!(places.len() > 1, "it has moved");
        let mut small = vec![0; SecretBuf::ROOM];
        assert!(!is_there(places[0], &mut small), "what it outgrew");
        let sent = draft.into_bytes();
        let (place, clone) = (sent.as_ptr().addr(), sent.clone());
        drop(sent);
        assert!(is_there(place, &mut room[..hunter.len()]), "shared, not copied");
        drop(clone);
        assert!(!is_there(place, &mut room), "what was sent");
    }

    #[test]
    fn a_draft_holds_what_was_written_and_prints_nothing_of_it() {
        let text = "hunter2 ".repeat(1000);
        let draft = SecretBuf::read(text.as_bytes(), 4001).unwrap();
        assert_eq!(
            (&draft[..], format!("{draft:?}")),
            (&text.as_bytes()[..4001], "[redacted: 4001 bytes]".to_owned())
        );
        assert_eq!(*draft.into_text().unwrap(), text[..4001]);
        let (draft, place) = SecretBuf::read(&b"ab\xff"[..], 9).unwrap().into_text().unwrap_err();
        assert_eq!((&draft[..], place.valid_up_to()), (&b"ab\xff"[..], 2));
    }

    #[test]
    fn an_account_is_shortened_to_what_only_its_owner_recognises() {
        assert_eq!(shortened("me@example.com"), "m…@example.com");
        assert_eq!(shortened("übung"), "ü…");
        assert_eq!(shortened(""), "…");
    }
}
