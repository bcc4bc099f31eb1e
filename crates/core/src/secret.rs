//! Passwords and tokens: [`Secret`] prints as `[redacted]`, is zeroized on drop and cannot be serialized. [`SecretBuf`] is a
//! buffer with secrets in it, on the way to a socket or from a file.
//!
//! A secret is one line of text, of a file, of standard input or of systemd's credentials directory. Error messages name the
//! file and never quote it. [`RefusedLogins`] remembers the logins that a server refused.

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

/// The largest file that is read, in bytes; far more than any password.
const LONGEST: u64 = 4096;
/// The most refused logins that are remembered, the newest ones. Accounts are locked after far fewer.
const REFUSED_LOGINS: usize = 64;

/// A password or a token. A clone is a copy; each is zeroized.
#[derive(Clone)]
pub struct Secret {
    text: SecretString,
    source: Source,
}

/// Where a secret was read, which decides when a new one is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The config, a file that it names, or a terminal: read again at each reload.
    #[default]
    Config,
    /// systemd's credentials directory, which systemd fills when the service starts.
    Credential,
}

/// Why a file has no usable secret. Does not quote the file.
#[derive(Debug, thiserror::Error)]
pub enum BadSecret {
    /// With the system's reason.
    #[error("cannot be read: {0}: check the path, and that this user may read it")]
    Unreadable(#[from] io::Error),
    /// Empty, or only blank lines.
    #[error("is empty: write the password into it")]
    Empty,
    /// Larger than 4096 bytes.
    #[error("is longer than {LONGEST} bytes: it should hold the password and nothing else")]
    TooLong,
    /// Not UTF-8.
    #[error("is not UTF-8 text: save it as UTF-8, with the password and nothing else in it")]
    NotText,
    /// Any of the lines could be the secret.
    #[error("has text in more than one line: it should hold the password in its first line and nothing else")]
    MoreLines,
}

impl Secret {
    /// Copies the text and zeroizes the original.
    pub fn new(mut text: String) -> Self {
        // A String with spare capacity would be reallocated by `SecretString`, and the old memory not zeroized.
        let secret = Self { text: SecretString::from(text.as_str()), source: Source::default() };
        text.zeroize();
        secret
    }

    /// Reads a file with the secret and nothing else in it.
    pub fn from_file(path: &Path) -> Result<Self, BadSecret> {
        Self::read(File::open(path)?)
    }

    /// Reads one line, to the end of the source. A byte order mark and line ends are not part of the secret.
    pub fn read(from: impl Read) -> Result<Self, BadSecret> {
        let bytes = SecretBuf::read(from, LONGEST + 1)?;
        if bytes.len() as u64 > LONGEST {
            return Err(BadSecret::TooLong);
        }
        let text = bytes.into_text().map_err(|_| BadSecret::NotText)?;
        Ok(Self::new(only_line(&text)?.to_owned()))
    }

    /// Reads one line of text, which is no secret, and the secret after it.
    pub fn read_after_a_line(from: impl Read) -> Result<(String, Self), BadSecret> {
        let bytes = SecretBuf::read(from, LONGEST + 1)?;
        if bytes.len() as u64 > LONGEST {
            return Err(BadSecret::TooLong);
        }
        let text = bytes.into_text().map_err(|_| BadSecret::NotText)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let (line, rest) = text.split_once('\n').ok_or(BadSecret::Empty)?;
        Ok((line.trim_end_matches('\r').to_owned(), Self::new(only_line(rest)?.to_owned())))
    }

    /// Reads a credential of systemd. `None` if it is missing or empty: a unit makes an optional credential empty.
    pub fn from_credential(directory: &Path, name: &str) -> Result<Option<Self>, BadSecret> {
        match Self::from_file(&directory.join(name)) {
            Ok(secret) => Ok(Some(Self { source: Source::Credential, ..secret })),
            Err(BadSecret::Empty) => Ok(None),
            Err(BadSecret::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(bad) => Err(bad),
        }
    }

    /// The text, for the code that sends or stores it.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// Where it was read. Does not count when two secrets are compared.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Compares in constant time.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.expose().as_bytes().ct_eq(bytes).into()
    }
}

/// The only line of a text, without byte order mark and line ends. Keeps spaces.
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

/// The logins that servers have refused. This process does not send them again, even after a reload. Cheap to clone; the
/// clones share one list.
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
    /// Whether the server has refused this login.
    pub fn contains(&self, server: &str, username: &str, password: &Secret) -> bool {
        self.with(|logins| logins.contains(&Login::new(server, username, password)))
    }

