//! The data folder: private to its user, locked to one process.

use crate::config::{Config, MasterKey};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The locked folder. The lock goes with it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Files only their user may read.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

impl DataDir {
    /// Makes the folder where it is missing, readable by its user alone, and locks it.
    ///
    /// # Errors
    /// A line that says what to do.
    pub fn lock(path: &Path) -> Result<Self, String> {
        let cannot = |error: std::io::Error| {
            format!("the data folder {} cannot be used: {error}; choose another with --data-dir", path.display())
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(cannot)?;
        let lock = private().create(true).truncate(false).write(true).open(path.join("lock")).map_err(cannot)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(format!(
                "the data folder {} is in use by another esimd; stop it first, or choose another with --data-dir",
                path.display()
            )),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database file, made private before SQLite opens it.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        let path = database_in(&self.path);
        // SQLite gives the log the same permissions as the database.
        let _ = private().create(true).truncate(false).write(true).open(&path);
        path
    }

    /// The sandbox's own file.
    #[must_use]
    pub fn sandbox(&self) -> PathBuf {
        self.path.join(SANDBOX_FILE)
    }

    /// The master key: from the configuration, or in development from a file made here once.
    ///
    /// # Errors
    /// A line that says what to do.
    pub fn master_key(&self, config: &Config) -> Result<MasterKey, String> {
        if let Some(key) = &config.master_key {
            return Ok(key.clone());
        }
        let path = master_key_in(&self.path);
        let cannot = |error: std::io::Error| format!("the key file {} cannot be used: {error}", path.display());
        match std::fs::read_to_string(&path) {
            Ok(text) => MasterKey::parse(text.trim())
                .ok_or_else(|| format!("the key file {} holds no key of 32 bytes", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut key = [0_u8; 32];
                aws_lc_rs::rand::fill(&mut key).map_err(|_| "the system gives no random numbers".to_owned())?;
                let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key);
                let mut file = private().create_new(true).write(true).open(&path).map_err(cannot)?;
                writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(cannot)?;
                Ok(MasterKey::from_bytes(key))
            }
            Err(error) => Err(cannot(error)),
        }
    }
}

/// The name of the sandbox's own file.
pub(crate) const SANDBOX_FILE: &str = "sandbox.db";

/// Where development keeps its master key in a data folder.
pub(crate) fn master_key_in(data_dir: &Path) -> PathBuf {
    data_dir.join("master.key")
}

/// Where the database lies in a data folder.
#[must_use]
pub fn database_in(data_dir: &Path) -> PathBuf {
    data_dir.join("esimd.db")
}
