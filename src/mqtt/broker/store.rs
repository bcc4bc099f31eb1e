//! What the embedded broker keeps over a restart: retained messages, its clients' sessions, and what waits for them.
//!
//! The broker works in memory, and what changes there is written behind it. So a disk that is full, read-only or slow
//! refuses no client and delays no message; it only means that a restart loses what could not be written, which is said
//! once and tried again until it is written.

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

/// Changes that come together are written together.
const WRITE_AFTER: Duration = Duration::from_secs(1);
/// What could not be written is tried again after this time: somebody may have made room.
const WRITE_AGAIN: Duration = Duration::from_secs(10);
/// Sessions tell nobody that they have changed, so they are looked at this often.
const SESSIONS_EVERY: Duration = Duration::from_secs(10);
/// How many messages are kept, and how many changes wait to be written: ten thousand plugs have four topics and one
/// document each.
pub(super) const MOST_KEPT: usize = 100_000;
/// So many characters of a topic are repeated in the log.
const SHOWN: usize = 100;
/// The library's folder for retained messages, in ours.
const RETAINED: &str = "retained";
/// Written to see whether something can be.
const PROBE: &str = ".probe";
/// As large as the smallest file is on most disks, in bytes.
const PROBE_SIZE: usize = 4096;

/// Why something is not written.
struct Unwritten {
    why: String,
    remedy: &'static str,
}

/// Another broker keeps its messages in the same folder.
#[derive(Debug)]
pub(super) struct InUse;

/// The folder, and what waits to be written to it.
pub(super) struct BrokerStore {
    folder: PathBuf,
    /// None while the folder cannot be used.
    file: Option<FileBackend>,
    changes: Arc<Changes>,
    /// The sessions as they were written.
    sessions: HashMap<String, serde_json::Value>,
    failing: Repeated,
}

impl BrokerStore {
    /// Opens the folder, which is made if it is not there. One that was damaged is put `aside`; one that cannot be used
    /// now may be later. Both with a warning.
    pub(super) async fn open(folder: &Path, aside: &Path) -> Result<Self, InUse> {
        let mut store = Self {
            folder: folder.to_owned(),
            file: None,
            changes: Arc::default(),
            sessions: HashMap::new(),
            failing: Repeated::default(),
        };
        let mut opened = open(folder).await;
        if let Err(StoreUnusable::Damaged(why)) = &opened {
            match put_aside(folder, aside) {
                Ok(()) => {
                    tracing::warn!(
                        "{}: what the embedded broker kept cannot be used ({why}): it starts empty; the old files are \
                         in {}, delete them",
                        folder.display(),
                        aside.display()
                    );
                    opened = open(folder).await;
                }
                Err(error) => tracing::debug!("{}: cannot be put aside: {error}", folder.display()),
            }
        }
        match opened {
            Ok(file) => store.file = Some(file),
            Err(StoreUnusable::InUse) => return Err(InUse),
            Err(StoreUnusable::Damaged(why) | StoreUnusable::Unwritable(why)) => {
                store.complain(&Unwritten::folder(why))
            }
        }
        Ok(store)
    }

    /// What the broker tells of its changes.
    pub(super) fn changes(&self) -> Arc<Changes> {
        Arc::clone(&self.changes)
    }

    /// Has the broker's memory hold what an earlier run kept. To be called before the broker runs.
    pub(super) async fn restore(&mut self, memory: &Arc<DynamicStorage>) {
        // Nobody else sets it.
        let _ = self.changes.memory.set(Arc::clone(memory));
        let Some(file) = &self.file else { return };
        match restore(file, memory).await {
            Ok(sessions) => self.sessions = sessions,
            Err(error) => {
                let (folder, why) = (self.folder.display(), first_line(&error));
                tracing::warn!(
                    "{folder}: what the embedded broker kept cannot be read in full: {why}: check the disk"
                );
            }
        }
    }

