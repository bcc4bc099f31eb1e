//! The embedded broker's store: retained messages, sessions, and the messages that wait for them survive a restart.
//!
//! The broker works in memory; a task writes its changes. They are lines of JSON, appended to one file; when most of the
//! file is out of date, it is written anew. A disk that is full, read-only or slow refuses no client and delays no message:
//! a restart then loses what is not written. That is logged once and tried again until it works. A last line that was cut
//! off by a crash is left out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, ErrorKind, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::records::{Change, Record, apply};
use super::state::{BrokerState, Unsaved, lock};
use crate::logging::Repeated;

/// How long changes are collected before they are written.
const WRITE_AFTER: Duration = Duration::from_secs(1);
/// The pause before a failed write is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// How often retained messages that have expired are removed.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// A file below this size is not written anew, in bytes.
const SMALL: u64 = 1024 * 1024;
/// How many times the size of what is in date the file may have.
const MOST_OUTDATED: u64 = 4;

/// The messages and sessions.
const MESSAGES: &str = "messages.jsonl";
/// The same while it is written anew.
const NEW_MESSAGES: &str = "messages.jsonl.new";
/// Locked while a broker uses the folder.
const LOCK: &str = ".lock";

/// Another broker uses the folder.
#[derive(Debug)]
pub(super) struct InUse;

/// The folder, and the state that is written to it.
pub(super) struct BrokerStore {
    folder: PathBuf,
    state: Arc<Mutex<BrokerState>>,
    /// `None` while the folder cannot be used.
    file: Option<StoreFile>,
    failures: Repeated,
}

/// The file while it can be written to.
#[derive(Debug)]
struct StoreFile {
    /// Holds the lock.
    _lock: File,
    messages: File,
    /// Where the last whole record ends. What a failed write left behind it is overwritten.
    length: u64,
    /// Its length when it was written anew last.
    in_date: u64,
}

impl BrokerStore {
    /// Opens the folder, creates it if it is missing, and loads the state. A damaged file is moved to `aside`; a folder that
    /// cannot be used now is tried again later. Both are logged as a warning.
    pub(super) async fn open(
        folder: &Path,
        aside: &Path,
        state: Arc<Mutex<BrokerState>>,
    ) -> Result<Self, InUse> {
        let mut store = Self { folder: folder.to_owned(), state, file: None, failures: Repeated::default() };
        let path = folder.to_owned();
        let mut opened = blocking(move || open(&path)).await;
        if let Err(StoreUnusable::Damaged(why)) = &opened {
            match move_aside(folder, aside) {
                Ok(()) => {
                    tracing::warn!(
                        "{}: the embedded broker's store is damaged ({why}): it starts empty; the old files are in {}, \
                         delete them",
                        folder.display(),
                        aside.display()
                    );
                    let path = folder.to_owned();
                    opened = blocking(move || open(&path)).await;
                }
                Err(error) => tracing::debug!("{}: cannot be moved aside: {error}", folder.display()),
            }
        }
        let loaded = match opened {
            Ok((file, loaded)) => {
                store.file = Some(file);
                Some(loaded)
            }
            Err(StoreUnusable::InUse) => return Err(InUse),
            Err(StoreUnusable::Damaged(why)) => {
                store.log_failure(&why);
                None
            }
            Err(StoreUnusable::Unwritable { why, loaded }) => {
                store.log_failure(&why);
                loaded.map(|loaded| *loaded)
            }
        };
        if let Some(LoadedMessages { state, lines, damaged }) = loaded {
            if damaged > 0 {
                tracing::warn!(
                    "{}: {damaged} of {lines} lines cannot be read and are left out: check the disk",
                    store.folder.join(MESSAGES).display()
                );
            }
            *store.lock() = state;
        }
        if store.file.is_none() {
            return Ok(store);
        }
        // Messages that wait for a client would come again after a crash, so a new file without them is the first thing.
        store.lock().put_back(Unsaved { everything: true, ..Unsaved::default() });
        store.write(false).await;
        Ok(store)
    }

    /// Starts the task that writes changes until [`StoreWriter::stop`], or until its handle is dropped.
    pub(super) fn spawn_writer(self) -> StoreWriter {
        let (stop, stopped) = oneshot::channel();
        StoreWriter { stop, task: tokio::spawn(self.run(stopped)) }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let changed = Arc::clone(&self.lock().changed);
        let pause = |store: &Self| if store.failures.is_going_on() { RETRY_AFTER } else { EXPIRE_EVERY };
        let mut due = Instant::now() + pause(&self);
        loop {
            tokio::select! {
                // The sender has sent or was dropped: both mean stop.
                _ = &mut stopped => break,
                () = changed.notified() => {
                    if !self.failures.is_going_on() {
                        due = due.min(Instant::now() + WRITE_AFTER);
                    }
                }
                () = sleep_until(due.into()) => {
                    self.lock().expire_retained(Instant::now());
                    self.write(false).await;
                    due = Instant::now() + pause(&self);
                }
            }
        }
        self.write(true).await;
    }

