//! Budgets of users and groups, and the file in which they outlive the server.
//!
//! The file is written soon after each change, as a whole or not at all. A lock beside it keeps a second server away, which would
//! write over it. What statements hold is in it, so that a killed server has spent no more than its file says.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use gust_engine::cap::{BudgetState, Budgets, SavedBudget, SharedBudgets};
use gust_engine::config::{BudgetConfig, BudgetHolder, ServerConfig};
use gust_engine::error::QueryError;
use gust_engine::nearest::nearest;
use serde::{Deserialize, Serialize};

use crate::tokens::Tokens;

/// Version of the file.
const VERSION: u32 = 1;

/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Least pause between two writes.
const WRITE_PAUSE: Duration = Duration::from_millis(50);

/// Budgets of a server, and their file.
#[derive(Debug)]
pub(crate) struct KeptBudgets {
    budgets: Arc<Budgets>,
    path: PathBuf,
    /// Budgets in the file that the configuration does not have now. They stay, for it may have them again.
    others: Vec<SavedBudget>,
    _lock: File,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    budgets: Vec<SavedBudget>,
}

impl KeptBudgets {
    /// Opens the budgets of the configuration, with what was spent before; None if there are none.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if a user or a group is not known, two budgets are the same, or the file cannot be used.
    pub(crate) fn open(server: &ServerConfig, tokens: Option<&Tokens>) -> Result<Option<Self>, QueryError> {
        if server.budgets.is_empty() {
            return Ok(None);
        }
        check(&server.budgets, tokens)?;
        let no_place = || {
            QueryError::setup("the budgets have no file: neither XDG_STATE_HOME nor HOME is set")
                .with_hint("set server.budgets_file")
        };
        let path = server.budgets_file.clone().ok_or_else(no_place)?;
        let failed = |why: String| QueryError::setup(format!("{}: {why}", path.display()));
        let lock = lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => failed("another server keeps its budgets there".to_owned())
                .with_hint("set server.budgets_file to a file of this server's own"),
            _ => failed(error.to_string()).with_hint("set server.budgets_file"),
        })?;
        let saved = read(&path).map_err(|why| {
            failed(why).with_hint("restore the file; without it, all budgets of this day and month begin anew")
        })?;
        let budgets = Budgets::new(server.budgets.clone(), &saved, Utc::now);
        let known = budgets.saved();
        let is_other = |saved: &SavedBudget| {
            !known.iter().any(|it| (&it.of, &it.name, &it.period) == (&saved.of, &saved.name, &saved.period))
        };
        let others = saved.into_iter().filter(is_other).collect();
        Ok(Some(Self { budgets, path, others, _lock: lock }))
    }

    /// Returns the budgets that a user shares.
    pub(crate) fn of(&self, user: &str, tokens: &Tokens) -> Option<SharedBudgets> {
        let groups: Vec<String> = tokens.groups_of(user).into_iter().map(str::to_owned).collect();
        self.budgets.of(user, &groups)
    }

    pub(crate) fn states(&self) -> Vec<BudgetState> {
        self.budgets.states()
    }

    /// Writes each change into the file. It never ends.
    pub(crate) async fn keep(&self) {
        loop {
            self.budgets.changed().await;
            self.save().await;
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }

    /// Writes the file.
    pub(crate) async fn save(&self) {
        let saved = Saved { version: VERSION, budgets: [self.budgets.saved(), self.others.clone()].concat() };
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || write(&path, &saved)).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::error!(%error, file = %self.path.display(), "what is spent of the budgets cannot be written");
        }
    }
}

/// Checks that each holder is known, and has one budget for a period.
fn check(budgets: &[BudgetConfig], tokens: Option<&Tokens>) -> Result<(), QueryError> {
    let refused = |words: String| QueryError::setup(format!("server.budget: {words}"));
    let Some(tokens) = tokens else {
        return Err(refused("the server has no users".to_owned()).with_hint("set server.tokens"));
    };
    for (at, BudgetConfig { holder, period, .. }) in budgets.iter().enumerate() {
        let known: BTreeSet<&str> = match holder {
            BudgetHolder::User(_) => tokens.users().collect(),
            BudgetHolder::Group(_) => tokens.groups().collect(),
        };
        let (kind, name) = (holder.kind(), holder.name());
        if !known.contains(name) {
            let hint = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("no token of server.tokens has this {kind}"),
            };
            return Err(refused(format!("there is no {kind} `{name}`")).with_hint(hint));
        }
        let is_same = |other: &BudgetConfig| (&other.holder, other.period) == (holder, *period);
        if budgets[..at].iter().any(is_same) {
            return Err(
                refused(format!("{kind} `{name}` has two budgets for a {}", period.name())).with_hint("keep one")
            );
        }
    }
    Ok(())
}

/// Takes the lock of the file. The system frees it when the process ends, however it ends.
fn lock(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let file = File::options().write(true).create(true).truncate(false).open(beside)?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
        std::fs::TryLockError::Error(error) => error,
    })?;
    Ok(file)
}

/// Reads the file. One that is not there has nothing.
fn read(path: &Path) -> Result<Vec<SavedBudget>, String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(|error| error.to_string())?,
    };
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
    }
    let saved: Saved = serde_json::from_str(&text).map_err(|error| format!("it is no file of budgets: {error}"))?;
    match saved.version {
        VERSION => Ok(saved.budgets),
        other => Err(format!("its version is {other}, and this server knows {VERSION}")),
    }
}

fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut file, saved)?;
    file.flush()?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_and_of_this_version() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("budgets.json");
        assert_eq!(read(&path), Ok(Vec::new()), "it is not there");
        let begins = "2026-11-29".parse().expect("a day");
        let one = |of: &str, nano_dollars| {
            let [of, name, period] = [of, "ada", "day"].map(str::to_owned);
            SavedBudget { of, name, period, begins, nano_dollars }
        };
        let budgets = vec![one("user", 7), one("group", u64::MAX)];
        write(&path, &Saved { version: VERSION, budgets: budgets.clone() }).expect("written");
        assert_eq!(read(&path), Ok(budgets));
        for (text, words) in [
            ("", "no file of budgets"),
            ("{\"version\": 2, \"budgets\": []}", "its version is 2"),
            ("{\"version\": 1, \"budgets\": [], \"more\": 1}", "no file of budgets"),
            ("{\"version\": 1, \"budgets\": [{\"of\": \"user\"}]}", "no file of budgets"),
            (&" ".repeat((FILE_BYTES_MAX + 1) as usize), "longer than"),
        ] {
            std::fs::write(&path, text).expect("written");
            assert!(read(&path).is_err_and(|why| why.contains(words)), "{words}: {:?}", read(&path));
        }
        // One file has one server.
        let held = lock(&path).expect("a lock");
        assert_eq!(lock(&path).map(drop).expect_err("it is locked").kind(), io::ErrorKind::WouldBlock);
        drop(held);
        lock(&path).map(drop).expect("it is free again");
    }
}
