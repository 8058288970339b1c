//! A file of rows, which is there with all of them or is not there.

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{PathPersistError, TempPath};

use super::OutputError;

/// File that is being written. Until [`NewFile::keep`] it has a hidden name beside its own; dropped, it is removed, even
/// while a thread still writes to it.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    hidden: TempPath,
    path: PathBuf,
}

impl NewFile {
    /// Makes an empty file.
    ///
    /// # Errors
    /// [`OutputError::File`] if the path is taken, or nothing can be written in its folder.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        let failed = |error| OutputError::File { path: path.to_owned(), error };
        // A link that leads nowhere is a name that is taken, too. A name that cannot be looked up cannot be given.
        match path.symlink_metadata() {
            Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Err(_) => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The permissions of a file that a shell makes: the process's mask takes some away.
        let permissions = std::fs::Permissions::from_mode(0o666);
        let hidden = tempfile::Builder::new().prefix(".gust-").permissions(permissions).tempfile_in(folder);
        let (file, hidden) = hidden.map_err(failed)?.into_parts();
        Ok(Self { file, hidden, path: path.to_owned() })
    }

    /// Returns a writer of its contents.
    ///
    /// # Errors
    /// [`OutputError::File`] if the process has too many open files.
    pub fn writer(&self) -> Result<BufWriter<File>, OutputError> {
        let file = self.file.try_clone().map_err(|error| OutputError::File { path: self.path.clone(), error })?;
        Ok(BufWriter::new(file))
    }

    /// Gives the file its name, if no other file has it by now. Everything has been flushed.
    ///
    /// # Errors
    /// [`OutputError::File`] if the disk does not take it. [`OutputError::Unnamed`] if it cannot have the name: its rows were paid
    /// for, and are left under another.
    pub async fn keep(self) -> Result<(), OutputError> {
        let Self { file, hidden, path } = self;
        let keeping = tokio::task::spawn_blocking(move || {
            if let Err(error) = file.sync_all() {
                return Err(OutputError::File { path, error });
            }
            hidden.persist_noclobber(&path).map_err(|PathPersistError { error, path: hidden }| match hidden.keep() {
                Ok(left) => OutputError::Unnamed { path, left, error },
                Err(_) => OutputError::File { path, error },
            })
        });
        keeping.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}
