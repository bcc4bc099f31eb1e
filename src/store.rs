//! What outlives a restart: names, last known addresses, the terminal's UUID, the instance, and the account's
//! tokens.
//!
//! Two files in one directory of ours (0700), both 0600 and both replaced as a whole, so that whoever pulls
//! the plug leaves the old version or the new one: `state.json`, and `cloud.token`, which is a password
//! equivalent. A damaged file is set aside and begun anew; a directory that cannot be used is said so once
//! and lived without. Nothing here is a reason not to start. What is remembered is decided elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use zeroize::Zeroize;

use crate::bridge::event::KnownPlug;
use crate::model::{Address, DeviceId, LanProtocol, Mac, PlugName};
use crate::permissions::FilePermissions;
use crate::secret::{Secret, SecretBuf};
use crate::transport::cloud::{TokenStore, Tokens};

/// Names, addresses, terminal and instance.
const STATE: &str = "state.json";
/// The account's tokens.
const TOKENS: &str = "cloud.token";
/// Written to see whether something can be.
const PROBE: &str = "probe";
/// The form of both files. A file with a higher number was written by a newer hs100d.
const VERSION: u32 = 1;
/// For the eyes of our own user only.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;
/// What group and others may do.
const OTHERS: u32 = 0o077;
/// The mark of a directory that everybody shares.
const STICKY: u32 = 0o1000;
/// The largest file that is read: ten thousand plugs need some 2 MB.
const LARGEST: u64 = 64 << 20;
/// No write takes this long, so an unfinished file older than this has lost its writer.
const ABANDONED: Duration = Duration::from_secs(3600);
/// How many hexadecimal digits tell the installations of one house apart.
const INSTANCE_LEN: usize = 8;

/// The memory of one installation. All of it is in memory; [`Snapshot::write`] puts it on disk.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    terminal: Uuid,
    instance: String,
    plugs: Arc<BTreeMap<DeviceId, KnownPlug>>,
    changed: bool,
    /// A snapshot is out and its fate not known; a second one could be overtaken by it.
    saving: bool,
    /// What lies on disk could not be read and is left alone.
    hands_off: bool,
    tokens: TokenFile,
}

/// Who else may put files of his own in the place of ours, in one line with the remedy; `None` if nobody may, or if
/// there is no directory yet.
pub fn exposure(directory: &Path) -> Option<String> {
    let access = FilePermissions::of(directory)?;
    let directory = directory.display();
    if access.everybody_writes() {
        return Some(format!(
            "the state directory {directory} can be written by every user, who could put another token there: \
             chmod 700 {directory}"
        ));
    }
    let owner = access.foreign_owner()?;
    Some(format!(
        "the state directory {directory} belongs to user {owner}, who could put another token there: give it to \
         the user that hs100d runs as"
    ))
}

/// What could not be written, in one line with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written: {error}: make room, or make the directory writable for this user", path.display())]
pub struct Unwritable {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub error: io::Error,
}

impl Unwritable {
    /// Whether it is the account's tokens, of which the account itself says that they are not saved.
    pub fn is_of_tokens(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == TOKENS)
    }
}

impl Store {
    /// Opens the store in `directory`, which is made if it is not there. Always succeeds; what went wrong on
    /// the way is told in lines fit for the log.
    pub fn open(directory: &Path) -> (Self, Vec<String>) {
        let mut store = Self::fresh(directory);
        if let Err(error) = prepare(directory) {
            let directory = directory.display();
            let remedy =
                "names and tokens will be lost with the next restart; make it writable for this user";
            return (
                store,
                vec![format!("the state directory {directory} cannot be used: {error}: {remedy}")],
            );
        }
        let mut warnings = Vec::from_iter(exposure(directory));
        match load(directory, STATE, |bytes| store.restore(bytes)) {
            Loaded::Well(skipped) => warnings.extend(skipped),
            Loaded::Missing => {}
            Loaded::Damaged(warning) => warnings.push(warning),
            Loaded::Unreadable(warning) => {
                store.hands_off = true;
                warnings.push(format!("{warning}; until then nothing is saved"));
            }
        }
        // An installation keeps its name from its first moment, not from the first plug on.
        if let Err(unwritable) = store.save() {
            warnings.push(unwritable.to_string());
        }
        (store, warnings)
    }

