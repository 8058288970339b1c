//! Budgets of users and groups, and the file in which they outlive the server.
//!
//! The file is written soon after each change, as a whole or not at all. A lock beside it keeps a second server away, which would
//! write over it. What statements hold is in it, so that a killed server has spent no more than its file says. While it cannot be
//! written, it is tried again, and after a minute statements under budgets are refused.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use gust_engine::cap::{Budgets, SavedBudget, SharedBudgets};
use gust_engine::config::{BudgetConfig, BudgetHolder, ServerConfig};
use gust_engine::error::QueryError;
use gust_engine::nearest::nearest;
use serde::{Deserialize, Serialize};

use crate::jwt::Provider;
use crate::tokens::Tokens;

/// Version of the file.
const VERSION: u32 = 1;

/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Least pause between two writes.
const WRITE_PAUSE: Duration = Duration::from_millis(50);

/// Pause before a write that has failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Longest time for which statements go on while the file cannot be written.
const UNWRITTEN_MAX: Duration = Duration::from_secs(60);

/// Names beside the file's own: a lock, and a file that is written.
const LOCK: &str = ".lock";
const NEW: &str = ".new";

/// Budgets of a server, and their file.
#[derive(Debug)]
pub(crate) struct KeptBudgets {
    kept: Arc<Kept>,
    _lock: File,
}

#[derive(Debug)]
struct Kept {
    configs: Vec<BudgetConfig>,
    budgets: Arc<Budgets>,
    path: PathBuf,
    /// Budgets in the file that the configuration does not have now. They stay, for it may have them again.
    others: Vec<SavedBudget>,
    /// The write under way. No older state is written after a newer one.
    writing: Mutex<()>,
    /// Beginning of the time for which the file could not be written, and the reason; None where it was written.
    unwritten: Mutex<Option<(Instant, String)>>,
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
    pub(crate) fn open(
        server: &ServerConfig,
        tokens: Option<&Tokens>,
        provider: Option<&Provider>,
    ) -> Result<Option<Self>, QueryError> {
        if server.budgets.is_empty() {
            return Ok(None);
        }
        check(&server.budgets, tokens, provider)?;
        let path = path_of(server)?;
        let failed = |why: String| QueryError::setup(format!("{}: {why}", path.display()));
        let lock = lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => failed("another server keeps its budgets there".to_owned())
                .with_hint("set server.budgets_file to a file of this server's own"),
            _ => failed(error.to_string()).with_hint("set server.budgets_file"),
        })?;
        let saved = saved_at(&path)?;
        if saved.is_none() {
            tracing::warn!(file = %path.display(), "there is no file of budgets: nothing is spent of them");
        }
        let saved = saved.unwrap_or_default();
        let budgets = Budgets::new(server.budgets.clone(), &saved, || (Utc::now(), Instant::now()));
        let known = budgets.saved();
        let is_other = |saved: &SavedBudget| {
            !known.iter().any(|it| (&it.of, &it.name, &it.period) == (&saved.of, &saved.name, &saved.period))
        };
        let others = saved.into_iter().filter(is_other).collect();
        let kept = Kept {
            configs: server.budgets.clone(),
            budgets,
            path: path.clone(),
            others,
            writing: Mutex::default(),
            unwritten: Mutex::default(),
        };
        kept.write().map_err(|error| failed(error.to_string()).with_hint("set server.budgets_file"))?;
        Ok(Some(Self { kept: Arc::new(kept), _lock: lock }))
    }

    /// Checks the budgets of the configuration and their file, as [`Self::open`] does, and writes nothing.
    ///
    /// # Errors
    /// Those of [`Self::open`], but for a file that another server has, or that cannot be written.
    pub(crate) fn look(
        server: &ServerConfig,
        tokens: Option<&Tokens>,
        provider: Option<&Provider>,
    ) -> Result<(), QueryError> {
        if server.budgets.is_empty() {
            return Ok(());
        }
        check(&server.budgets, tokens, provider)?;
        saved_at(&path_of(server)?).map(drop)
    }

    /// Returns the budgets that a user of these groups shares.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if what is spent could not be written for a while.
    pub(crate) fn of(&self, user: &str, groups: &[String]) -> Result<Option<SharedBudgets>, QueryError> {
        let Some(budgets) = self.kept.budgets.of(user, groups) else { return Ok(None) };
        match &*self.kept.unwritten() {
            Some((since, why)) if since.elapsed() >= UNWRITTEN_MAX => {
                let seconds = since.elapsed().as_secs();
                let message = format!("what is spent of the budgets could not be written for {seconds} s: {why}");
                Err(QueryError::setup(message).with_hint("the server's operator has to look at server.budgets_file"))
            }
            _ => Ok(Some(budgets)),
        }
    }

    /// Checks that other tokens have the groups of all budgets, so that no user gets out of one without a word.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if they do not.
    pub(crate) fn check(&self, tokens: &Tokens, provider: Option<&Provider>) -> Result<(), QueryError> {
        // A user without a token spends nothing.
        let of_groups = |it: &&BudgetConfig| matches!(it.holder, BudgetHolder::Group(_));
        let of_groups: Vec<_> = self.kept.configs.iter().filter(of_groups).cloned().collect();
        check(&of_groups, Some(tokens), provider)
    }

    /// Writes each change into the file. It never ends.
    pub(crate) async fn keep(&self) {
        loop {
            self.kept.budgets.changed().await;
            while !self.save().await {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }

    /// Writes the file. Returns false if that fails, which is logged where it begins and ends.
    pub(crate) async fn save(&self) -> bool {
        let kept = Arc::clone(&self.kept);
        // A write goes on to its end, also where nobody waits for it any more.
        let written = tokio::task::spawn_blocking(move || kept.write()).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        let file = self.kept.path.display();
        let mut unwritten = self.kept.unwritten();
        match (written, unwritten.is_some()) {
            (Ok(()), false) => {}
            (Ok(()), true) => {
                tracing::info!(%file, "what is spent of the budgets is written again");
                *unwritten = None;
            }
            (Err(error), is_known) => {
                if !is_known {
                    tracing::error!(%error, %file, "what is spent of the budgets cannot be written");
                    *unwritten = Some((Instant::now(), error.to_string()));
                }
                return false;
            }
        }
        true
    }
}

impl Kept {
    fn unwritten(&self) -> std::sync::MutexGuard<'_, Option<(Instant, String)>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the state of now.
    fn write(&self) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let budgets = [self.budgets.saved(), self.others.clone()].concat();
        write(&self.path, &Saved { version: VERSION, budgets })
    }
}

