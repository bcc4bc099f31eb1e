//! What outlives a restart: names, last known addresses and protocols, the terminal's UUID, the instance, and the
//! account's tokens.
//!
//! Two files in one directory (0700), both 0600 and both replaced atomically, so that a power cut leaves the old version
//! or the new one: `state.json`, and `cloud.token`, which is as good as a password. A damaged file is renamed and started
//! anew. If the directory cannot be used, that is reported once and nothing is kept. The daemon starts in any case.

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
/// A file that is written to check that the directory is writable.
const PROBE: &str = "probe";
/// The format of both files. A newer hs100d writes a higher number.
const VERSION: u32 = 1;
/// For our own user only.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;
/// What group and others may do.
const OTHERS: u32 = 0o077;
/// The sticky bit, of a shared directory such as `/tmp`.
const STICKY: u32 = 0o1000;
/// The largest file that is read: ten thousand plugs need some 2 MB.
const LARGEST: u64 = 64 << 20;
/// No write takes this long: the writer of an older unfinished file is gone.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Hexadecimal digits that tell several installations apart.
const INSTANCE_LEN: usize = 8;

/// The store of one installation, held in memory; [`StoreSnapshot::write`] writes it.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    terminal: Uuid,
    instance: String,
    plugs: Arc<BTreeMap<DeviceId, KnownPlug>>,
    changed: bool,
    /// A snapshot is being written; a second one could be overtaken by it.
    saving: bool,
    /// The files could not be read and are not touched.
    hands_off: bool,
    tokens: TokenFile,
}

/// Whether other users may replace our files: one line with the remedy; `None` if nobody may, or there is no directory.
pub(crate) fn exposure(directory: &Path) -> Option<String> {
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

/// A file that could not be written, in one line with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written: {error}: make room, or make the directory writable for this user", path.display())]
pub struct Unwritable {
    /// The file.
    pub(crate) path: PathBuf,
    /// Why.
    #[source]
    pub(crate) error: io::Error,
}

impl Unwritable {
    /// Whether it is the file of the tokens, which the account reports itself.
    pub fn is_of_tokens(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == TOKENS)
    }
}

impl Store {
    /// Opens the store in `directory`, which is made if it is missing. Always succeeds; problems come as lines for the log.
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
        // The instance is kept from the first start on, not from the first plug on.
        if let Err(unwritable) = store.save() {
            warnings.push(unwritable.to_string());
        }
        (store, warnings)
    }

    /// Reads the store and never writes: for a command that only looks. A file that cannot be read counts as missing.
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

    /// The terminal UUID that this installation sends to the cloud.
    pub fn terminal(&self) -> Uuid {
        self.terminal
    }

    /// Eight hexadecimal digits, drawn once: part of the default client id and of the bridge device's id.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The plugs of earlier runs, in the order of their device ids.
    pub fn known_plugs(&self) -> Vec<KnownPlug> {
        self.plugs.values().cloned().collect()
    }

    /// Keeps a plug. Cheap; nothing is written yet.
    pub fn remember(&mut self, plug: KnownPlug) {
        if self.plugs.get(&plug.device_id) != Some(&plug) {
            Arc::make_mut(&mut self.plugs).insert(plug.device_id.clone(), plug);
            self.changed = true;
        }
    }

    /// Drops a plug. Cheap; nothing is written yet.
    pub fn forget(&mut self, device_id: &DeviceId) {
        if self.plugs.contains_key(device_id) {
            Arc::make_mut(&mut self.plugs).remove(device_id);
            self.changed = true;
        }
    }

    /// Whether there is something to write and no snapshot is being written.
    pub fn is_due(&self) -> bool {
        !self.saving && (self.is_state_due() || self.tokens.is_unsaved())
    }

    fn is_state_due(&self) -> bool {
        self.changed && !self.hands_off
    }

    /// What must be written now, for a thread that may block; `None` if nothing is due. Call [`Store::written`] with the
    /// result.
    pub fn snapshot(&mut self) -> Option<StoreSnapshot> {
        if !self.is_due() {
            return None;
        }
        let is_state_due = self.is_state_due();
        self.changed &= !is_state_due;
        self.saving = true;
        Some(StoreSnapshot {
            directory: self.directory.clone(),
            tokens: self.tokens.clone(),
            is_state_due,
            terminal: self.terminal,
            instance: self.instance.clone(),
            plugs: Arc::clone(&self.plugs),
        })
    }

    /// A snapshot was written, or failed, or its thread was lost (`None`). What was not written is due again.
    pub fn written(&mut self, result: Option<&Result<(), Unwritable>>) {
        self.saving = false;
        self.changed |= match result {
            Some(Ok(())) => false,
            // The state was written before the tokens failed.
            Some(Err(error)) => !error.is_of_tokens(),
            None => true,
        };
    }

    /// Whether tokens of a login could not be written yet.
    pub fn has_unsaved_tokens(&self) -> bool {
        self.tokens.is_unsaved()
    }

    /// Writes what is due, and blocks.
    ///
    /// # Errors
    /// The file that could not be written; the change stays due.
    pub fn save(&mut self) -> Result<(), Unwritable> {
        let Some(snapshot) = self.snapshot() else { return Ok(()) };
        let result = snapshot.write();
        self.written(Some(&result));
        result
    }

    /// The file of the account's tokens.
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

    /// Takes the content of the file. The error says what is wrong with it, the value what was skipped.
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
        let skipped = state.plugs.rows - state.plugs.valid.len();
        self.plugs = Arc::new(state.plugs.valid);
        self.changed = skipped > 0;
        Ok((skipped > 0).then(|| {
            format!(
                "{}: {skipped} plugs in it are invalid: they are dropped, and named anew when they are found",
                self.directory.join(STATE).display()
            )
        }))
    }
}