    /// Reads what is there and writes nothing, neither now nor later: for a command that only looks. What cannot be read
    /// counts as not there.
    pub fn read_only(directory: &Path) -> Self {
        let mut store = Self { hands_off: true, ..Self::fresh(directory) };
        let path = directory.join(STATE);
        let taken = open(&path).and_then(|file| SecretBuf::read(file, LARGEST));
        match taken.map(|bytes| store.restore(&bytes)) {
            Ok(Ok(_)) => {}
            Ok(Err(what)) => tracing::debug!("{}: {what}", path.display()),
            Err(error) => tracing::debug!("{} cannot be read: {error}", path.display()),
        }
        store
    }

    /// The UUID that this installation shows to the cloud as its terminal.
    pub fn terminal(&self) -> Uuid {
        self.terminal
    }

    /// Eight hexadecimal digits, drawn once: the default client id and the bridge device are named by them.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What is known of plugs from earlier runs, in the order of their device ids.
    pub fn known_plugs(&self) -> Vec<KnownPlug> {
        self.plugs.values().cloned().collect()
    }

    /// Keeps what is known of a plug. Cheap; nothing is written yet.
    pub fn remember(&mut self, plug: KnownPlug) {
        if self.plugs.get(&plug.device_id) != Some(&plug) {
            Arc::make_mut(&mut self.plugs).insert(plug.device_id.clone(), plug);
            self.changed = true;
        }
    }

    /// Drops what is known of a plug. Cheap; nothing is written yet.
    pub fn forget(&mut self, device_id: &DeviceId) {
        if self.plugs.contains_key(device_id) {
            Arc::make_mut(&mut self.plugs).remove(device_id);
            self.changed = true;
        }
    }

    /// Whether there is something to write and nobody is writing.
    pub fn is_due(&self) -> bool {
        !self.saving && (self.is_state_due() || self.tokens.is_unsaved())
    }

    fn is_state_due(&self) -> bool {
        self.changed && !self.hands_off
    }

    /// What is to be written now, as a value that can be sent to a thread that may block; `None` if nothing
    /// is due. Its end is to be told to [`Store::written`].
    pub fn snapshot(&mut self) -> Option<Snapshot> {
        if !self.is_due() {
            return None;
        }
        let is_state_due = self.is_state_due();
        self.changed &= !is_state_due;
        self.saving = true;
        Some(Snapshot {
            directory: self.directory.clone(),
            tokens: self.tokens.clone(),
            is_state_due,
            terminal: self.terminal,
            instance: self.instance.clone(),
            plugs: Arc::clone(&self.plugs),
        })
    }

    /// A snapshot was written, or not, or its writing was lost (`None`): then what was not written is due again.
    pub fn written(&mut self, result: Option<&Result<(), Unwritable>>) {
        self.saving = false;
        self.changed |= match result {
            Some(Ok(())) => false,
            // The state was written before that was told.
            Some(Err(error)) => !error.is_of_tokens(),
            None => true,
        };
    }

    /// Whether a login has brought tokens that could not be written down yet.
    pub fn has_unsaved_tokens(&self) -> bool {
        self.tokens.is_unsaved()
    }

    /// Writes what is due, here and now. For callers that may block.
    ///
    /// # Errors
    /// The file that could not be written; the change stays due.
    pub fn save(&mut self) -> Result<(), Unwritable> {
        let Some(snapshot) = self.snapshot() else { return Ok(()) };
        let result = snapshot.write();
        self.written(Some(&result));
        result
    }

    /// Where the account's tokens are kept.
    pub fn token_file(&self) -> TokenFile {
        self.tokens.clone()
    }