    /// The server has refused this login.
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

    /// The server has accepted this login.
    pub fn remove(&self, server: &str, username: &str, password: &Secret) {
        let login = Login::new(server, username, password);
        self.with(|logins| logins.retain(|refused| *refused != login));
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<Login>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A buffer with secrets in it. Its memory is zeroized on drop and when it grows.
#[derive(Default, PartialEq, Eq)]
pub struct SecretBuf(Zeroizing<Vec<u8>>);

impl SecretBuf {
    /// The first allocation, in bytes: enough for a call to the cloud or a file with a token.
    const FIRST_CAPACITY: usize = 1024;

    /// Reads to the end, or up to `limit` bytes.
    ///
    /// # Errors
    /// Those of the source.
    pub fn read(from: impl Read, limit: u64) -> io::Result<Self> {
        let (mut from, mut buf) = (from.take(limit), Self::default());
        let mut piece = Zeroizing::new([0; Self::FIRST_CAPACITY]);
        loop {
            match from.read(piece.as_mut()) {
                Ok(0) => return Ok(buf),
                Ok(read) => buf.write_all(&piece[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As text.
    ///
    /// # Errors
    /// The buffer, and where it is not UTF-8.
    pub fn into_text(mut self) -> Result<Zeroizing<String>, (Self, Utf8Error)> {
        let text = String::from_utf8(mem::take(&mut *self.0));
        text.map(Zeroizing::new).map_err(|error| {
            let place = error.utf8_error();
            (Self(Zeroizing::new(error.into_bytes())), place)
        })
    }

    /// Shared by its clones without a copy; zeroized with the last one.
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
            let mut larger = Vec::with_capacity(needed.max(self.0.capacity() * 2).max(Self::FIRST_CAPACITY));
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

/// An e-mail address shortened for a message: `m…@example.com`.
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

    /// The memory of this process at an address; empty if it is not mapped.
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
        // Allocated first, or it would get the memory of the secret.
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

        let mut buf = SecretBuf::default();
        let mut places = Vec::with_capacity(LEN);
        for _ in 0..LEN / hunter.len() {
            buf.write_all(&hunter).unwrap();
            places.push(buf.as_ptr().addr());
        }
        places.dedup();
        assert!(places.len() > 1, "it has moved");
        let mut small = vec![0; SecretBuf::FIRST_CAPACITY];
        assert!(!is_there(places[0], &mut small), "what it outgrew");
        let sent = buf.into_bytes();
        let (place, clone) = (sent.as_ptr().addr(), sent.clone());
        drop(sent);
        assert!(is_there(place, &mut room[..hunter.len()]), "shared, not copied");
        drop(clone);
        assert!(!is_there(place, &mut room), "what was sent");
    }

    #[test]
    fn a_buffer_holds_what_was_written_and_prints_nothing_of_it() {
        let text = "hunter2 ".repeat(1000);
        let buf = SecretBuf::read(text.as_bytes(), 4001).unwrap();
        assert_eq!(
            (&buf[..], format!("{buf:?}")),
            (&text.as_bytes()[..4001], "[redacted: 4001 bytes]".to_owned())
        );
        assert_eq!(*buf.into_text().unwrap(), text[..4001]);
        let (buf, place) = SecretBuf::read(&b"ab\xff"[..], 9).unwrap().into_text().unwrap_err();
        assert_eq!((&buf[..], place.valid_up_to()), (&b"ab\xff"[..], 2));
    }

    #[test]
    fn an_account_is_shortened_to_what_only_its_owner_recognises() {
        assert_eq!(shortened("me@example.com"), "m…@example.com");
        assert_eq!(shortened("übung"), "ü…");
        assert_eq!(shortened(""), "…");
    }
}
