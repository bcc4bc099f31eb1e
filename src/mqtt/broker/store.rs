//! The embedded broker's store: retained messages, sessions, and the messages queued for them survive a restart.
//!
//! The broker works in memory; a task writes its changes to disk. A disk that is full, read-only or slow refuses no client
//! and delays no message: a restart then loses what is not written. That is logged once and retried until it works.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mqtt5::MqttError;
use mqtt5::broker::storage::RetainedMessage;
use mqtt5::broker::{BrokerEventHandler, DynamicStorage, FileBackend, RetainedSetEvent, StorageBackend};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use crate::logging::Repeated;
use crate::model::shown;

/// How long changes are collected before they are written.
const WRITE_AFTER: Duration = Duration::from_secs(1);
/// The pause before a failed write is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// How often sessions are compared with what was written: they announce no change.
const SESSION_INTERVAL: Duration = Duration::from_secs(10);
/// The most retained messages, and the most changes that wait to be written. Ten thousand plugs have four topics and one
/// discovery payload each.
pub(super) const MAX_RETAINED: usize = 100_000;
/// The most characters of a topic that the log shows.
const MAX_SHOWN: usize = 100;
/// The library's folder for retained messages, inside ours.
const RETAINED: &str = "retained";
/// A file that is written to test whether the folder is writable.
const PROBE: &str = ".probe";
/// One block on most file systems, in bytes: a smaller file might fit on a full disk.
const PROBE_SIZE: usize = 4096;

/// Why something could not be written.
struct WriteError {
    why: String,
    remedy: &'static str,
}

/// Another broker uses the folder.
#[derive(Debug)]
pub(super) struct InUse;

/// The folder, and the changes that wait to be written to it.
pub(super) struct BrokerStore {
    folder: PathBuf,
    /// `None` while the folder cannot be used.
    file: Option<FileBackend>,
    changes: Arc<Changes>,
    /// The sessions as last written.
    sessions: HashMap<String, serde_json::Value>,
    failures: Repeated,
}

impl BrokerStore {
    /// Opens the folder, and creates it if it is missing. A damaged folder is moved to `aside`; a folder that cannot be used
    /// now is tried again later. Both are logged as a warning.
    pub(super) async fn open(folder: &Path, aside: &Path) -> Result<Self, InUse> {
        let mut store = Self {
            folder: folder.to_owned(),
            file: None,
            changes: Arc::default(),
            sessions: HashMap::new(),
            failures: Repeated::default(),
        };
        let mut opened = open(folder).await;
        if let Err(StoreUnusable::Damaged(why)) = &opened {
            match move_aside(folder, aside) {
                Ok(()) => {
                    tracing::warn!(
                        "{}: the embedded broker's store is damaged ({why}): it starts empty; the old files are in {}, \
                         delete them",
                        folder.display(),
                        aside.display()
                    );
                    opened = open(folder).await;
                }
                Err(error) => tracing::debug!("{}: cannot be moved aside: {error}", folder.display()),
            }
        }
        match opened {
            Ok(file) => store.file = Some(file),
            Err(StoreUnusable::InUse) => return Err(InUse),
            Err(StoreUnusable::Damaged(why) | StoreUnusable::Unwritable(why)) => {
                store.log_failure(&WriteError::folder(why))
            }
        }
        Ok(store)
    }

    /// The event handler that collects the broker's changes.
    pub(super) fn changes(&self) -> Arc<Changes> {
        Arc::clone(&self.changes)
    }

    /// Loads the store into the broker's memory. Must be called before the broker runs.
    pub(super) async fn restore(&mut self, memory: &Arc<DynamicStorage>) {
        // This is the only place that sets it.
        let _ = self.changes.memory.set(Arc::clone(memory));
        let Some(file) = &self.file else { return };
        match restore(file, memory).await {
            Ok(sessions) => self.sessions = sessions,
            Err(error) => {
                let (folder, why) = (self.folder.display(), first_line(&error));
                tracing::warn!(
                    "{folder}: the embedded broker's store cannot be read in full: {why}: check the disk"
                );
            }
        }
    }