fn path_of(server: &ServerConfig) -> Result<PathBuf, QueryError> {
    server.budgets_file.clone().ok_or_else(|| {
        QueryError::setup("the budgets have no file: neither XDG_STATE_HOME nor HOME is set")
            .with_hint("set server.budgets_file")
    })
}

/// Reads what was spent; None where there is no file.
fn saved_at(path: &Path) -> Result<Option<Vec<SavedBudget>>, QueryError> {
    read(path).map_err(|why| {
        QueryError::setup(format!("{}: {why}", path.display()))
            .with_hint("restore the file; without it, all budgets of this day and month begin anew")
    })
}

/// Checks that each holder is known, and has one budget for a period.
fn check(budgets: &[BudgetConfig], tokens: Option<&Tokens>, provider: Option<&Provider>) -> Result<(), QueryError> {
    let refused = |words: String| QueryError::setup(format!("server.budget: {words}"));
    let none = Tokens::default();
    let tokens = match (tokens, provider) {
        (None, None) => return Err(refused("the server has no users".to_owned()).with_hint("set server.tokens")),
        (tokens, _) => tokens.unwrap_or(&none),
    };
    for (at, BudgetConfig { holder, period, .. }) in budgets.iter().enumerate() {
        let (kind, name) = (holder.kind(), holder.name());
        is_known("server.budget", holder, tokens, provider)?;
        let is_same = |other: &BudgetConfig| (&other.holder, other.period) == (holder, *period);
        if budgets[..at].iter().any(is_same) {
            return Err(
                refused(format!("{kind} `{name}` has two budgets for a {}", period.name())).with_hint("keep one")
            );
        }
    }
    let has_budget =
        |group: &str| budgets.iter().any(|it| matches!(&it.holder, BudgetHolder::Group(of) if of == group));
    if budgets.iter().any(|it| matches!(it.holder, BudgetHolder::Group(_))) {
        for group in tokens.groups().filter(|group| !has_budget(group)).collect::<BTreeSet<_>>() {
            tracing::warn!(group, "other groups have budgets, and this one has none");
        }
    }
    Ok(())
}