    /// Writes what has changed; waiting messages are written at the end only (`is_last`).
    async fn write(&mut self, is_last: bool) {
        match self.try_to_write(is_last).await {
            Ok(()) => {
                if let Some(past) = self.failures.ended(Instant::now()) {
                    let folder = self.folder.display();
                    tracing::info!("{folder}: the embedded broker's store is written again {past}");
                }
            }
            Err(why) => self.log_failure(&why),
        }
    }

    fn log_failure(&mut self, why: &str) {
        if self.failures.failed(why, Instant::now()).is_some() {
            tracing::warn!(
                "{}: cannot be written: {why}: the embedded broker goes on in memory, and a restart loses what is not \
                 written; make room there, or make it writable for this user",
                self.folder.display()
            );
        }
    }

    async fn try_to_write(&mut self, is_last: bool) -> Result<(), String> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let path = self.folder.clone();
                let opened = blocking(move || open(&path)).await;
                let (file, loaded) = opened.map_err(|unusable| unusable.to_string())?;
                // It may hold what could not be read when the broker started.
                let mut state = self.lock();
                let unsaved = state.take_unsaved();
                state.merge(loaded.state, &unsaved);
                state.put_back(Unsaved { everything: true, ..Unsaved::default() });
                file
            }
        };
        let (unsaved, changes) = {
            let mut state = self.lock();
            let mut unsaved = state.take_unsaved();
            unsaved.everything |= is_last || file.is_outdated();
            let changes = Change::collect(&state, &unsaved, is_last);
            (unsaved, changes)
        };
        let folder = self.folder.clone();
        let everything = unsaved.everything;
        let (file, written) = tokio::task::spawn_blocking(move || {
            let (now, wall) = (Instant::now(), SystemTime::now());
            let records = changes.into_iter().map(|change| change.record(now, wall));
            let written = match everything {
                true => file.write_anew(&folder, records),
                false => file.append(records),
            };
            (file, written)
        })
        .await
        .map_err(|lost| lost.to_string())?;
        self.file = Some(file);
        written.map_err(|error| {
            self.lock().put_back(unsaved);
            error.to_string()
        })
    }

    fn lock(&self) -> MutexGuard<'_, BrokerState> {
        lock(&self.state)
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

impl StoreFile {
    /// Whether most of it is out of date.
    fn is_outdated(&self) -> bool {
        self.length > SMALL && self.length > self.in_date * MOST_OUTDATED
    }

    fn append(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            record.write(&mut lines)?;
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.messages.set_len(self.length)?;
        self.messages.seek(io::SeekFrom::Start(self.length))?;
        self.messages.write_all(&lines)?;
        self.messages.sync_data()?;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// The old file stays until the new one is whole.
    fn write_anew(&mut self, folder: &Path, records: impl Iterator<Item = Record>) -> io::Result<()> {
        let path = folder.join(NEW_MESSAGES);
        let written = write_file(&path, records).and_then(|written| {
            fs::rename(&path, folder.join(MESSAGES))?;
            File::open(folder)?.sync_all()?;
            Ok(written)
        });
        if written.is_err() {
            // It takes room that is scarce; if it cannot be removed either, the next try overwrites it.
            let _ = fs::remove_file(&path);
        }
        let (messages, length) = written?;
        (self.messages, self.length, self.in_date) = (messages, length, length);
        Ok(())
    }
}

/// Writes a file, and returns it with its length.
fn write_file(path: &Path, records: impl Iterator<Item = Record>) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut lines = BufWriter::new(file);
    for record in records {
        record.write(&mut lines)?;
    }
    let mut file = lines.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_data()?;
    let length = file.stream_position()?;
    Ok((file, length))
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
enum StoreUnusable {
    #[error("another embedded broker stores its messages there")]
    InUse,
    #[error("{0}")]
    Damaged(String),
    /// It may be readable all the same.
    #[error("{why}")]
    Unwritable { why: String, loaded: Option<Box<LoadedMessages>> },
}

impl From<io::Error> for StoreUnusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Unwritable { why: error.to_string(), loaded: None },
        }
    }
}

