//! The notifier of a home: notified at each change, so that a test waits for a condition and not for a fixed time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// How often a condition is checked without a notification: it may depend on something outside of the home.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Notified at each change. Cheap to clone; all clones are the same notifier.
#[derive(Clone, Debug)]
pub struct ChangeNotifier(Arc<watch::Sender<()>>);

/// The condition did not hold within its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("did not come true within {0:?}")]
pub struct NotInTime(pub(crate) Duration);

impl ChangeNotifier {
    /// A notifier without receivers.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }

    pub(crate) fn notify(&self) {
        self.0.send_replace(());
    }

    /// Receives each notification from now on.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    /// Waits until `condition` holds, for at most `bound`.
    ///
    /// # Errors
    /// If it does not hold in time.
    pub async fn wait_until(
        &self,
        bound: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), NotInTime> {
        // Subscribes before the first check, or it would miss a change between the two.
        let mut heard = self.0.subscribe();
        let waiting = async {
            while !condition() {
                let _ = timeout(LOOK_AGAIN, heard.changed()).await;
            }
        };
        timeout(bound, waiting).await.map_err(|_| NotInTime(bound))
    }
}

impl Default for ChangeNotifier {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_wait_ends_when_its_condition_holds() {
        let notifier = ChangeNotifier::new();
        let done = Arc::new(AtomicBool::new(false));
        let (sender, flag) = (notifier.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            flag.store(true, Ordering::SeqCst);
            sender.notify();
        });
        assert_eq!(notifier.wait_until(Duration::from_secs(5), || done.load(Ordering::SeqCst)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_wait_for_what_never_comes_ends_at_its_bound() {
        let bound = Duration::from_millis(30);
        assert_eq!(ChangeNotifier::new().wait_until(bound, || false).await, Err(NotInTime(bound)));
    }
}
