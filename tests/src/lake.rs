//! Iceberg tables of PyIceberg's making, in a folder with their catalog.

use std::fs;
use std::path::{Path, PathBuf};

use gust_engine::config::{Config, ConfigFile, Overrides, Target};
use gust_engine::session::Session;
use tempfile::TempDir;

use crate::python::{self, Run};

/// A folder with `catalog.db` and `warehouse`, and what else the script left there.
pub struct Lake {
    folder: TempDir,
}

impl Lake {
    /// Runs a script in a new folder below `cache`, after `prepare`. None where there is no Python to do so, which is said.
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

    /// The files of a table's `data` or `metadata`, by name.
    pub fn files(&self, table: &str, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(&format!("warehouse/{table}/{folder}"))).expect("readable");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        files
    }

    /// A session as `gust.toml` describes it.
    pub fn session(&self, target: Target, functions_max: u32, program: &str) -> Session {
        let text = format!(
            "[process]\nprogram = '{program}'\n[catalogs.lake]\ntype = 'sqlite'\npath = 'catalog.db'\nwarehouse = 'warehouse'\n"
        );
        let file = ConfigFile { path: self.path("gust.toml"), text };
        let overrides = Overrides { on: Some(target), functions_max: Some(functions_max), ..Overrides::default() };
        let config = Config::load(Some(&file), [], &overrides).unwrap_or_else(|error| panic!("{error}"));
        Session::new(config).expect("a session")
    }

    /// The same with the catalog's tables under bare names.
    pub async fn through_catalog(&self, target: Target, functions_max: u32, program: &str) -> Session {
        let session = self.session(target, functions_max, program);
        session.use_catalog("lake").await.expect("the catalog");
        session
    }
}