    fn fresh(directory: &Path) -> Self {
        let mut instance = Uuid::new_v4().simple().to_string();
        instance.truncate(INSTANCE_LEN);
        Self {
            directory: directory.to_owned(),
            terminal: Uuid::new_v4(),
            instance,
            plugs: Arc::default(),
            changed: true,
            saving: false,
            hands_off: false,
            tokens: TokenFile::of(directory),
        }
    }

    /// Takes over what was on disk; the error says what is wrong with it. The value says what was skipped.
    fn restore(&mut self, bytes: &[u8]) -> Result<Option<String>, String> {
        let state: StateFile<RowsRead> = parse(bytes)?;
        let is_instance =
            state.instance.len() == INSTANCE_LEN && state.instance.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_instance {
            return Err("its instance is not eight hexadecimal digits".to_owned());
        }
        self.terminal =
            Uuid::parse_str(&state.terminal).map_err(|_| "its terminal is not a UUID".to_owned())?;
        self.instance = state.instance;
        let skipped = state.plugs.rows - state.plugs.sensible.len();
        self.plugs = Arc::new(state.plugs.sensible);
        self.changed = skipped > 0;
        Ok((skipped > 0).then(|| {
            format!(
                "{}: {skipped} plugs in it make no sense: they are dropped, and named anew when they are found",
                self.directory.join(STATE).display()
            )
        }))
    }
}

/// What is to be written, taken at one moment. Cheap to make: the plugs are shared until one of them changes.
#[derive(Debug)]
pub struct Snapshot {
    directory: PathBuf,
    tokens: TokenFile,
    is_state_due: bool,
    terminal: Uuid,
    instance: String,
    plugs: Arc<BTreeMap<DeviceId, KnownPlug>>,
}

impl Snapshot {
    /// Puts it on disk. Blocks until the disk has it.
    ///
    /// # Errors
    /// The file that could not be written; what was there before still is.
    pub fn write(&self) -> Result<(), Unwritable> {
        let tokens = self.tokens.save_what_is_left();
        if !self.is_state_due {
            return tokens;
        }
        let state = StateFile {
            version: VERSION,
            terminal: self.terminal.to_string(),
            instance: self.instance.clone(),
            plugs: RowsToWrite(&self.plugs),
        };
        replace(&self.directory, STATE, &state).and(tokens)
    }
}

/// The account's tokens on disk. A handle: cheap to clone, and nothing is remembered but the place, what was seen there
/// last and what could not be written there yet.
#[derive(Debug, Clone)]
pub struct TokenFile {
    directory: PathBuf,
    known: Arc<Mutex<KnownTokens>>,
    /// Held while the file is written, so that older tokens never replace newer ones.
    writing: Arc<Mutex<()>>,
}

/// What this process knows of the file.
#[derive(Debug, Default)]
struct KnownTokens {
    /// What we wrote or read there last; it is another's if it is another thing by now.
    on_disk: Option<Tokens>,
    /// What could not be written yet.
    unsaved: Option<Tokens>,
}

