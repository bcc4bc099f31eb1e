//! The errors of the cloud: of one request (`ApiError`), of a call (`CloudError`), and at the start.
//!
//! All texts are our own: none quotes the server, a URL or a secret.

use crate::cloud::codes::{self, PlugFault, Reaction};
use crate::cloud::host::BadHost;
use hs100d_core::bridge::counters::CodeClass;
use hs100d_core::model::Failure;

/// Why the cloud cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum CloudStartError {
    /// No password may be sent to the host in the config.
    #[error("[cloud] url {0}")]
    Host(#[from] BadHost),
    /// The file with further certificate authorities is no such file.
    #[error("cloud.v2.ca_file: {0}")]
    Authorities(Box<str>),
    /// The cloud's certificate cannot be verified.
    #[error("no certificate authorities are installed: install the package ca-certificates")]
    NoAuthorities,
}

/// Why a call failed, sorted by what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// Out of reach or out of order. Try again later.
    #[error("the cloud is out of reach: {0}")]
    Down(Box<str>),
    /// The request was sent, and no response came in time.
    #[error("the cloud did not answer in time")]
    Silent,
    /// TP-Link or our own rate limit holds calls back.
    #[error("calls to the cloud are being held back: wait a few minutes")]
    Throttled,
    /// Not used until the user acts. The text says why and what to do.
    #[error("the cloud is stopped: {0}")]
    Stopped(Box<str>),
    /// About one plug; the account is fine.
    #[error("{0}")]
    Plug(PlugFault),
    /// Calls about this plug, or for the list, fail, while calls about other plugs are answered.
    #[error("these calls fail, while those for other plugs are answered: {0}")]
    OnlyHere(ApiError),
    /// The cloud rejects our request as invalid.
    #[error("the cloud rejects the request as invalid ({name}, error {0}): please report this", name = codes::name(*.0))]
    Faulty(i64),
    /// Logged in, but only until this process ends.
    #[error("logged in, but the token cannot be saved ({0}): make the state directory writable")]
    NotSaved(Box<str>),
}

impl From<CloudError> for Failure {
    fn from(error: CloudError) -> Self {
        match error {
            CloudError::Down(why) => Self::CloudDown(why),
            CloudError::Silent => Self::Silent,
            CloudError::Throttled => Self::Throttled,
            CloudError::Stopped(why) => Self::CloudStopped(why),
            CloudError::Plug(fault) => fault.into(),
            CloudError::OnlyHere(error) => Self::CloudFailsHere(error.to_string().into()),
            CloudError::Faulty(_) => Self::CloudRefused(error.to_string().into()),
            CloudError::NotSaved(why) => Self::CloudDown(why),
        }
    }
}

impl From<PlugFault> for Failure {
    fn from(fault: PlugFault) -> Self {
        match fault {
            PlugFault::Offline => Self::CloudOffline,
            PlugFault::Silent => Self::Silent,
            PlugFault::NotListed => Self::NotInAccount,
            PlugFault::Unknown => Self::CloudRefused(fault.to_string().into()),
        }
    }
}

/// Why one request has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// There was no connection, so nothing was sent.
    #[error("no connection: {0}")]
    Unreachable(ConnectError),
    /// The connection broke after the request had begun.
    #[error("the connection broke before the whole answer was there")]
    Broken,
    /// No response in time.
    #[error("no answer in time")]
    TimedOut,
    /// The response is larger than any valid one.
    #[error("the answer is too large")]
    TooLarge,
    /// A status other than 200, and no error code.
    #[error("HTTP status {0}")]
    Http(u16),
    /// The response of something other than the cloud.
    #[error("an answer that is not JSON, as from a proxy or a login page in between")]
    NotJson,
    /// JSON that does not fit the API.
    #[error("{0}")]
    NotAnAnswer(Box<str>),
    /// The server blocks us.
    #[error("TP-Link has put this client on its black list")]
    Blacklisted,
    /// An error code of the cloud.
    #[error("{name} (error {0})", name = codes::name(*.0))]
    Code(i64),
}