    /// Starts the task that writes changes until [`StoreWriter::stop`], or until its handle is dropped.
    pub(super) fn spawn_writer(self) -> StoreWriter {
        let (stop, stopped) = oneshot::channel();
        StoreWriter { stop, task: tokio::spawn(self.run(stopped)) }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let changes = self.changes();
        let mut due =
            Instant::now() + if self.failures.is_going_on() { RETRY_AFTER } else { SESSION_INTERVAL };
        loop {
            tokio::select! {
                // The sender has sent or was dropped: both mean stop.
                _ = &mut stopped => break,
                () = changes.notify.notified() => {
                    if !self.failures.is_going_on() {
                        due = due.min(Instant::now() + WRITE_AFTER);
                    }
                }
                () = sleep_until(due.into()) => {
                    let pause = if self.write(false).await { SESSION_INTERVAL } else { RETRY_AFTER };
                    due = Instant::now() + pause;
                }
            }
        }
        self.write(true).await;
    }

    /// Writes all changes; false if some could not be written. Queued messages are written at the end only (`is_last`).
    async fn write(&mut self, is_last: bool) -> bool {
        match self.try_to_write(is_last).await {
            Ok(()) => {
                if let Some(past) = self.failures.ended(Instant::now()) {
                    let folder = self.folder.display();
                    tracing::info!("{folder}: the embedded broker's store is written again {past}");
                }
                true
            }
            Err(error) => {
                self.log_failure(&error);
                false
            }
        }
    }

    fn log_failure(&mut self, WriteError { why, remedy }: &WriteError) {
        if self.failures.failed(why, Instant::now()).is_some() {
            tracing::warn!(
                "{}: cannot be written: {why}: the embedded broker goes on in memory, and a restart loses what is not \
                 written; {remedy}",
                self.folder.display()
            );
        }
    }

    async fn try_to_write(&mut self, is_last: bool) -> Result<(), WriteError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.folder).await.map_err(|unusable| WriteError::folder(unusable.to_string()))?,
        };
        let retained = self.changes.write_to(&file, &self.folder).await;
        let sessions = self.write_sessions(&file, is_last).await;
        self.file = Some(file);
        retained?;
        let Err(error) = sessions else { return Ok(()) };
        // The library's error says what it tried to do; the probe's error says why that failed.
        let why = probe(&self.folder).await.err().map_or_else(|| first_line(&error), |why| why.to_string());
        Err(WriteError::folder(why))
    }

    async fn write_sessions(&mut self, file: &FileBackend, is_last: bool) -> Result<(), MqttError> {
        let Some(memory) = self.changes.memory.get() else { return Ok(()) };
        let ids: HashSet<String> = memory.session_client_ids().await?.into_iter().collect();
        for id in &ids {
            let Some(session) = memory.get_session(id).await? else { continue };
            let value = serde_json::to_value(&session).unwrap_or_default();
            if self.sessions.get(id) != Some(&value) {
                file.store_session(session).await?;
                self.sessions.insert(id.clone(), value);
            }
            if is_last {
                for message in memory.get_queued_messages(id).await? {
                    file.queue_message(message).await?;
                }
                for message in memory.get_inflight_messages(id).await? {
                    file.store_inflight_message(message).await?;
                }
            }
        }
        let gone: Vec<String> = self.sessions.keys().filter(|id| !ids.contains(*id)).cloned().collect();
        for id in gone {
            file.remove_session(&id).await?;
            self.sessions.remove(&id);
        }
        if is_last {
            file.flush_queue_writes().await;
        }
        Ok(())
    }
}

impl WriteError {
    fn folder(why: String) -> Self {
        Self { why, remedy: "make room there, or make it writable for this user" }
    }
}