impl TokenFile {
    /// That of the store in this directory, whether it is there yet or not.
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), known: Arc::default(), writing: Arc::default() }
    }

    /// Whether there was a login, without a look at what it brought.
    pub fn is_there(&self) -> bool {
        self.directory.join(TOKENS).exists()
    }

    /// Whether somebody has removed what was there: a logout. A file that could never be written is none.
    pub fn was_removed(&self) -> bool {
        self.known().on_disk.is_some() && !self.is_there()
    }

    /// The tokens of the last login, if there was one. Where somebody else logged in or out meanwhile, what could not be
    /// written yet is let go of.
    ///
    /// # Errors
    /// A line fit for the log, if there is a file but no tokens in it. Then it has been set aside.
    pub fn load(&self) -> Result<Option<Tokens>, String> {
        let mut tokens = None;
        let loaded = load(&self.directory, TOKENS, |bytes| {
            tokens = Some(parse::<TokensFile>(bytes)?.tokens());
            Ok(())
        });
        match loaded {
            Loaded::Well(()) | Loaded::Missing => {
                let mut known = self.known();
                if known.on_disk != tokens {
                    known.unsaved = None;
                }
                // A logout stays one until a session has begun without these.
                if tokens.is_some() {
                    known.on_disk.clone_from(&tokens);
                }
                Ok(tokens)
            }
            Loaded::Damaged(warning) | Loaded::Unreadable(warning) => Err(warning),
        }
    }

    /// Keeps the tokens. Blocks until the disk has them.
    ///
    /// # Errors
    /// The file that could not be written; what was there before still is, and the store writes these with the next
    /// snapshot.
    pub fn save(&self, tokens: &Tokens) -> Result<(), Unwritable> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = replace(&self.directory, TOKENS, &TokensFile::of(tokens));
        self.known().wrote(tokens, saved.is_ok());
        saved
    }

    /// Writes what could not be written before, if there is something.
    fn save_what_is_left(&self) -> Result<(), Unwritable> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tokens) = self.known().unsaved.clone() else { return Ok(()) };
        replace(&self.directory, TOKENS, &TokensFile::of(&tokens))?;
        tracing::info!("the account's token is saved");
        self.known().wrote(&tokens, true);
        Ok(())
    }

    /// Another session has begun, with what is there now: what could not be written of the one before is let go of.
    pub fn begin_anew(&self) {
        let is_there = self.is_there();
        let mut known = self.known();
        known.unsaved = None;
        known.on_disk.take_if(|_| !is_there);
    }

    fn is_unsaved(&self) -> bool {
        self.known().unsaved.is_some()
    }

    fn known(&self) -> MutexGuard<'_, KnownTokens> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the tokens; that there are none is fine.
    ///
    /// # Errors
    /// The file that could not be removed.
    pub fn clear(&self) -> Result<(), Unwritable> {
        *self.known() = KnownTokens::default();
        let path = self.directory.join(TOKENS);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Unwritable { path, error }),
            _ => Ok(()),
        }
    }
}

impl KnownTokens {
    fn wrote(&mut self, tokens: &Tokens, succeeded: bool) {
        let tokens = Some(tokens.clone());
        if succeeded {
            *self = Self { on_disk: tokens, unsaved: None };
        } else {
            self.unsaved = tokens;
        }
    }
}

impl TokenStore for TokenFile {
    fn save(&self, tokens: &Tokens) -> io::Result<()> {
        Self::save(self, tokens).map_err(io::Error::other)
    }
}

/// `state.json` as it lies on disk.
#[derive(Serialize, Deserialize)]
struct StateFile<Plugs> {
    version: u32,
    terminal: String,
    instance: String,
    plugs: Plugs,
}

/// Rows made one by one as they are written: there may be ten thousand.
struct RowsToWrite<'a>(&'a BTreeMap<DeviceId, KnownPlug>);

impl Serialize for RowsToWrite<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values().map(PlugRow::of))
    }
}

/// Rows taken over one by one as they are read.
#[derive(Default)]
struct RowsRead {
    sensible: BTreeMap<DeviceId, KnownPlug>,
    rows: usize,
}

impl<'de> Deserialize<'de> for RowsRead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = RowsRead;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of plugs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RowsRead, A::Error> {
                let mut read = RowsRead::default();
                while let Some(row) = list.next_element::<PlugRow>()? {
                    read.rows += 1;
                    read.sensible.extend(row.plug());
                }
                Ok(read)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// One plug in `state.json`.
#[derive(Serialize, Deserialize)]
struct PlugRow {
    device_id: String,
    name: String,
    mac: Option<String>,
    address: Option<String>,
    /// Of a strip; files of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outlets: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
}

impl PlugRow {
    fn of(plug: &KnownPlug) -> Self {
        Self {
            device_id: plug.device_id.as_str().to_owned(),
            name: plug.name.to_string(),
            mac: plug.mac.map(|mac| mac.to_string()),
            address: plug.address.as_ref().map(ToString::to_string),
            outlets: plug.outlets.iter().map(ToString::to_string).collect(),
            home: plug.home.as_ref().map(ToString::to_string),
            protocol: plug.protocol.map(|protocol| protocol.word().to_owned()),
        }
    }

