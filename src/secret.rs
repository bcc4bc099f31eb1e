//! Passwords and tokens as a type: printed as `[redacted]`, wiped when dropped, never serialised by accident.
//!
//! A secret comes from text, from a file or from systemd's credentials directory. What is said when that
//! fails names the file and never what is in it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

/// The largest file that is read for a secret, far more than any password.
const LONGEST: u64 = 4096;

/// A text that must not be seen. Cloning copies it; both copies are wiped.
#[derive(Clone)]
pub struct Secret(SecretString);

/// Why a file holds no usable secret. None of these says anything of its content.
#[derive(Debug, thiserror::Error)]
pub enum BadSecret {
    /// It cannot be read.
    #[error("cannot be read: {0}: check the path, and that this user may read it")]
    Unreadable(#[from] io::Error),
    /// There is nothing in it, or only the end of a line.
    #[error("is empty: write the password into it")]
    Empty,
    /// More than one password can be long.
    #[error("is longer than {LONGEST} bytes: it should hold the password and nothing else")]
    TooLong,
    /// Bytes that are no text.
    #[error("is not UTF-8 text: it should hold the password and nothing else")]
    NotText,
}

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// Reads a file that holds the secret and nothing else, but for one end of line, which editors leave
    /// behind.
    pub fn from_file(path: &Path) -> Result<Self, BadSecret> {
        let mut bytes = Vec::new();
        File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LONGEST {
            return Err(BadSecret::TooLong);
        }
        let mut text = String::from_utf8(bytes).map_err(|_| BadSecret::NotText)?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.is_empty() { Err(BadSecret::Empty) } else { Ok(Self::new(text)) }
    }

    /// Reads a credential that systemd may have passed. One that is missing or empty was not given: an empty
    /// one is how a unit says that the credential is optional.
    pub fn from_credential(directory: &Path, name: &str) -> Result<Option<Self>, BadSecret> {
        match Self::from_file(&directory.join(name)) {
            Ok(secret) => Ok(Some(secret)),
            Err(BadSecret::Empty) => Ok(None),
            Err(BadSecret::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(bad) => Err(bad),
        }
    }

    /// The text itself, for the one place that sends or stores it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

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
    fn one_end_of_line_is_not_part_of_the_secret_and_everything_else_is() {
        for (bytes, secret) in [
            (&b"hunter2"[..], "hunter2"),
            (b"hunter2\n", "hunter2"),
            (b"hunter2\r\n", "hunter2"),
            (b"hunter2\n\n", "hunter2\n"),
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
        std::fs::write(directory.path().join("mqtt.password"), "hunter2\n").unwrap();
        let given = Secret::from_credential(directory.path(), "mqtt.password").unwrap().unwrap();
        assert_eq!(given.expose(), "hunter2");
    }

    #[test]
    fn an_account_is_shortened_to_what_only_its_owner_recognises() {
        assert_eq!(shortened("me@example.com"), "m…@example.com");
        assert_eq!(shortened("übung"), "ü…");
        assert_eq!(shortened(""), "…");
    }
}