/// What a file held.
#[derive(Debug)]
struct LoadedMessages {
    state: BrokerState,
    lines: usize,
    damaged: usize,
}

fn open(folder: &Path) -> Result<(StoreFile, LoadedMessages), StoreUnusable> {
    open_to_write(folder).map_err(|unusable| match unusable {
        StoreUnusable::Unwritable { why, loaded: None } => {
            let loaded = File::open(folder.join(MESSAGES)).and_then(|messages| load(&messages));
            StoreUnusable::Unwritable { why, loaded: loaded.ok().map(Box::new) }
        }
        other => other,
    })
}

fn open_to_write(folder: &Path) -> Result<(StoreFile, LoadedMessages), StoreUnusable> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(folder.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(StoreUnusable::InUse),
        Err(fs::TryLockError::Error(error)) => return Err(error.into()),
    }
    let messages = options.open(folder.join(MESSAGES))?;
    let loaded = load(&messages)?;
    if loaded.damaged > 0 && loaded.damaged == loaded.lines {
        return Err(StoreUnusable::Damaged(format!("none of {} lines can be read", loaded.lines)));
    }
    let length = messages.metadata()?.len();
    Ok((StoreFile { _lock: lock, messages, length, in_date: 0 }, loaded))
}

fn load(messages: &File) -> io::Result<LoadedMessages> {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let mut loaded = LoadedMessages { state: BrokerState::default(), lines: 0, damaged: 0 };
    let mut reader = BufReader::new(messages);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        // A crash cuts off the last line; a power cut may leave zeros.
        if line.last() == Some(&b'\n') || line.contains(&0) {
            loaded.lines += 1;
            match serde_json::from_slice(&line) {
                Ok(record) => apply(record, &mut loaded.state, now, wall),
                Err(_) => loaded.damaged += 1,
            }
        }
        line.clear();
    }
    // It was read from the disk, so nothing of it is new.
    loaded.state.take_unsaved();
    Ok(loaded)
}

fn move_aside(folder: &Path, aside: &Path) -> io::Result<()> {
    if let Err(error) = fs::remove_dir_all(aside)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    fs::rename(folder, aside)
}