    /// Without a device id and a name there is no plug; MAC and address are learned again.
    fn plug(self) -> Option<(DeviceId, KnownPlug)> {
        /// The plugs' own port; addresses are written with theirs, so this is for files that somebody edited.
        const PORT: u16 = 9999;
        let device_id = DeviceId::new(&self.device_id)?;
        let plug = KnownPlug {
            device_id: device_id.clone(),
            name: PlugName::new(&self.name).ok()?,
            mac: self.mac.as_deref().and_then(Mac::new),
            address: self.address.as_deref().and_then(|text| Address::new(text, PORT)),
            // All or none: an outlet's place in the list is its number.
            outlets: self
                .outlets
                .iter()
                .map(|name| PlugName::new(name).ok())
                .collect::<Option<_>>()
                .unwrap_or_default(),
            home: self.home.as_deref().and_then(|text| Address::new(text, PORT)),
            protocol: self.protocol.as_deref().and_then(LanProtocol::new),
        };
        Some((device_id, plug))
    }
}

/// `cloud.token` as it lies on disk.
#[derive(Serialize, Deserialize)]
struct TokensFile {
    version: u32,
    username: String,
    token: String,
    refresh_token: Option<String>,
}

impl TokensFile {
    fn of(tokens: &Tokens) -> Self {
        Self {
            version: VERSION,
            username: tokens.username.clone(),
            token: tokens.token.expose().to_owned(),
            refresh_token: tokens.refresh_token.as_ref().map(|token| token.expose().to_owned()),
        }
    }

    fn tokens(mut self) -> Tokens {
        Tokens {
            username: mem::take(&mut self.username),
            token: Secret::new(mem::take(&mut self.token)),
            refresh_token: self.refresh_token.take().map(Secret::new),
        }
    }
}

impl Drop for TokensFile {
    fn drop(&mut self) {
        self.token.zeroize();
        self.refresh_token.zeroize();
    }
}

/// How the reading of a file went. The texts are for the log.
enum Loaded<T> {
    Well(T),
    Missing,
    Damaged(String),
    Unreadable(String),
}

/// Reads a file and lets `take` make sense of it; where it cannot, the file is set aside.
fn load<T>(directory: &Path, name: &str, take: impl FnOnce(&[u8]) -> Result<T, String>) -> Loaded<T> {
    let path = directory.join(name);
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Loaded::Missing;
        }
        Err(error) => {
            let path = path.display();
            return Loaded::Unreadable(format!(
                "{path} cannot be read: {error}: make it a file that this user may read"
            ));
        }
    };
    match take(&bytes) {
        Ok(value) => Loaded::Well(value),
        Err(what) => Loaded::Damaged(set_aside(&path, &what)),
    }
}

/// Reads what we wrote.
fn read(path: &Path) -> io::Result<SecretBuf> {
    let file = open(path)?;
    // A restored backup may have been laid open to everybody.
    if file.metadata()?.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(PRIVATE_FILE)).ok();
    }
    SecretBuf::read(file, LARGEST)
}

/// Opens what we wrote. A link leads to what somebody else chose, and a file of another user's may change under us:
/// in a directory that others write to, neither is ours.
fn open(path: &Path) -> io::Result<File> {
    // A pipe would have root's command wait for a writer for ever.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let owner_of_all =
        path.parent().and_then(|directory| fs::metadata(directory).ok()).map(|meta| meta.uid());
    let stranger =
        FilePermissions::from_metadata(&meta).foreign_owner().filter(|owner| Some(*owner) != owner_of_all);
    if let Some(owner) = stranger {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {owner}")));
    }
    Ok(file)
}

