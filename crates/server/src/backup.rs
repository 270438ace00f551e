//! A backup is a folder that holds one consistent copy of the database, checked, the sandbox's world of a moment
//! later, and in development the master key. It is made beside a running process and put back into an empty folder.

use crate::data_dir::{DataDir, SANDBOX_FILE, database_in, master_key_in, private};
use crate::operator::ledger::check;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use store::Store;
use store::ledger::Finding;
use store::sqlite::{Sqlite, copy};

/// What is in a backup.
#[derive(Debug)]
pub struct Backup {
    /// Entries of its ledger.
    pub entries: u64,
    /// What is wrong with its ledger.
    pub finding: Option<Finding>,
}

/// Copies what is in `data_dir` into the folder `to`, which must not be there yet. It takes that name only when all of
/// it is on the disk, so what carries the name is whole.
///
/// # Errors
/// A line that says what to do.
pub async fn make(data_dir: &Path, to: &Path) -> Result<Backup, String> {
    let database = database_in(data_dir);
    if !database.exists() {
        return Err(format!("there is no database at {}", database.display()));
    }
    let cannot = |error: std::io::Error| format!("the backup {} cannot be written: {error}", to.display());
    if to.symlink_metadata().is_ok() {
        return Err(format!("{} is there already: each backup gets a folder of its own", to.display()));
    }
    let partial = with_suffix(to, ".partial");
    DirBuilder::new().mode(0o700).create(&partial).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            format!("{} is there: an earlier backup was broken off; remove it first", partial.display())
        }
        _ => cannot(error),
    })?;
    // The sandbox comes second, so that it knows at least what the platform believes.
    for (from, name) in [(database, "esimd.db"), (data_dir.join(SANDBOX_FILE), SANDBOX_FILE)] {
        if from.exists() {
            let copied = partial.join(name);
            private().create_new(true).write(true).open(&copied).map_err(cannot)?;
            copy(&from, &copied).map_err(|error| error.to_string())?;
            File::open(&copied).and_then(|file| file.sync_all()).map_err(cannot)?;
        }
    }
    let key = master_key_in(data_dir);
    if key.exists() {
        copy_privately(&key, &master_key_in(&partial)).map_err(cannot)?;
    }
    let backup = look(&partial).await?;
    File::open(&partial).and_then(|folder| folder.sync_all()).map_err(cannot)?;
    std::fs::rename(&partial, to).map_err(cannot)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(cannot)?;
    Ok(backup)
}

/// Puts a backup into `data_dir`, where nothing may be. A damaged one is put nowhere.
///
/// # Errors
/// A line that says what to do.
pub async fn restore(from: &Path, data_dir: &Path) -> Result<Backup, String> {
    if !database_in(from).exists() {
        return Err(format!("{} is no backup: there is no {}", from.display(), database_in(from).display()));
    }
    let folder = DataDir::lock(data_dir)?;
    let database = database_in(folder.path());
    let cannot = |error: std::io::Error| format!("the backup cannot be put into {}: {error}", data_dir.display());
    // A log without its database is dangerous, too: SQLite would play it back into the restored one.
    for file in std::fs::read_dir(folder.path()).map_err(cannot)? {
        let name = file.map_err(cannot)?.file_name();
        if name != "lock" {
            return Err(format!(
                "{} holds {} already; move everything away first, or choose another folder with --data-dir",
                data_dir.display(),
                name.display()
            ));
        }
    }
    let backup = look(from).await?;
    if backup.finding.is_some() {
        return Ok(backup);
    }
    let rest = [(from.join(SANDBOX_FILE), folder.sandbox()), (master_key_in(from), master_key_in(folder.path()))];
    for (from, to) in rest.iter().filter(|(from, _)| from.exists()) {
        copy_privately(from, to).map_err(cannot)?;
    }
    // The database comes last and under another name at first: a restore that was broken off leaves none.
    let partial = with_suffix(&database, ".partial");
    copy_privately(&database_in(from), &partial).map_err(cannot)?;
    std::fs::rename(&partial, &database).map_err(cannot)?;
    File::open(folder.path()).and_then(|folder| folder.sync_all()).map_err(cannot)?;
    Ok(backup)
}

async fn look(folder: &Path) -> Result<Backup, String> {
    let sqlite = Sqlite::open_to_read(&database_in(folder)).map_err(|error| error.to_string())?;
    let (entries, finding) = check(&Store::new(sqlite)).await.map_err(|fault| fault.to_string())?;
    Ok(Backup { entries, finding })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn copy_privately(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut target = private().create_new(true).write(true).open(to)?;
    std::io::copy(&mut File::open(from)?, &mut target)?;
    target.sync_all()
}
