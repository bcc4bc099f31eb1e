//! The account: what the config says about it, and the tokens that are saved. Plain values, and the trait that saves them.

use std::fmt;
use std::path::PathBuf;

use crate::cloud::request::AppIdentity;
use crate::cloud::signature::AppKeys;
use hs100d_core::secret::Secret;

/// The account as configured.
#[derive(Clone, PartialEq, Eq)]
pub struct CloudOptions {
    /// The account's e-mail address.
    pub username: String,
    /// Its password; not needed while a token from `hs100d cloud login` is valid.
    pub password: Option<Secret>,
    /// `https://wap.tplinkcloud.com`; plain http is accepted for loopback hosts only. Validated by `check_host`.
    pub url: String,
    /// The app that requests name.
    pub app: AppIdentity,
    /// The keys of that app: with them the second version of the API is used, without them the first.
    pub keys: Option<AppKeys>,
    /// Certificate authorities in PEM, beside those of the system, for this account only.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for CloudOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudOptions").field("url", &self.url).field("app", &self.app).finish_non_exhaustive()
    }
}

/// The tokens of an account, as saved. As good as its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The account's e-mail address. Tokens of another account are not used.
    pub username: String,
    /// The address as TP-Link spells it, if a login told it.
    pub registered: Option<String>,
    /// Part of every call.
    pub token: Secret,
    /// Gets a new token without the password.
    pub refresh_token: Option<Secret>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// Saves tokens, so that they outlive a restart.
pub trait TokenStore: Send + Sync {
    /// Replaces the saved tokens before it returns. Called outside the loop, so it may wait for the disk.
    ///
    /// # Errors
    /// Logged, and not fatal. The text must not hold a secret.
    fn save(&self, tokens: &Tokens) -> std::io::Result<()>;
}