    /// Writes what changes, until it is told to stop or dropped.
    pub(super) fn keep(self) -> Keeping {
        let (stop, stopped) = oneshot::channel();
        Keeping { stop, task: tokio::spawn(self.run(stopped)) }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let changes = self.changes();
        let mut due = Instant::now() + if self.failing.is_going_on() { WRITE_AGAIN } else { SESSIONS_EVERY };
        loop {
            tokio::select! {
                // Dropped or told, it is the same.
                _ = &mut stopped => break,
                () = changes.news.notified() => {
                    if !self.failing.is_going_on() {
                        due = due.min(Instant::now() + WRITE_AFTER);
                    }
                }
                () = sleep_until(due.into()) => {
                    let pause = if self.write(false).await { SESSIONS_EVERY } else { WRITE_AGAIN };
                    due = Instant::now() + pause;
                }
            }
        }
        self.write(true).await;
    }

    /// Whether all is written. What waits for clients that are away is written at the `end` only.
    async fn write(&mut self, end: bool) -> bool {
        match self.try_to_write(end).await {
            Ok(()) => {
                if let Some(past) = self.failing.ended(Instant::now()) {
                    let folder = self.folder.display();
                    tracing::info!("{folder}: what the embedded broker keeps is on disk again {past}");
                }
                true
            }
            Err(unwritten) => {
                self.complain(&unwritten);
                false
            }
        }
    }

    fn complain(&mut self, Unwritten { why, remedy }: &Unwritten) {
        if self.failing.failed(why, Instant::now()).is_some() {
            tracing::warn!(
                "{}: cannot be written: {why}: the embedded broker goes on in memory, and a restart loses what is not \
                 written; {remedy}",
                self.folder.display()
            );
        }
    }

    async fn try_to_write(&mut self, end: bool) -> Result<(), Unwritten> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.folder).await.map_err(|unusable| Unwritten::folder(unusable.to_string()))?,
        };
        let retained = self.changes.write_to(&file, &self.folder).await;
        let sessions = self.write_sessions(&file, end).await;
        self.file = Some(file);
        retained?;
        let Err(error) = sessions else { return Ok(()) };
        // The broker's own words say what it was about to do; the system says what is in the way.
        let why = probe(&self.folder).await.err().map_or_else(|| first_line(&error), |why| why.to_string());
        Err(Unwritten::folder(why))
    }

    async fn write_sessions(&mut self, file: &FileBackend, end: bool) -> Result<(), MqttError> {
        let Some(memory) = self.changes.memory.get() else { return Ok(()) };
        let ids: HashSet<String> = memory.session_client_ids().await?.into_iter().collect();
        for id in &ids {
            let Some(session) = memory.get_session(id).await? else { continue };
            let value = serde_json::to_value(&session).unwrap_or_default();
            if self.sessions.get(id) != Some(&value) {
                file.store_session(session).await?;
                self.sessions.insert(id.clone(), value);
            }
            if end {
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
        if end {
            file.flush_queue_writes().await;
        }
        Ok(())
    }
}

impl Unwritten {
    fn folder(why: String) -> Self {
        Self { why, remedy: "make room there, or make it writable for this user" }
    }
}

/// The task that writes.
#[derive(Debug)]
pub(super) struct Keeping {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Keeping {
    /// Writes the last, and leaves the folder to a successor.
    pub(super) async fn stop(self) {
        // An error means that it has ended already, as a panic would.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Retained messages that have changed and are not written yet; none is a message that was taken back.
#[derive(Default)]
pub(super) struct Changes {
    memory: OnceLock<Arc<DynamicStorage>>,
    retained: Mutex<BTreeMap<String, Option<RetainedMessage>>>,
    news: Notify,
}

impl Changes {
    async fn note(&self, event: RetainedSetEvent) {
        let topic = &*event.topic;
        if !self.has_room(topic) {
            tracing::debug!(topic, "too many messages wait to be written: a restart loses this change");
            return;
        }
        let message = if event.cleared { None } else { self.take(topic).await };
        // Whoever changed the topic in the meantime has noted it.
        if message.is_some() || event.cleared {
            self.lock().insert(topic.to_owned(), message);
            self.news.notify_one();
        }
    }

    /// The message with all that belongs to it. The broker has its own copy and reads this one at its start only.
    async fn take(&self, topic: &str) -> Option<RetainedMessage> {
        let memory = self.memory.get()?;
        let message = memory.get_retained_message(topic).await.ok()?;
        memory.remove_retained_message(topic).await.ok()?;
        message
    }

    /// Writes what waits. What cannot be written waits on. One message that cannot, because its topic is too long for
    /// the name of a file, keeps no other from the disk.
    async fn write_to(&self, file: &FileBackend, folder: &Path) -> Result<(), Unwritten> {
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
                    self.put_back(std::iter::once((topic, message)).chain(changed));
                    return Err(Unwritten::folder(why.to_string()));
                }
                let why = format!("the message at {}: {}", shown(&topic, SHOWN), first_line(&error));
                result = Err(Unwritten { why, remedy: "keep that message at a shorter topic" });
            }
            self.put_back(std::iter::once((topic, message)));
        }
        result
    }

    /// These wait on, unless something newer does.
    fn put_back(&self, changes: impl Iterator<Item = (String, Option<RetainedMessage>)>) {
        let mut newer = self.lock();
        for (topic, message) in changes {
            newer.entry(topic).or_insert(message);
        }
    }

    /// Whether one more may wait. Otherwise clients would fill the memory for as long as nothing can be written.
    fn has_room(&self, topic: &str) -> bool {
        let retained = self.lock();
        retained.len() < MOST_KEPT || retained.contains_key(topic)
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
        Box::pin(self.note(event))
    }
}

/// Why the folder cannot be used now.
#[derive(Debug, thiserror::Error)]
enum StoreUnusable {
    #[error("another embedded broker keeps its messages there")]
    InUse,
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Unwritable(String),
}

async fn open(folder: &Path) -> Result<FileBackend, StoreUnusable> {
    let place = folder.to_owned();
    off_the_loop(move || prepare(&place)).await.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => StoreUnusable::Damaged(error.to_string()),
        _ => StoreUnusable::Unwritable(error.to_string()),
    })?;
    match FileBackend::new(folder).await {
        Ok(file) => Ok(file),
        Err(_) if is_in_use(folder) => Err(StoreUnusable::InUse),
        // What a full disk has kept from being written is not damaged.
        Err(error) => Err(match probe(folder).await {
            Ok(()) => StoreUnusable::Damaged(first_line(&error)),
            Err(why) => StoreUnusable::Unwritable(why.to_string()),
        }),
    }
}