/// Only the version is looked at before the rest, so that a newer file is told from a broken one.
fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // What serde says of a file with tokens could quote them: the place says enough.
    let place = |error: serde_json::Error| format!("it is not what we wrote (line {})", error.line());
    match serde_json::from_slice::<Versioned>(bytes).map_err(place)?.version {
        VERSION => serde_json::from_slice(bytes).map_err(place),
        newer => Err(format!("its version is {newer}, and this hs100d knows {VERSION}")),
    }
}

fn set_aside(path: &Path, what: &str) -> String {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    match fs::rename(path, &aside) {
        Ok(()) => {
            let aside = Path::new(&aside).display();
            format!("{} is damaged: {what}: set aside as {aside} and begun anew", path.display())
        }
        Err(error) => format!("{} is damaged: {what}: begun anew, not set aside: {error}", path.display()),
    }
}

/// Makes the directory, sweeps what writers that were killed left behind, and sees whether it can be written
/// to.
fn prepare(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(directory)?;
    close(directory)?;
    for entry in fs::read_dir(directory)?.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_unfinished);
        let age = entry.metadata().ok().and_then(|meta| meta.modified().ok()?.elapsed().ok());
        if is_ours && age.is_some_and(|age| age > ABANDONED) {
            fs::remove_file(entry.path()).ok();
        }
    }
    let probe = unfinished(directory, PROBE);
    private(&probe)?;
    fs::remove_file(probe)
}

/// Takes the directory from other users' eyes, if it is plainly ours: somebody may have named `/tmp` by
/// mistake.
fn close(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.permissions().mode();
    let is_ours =
        || Ok::<_, io::Error>(directory.join(STATE).exists() || fs::read_dir(directory)?.next().is_none());
    if mode & OTHERS != 0 && mode & STICKY == 0 && is_ours()? {
        // Not the owner: then somebody else has decided on this.
        fs::set_permissions(directory, Permissions::from_mode(PRIVATE_DIRECTORY)).ok();
    }
    Ok(())
}

/// Puts a value in place of a file: written beside it, brought to the disk, and renamed over it.
fn replace(directory: &Path, name: &str, value: &impl Serialize) -> Result<(), Unwritable> {
    let path = directory.join(name);
    let temporary = unfinished(directory, name);
    write(&temporary, value).and_then(|()| fs::rename(&temporary, &path)).map_err(|error| {
        fs::remove_file(&temporary).ok();
        Unwritable { path, error }
    })?;
    // The file is whole either way; where a directory cannot be synchronised, only its newness hangs on luck.
    File::open(directory).and_then(|directory| directory.sync_all()).ok();
    Ok(())
}

/// Where a file is written before it is one. A command beside the daemon writes elsewhere than the daemon.
fn unfinished(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.{}.new", std::process::id()))
}

/// Whether a file of this name is one of those, of whichever process.
fn is_unfinished(name: &str) -> bool {
    let middle =
        [STATE, TOKENS, PROBE].into_iter().find_map(|ours| name.strip_prefix(ours)?.strip_prefix('.'));
    let process = middle.and_then(|rest| rest.strip_suffix(".new"));
    process.is_some_and(|process| !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
}

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut bytes = SecretBuf::default();
    serde_json::to_writer_pretty(&mut bytes, value)?;
    let mut file = private(path)?;
    belong_to_the_directory(path, &file);
    file.write_all(&bytes)?;
    file.sync_all()
}

/// What root writes beside a daemon that runs as a user of its own, as `cloud login` does, the daemon must be able to
/// read. Whoever is not root cannot give files away and does not need to.
fn belong_to_the_directory(path: &Path, file: &File) {
    let owner = path.parent().and_then(|directory| fs::metadata(directory).ok());
    if let Some(owner) = owner {
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid())).ok();
    }
}

/// A new file, whatever lay there: a link would be written through, and a file keeps the mode that it has.
fn private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(path)
}