/// The store at one moment. Cheap to make: the plugs are shared until one of them changes.
#[derive(Debug)]
pub struct StoreSnapshot {
    directory: PathBuf,
    tokens: TokenFile,
    is_state_due: bool,
    terminal: Uuid,
    instance: String,
    plugs: Arc<BTreeMap<DeviceId, KnownPlug>>,
}

impl StoreSnapshot {
    /// Writes it. Blocks until the disk has it.
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

/// The account's tokens on disk. A handle, cheap to clone.
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
    /// What we wrote or read there last. If the file differs, somebody else wrote it.
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
    pub(crate) fn is_there(&self) -> bool {
        self.directory.join(TOKENS).exists()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(TOKENS)
    }

    /// Whether somebody removed the file: a logout. A file that was never written does not count.
    pub fn was_removed(&self) -> bool {
        self.known().on_disk.is_some() && !self.is_there()
    }

    /// The tokens of the last login, if there was one. If somebody else logged in or out meanwhile, unwritten tokens are
    /// dropped.
    ///
    /// # Errors
    /// A line for the log, if the file has no tokens in it. Then it has been renamed.
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
                // A logout counts until a session has begun without these.
                if tokens.is_some() {
                    known.on_disk.clone_from(&tokens);
                }
                Ok(tokens)
            }
            Loaded::Damaged(warning) | Loaded::Unreadable(warning) => Err(warning),
        }
    }

    /// Writes the tokens. Blocks until the disk has them.
    ///
    /// # Errors
    /// The file that could not be written. It is unchanged, and the next snapshot writes these tokens.
    pub fn save(&self, tokens: &Tokens) -> Result<(), Unwritable> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = replace(&self.directory, TOKENS, &TokensFile::of(tokens));
        self.known().wrote(tokens, saved.is_ok());
        saved
    }

    /// Writes tokens that could not be written before.
    fn save_what_is_left(&self) -> Result<(), Unwritable> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tokens) = self.known().unsaved.clone() else { return Ok(()) };
        replace(&self.directory, TOKENS, &TokensFile::of(&tokens))?;
        tracing::info!("the account's token is saved");
        self.known().wrote(&tokens, true);
        Ok(())
    }

    /// A new session has begun with the file as it is: unwritten tokens of the last one are dropped.
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

    /// Removes the tokens, if there are any.
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

/// `state.json` as written.
#[derive(Serialize, Deserialize)]
struct StateFile<Plugs> {
    version: u32,
    terminal: String,
    instance: String,
    plugs: Plugs,
}