impl ApiError {
    /// What to do about it.
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Unreachable(_) => Reaction::Retry,
            Self::Broken => Reaction::Retry,
            Self::TimedOut => Reaction::Retry,
            Self::TooLarge => Reaction::Retry,
            Self::Http(403 | 429) => Reaction::HoldBack,
            Self::Http(_) => Reaction::Retry,
            Self::NotJson => Reaction::Retry,
            Self::NotAnAnswer(_) => Reaction::Retry,
            Self::Blacklisted => Reaction::HoldBackLong,
            Self::Code(code) => codes::reaction(*code),
        }
    }

    /// What it is about, for the metrics.
    pub(super) fn class(&self) -> CodeClass {
        match self {
            Self::Unreachable(_) | Self::Broken => CodeClass::Unreachable,
            Self::TimedOut => CodeClass::Timeout,
            Self::TooLarge | Self::NotJson | Self::NotAnAnswer(_) => CodeClass::Garbage,
            Self::Http(_) | Self::Blacklisted | Self::Code(_) => match self.reaction() {
                Reaction::HoldBack | Reaction::HoldBackLong => CodeClass::Throttled,
                Reaction::Renew | Reaction::Login | Reaction::Elsewhere => CodeClass::Token,
                Reaction::Stop(_) => CodeClass::Account,
                Reaction::Plug(_) => CodeClass::Plug,
                Reaction::Faulty => CodeClass::Request,
                Reaction::Retry => CodeClass::Server,
            },
        }
    }

    /// Whether the token was refused, so that another one may help.
    pub(super) fn refuses_the_token(&self) -> bool {
        matches!(self.reaction(), Reaction::Renew | Reaction::Login | Reaction::Elsewhere)
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No answer to the connection attempt.
    #[error("the host does not answer")]
    Silent,
    /// The name does not exist, or no resolver answers.
    #[error("the host's name does not resolve")]
    NameUnresolved,
    /// The certificate has expired or is not valid yet; often our own clock is wrong.
    #[error("its certificate is not valid at this hour; is the clock right?")]
    Clock,
    /// The certificate is not trusted.
    #[error("its certificate is not accepted; is the clock right, does a proxy intercept TLS?")]
    Certificate,
    /// The certificate is not trusted, and the host is one of those that have TP-Link's own.
    #[error(
        "its certificate is of TP-Link's own authority, or of none; set ca_file in [cloud.v2] to that authority"
    )]
    PrivateAuthority,
    /// The host does not speak TLS.
    #[error("TLS failed; does something else answer in the host's place?")]
    Tls,
    /// This process has no file descriptor left.
    #[error("too many files are open; raise the limit")]
    OutOfFiles,
    /// The system's own text.
    #[error("{0}")]
    Other(Box<str>),
}

impl From<&str> for ConnectError {
    fn from(why: &str) -> Self {
        Self::Other(why.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_what_they_are_about() {
        for (error, class) in [
            (ApiError::Unreachable(ConnectError::Silent), CodeClass::Unreachable),
            (ApiError::TimedOut, CodeClass::Timeout),
            (ApiError::NotJson, CodeClass::Garbage),
            (ApiError::Http(429), CodeClass::Throttled),
            (ApiError::Http(502), CodeClass::Server),
            (ApiError::Blacklisted, CodeClass::Throttled),
            (ApiError::Code(-20651), CodeClass::Token),
            (ApiError::Code(-20601), CodeClass::Account),
            (ApiError::Code(-20571), CodeClass::Plug),
            (ApiError::Code(-20103), CodeClass::Request),
            (ApiError::Code(-5), CodeClass::Server),
        ] {
            assert_eq!(error.class(), class, "{error}");
        }
    }

    #[test]
    fn errors_print_in_our_own_words_with_the_number() {
        assert_eq!(ApiError::Code(-20571).to_string(), "the plug is offline (error -20571)");
        assert_eq!(ApiError::Code(-5).to_string(), "an error that is not known here (error -5)");
    }
}
