//! A fuzzer over bytes: it damages valid Parquet files and lets a session read them.
//!
//! A session may answer rows, because a flipped bit may leave a value that is valid. It may fail with a typed error that names
//! the file. It may not panic, hang, end the process or take much memory. One seed is one damaged file.

use std::path::Path;
use std::time::Duration;

use futures::FutureExt;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::session::Session;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::query::run;

mod damage;
mod files;

pub use damage::{Damage, damage};
pub use files::files;

/// Time far above the need of any of these small files.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Result of reading a damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOutcome {
    Rows(u64),
    /// The session refuses the file; the message names it.
    Refused(String),
    /// The session did what it must not do, told in words.
    Wrong(String),
}

/// Damages a file by a seed: returns the file's name, the damage, and the damaged bytes.
pub fn damaged(files: &[(String, Vec<u8>)], seed: u64) -> (&str, Damage, Vec<u8>) {
    let mut random = StdRng::seed_from_u64(seed);
    let (name, bytes) = &files[random.random_range(0..files.len())];
    let (_, other) = &files[random.random_range(0..files.len())];
    let (kind, bytes) = damage(&mut random, bytes, other);
    (name, kind, bytes)
}

/// Writes a damaged file into `folder`, under a name of its own, and reads it whole through the session.
pub async fn read(session: &Session, folder: &Path, seed: u64, bytes: &[u8]) -> FileOutcome {
    let path = folder.join(format!("seed{seed}.parquet"));
    std::fs::write(&path, bytes).expect("written");
    let outcome = read_file(session, &path).await;
    std::fs::remove_file(&path).expect("removed");
    outcome
}

async fn read_file(session: &Session, path: &Path) -> FileOutcome {
    let sql = format!("SELECT * FROM '{}'", path.display());
    let reading = std::panic::AssertUnwindSafe(run(session, &sql)).catch_unwind();
    match tokio::time::timeout(TIME_MAX, reading).await {
        Err(_) => FileOutcome::Wrong(format!("not done after {TIME_MAX:?}")),
        Ok(Err(_)) => FileOutcome::Wrong("it panicked".to_owned()),
        Ok(Ok(Ok((_, report)))) => FileOutcome::Rows(report.rows),
        Ok(Ok(Err(error))) => judge(path, &error),
    }
}

fn judge(path: &Path, error: &QueryError) -> FileOutcome {
    let message = error.to_string();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match error.kind() {
        ErrorKind::Data if message.contains(&name) && !message.contains("after 2 attempts") => {
            FileOutcome::Refused(message)
        }
        ErrorKind::Data => FileOutcome::Wrong(format!("the file is not named: {message}")),
        _ => FileOutcome::Wrong(format!("{error:?}")),
    }
}
