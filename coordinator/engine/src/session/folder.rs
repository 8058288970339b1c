//! Temporary folder of an engine, and the removal of those that dead processes have left.
//!
//! The owner holds a lock on a file of its folder. The system frees the lock when the process ends, however it ends, so that a
//! folder whose lock can be taken is nobody's. A folder without the file is left alone.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

/// Beginning of the folders' names.
const PREFIX: &str = "gust-";

/// File that the owner has locked.
const OWNED: &str = "owned";

/// Most folders that one engine removes as it opens.
const REMOVED_MAX: usize = 100;

/// Folder of one engine. Dropping it removes it.
#[derive(Debug)]
pub(super) struct EngineFolder {
    folder: TempDir,
    _owned: Option<File>,
}

impl EngineFolder {
    /// Makes a folder in `temp_folder`, and removes folders there whose owners are dead.
    ///
    /// # Errors
    /// The system's, if it cannot be made.
    pub(super) fn make(temp_folder: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(temp_folder)?;
        // Without locks the folder only is not removed by others.
        let owned = own(folder.path()).ok();
        sweep(temp_folder);
        Ok(Self { folder, _owned: owned })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Locks a folder's file. It has its name only once it is locked.
fn own(folder: &Path) -> io::Result<File> {
    let (unlocked, owned) = (folder.join("unlocked"), folder.join(OWNED));
    let file = File::create(&unlocked)?;
    file.lock()?;
    fs::rename(unlocked, owned)?;
    Ok(file)
}

/// Removes folders whose owners are dead. Those that it cannot remove stay.
fn sweep(temp_folder: &Path) {
    let Ok(entries) = fs::read_dir(temp_folder) else { return };
    let is_ours = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(PREFIX);
    let dead = entries.flatten().filter(is_ours).map(|entry| entry.path()).filter(|folder| is_dead(folder));
    for folder in dead.take(REMOVED_MAX) {
        match fs::remove_dir_all(&folder) {
            Ok(()) => tracing::info!(folder = %folder.display(), "removed the folder of a process that has died"),
            Err(error) => tracing::debug!(folder = %folder.display(), %error, "the folder of a dead process stays"),
        }
    }
}

fn is_dead(folder: &Path) -> bool {
    File::options().write(true).open(folder.join(OWNED)).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_are_removed_and_no_others() {
        let temp = tempfile::tempdir().expect("a folder");
        let living = EngineFolder::make(temp.path()).expect("a folder");
        let dead = EngineFolder::make(temp.path()).expect("a folder");
        let left = dead.path().to_owned();
        fs::write(left.join("spilled"), "rows").expect("written");
        // After a kill, too, the folder stays and the lock is free.
        let EngineFolder { folder, _owned } = dead;
        let _ = folder.keep();
        drop(_owned);
        let unknown = temp.path().join("gust-unknown");
        let foreign = temp.path().join("other");
        for folder in [&unknown, &foreign] {
            fs::create_dir(folder).expect("made");
        }
        fs::write(foreign.join(OWNED), "").expect("written");
        let new = EngineFolder::make(temp.path()).expect("a folder");
        assert!(!left.exists(), "the dead one's is there");
        for folder in [living.path(), new.path(), &unknown, &foreign] {
            assert!(folder.exists(), "{}", folder.display());
        }
        let path = new.path().to_owned();
        drop(new);
        assert!(!path.exists());
    }
}
