//! The question, after a broker has refused our login, whether there is another one by now. It is asked before the refusal is
//! reported.

use tokio::sync::{mpsc, oneshot};

use super::settings::MqttSettings;
use crate::secret::Secret;

/// The inquiries that may wait; one connection has one at most.
const WAITING: usize = 4;

/// Where a connection asks. The default asks nobody.
#[derive(Debug, Clone, Default)]
pub struct LoginSource(Option<mpsc::Sender<LoginInquiry>>);

/// A login was refused: is there another one?
#[derive(Debug)]
pub struct LoginInquiry {
    /// As it was refused.
    pub username: Option<String>,
    /// As it was refused.
    pub password: Option<Secret>,
    reply: oneshot::Sender<bool>,
}

impl LoginSource {
    /// A source, and where its inquiries arrive.
    pub fn channel() -> (Self, mpsc::Receiver<LoginInquiry>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(Some(sender)), receiver)
    }

    /// Whether a new connection with another login follows. False also if nobody answers.
    pub(super) async fn has_another(&self, refused: &MqttSettings) -> bool {
        let Some(inquiries) = &self.0 else { return false };
        let (reply, answer) = oneshot::channel();
        let (username, password) = (refused.username.clone(), refused.password.clone());
        let asked = inquiries.send(LoginInquiry { username, password, reply }).await;
        asked.is_ok() && answer.await.unwrap_or(false)
    }
}

impl LoginInquiry {
    /// Answers whether a new connection with another login follows.
    pub fn answer(self, has_another: bool) {
        // An error means that the connection was stopped.
        let _ = self.reply.send(has_another);
    }
}