/// Checks that a setting names a user or a group that there is. Those of an identity provider are its own.
///
/// # Errors
/// [`gust_engine::error::ErrorKind::Setup`] if there is none.
pub(crate) fn is_known(
    setting: &str,
    holder: &BudgetHolder,
    tokens: &Tokens,
    provider: Option<&Provider>,
) -> Result<(), QueryError> {
    let (kind, name) = (holder.kind(), holder.name());
    let (known, is_providers): (BTreeSet<&str>, bool) = match holder {
        BudgetHolder::User(_) => (tokens.users().collect(), provider.is_some_and(|it| name.starts_with(&it.prefix()))),
        BudgetHolder::Group(_) => (tokens.groups().collect(), provider.is_some_and(Provider::tells_groups)),
    };
    if known.contains(name) || is_providers {
        return Ok(());
    }
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("no token of server.tokens has this {kind}"),
    };
    Err(QueryError::setup(format!("{setting}: there is no {kind} `{name}`")).with_hint(hint))
}

/// Returns the path of a file beside the file.
fn beside(path: &Path, name: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(name);
    beside.into()
}

/// Takes the lock of the file. The system frees it when the process ends, however it ends.
fn lock(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = File::options().write(true).create(true).truncate(false).open(beside(path, LOCK))?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
        std::fs::TryLockError::Error(error) => error,
    })?;
    Ok(file)
}

/// Reads the file; None if it is not there.
fn read(path: &Path) -> Result<Option<Vec<SavedBudget>>, String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| error.to_string())?,
    };
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
    }
    let saved: Saved = serde_json::from_str(&text).map_err(|error| format!("it is no file of budgets: {error}"))?;
    match saved.version {
        VERSION => Ok(Some(saved.budgets)),
        other => Err(format!("its version is {other}, and this server knows {VERSION}")),
    }
}

/// Writes the file. Its lock protects the new one as well.
fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let new = beside(path, NEW);
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(saved)?)?;
    file.sync_data()?;
    std::fs::rename(&new, path)?;
    // The name outlives a loss of power, too.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use gust_engine::config::BudgetPeriod;
    use gust_engine::money::Money;

    use super::*;
    use crate::tokens::NewToken;

    #[test]
    fn a_file_is_whole_and_of_this_version() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("budgets.json");
        assert_eq!(read(&path), Ok(None), "it is not there");
        let begins = "2026-11-29".parse().expect("a day");
        let one = |of: &str, nano_dollars| {
            let [of, name, period] = [of, "ada", "day"].map(str::to_owned);
            SavedBudget { of, name, period, begins, nano_dollars }
        };
        let budgets = vec![one("user", 7), one("group", u64::MAX)];
        write(&path, &Saved { version: VERSION, budgets: budgets.clone() }).expect("written");
        assert_eq!(read(&path), Ok(Some(budgets)));
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

    /// A file that cannot be written is tried again, and nobody spends what is not remembered for long.
    #[tokio::test]
    async fn what_is_not_written_is_tried_again_and_then_nothing_is_spent() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/budgets.json");
        let user = BudgetHolder::User("ada".to_owned());
        let limit = Money::from_nano_dollars(100);
        let server = ServerConfig {
            budgets: vec![BudgetConfig { holder: user, period: BudgetPeriod::Month, limit }],
            budgets_file: Some(path.clone()),
            ..ServerConfig::default()
        };
        let ada = NewToken::new("ada".to_owned(), Vec::new(), None).expect("a token").to_string();
        let tokens: Tokens = toml::from_str(&ada).expect("tokens");
        let kept = KeptBudgets::open(&server, Some(&tokens), None).expect("a place").expect("a budget");
        assert!(path.exists(), "an unusable place is known at the start");
        let shared = kept.of("ada", &[]).expect("written").expect("hers");
        std::fs::remove_dir_all(folder.path().join("state")).expect("gone");
        shared.purse().pay(Some(Money::from_nano_dollars(7)));
        assert!(!kept.save().await);
        kept.of("ada", &[]).expect("it is tried again for a while");
        {
            let mut unwritten = kept.kept.unwritten();
            let since = &mut unwritten.as_mut().expect("it failed").0;
            *since = since.checked_sub(UNWRITTEN_MAX).expect("a moment");
        }
        let refused = kept.of("ada", &[]).expect_err("it lasts").to_string();
        assert!(refused.contains("could not be written for 60 s"), "{refused}");
        assert!(kept.of("bob", &[]).expect("he has no budget").is_none());
        std::fs::create_dir(folder.path().join("state")).expect("a folder");
        tokio::time::timeout(Duration::from_secs(20), async {
            tokio::select! {
                () = kept.keep() => {}
                () = async { while !path.exists() { tokio::time::sleep(WRITE_PAUSE).await } } => {}
            }
        })
        .await
        .expect("the change is still to be written");
        assert!(kept.save().await && kept.of("ada", &[]).is_ok());
        assert_eq!(read(&path).expect("a file").expect("it is there")[0].nano_dollars, 7);
    }
}
