//! Authentication at the embedded broker: user name and password, and a delay after each wrong one.
//!
//! A client that is logged in may do everything; there are no access lists. A wrong user name is not logged, because people
//! type passwords into that field.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::options::User;
use crate::logging::Repeated;

/// The delay before a wrong password is refused. The connection is closed after that, so that many guesses need many
/// connections.
const REFUSE_AFTER: Duration = Duration::from_secs(1);

/// Compares logins with the users of the config.
pub(super) struct Authenticator {
    users: Vec<User>,
    refused: Mutex<Repeated>,
}

impl Authenticator {
    pub(super) fn new(users: Vec<User>) -> Self {
        Self { users, refused: Mutex::default() }
    }

    /// Whether this is the name of a user and its password.
    pub(super) fn admits(&self, name: Option<&str>, password: Option<&[u8]>) -> bool {
        let (Some(name), Some(password)) = (name, password) else { return false };
        self.users.iter().any(|user| user.name == name && user.password.is(password))
    }

    /// Logs a refused login, at growing intervals if there are many, and waits until it may be answered.
    pub(super) async fn refused(&self, client: SocketAddr) {
        self.log_refusal(client);
        tokio::time::sleep(REFUSE_AFTER).await;
    }

    fn log_refusal(&self, client: SocketAddr) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = refused.failed("", Instant::now()) {
            tracing::warn!(
                "the embedded broker refused the login of a client at {}, {times} refused so far: use a name and \
                 password of a [[broker.user]]",
                client.ip()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_name_and_its_own_password_are_both_needed() {
        let user = |name: &str, password: &str| User {
            name: name.to_owned(),
            password: Secret::new(password.to_owned()),
        };
        let authenticator = Authenticator::new(vec![user("ha", "right"), user("me", "mine")]);
        for (name, password, admitted) in [
            (Some("ha"), Some("right"), true),
            (Some("me"), Some("mine"), true),
            (Some("me"), Some("right"), false),
            (Some("ha"), Some("righ"), false),
            (Some("ha"), Some("right "), false),
            (Some("ha"), Some(""), false),
            (Some("ha"), None, false),
            (Some("HA"), Some("right"), false),
            (Some(""), Some("right"), false),
            (None, Some("right"), false),
            (None, None, false),
        ] {
            assert_eq!(
                authenticator.admits(name, password.map(str::as_bytes)),
                admitted,
                "{name:?} {password:?}"
            );
        }
        assert!(
            !Authenticator::new(Vec::new()).admits(Some(""), Some(b"")),
            "without users no login is accepted"
        );
    }
}
