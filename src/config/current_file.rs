//! The file that is being read, for a reader in another thread that may never come back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file that is being read, or was read last. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CurrentFile(Arc<Mutex<Option<PathBuf>>>);

impl CurrentFile {
    /// Notes that this file is read next.
    pub(crate) fn set(&self, path: &Path) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_owned());
    }

    /// `None` before the first file.
    pub fn path(&self) -> Option<PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