/// The handle of the task that writes the store.
#[derive(Debug)]
pub(super) struct StoreWriter {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl StoreWriter {
    /// Writes the last changes, and returns when another broker may open the folder.
    pub(super) async fn stop(self) {
        // An error means that the task has ended already.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Retained messages that have changed and are not written yet; `None` is a message that was cleared.
#[derive(Default)]
pub(super) struct Changes {
    memory: OnceLock<Arc<DynamicStorage>>,
    retained: Mutex<BTreeMap<String, Option<RetainedMessage>>>,
    notify: Notify,
}

impl Changes {
    async fn record(&self, event: RetainedSetEvent) {
        let topic = &*event.topic;
        if !self.has_room(topic) {
            tracing::debug!(topic, "too many changes wait to be written: a restart loses this one");
            return;
        }
        let message = if event.cleared { None } else { self.take(topic).await };
        // Without a message the topic has changed again; that event records it.
        if message.is_some() || event.cleared {
            self.lock().insert(topic.to_owned(), message);
            self.notify.notify_one();
        }
    }

    /// The message with its properties, moved out of the memory store. The broker has a copy of its own and reads this store
    /// at its start only.
    async fn take(&self, topic: &str) -> Option<RetainedMessage> {
        let memory = self.memory.get()?;
        let message = memory.get_retained_message(topic).await.ok()?;
        memory.remove_retained_message(topic).await.ok()?;
        message
    }

    /// Writes the waiting changes; those that cannot be written wait on. A message whose topic is too long for a file name
    /// does not keep the others from being written.
    async fn write_to(&self, file: &FileBackend, folder: &Path) -> Result<(), WriteError> {
        let mut result = Ok(());
        let mut changed = std::mem::take(&mut *self.lock()).into_iter();
        while let Some((topic, message)) = changed.next() {
            let written = match &message {
                Some(message) => file.store_retained_message(&topic, message.clone()).await,
                None => file.remove_retained_message(&topic).await,
            };
            let Err(error) = written else { continue };
            if result.is_ok() {
                if let Err(why) = probe(&folder.join(RETAINED)).await {
                    self.requeue(std::iter::once((topic, message)).chain(changed));
                    return Err(WriteError::folder(why.to_string()));
                }
                let why = format!("the message at {}: {}", shown(&topic, MAX_SHOWN), first_line(&error));
                result = Err(WriteError { why, remedy: "publish that message at a shorter topic" });
            }
            self.requeue(std::iter::once((topic, message)));
        }
        result
    }

    /// Lets these changes wait on, unless a newer one of the same topic does.
    fn requeue(&self, changes: impl Iterator<Item = (String, Option<RetainedMessage>)>) {
        let mut newer = self.lock();
        for (topic, message) in changes {
            newer.entry(topic).or_insert(message);
        }
    }

    /// Whether one more change may wait: clients must not fill the memory while nothing can be written.
    fn has_room(&self, topic: &str) -> bool {
        let retained = self.lock();
        retained.len() < MAX_RETAINED || retained.contains_key(topic)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Option<RetainedMessage>>> {
        self.retained.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BrokerEventHandler for Changes {
    fn on_retained_set<'a>(
        &'a self,
        event: RetainedSetEvent,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.record(event))
    }
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
enum StoreUnusable {
    #[error("another embedded broker stores its messages there")]
    InUse,
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Unwritable(String),
}

async fn open(folder: &Path) -> Result<FileBackend, StoreUnusable> {
    let path = folder.to_owned();
    blocking(move || prepare(&path)).await.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => StoreUnusable::Damaged(error.to_string()),
        _ => StoreUnusable::Unwritable(error.to_string()),
    })?;
    match FileBackend::new(folder).await {
        Ok(file) => Ok(file),
        Err(_) if is_in_use(folder) => Err(StoreUnusable::InUse),
        // A full disk is not a damaged store.
        Err(error) => Err(match probe(folder).await {
            Ok(()) => StoreUnusable::Damaged(first_line(&error)),
            Err(why) => StoreUnusable::Unwritable(why.to_string()),
        }),
    }
}

/// Reads everything, and returns the sessions as they are on disk. Queued messages are removed from the disk: left there,
/// they would be delivered again after a crash.
async fn restore(
    file: &FileBackend,
    memory: &DynamicStorage,
) -> Result<HashMap<String, serde_json::Value>, MqttError> {
    if let Err(error) = file.cleanup_expired().await {
        tracing::debug!("cannot remove expired messages from the store: {error}");
    }
    for (topic, message) in file.get_retained_messages("#").await? {
        memory.store_retained_message(&topic, message).await?;
    }
    let mut sessions = HashMap::new();
    for id in file.session_client_ids().await? {
        let Some(session) = file.get_session(&id).await? else { continue };
        for message in file.get_queued_messages(&id).await? {
            memory.queue_message(message).await?;
        }
        for message in file.get_inflight_messages(&id).await? {
            memory.store_inflight_message(message).await?;
        }
        file.remove_queued_messages(&id).await?;
        file.remove_all_inflight_messages(&id).await?;
        sessions.insert(id, serde_json::to_value(&session).unwrap_or_default());
        memory.store_session(session).await?;
    }
    file.flush_queue_writes().await;
    Ok(sessions)
}

/// Creates the folder with mode 0700.
fn prepare(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Tests whether the folder can be written to.
async fn probe(folder: &Path) -> io::Result<()> {
    let file = folder.join(PROBE);
    blocking(move || {
        let written = File::create(&file).and_then(|mut file| file.write_all(&[0; PROBE_SIZE]));
        // After a failed write the file may be missing.
        fs::remove_file(&file).ok();
        written
    })
    .await
}

fn move_aside(folder: &Path, aside: &Path) -> io::Result<()> {
    if let Err(error) = fs::remove_dir_all(aside)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    fs::rename(folder, aside)
}

/// Whether a broker, in this process or another, uses the folder: it locks this file while it runs.
pub(super) fn is_in_use(folder: &Path) -> bool {
    let lock: PathBuf = folder.join(".lock");
    File::open(lock).is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

/// The library's error texts may have several lines.
pub(super) fn first_line(error: &MqttError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Runs disk access on a thread of its own, so that a slow disk delays no command.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|lost| Err(io::Error::other(lost)))
}

#[cfg(test)]
mod tests {
    use mqtt5::QoS;
    use mqtt5::broker::MemoryBackend;
    use mqtt5::broker::storage::{ClientSession, QueuedMessage};
    use mqtt5::packet::publish::PublishPacket;

    use super::*;

    fn memory() -> Arc<DynamicStorage> {
        Arc::new(DynamicStorage::Memory(MemoryBackend::new()))
    }

    async fn opened(folder: &Path) -> (BrokerStore, Arc<DynamicStorage>) {
        let mut store = BrokerStore::open(folder, &folder.with_extension("damaged")).await.unwrap();
        let memory = memory();
        store.restore(&memory).await;
        (store, memory)
    }

    /// Does what the broker does for a retained message.
    async fn retain(store: &BrokerStore, memory: &DynamicStorage, topic: &str, payload: &str) {
        let packet =
            PublishPacket::new(topic, payload.as_bytes().to_vec(), QoS::AtLeastOnce).with_retain(true);
        let cleared = payload.is_empty();
        if cleared {
            memory.remove_retained_message(topic).await.unwrap();
        } else {
            memory.store_retained_message(topic, RetainedMessage::new(packet.clone())).await.unwrap();
        }
        let event = RetainedSetEvent {
            topic: topic.into(),
            payload: packet.payload.clone(),
            qos: packet.qos,
            cleared,
        };
        store.changes.on_retained_set(event).await;
    }

    async fn retained(memory: &DynamicStorage) -> Vec<(String, String)> {
        let mut all: Vec<_> = memory.get_retained_messages("#").await.unwrap();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.into_iter().map(|(topic, message)| (topic, String::from_utf8(message.payload).unwrap())).collect()
    }

    #[tokio::test]
    async fn messages_sessions_and_queued_messages_survive_a_restart_and_cleared_messages_do_not() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let (store, memory) = opened(&folder).await;
        retain(&store, &memory, "a", "1").await;
        retain(&store, &memory, "a", "2").await;
        retain(&store, &memory, "b", "1").await;
        retain(&store, &memory, "b", "").await;
        memory.store_session(ClientSession::new("sleeper", true, Some(3600))).await.unwrap();
        let packet = PublishPacket::new("q", b"later".to_vec(), QoS::AtLeastOnce);
        let queued = QueuedMessage::new(packet, "sleeper".to_owned(), QoS::AtLeastOnce, None);
        memory.queue_message(queued).await.unwrap();
        assert_eq!(retained(&memory).await, [], "the broker has its own copy");
        assert!(is_in_use(&folder));
        store.spawn_writer().stop().await;
        assert!(!is_in_use(&folder));

        let (store, memory) = opened(&folder).await;
        assert_eq!(retained(&memory).await, [("a".to_owned(), "2".to_owned())]);
        assert_eq!(memory.session_client_ids().await.unwrap(), ["sleeper"]);
        assert_eq!(memory.get_queued_messages("sleeper").await.unwrap().len(), 1);
        // The client receives its message, then the process crashes: nothing is written at the end.
        memory.remove_queued_messages("sleeper").await.unwrap();
        drop(store);
        let (mut store, memory) = opened(&folder).await;
        assert_eq!(memory.session_client_ids().await.unwrap(), ["sleeper"]);
        assert_eq!(memory.get_queued_messages("sleeper").await.unwrap().len(), 0, "not delivered twice");
        memory.remove_session("sleeper").await.unwrap();
        assert!(store.write(false).await);
        drop(store);
        let (_store, memory) = opened(&folder).await;
        assert_eq!(memory.session_client_ids().await.unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn changes_that_cannot_be_written_are_written_later() {
        let home = tempfile::tempdir().unwrap();
        let state_dir = home.path().join("state");
        // A state directory that is a file can neither hold a folder nor be moved aside.
        fs::write(&state_dir, "").unwrap();
        let folder = state_dir.join("broker");
        let (mut store, memory) = opened(&folder).await;
        retain(&store, &memory, "a", "1").await;
        assert!(!store.write(false).await);
        retain(&store, &memory, "a", "2").await;
        assert!(!store.write(false).await);
        fs::remove_file(&state_dir).unwrap();
        assert!(store.write(false).await);

        // The folder for retained messages cannot be used for a while, with the store open.
        let messages = folder.join(RETAINED);
        fs::rename(&messages, folder.join("elsewhere")).unwrap();
        fs::write(&messages, "").unwrap();
        retain(&store, &memory, "b", "1").await;
        retain(&store, &memory, "c", "1").await;
        assert!(!store.write(false).await);
        retain(&store, &memory, "b", "2").await;
        fs::remove_file(&messages).unwrap();
        fs::rename(folder.join("elsewhere"), &messages).unwrap();
        assert!(store.write(false).await);
        drop(store);
        let (_store, memory) = opened(&folder).await;
        let pair = |topic: &str, payload: &str| (topic.to_owned(), payload.to_owned());
        assert_eq!(retained(&memory).await, [pair("a", "2"), pair("b", "2"), pair("c", "1")]);
    }

    #[tokio::test]
    async fn a_topic_that_is_too_long_for_a_file_name_does_not_stop_other_writes() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let (mut store, memory) = opened(&folder).await;
        let long = "a".repeat(300);
        retain(&store, &memory, &long, "1").await;
        retain(&store, &memory, "b", "1").await;
        memory.store_session(ClientSession::new("sleeper", true, Some(3600))).await.unwrap();
        let WriteError { why, remedy } = store.try_to_write(false).await.unwrap_err();
        assert!(why.starts_with(&format!("the message at {}", &long[..MAX_SHOWN])), "{why}");
        assert!(why.len() < 250 && remedy.contains("shorter topic"), "{why}: {remedy}");
        assert!(!store.write(false).await, "it waits on");
        // A cleared message needs no file.
        retain(&store, &memory, &long, "").await;
        assert!(store.write(false).await);
        drop(store);
        let (_store, memory) = opened(&folder).await;
        assert_eq!(retained(&memory).await, [("b".to_owned(), "1".to_owned())]);
        assert_eq!(memory.session_client_ids().await.unwrap(), ["sleeper"]);
    }

    #[tokio::test]
    async fn the_number_of_waiting_changes_is_bounded() {
        let home = tempfile::tempdir().unwrap();
        let (store, memory) = opened(&home.path().join("broker")).await;
        for number in 0..MAX_RETAINED {
            retain(&store, &memory, &number.to_string(), "").await;
        }
        retain(&store, &memory, "one more", "1").await;
        retain(&store, &memory, "0", "newer").await;
        let waiting = store.changes.lock();
        assert_eq!(waiting.len(), MAX_RETAINED);
        assert!(waiting["0"].is_some(), "a waiting change is still updated");
    }
}