/// Whether a broker, in this process or another, uses the folder.
pub(super) fn is_in_use(folder: &Path) -> bool {
    File::open(folder.join(LOCK))
        .is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

/// Runs disk access on a thread of its own, so that a slow disk delays no command.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreUnusable> + Send + 'static,
) -> Result<T, StoreUnusable> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|lost| Err(StoreUnusable::Unwritable { why: lost.to_string(), loaded: None }))
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::QoS;
    use rumqttc::mqttbytes::v5::{Publish, PublishProperties, SubscribeFilter};

    use super::super::message::BrokerMessage;
    use super::super::state::ConnectRequest;
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    async fn opened(folder: &Path) -> BrokerStore {
        BrokerStore::open(folder, &folder.with_extension("damaged"), Arc::default()).await.unwrap()
    }

    fn publish(store: &BrokerStore, publish: Publish) {
        let message = BrokerMessage::published(&publish, Instant::now()).unwrap();
        store.lock().publish(None, message);
    }

    fn retain(store: &BrokerStore, topic: &str, payload: &[u8]) {
        let message = Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), None);
        publish(store, Publish { retain: true, ..message });
    }

    /// A client that subscribes to `q` and is not connected any more.
    fn sleeper(store: &BrokerStore) {
        let now = Instant::now();
        let request = ConnectRequest {
            client: Arc::from("sleeper"),
            starts_clean: false,
            expiry: LONG,
            will: None,
            max_packet_size: usize::MAX,
            receive_max: 10,
        };
        let mut state = store.lock();
        let id = state.connect(request, now).unwrap().id;
        state.subscribe(id, &SubscribeFilter::new("q", QoS::AtLeastOnce), None, now).unwrap();
        state.disconnect(id, true, None, now);
    }

    fn waiting(store: &BrokerStore) -> Vec<Vec<u8>> {
        let state = store.lock();
        let sessions = state.lasting_sessions().flat_map(|session| session.undelivered());
        sessions.map(|waiting| waiting.message.payload.to_vec()).collect()
    }

    fn retained(store: &BrokerStore) -> Vec<(String, Vec<u8>)> {
        let state = store.lock();
        state.all_retained().map(|it| (it.topic.to_string(), it.payload.to_vec())).collect()
    }

    fn pair(topic: &str, payload: &[u8]) -> (String, Vec<u8>) {
        (topic.to_owned(), payload.to_vec())
    }

    #[tokio::test]
    async fn messages_sessions_and_waiting_messages_survive_a_restart_and_cleared_messages_do_not() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let store = opened(&folder).await;
        retain(&store, "a", b"1");
        retain(&store, "a", b"2");
        retain(&store, "b", b"1");
        retain(&store, "b", b"");
        retain(&store, "bytes", b"\xff\x00");
        sleeper(&store);
        publish(&store, Publish::new("q", QoS::AtLeastOnce, "later", None));
        assert!(is_in_use(&folder));
        store.spawn_writer().stop().await;
        assert!(!is_in_use(&folder));

        let store = opened(&folder).await;
        assert_eq!(retained(&store), [pair("a", b"2"), pair("bytes", b"\xff\x00")]);
        assert_eq!(waiting(&store), [b"later"]);
        // The process crashes: a message that waited is not delivered a second time.
        drop(store);
        let mut store = opened(&folder).await;
        assert_eq!(retained(&store).len(), 2);
        assert_eq!(store.lock().lasting_sessions().count(), 1);
        assert_eq!(waiting(&store).len(), 0);
        publish(&store, Publish::new("q", QoS::AtLeastOnce, "it still subscribes", None));
        assert_eq!(waiting(&store).len(), 1);
        let later = Instant::now() + LONG;
        store.lock().expire(later);
        assert!(store.try_to_write(false).await.is_ok());
        drop(store);
        assert_eq!(opened(&folder).await.lock().lasting_sessions().count(), 0);
    }

    #[tokio::test]
    async fn a_message_keeps_its_properties_and_its_end() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let mut store = opened(&folder).await;
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(1000),
            response_topic: Some("r".to_owned()),
            correlation_data: Some(bytes::Bytes::from_static(b"\xfe")),
            user_properties: vec![("k".to_owned(), "v".to_owned())],
            content_type: Some("application/json".to_owned()),
            ..PublishProperties::default()
        };
        let message = Publish::new("a", QoS::ExactlyOnce, "1", Some(properties));
        publish(&store, Publish { retain: true, ..message });
        let before = store.lock().retained("a").unwrap().clone();
        store.try_to_write(false).await.unwrap();
        drop(store);
        let store = opened(&folder).await;
        let after = store.lock().retained("a").unwrap().clone();
        assert_eq!(BrokerMessage { expires: before.expires, ..(*after).clone() }, *before);
        let end = after.expires.unwrap();
        let apart = before.expires.unwrap().max(end) - before.expires.unwrap().min(end);
        assert!(apart <= Duration::from_secs(2), "{apart:?}: the file has whole seconds");
    }

    #[tokio::test]
    async fn a_line_that_was_cut_off_or_damaged_costs_no_other() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let mut store = opened(&folder).await;
        for topic in ["a", "b", "c"] {
            retain(&store, topic, b"1");
            store.try_to_write(false).await.unwrap();
        }
        drop(store);
        let file = folder.join(MESSAGES);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 5]).unwrap();
        let mut store = opened(&folder).await;
        assert_eq!(retained(&store), [pair("a", b"1"), pair("b", b"1")]);
        // What follows a line that was cut off is not lost with it.
        retain(&store, "d", b"1");
        store.try_to_write(false).await.unwrap();
        drop(store);
        let mut lines = fs::read(&file).unwrap();
        lines[3] = 0xff;
        fs::write(&file, lines).unwrap();
        assert_eq!(retained(&opened(&folder).await), [pair("b", b"1"), pair("d", b"1")]);
        assert!(!folder.with_extension("damaged").exists());
    }

    #[tokio::test]
    async fn what_a_failed_write_left_behind_is_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let mut store = opened(&folder).await;
        let left = [b'z'; 1000];
        let mut file = OpenOptions::new().append(true).open(folder.join(MESSAGES)).unwrap();
        file.write_all(&left).unwrap();
        retain(&store, "a", b"1");
        store.try_to_write(false).await.unwrap();
        let lines = fs::read_to_string(folder.join(MESSAGES)).unwrap();
        assert!(lines.ends_with("}\n") && !lines.contains('z'), "{lines}");
    }

    #[tokio::test]
    async fn a_file_of_which_nothing_can_be_read_is_moved_aside() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(MESSAGES), "not\nours\n").unwrap();
        let store = opened(&folder).await;
        assert_eq!(retained(&store), []);
        assert_eq!(fs::read(folder.with_extension("damaged").join(MESSAGES)).unwrap(), b"not\nours\n");
    }

    #[tokio::test]
    async fn zeros_of_a_power_cut_are_not_taken_for_a_fresh_start() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(MESSAGES), [0; 4096]).unwrap();
        opened(&folder).await;
        assert!(folder.with_extension("damaged").exists());
    }

    #[tokio::test]
    async fn what_could_not_be_read_at_the_start_is_kept_once_it_can() {
        let home = tempfile::tempdir().unwrap();
        let state_dir = home.path().join("state");
        let folder = state_dir.join("broker");
        let mut store = opened(&folder).await;
        for topic in ["a", "changed", "cleared"] {
            retain(&store, topic, b"1");
        }
        sleeper(&store);
        store.try_to_write(false).await.unwrap();
        drop(store);
        // A loop of links can be neither read nor written, and is no damage.
        let away = home.path().join("away");
        fs::rename(&state_dir, &away).unwrap();
        std::os::unix::fs::symlink(&state_dir, &state_dir).unwrap();
        let mut store = opened(&folder).await;
        assert_eq!(retained(&store), []);
        retain(&store, "changed", b"2");
        retain(&store, "cleared", b"");
        retain(&store, "new", b"1");
        assert!(store.try_to_write(false).await.is_err());
        fs::remove_file(&state_dir).unwrap();
        fs::rename(&away, &state_dir).unwrap();
        store.try_to_write(false).await.unwrap();
        let all = [pair("a", b"1"), pair("changed", b"2"), pair("new", b"1")];
        assert_eq!(retained(&store), all);
        drop(store);
        let store = opened(&folder).await;
        assert_eq!(retained(&store), all);
        assert_eq!(store.lock().lasting_sessions().count(), 1);
    }

    #[tokio::test]
    async fn a_record_that_could_not_have_been_written_is_left_out() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        fs::create_dir(&folder).unwrap();
        let line = |topic: &str| {
            format!("{{\"retained\":{{\"topic\":\"{topic}\",\"payload\":{{\"text\":\"1\"}},\"qos\":1}}}}\n")
        };
        let lines = ["a/#", "", &"x".repeat(70_000), "a"].map(line).concat();
        fs::write(folder.join(MESSAGES), lines).unwrap();
        assert_eq!(retained(&opened(&folder).await), [pair("a", b"1")]);
    }

    #[tokio::test]
    async fn changes_that_cannot_be_written_are_written_later() {
        let home = tempfile::tempdir().unwrap();
        let state_dir = home.path().join("state");
        // A state directory that is a file can neither hold a folder nor be moved aside.
        fs::write(&state_dir, "").unwrap();
        let folder = state_dir.join("broker");
        let mut store = opened(&folder).await;
        retain(&store, "a", b"1");
        assert!(store.try_to_write(false).await.is_err());
        retain(&store, "a", b"2");
        assert!(store.try_to_write(false).await.is_err());
        fs::remove_file(&state_dir).unwrap();
        store.try_to_write(false).await.unwrap();
        retain(&store, "b", b"1");
        store.try_to_write(false).await.unwrap();
        drop(store);
        assert_eq!(retained(&opened(&folder).await), [pair("a", b"2"), pair("b", b"1")]);
    }

    #[tokio::test]
    async fn a_new_file_that_cannot_be_written_leaves_the_old_one_and_is_tried_again() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let mut store = opened(&folder).await;
        retain(&store, "a", b"1");
        store.try_to_write(false).await.unwrap();
        // A folder in the place of the new file.
        fs::create_dir(folder.join(NEW_MESSAGES)).unwrap();
        store.lock().put_back(Unsaved { everything: true, ..Unsaved::default() });
        retain(&store, "b", b"1");
        assert!(store.try_to_write(false).await.is_err());
        let old = fs::read_to_string(folder.join(MESSAGES)).unwrap();
        assert!(old.contains("\"a\"") && !old.contains("\"b\""), "{old}");
        fs::remove_dir(folder.join(NEW_MESSAGES)).unwrap();
        store.try_to_write(false).await.unwrap();
        drop(store);
        assert_eq!(retained(&opened(&folder).await), [pair("a", b"1"), pair("b", b"1")]);
    }

    #[tokio::test]
    async fn a_file_that_is_mostly_out_of_date_is_written_anew() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("broker");
        let mut store = opened(&folder).await;
        let payload = [b'x'; 100_000];
        let length = || fs::metadata(folder.join(MESSAGES)).unwrap().len();
        let mut longest = 0;
        for _ in 0..40 {
            retain(&store, "a", &payload);
            store.try_to_write(false).await.unwrap();
            longest = longest.max(length());
        }
        assert!(longest > SMALL && longest < 2 * SMALL, "{longest}");
        drop(store);
        assert_eq!(retained(&opened(&folder).await), [pair("a", &payload)]);
    }
}
