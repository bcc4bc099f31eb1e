//! The account's tokens on disk: `cloud.token`, which is as good as a password.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::file::{self, Loaded, TOKENS, Unwritable, VERSION};
use crate::secret::Secret;
use crate::transport::cloud::{TokenStore, Tokens};

/// The account's tokens on disk. A handle, cheap to clone.
#[derive(Debug, Clone)]
pub struct TokenFile {
    directory: PathBuf,
    known: Arc<Mutex<KnownTokens>>,
    /// Held while the file is written, so that older tokens never replace newer ones.
    writing: Arc<Mutex<()>>,
}

/// What this process knows of the file.
#[derive(Debug, Default)]
struct KnownTokens {
    /// What we wrote or read there last. If the file differs, somebody else wrote it.
    on_disk: Option<Tokens>,
    /// What could not be written yet.
    unsaved: Option<Tokens>,
}

impl TokenFile {
    /// That of the store in this directory, whether it is there yet or not.
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), known: Arc::default(), writing: Arc::default() }
    }

    /// Whether there was a login, without a look at what it brought.
    pub(crate) fn is_there(&self) -> bool {
        self.path().exists()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(TOKENS)
    }

    /// Whether somebody removed the file: a logout. A file that was never written does not count.
    pub fn was_removed(&self) -> bool {
        self.known().on_disk.is_some() && !self.is_there()
    }

    /// The tokens of the last login, if there was one. If somebody else logged in or out meanwhile, unwritten tokens are
    /// dropped.
    ///
    /// # Errors
    /// A line for the log, if the file has no tokens in it. Then it has been renamed.
    pub fn load(&self) -> Result<Option<Tokens>, String> {
        let mut tokens = None;
        let loaded = file::load(&self.directory, TOKENS, |bytes| {
            tokens = Some(file::parse::<TokensFile>(bytes)?.tokens());
            Ok(())
        });
        match loaded {
            Loaded::Well(()) | Loaded::Missing => {
                let mut known = self.known();
                if known.on_disk != tokens {
                    known.unsaved = None;
                }
                // A logout counts until a session has begun without these.
                if tokens.is_some() {
                    known.on_disk.clone_from(&tokens);
                }
                Ok(tokens)
            }
            Loaded::Refused(warning) | Loaded::Unreadable(warning) => Err(warning),
        }
    }

    /// Writes the tokens. Blocks until the disk has them.
    ///
    /// # Errors
    /// The file that could not be written. It is unchanged, and the next snapshot writes these tokens.
    pub fn save(&self, tokens: &Tokens) -> Result<(), Unwritable> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = file::replace(&self.directory, TOKENS, &TokensFile::of(tokens));
        self.known().wrote(tokens, saved.is_ok());
        saved
    }

    /// Writes tokens that could not be written before.
    pub(super) fn save_what_is_left(&self) -> Result<(), Unwritable> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tokens) = self.known().unsaved.clone() else { return Ok(()) };
        file::replace(&self.directory, TOKENS, &TokensFile::of(&tokens))?;
        tracing::info!("the account's token is saved");
        self.known().wrote(&tokens, true);
        Ok(())
    }

    /// A new session has begun with the file as it is: unwritten tokens of the last one are dropped.
    pub fn begin_anew(&self) {
        let is_there = self.is_there();
        let mut known = self.known();
        known.unsaved = None;
        known.on_disk.take_if(|_| !is_there);
    }

    pub(super) fn is_unsaved(&self) -> bool {
        self.known().unsaved.is_some()
    }

    fn known(&self) -> MutexGuard<'_, KnownTokens> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the tokens, if there are any.
    ///
    /// # Errors
    /// The file that could not be removed.
    pub fn clear(&self) -> Result<(), Unwritable> {
        *self.known() = KnownTokens::default();
        file::remove(&self.directory, TOKENS)
    }
}

impl KnownTokens {
    fn wrote(&mut self, tokens: &Tokens, succeeded: bool) {
        let tokens = Some(tokens.clone());
        if succeeded {
            *self = Self { on_disk: tokens, unsaved: None };
        } else {
            self.unsaved = tokens;
        }
    }
}

impl TokenStore for TokenFile {
    fn save(&self, tokens: &Tokens) -> io::Result<()> {
        Self::save(self, tokens).map_err(io::Error::other)
    }
}

/// `cloud.token` as written.
#[derive(Serialize, Deserialize)]
struct TokensFile {
    version: u32,
    username: String,
    /// Files of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered: Option<String>,
    token: String,
    refresh_token: Option<String>,
}

impl TokensFile {
    fn of(tokens: &Tokens) -> Self {
        Self {
            version: VERSION,
            username: tokens.username.clone(),
            registered: tokens.registered.clone(),
            token: tokens.token.expose().to_owned(),
            refresh_token: tokens.refresh_token.as_ref().map(|token| token.expose().to_owned()),
        }
    }

    fn tokens(mut self) -> Tokens {
        Tokens {
            username: mem::take(&mut self.username),
            registered: self.registered.take(),
            token: Secret::new(mem::take(&mut self.token)),
            refresh_token: self.refresh_token.take().map(Secret::new),
        }
    }
}

impl Drop for TokensFile {
    fn drop(&mut self) {
        self.token.zeroize();
        self.refresh_token.zeroize();
    }
}
