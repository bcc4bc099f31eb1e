//! What outlives a restart: names, last known addresses and protocols, the terminal's UUID, the instance, the account's
//! tokens, and its hashes for KLAP.
//!
//! ```text
//!   Store ----> state, tokens, klap ----> file     state.json, cloud.token, klap.hashes | how files are read and replaced
//! ```
//!
//! Three files in one directory (0700), all 0600 and replaced atomically, so that a power cut leaves the old version or the
//! new one. Tokens and hashes are as good as a password, the former for the cloud, the latter for plugs on the LAN. A
//! damaged file is renamed and started anew. A state of a newer hs100d is read as far as it is understood, and left. If the
//! directory cannot be used, that is reported once and nothing is kept. The daemon starts in any case.

mod file;
mod klap;
mod state;
mod tokens;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

pub use self::file::Unwritable;
pub use self::klap::{HashFile, StoredHashes};
pub use self::tokens::TokenFile;
use crate::bridge::event::KnownPlug;
use crate::model::DeviceId;
use crate::permissions::FilePermissions;
use file::{Loaded, Refused, STATE, VERSION};
use state::{RowsRead, RowsToWrite, StateFile};

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

impl Store {
    /// Opens the store in `directory`, which is made if it is missing. Always succeeds; problems come as lines for the log.
    pub fn open(directory: &Path) -> (Self, Vec<String>) {
        let mut store = Self::fresh(directory);
        if let Err(error) = file::prepare(directory) {
            let directory = directory.display();
            let remedy =
                "names and tokens will be lost with the next restart; make it writable for this user";
            return (
                store,
                vec![format!("the state directory {directory} cannot be used: {error}: {remedy}")],
            );
        }
        let mut warnings = Vec::from_iter(exposure(directory));
        match file::load(directory, STATE, |bytes| store.restore(bytes)) {
            Loaded::Well(skipped) => warnings.extend(skipped),
            Loaded::Missing => {}
            Loaded::Refused(warning) => warnings.push(warning),
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
        file::look(&directory.join(STATE), |bytes| store.restore(bytes));
        store
    }

    /// The instance in the store; `None` before the first start, or if this user may not read it.
    pub(crate) fn instance_in(directory: &Path) -> Option<String> {
        let mut store = Self { hands_off: true, ..Self::fresh(directory) };
        let undrawn = store.instance.clone();
        file::look(&directory.join(STATE), |bytes| store.restore(bytes));
        (store.instance != undrawn).then_some(store.instance)
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

    /// The file of the account's hashes for KLAP.
    pub fn hash_file(&self) -> HashFile {
        HashFile::of(&self.directory)
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

    /// Takes the content of the file. The value is a line for the log about what was not taken.
    fn restore(&mut self, bytes: &[u8]) -> Result<Option<String>, Refused> {
        let Some(version) = file::newer_version(bytes)? else {
            return self.take(file::parse_as_known(bytes)?);
        };
        // Somebody went back to this version, perhaps for a day. Writing the file would drop what this version does not know.
        let newer = || Refused::Newer(version);
        let skipped = file::parse_as_known(bytes).and_then(|state| self.take(state)).map_err(|_| newer())?;
        self.hands_off = true;
        Ok(Some(format!(
            "{} {}: names and addresses are taken from it{}, and it is left as it is: nothing is saved until you install that \
             hs100d again, or remove the file",
            self.directory.join(STATE).display(),
            newer(),
            if skipped.is_some() { " as far as they are understood" } else { "" }
        )))
    }

    /// Takes the state. The value says what was skipped.
    fn take(&mut self, state: StateFile<RowsRead>) -> Result<Option<String>, Refused> {
        let is_instance =
            state.instance.len() == INSTANCE_LEN && state.instance.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_instance {
            return Err("its instance is not eight hexadecimal digits".to_owned().into());
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
        file::replace(&self.directory, STATE, &state).and(tokens)
    }
}
