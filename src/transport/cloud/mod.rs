//! The cloud wire.

use crate::secret::Secret;

/// The account and where it lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The account's e-mail address.
    pub username: String,
    /// Its password; not needed while a token from `hs100d cloud login` is good.
    pub password: Option<Secret>,
    /// `https://wap.tplinkcloud.com`; plain http is accepted for loopback hosts only. Validated by `check_host`.
    pub url: String,
}

/// What stays on disk of a login. Password equivalents.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    /// The account that they belong to; tokens of another account are not used.
    pub username: String,
    /// Goes with every call.
    pub token: Secret,
    /// Buys a new token without the password.
    pub refresh_token: Option<Secret>,
}

/// stub until merged
#[derive(Debug, Clone)]
pub struct Cloud;
impl Cloud {
    /// stub
    pub async fn perform(&self, _exchange: &crate::bridge::event::Exchange) -> crate::bridge::event::Outcome {
        unreachable!()
    }
}