/// Reads everything, and gives the sessions as they are on disk. What waited for clients is the memory's from here on:
/// left on disk, it would be delivered again after a crash.
async fn restore(
    file: &FileBackend,
    memory: &DynamicStorage,
) -> Result<HashMap<String, serde_json::Value>, MqttError> {
    if let Err(error) = file.cleanup_expired().await {
        tracing::debug!("what has expired cannot be removed: {error}");
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

/// Makes the folder, for this user alone.
fn prepare(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Whether something can be written to the folder.
async fn probe(folder: &Path) -> io::Result<()> {
    let file = folder.join(PROBE);
    off_the_loop(move || {
        let written = File::create(&file).and_then(|mut file| file.write_all(&[0; PROBE_SIZE]));
        // What could not be written need not be there.
        fs::remove_file(&file).ok();
        written
    })
    .await
}

fn put_aside(folder: &Path, aside: &Path) -> io::Result<()> {
    if let Err(error) = fs::remove_dir_all(aside)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    fs::rename(folder, aside)
}

/// Whether a broker, in whichever process, has the folder: it locks this file for as long as it runs.
pub(super) fn is_in_use(folder: &Path) -> bool {
    let lock: PathBuf = folder.join(".lock");
    File::open(lock).is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

/// The broker's messages may have several lines.
pub(super) fn first_line(error: &MqttError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A disk may take its time, a command may not wait for it.
async fn off_the_loop<T: Send + 'static>(
    what: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(what).await.unwrap_or_else(|lost| Err(io::Error::other(lost)))
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

    /// As the broker does it.
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

    async fn kept(memory: &DynamicStorage) -> Vec<(String, String)> {
        let mut kept: Vec<_> = memory.get_retained_messages("#").await.unwrap();
        kept.sort_by(|a, b| a.0.cmp(&b.0));
        kept.into_iter()
            .map(|(topic, message)| (topic, String::from_utf8(message.payload).unwrap()))
            .collect()
    }

    #[tokio::test]
    async fn messages_sessions_and_what_waits_for_clients_come_back_and_what_was_taken_back_does_not() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let (store, memory) = opened(&folder).await;
        retain(&store, &memory, "a", "1").await;
        retain(&store, &memory, "a", "2").await;
        retain(&store, &memory, "b", "1").await;
        retain(&store, &memory, "b", "").await;
        memory.store_session(ClientSession::new("sleeper", true, Some(3600))).await.unwrap();
        let waiting = PublishPacket::new("q", b"later".to_vec(), QoS::AtLeastOnce);
        let waiting = QueuedMessage::new(waiting, "sleeper".to_owned(), QoS::AtLeastOnce, None);
        memory.queue_message(waiting).await.unwrap();
        assert_eq!(kept(&memory).await, [], "the broker has its own copy");
        assert!(is_in_use(&folder));
        store.keep().stop().await;
        assert!(!is_in_use(&folder));

        let (store, memory) = opened(&folder).await;
        assert_eq!(kept(&memory).await, [("a".to_owned(), "2".to_owned())]);
        assert_eq!(memory.session_client_ids().await.unwrap(), ["sleeper"]);
        assert_eq!(memory.get_queued_messages("sleeper").await.unwrap().len(), 1);
        // The client is back and has its message, and then comes a crash: nothing is written at the end.
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
    async fn what_cannot_be_written_is_kept_in_mind_and_written_once_it_can_be() {
        let home = tempfile::tempdir().unwrap();
        let state_dir = home.path().join("state");
        // A state directory that is a file can neither hold a folder nor be put aside.
        fs::write(&state_dir, "").unwrap();
        let folder = state_dir.join("broker");
        let (mut store, memory) = opened(&folder).await;
        retain(&store, &memory, "a", "1").await;
        assert!(!store.write(false).await);
        retain(&store, &memory, "a", "2").await;
        assert!(!store.write(false).await);
        fs::remove_file(&state_dir).unwrap();
        assert!(store.write(false).await);

        // The folder for messages is gone for a while, with the store open.
        let retained = folder.join(RETAINED);
        fs::rename(&retained, folder.join("elsewhere")).unwrap();
        fs::write(&retained, "").unwrap();
        retain(&store, &memory, "b", "1").await;
        retain(&store, &memory, "c", "1").await;
        assert!(!store.write(false).await);
        retain(&store, &memory, "b", "2").await;
        fs::remove_file(&retained).unwrap();
        fs::rename(folder.join("elsewhere"), &retained).unwrap();
        assert!(store.write(false).await);
        drop(store);
        let (_store, memory) = opened(&folder).await;
        let pair = |topic: &str, payload: &str| (topic.to_owned(), payload.to_owned());
        assert_eq!(kept(&memory).await, [pair("a", "2"), pair("b", "2"), pair("c", "1")]);
    }

    #[tokio::test]
    async fn a_message_whose_topic_is_too_long_for_a_file_keeps_nothing_else_from_the_disk() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let (mut store, memory) = opened(&folder).await;
        let long = "a".repeat(300);
        retain(&store, &memory, &long, "1").await;
        retain(&store, &memory, "b", "1").await;
        memory.store_session(ClientSession::new("sleeper", true, Some(3600))).await.unwrap();
        let Unwritten { why, remedy } = store.try_to_write(false).await.unwrap_err();
        assert!(why.starts_with(&format!("the message at {}", &long[..SHOWN])), "{why}");
        assert!(why.len() < 250 && remedy.contains("shorter topic"), "{why}: {remedy}");
        assert!(!store.write(false).await, "it waits on");
        // What was taken back need not be written.
        retain(&store, &memory, &long, "").await;
        assert!(store.write(false).await);
        drop(store);
        let (_store, memory) = opened(&folder).await;
        assert_eq!(kept(&memory).await, [("b".to_owned(), "1".to_owned())]);
        assert_eq!(memory.session_client_ids().await.unwrap(), ["sleeper"]);
    }

    #[tokio::test]
    async fn while_nothing_can_be_written_no_more_waits_than_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let (store, memory) = opened(&home.path().join("broker")).await;
        for number in 0..MOST_KEPT {
            retain(&store, &memory, &number.to_string(), "").await;
        }
        retain(&store, &memory, "one more", "1").await;
        retain(&store, &memory, "0", "newer").await;
        let waiting = store.changes.lock();
        assert_eq!(waiting.len(), MOST_KEPT);
        assert!(waiting["0"].is_some(), "what waits already is still brought up to date");
    }
}
