//! What KLAP needs of the account, on disk: `klap.hashes`. Plugs on the LAN accept these hashes in place of the password.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::file::{self, HASHES, Loaded, Refused, Unwritable, VERSION};
use crate::klap_hashes::{KlapAccount, KlapAccounts, KlapHashes, KlapSpelling};

/// The hashes of an account, as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredHashes {
    /// The account's e-mail address, as the user wrote it. Hashes of another account are not used.
    pub username: String,
    /// The account in each of its spellings.
    own: Vec<KlapAccount>,
}

impl StoredHashes {
    /// What is stored of the accounts of this user.
    pub fn of(username: &str, accounts: &KlapAccounts) -> Self {
        Self { username: username.to_owned(), own: accounts.own().cloned().collect() }
    }

    /// The accounts that a plug may hold.
    pub fn accounts(&self) -> KlapAccounts {
        KlapAccounts::with_own(self.own.iter().cloned())
    }

    /// Whether they are of this user name with this password.
    pub(crate) fn are_of(&self, username: &str, hashes: &KlapHashes) -> bool {
        self.username == username && self.own.iter().any(|account| account.hashes == *hashes)
    }
}

impl fmt::Debug for StoredHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredHashes").finish_non_exhaustive()
    }
}

/// The file of the hashes. A handle, cheap to clone.
#[derive(Debug, Clone)]
pub struct HashFile {
    directory: PathBuf,
}

impl HashFile {
    /// That of the store in this directory, whether it is there yet or not.
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(HASHES)
    }

    /// The hashes of the last login, if there was one.
    ///
    /// # Errors
    /// A line for the log, if the file has no hashes in it. Then it has been renamed.
    pub fn load(&self) -> Result<Option<StoredHashes>, String> {
        match file::load(&self.directory, HASHES, read) {
            Loaded::Well(hashes) => Ok(Some(hashes)),
            Loaded::Missing => Ok(None),
            Loaded::Refused(warning) => Err(format!("{warning}: run `hs100d cloud login` again")),
            Loaded::Unreadable(warning) => Err(warning),
        }
    }

    /// Reads the file and never writes: for a command that only looks. What cannot be read counts as missing.
    pub(crate) fn look(&self) -> Option<StoredHashes> {
        file::look(&self.path(), read)
    }

    /// Writes the hashes. Blocks until the disk has them.
    ///
    /// # Errors
    /// The file that could not be written; it is unchanged.
    pub fn save(&self, hashes: &StoredHashes) -> Result<(), Unwritable> {
        file::replace(&self.directory, HASHES, &HashesFile::of(hashes))
    }

    /// Removes the hashes, if there are any.
    ///
    /// # Errors
    /// The file that could not be removed.
    pub fn clear(&self) -> Result<(), Unwritable> {
        file::remove(&self.directory, HASHES)
    }
}

fn read(bytes: &[u8]) -> Result<StoredHashes, Refused> {
    let hashes = file::parse::<HashesFile>(bytes)?.hashes();
    hashes.ok_or_else(|| "its hashes cannot be read".to_owned().into())
}

/// `klap.hashes` as written.
#[derive(Serialize, Deserialize)]
struct HashesFile {
    version: u32,
    username: String,
    accounts: Vec<AccountRow>,
}

/// One spelling of the account.
#[derive(Serialize, Deserialize)]
struct AccountRow {
    spelling: String,
    hashes: String,
}

impl HashesFile {
    fn of(hashes: &StoredHashes) -> Self {
        let row = |account: &KlapAccount| AccountRow {
            spelling: account.spelling.word().to_owned(),
            hashes: account.hashes.to_text().as_str().to_owned(),
        };
        Self {
            version: VERSION,
            username: hashes.username.clone(),
            accounts: hashes.own.iter().map(row).collect(),
        }
    }

    /// `None` if a row is damaged, or there is none.
    fn hashes(self) -> Option<StoredHashes> {
        let own: Vec<_> = self.accounts.iter().map(AccountRow::account).collect::<Option<_>>()?;
        (!own.is_empty()).then_some(StoredHashes { username: self.username, own })
    }
}

impl AccountRow {
    fn account(&self) -> Option<KlapAccount> {
        let spelling = KlapSpelling::own(&self.spelling)?;
        Some(KlapAccount { spelling, hashes: KlapHashes::from_text(&self.hashes)? })
    }
}

impl Drop for AccountRow {
    fn drop(&mut self) {
        self.hashes.zeroize();
    }
}