/// Makes rows one by one while they are written: there may be ten thousand.
struct RowsToWrite<'a>(&'a BTreeMap<DeviceId, KnownPlug>);

impl Serialize for RowsToWrite<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values().map(PlugRow::of))
    }
}

/// Takes rows one by one while they are read.
#[derive(Default)]
struct RowsRead {
    valid: BTreeMap<DeviceId, KnownPlug>,
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
                    read.valid.extend(row.plug());
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

    /// A row without device id or name is no plug. The rest is learned again if it is invalid.
    fn plug(self) -> Option<(DeviceId, KnownPlug)> {
        /// For addresses without a port, in files that somebody edited.
        const PORT: u16 = 9999;
        let device_id = DeviceId::new(&self.device_id)?;
        let plug = KnownPlug {
            device_id: device_id.clone(),
            name: PlugName::new(&self.name).ok()?,
            mac: self.mac.as_deref().and_then(Mac::new),
            address: self.address.as_deref().and_then(|text| Address::new(text, PORT)),
            // All or none: an outlet's index is its number.
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

/// `cloud.token` as written.
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

/// The result of reading a file, with texts for the log.
enum Loaded<T> {
    Well(T),
    Missing,
    Damaged(String),
    Unreadable(String),
}

/// Reads a file and gives it to `take`. A file that `take` refuses is renamed.
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

/// Reads a file of ours.
fn read(path: &Path) -> io::Result<SecretBuf> {
    let file = open(path)?;
    // A restored backup may be readable for everybody.
    if file.metadata()?.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(PRIVATE_FILE)).ok();
    }
    SecretBuf::read(file, LARGEST)
}

/// Opens a file of ours. Links and files of other users are refused: somebody else chose or may change their content.
fn open(path: &Path) -> io::Result<File> {
    // Without this a pipe would block until somebody writes to it.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let owner_of_all =
        path.parent().and_then(|directory| fs::metadata(directory).ok()).map(|meta| meta.uid());
    let other_owner =
        FilePermissions::from_metadata(&meta).foreign_owner().filter(|owner| Some(*owner) != owner_of_all);
    if let Some(owner) = other_owner {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {owner}")));
    }
    Ok(file)
}

/// Looks at the version first, to tell a newer file from a damaged one.
fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // serde's message could quote a token, so only the line is given.
    let place =
        |error: serde_json::Error| format!("it is not in the expected format (line {})", error.line());
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

/// Makes the directory, removes files that killed writers left, and checks that it is writable.
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

/// Makes the directory private if it is ours; somebody may have named `/tmp` by mistake.
fn close(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.permissions().mode();
    let is_ours =
        || Ok::<_, io::Error>(directory.join(STATE).exists() || fs::read_dir(directory)?.next().is_none());
    if mode & OTHERS != 0 && mode & STICKY == 0 && is_ours()? {
        // Fails for a directory of another user, who decides on its mode.
        fs::set_permissions(directory, Permissions::from_mode(PRIVATE_DIRECTORY)).ok();
    }
    Ok(())
}

/// Replaces a file atomically: writes a new file beside it, syncs it, and renames it.
fn replace(directory: &Path, name: &str, value: &impl Serialize) -> Result<(), Unwritable> {
    let path = directory.join(name);
    let temporary = unfinished(directory, name);
    write(&temporary, value).and_then(|()| fs::rename(&temporary, &path)).map_err(|error| {
        fs::remove_file(&temporary).ok();
        Unwritable { path, error }
    })?;
    // If this fails, a power cut may leave the old file, which is whole as well.
    File::open(directory).and_then(|directory| directory.sync_all()).ok();
    Ok(())
}

/// The temporary name of a file, with the process id: a command may write while the daemon does.
fn unfinished(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.{}.new", std::process::id()))
}

/// Whether this is such a temporary name, of any process.
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

/// Gives the file to the directory's owner: the daemon must be able to read what root's `cloud login` writes. For other
/// users this fails, and is not needed.
fn belong_to_the_directory(path: &Path, file: &File) {
    let owner = path.parent().and_then(|directory| fs::metadata(directory).ok());
    if let Some(owner) = owner {
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid())).ok();
    }
}

/// Makes a new file. An existing one is removed first: a link would be followed, and an old mode kept.
fn private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(path)
}
