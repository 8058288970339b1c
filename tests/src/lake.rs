//! Iceberg tables that PyIceberg wrote, in a folder with their catalog.

use std::fs;
use std::path::{Path, PathBuf};

use gust_engine::config::{Config, ConfigFile, Overrides, Target};
use gust_engine::session::Session;
use tempfile::TempDir;

use crate::python::{self, Run};

/// Folder with `catalog.db`, `warehouse` and further files of the script.
pub struct Lake {
    folder: TempDir,
}

impl Lake {
    /// Runs a script in a new folder below `cache`, after `prepare`. Returns None where Python is missing, and says so on stderr.
    pub fn make(cache: &Path, script: &str, prepare: impl FnOnce(&Path)) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("iceberg-").tempdir_in(cache).expect("a temporary folder");
        prepare(folder.path());
        match python::run(cache, script, &[folder.path()]).unwrap_or_else(|error| panic!("{error}")) {
            Run::Done { .. } => Some(Self { folder }),
            Run::Skipped { reason } => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lists the files of a table's `data` or `metadata` folder, by name.
    pub fn files(&self, table: &str, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(&format!("warehouse/{table}/{folder}"))).expect("readable");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        files
    }

    /// Opens a session by a `gust.toml` that names the catalog.
    pub fn session(&self, target: Target, functions_max: u32, program: &str) -> Session {
        let text = format!(
            "[process]\nprogram = '{program}'\n[catalogs.lake]\ntype = 'sqlite'\npath = 'catalog.db'\nwarehouse = 'warehouse'\n"
        );
        let file = ConfigFile { path: self.path("gust.toml"), text };
        let overrides = Overrides { on: Some(target), functions_max: Some(functions_max), ..Overrides::default() };
        let config = Config::load(Some(&file), [], &overrides).unwrap_or_else(|error| panic!("{error}"));
        Session::new(config).expect("a session")
    }

    /// Opens the same session with the catalog's tables under bare names.
    pub async fn through_catalog(&self, target: Target, functions_max: u32, program: &str) -> Session {
        let session = self.session(target, functions_max, program);
        session.use_catalog("lake").await.expect("the catalog");
        session
    }
}
