//! Who may come in to the embedded broker once there are users: name and password, and a pause after each wrong one.
//!
//! Whoever is in may do everything; there are no lists of topics. What was tried is not told to anybody, for people
//! type passwords where names belong.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;

use super::User;
use crate::logging::Repeated;

/// A client that was wrong waits this long for its answer, on a connection that is of no more use then: whoever guesses
/// needs as many connections as he makes guesses in a second.
const PAUSE: Duration = Duration::from_secs(1);

type AuthFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Knows the users.
pub(super) struct Authenticator {
    users: Vec<User>,
    refused: Mutex<Repeated>,
}

impl Authenticator {
    pub(super) fn new(users: Vec<User>) -> Self {
        Self { users, refused: Mutex::default() }
    }

    fn admits(&self, name: Option<&str>, password: Option<&[u8]>) -> bool {
        let (Some(name), Some(password)) = (name, password) else { return false };
        self.users.iter().any(|user| user.name == name && user.password.is(password))
    }

    /// Tells of it, though not of each one of a flood.
    fn turned_away(&self, client: SocketAddr) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = refused.failed("", Instant::now()) {
            tracing::warn!(
                "the embedded broker turned a client at {} away, {times} so far: it knew no user of \
                 [[broker.user]] with the right password",
                client.ip()
            );
        }
    }
}

impl AuthProvider for Authenticator {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        client: SocketAddr,
    ) -> AuthFuture<'a, mqtt5::error::Result<AuthResult>> {
        Box::pin(async move {
            let name = connect.username.as_deref();
            match name.filter(|_| self.admits(name, connect.password.as_deref())) {
                Some(name) => Ok(AuthResult::success_with_user(name)),
                None => {
                    self.turned_away(client);
                    tokio::time::sleep(PAUSE).await;
                    Ok(AuthResult::fail(ReasonCode::BadUsernameOrPassword))
                }
            }
        })
    }

    fn authorize_publish<'a>(&'a self, _: &str, _: Option<&'a str>, _: &'a str) -> AuthFuture<'a, bool> {
        Box::pin(ready(true))
    }

    fn authorize_subscribe<'a>(&'a self, _: &str, _: Option<&'a str>, _: &'a str) -> AuthFuture<'a, bool> {
        Box::pin(ready(true))
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
        let doorman = Authenticator::new(vec![user("ha", "right"), user("me", "mine")]);
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
            assert_eq!(doorman.admits(name, password.map(str::as_bytes)), admitted, "{name:?} {password:?}");
        }
        assert!(!Authenticator::new(Vec::new()).admits(Some(""), Some(b"")), "nobody is no user");
    }
}
