//! Reads the files that the config names (passwords, keys, certificates) and systemd's credentials, and warns if other users may
//! read or change them.

use std::fmt;
use std::path::{Path, PathBuf};

use super::current_file::CurrentFile;
use super::diagnostic::{Diagnostic, Diagnostics, Place, Spanned};
use super::file;
use super::paths::{ConfigPath, Environment};
use crate::permissions::FilePermissions;
use crate::secret::Secret;

/// Finds the files beside the config file.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedFiles<'a> {
    /// Of the config file.
    pub(super) path: &'a ConfigPath,
    /// The site file, if the config has placeholders of it.
    pub(super) site_file: Option<&'a Path>,
    /// Where the credentials are.
    pub(super) environment: &'a Environment,
    /// Set before each file that is read.
    pub(super) current: &'a CurrentFile,
}

impl NamedFiles<'_> {
    /// The password of this table, which goes with the user name of the table.
    pub(super) fn password_of_user(
        &self,
        diagnostics: &mut Diagnostics,
        written: file::Password,
        table: &str,
        is_anonymous: bool,
    ) -> Option<Secret> {
        let goes_with = format!("goes with a user name: add {table}.username");
        if let (true, Some(fault)) = (is_anonymous, written.fault(&goes_with)) {
            diagnostics.fault(fault);
        }
        let credential = format!("{table}.password");
        let password = self.password(diagnostics, written, &credential);
        if is_anonymous && password.is_some() {
            diagnostics.warn(Diagnostic::of(
                format!("{table}.username"),
                format!("is missing: the credential {credential} is not used without it"),
            ));
        }
        password.filter(|_| !is_anonymous)
    }

    /// The password in the file, else the credential from systemd.
    pub(super) fn password(
        &self,
        diagnostics: &mut Diagnostics,
        written: file::Password,
        credential: &str,
    ) -> Option<Secret> {
        if written.text.is_none() && written.file.is_none() {
            return self.credential(diagnostics, credential);
        }
        self.written_password(diagnostics, written)
    }

    pub(super) fn written_password(
        &self,
        diagnostics: &mut Diagnostics,
        written: file::Password,
    ) -> Option<Secret> {
        match (written.text, written.file) {
            (Some(text), Some(file)) => {
                diagnostics
                    .fault(file.fault(format!("contradicts the one in {}: keep one of the two", text.place)));
                None
            }
            (Some(text), None) => Some(text.value),
            (None, Some(file)) => self.secret_file(diagnostics, &file, "holds a password"),
            (None, None) => None,
        }
    }

    /// A secret alone in its file; `what` the file holds.
    pub(super) fn secret_file(
        &self,
        diagnostics: &mut Diagnostics,
        at: &Spanned<PathBuf>,
        what: &str,
    ) -> Option<Secret> {
        let path = self.resolve(&at.value);
        self.current.set(&path);
        match Secret::from_file(&path) {
            Ok(secret) => {
                self.guard(diagnostics, at, &path, what);
                Some(secret)
            }
            Err(bad) => {
                diagnostics.fault(at.fault(format!("{} {bad}", path.display())));
                None
            }
        }
    }

    pub(super) fn credential(&self, diagnostics: &mut Diagnostics, name: &str) -> Option<Secret> {
        let directory = Path::new(self.environment.get("CREDENTIALS_DIRECTORY")?);
        self.current.set(&directory.join(name));
        Secret::from_credential(directory, name).unwrap_or_else(|bad| {
            diagnostics.fault(Diagnostic::of(format!("credential {name}"), bad.to_string()));
            None
        })
    }

    /// The full path of a file that must be readable.
    pub(super) fn readable(&self, diagnostics: &mut Diagnostics, at: &Spanned<PathBuf>) -> PathBuf {
        let path = self.resolve(&at.value);
        self.current.set(&path);
        if let Err(error) = std::fs::File::open(&path) {
            diagnostics
                .fault(at.fault(format!("{} cannot be read: {error}: check the path", path.display())));
        }
        path
    }

    /// A relative path starts at the config file: the working directory of a daemon is arbitrary.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.path.path().and_then(Path::parent).map_or_else(|| path.to_owned(), |parent| parent.join(path))
    }

    /// Warns if other users may read or change a file with a secret.
    pub(super) fn guard(
        &self,
        diagnostics: &mut Diagnostics,
        at: &Spanned<PathBuf>,
        path: &Path,
        what: &str,
    ) {
        let Some(permissions) = FilePermissions::of(path) else { return };
        let path = path.display();
        if permissions.everybody_reads() {
            diagnostics.warn(at.fault(format!("{path} {what} and every user may read it: chmod o-r {path}")));
        }
        for reason in other_writers(permissions, &path) {
            diagnostics.warn(at.fault(format!("{path} {what} and {reason}")));
        }
    }

    /// The same for the config file, which says where passwords are sent, and for its directory, in which it can be
    /// replaced.
    pub(super) fn check_config_file(&self, diagnostics: &mut Diagnostics, file: &file::File) {
        let Some(path) = self.path.path() else { return };
        let written =
            [&file.mqtt.password, &file.local.password, &file.http.token, &file.http.read_token].into_iter();
        let written = written.chain(file.cloud.as_ref().map(|cloud| &cloud.password));
        let users = file.broker.users.iter().map(|user| &user.password);
        // One that is an option is not in the file.
        let in_file = |at: &Spanned<Secret>| matches!(at.place, Place::Line(_));
        let holds_password = written.chain(users).any(|password| password.text.as_ref().is_some_and(in_file));
        if let Some(permissions) = FilePermissions::of(path) {
            if holds_password && permissions.everybody_reads() {
                let remedy =
                    format!("holds a password and every user may read it: chmod o-r {}", path.display());
                diagnostics.warn(Diagnostic::of("", remedy));
            }
            let reasons: Vec<_> = other_writers(permissions, &path.display()).collect();
            reasons.into_iter().for_each(|reason| diagnostics.warn(Diagnostic::of("", reason)));
        }
        // It may say where passwords are sent.
        if let Some((path, permissions)) =
            self.site_file.and_then(|path| Some((path.display(), FilePermissions::of(path)?)))
        {
            let reasons = other_writers(permissions, &path);
            reasons.for_each(|reason| diagnostics.warn(Diagnostic::of("", format!("{path}: {reason}"))));
        }
        // The parent of a bare file name is an empty path.
        let parent =
            path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
        if let Some(parent) =
            parent.filter(|parent| FilePermissions::of(parent).is_some_and(FilePermissions::everybody_writes))
        {
            let parent = parent.display();
            diagnostics.warn(Diagnostic::of(
                "",
                format!("lies in {parent}, where every user may replace it: chmod o-w {parent}"),
            ));
        }
    }
}

/// The other users who may change a file, with the remedy.
fn other_writers(permissions: FilePermissions, path: &impl fmt::Display) -> impl Iterator<Item = String> {
    let all_users =
        permissions.everybody_writes().then(|| format!("every user may change it: chmod o-w {path}"));
    let foreign = permissions
        .foreign_owner()
        .map(|owner| format!("belongs to user {owner}, who may change it: chown root {path}"));
    all_users.into_iter().chain(foreign)
}
