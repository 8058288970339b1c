//! A fuzzer over bytes: valid Parquet files, damaged, and what a session makes of them.
//!
//! It may answer rows, for a flipped bit of a value is a value; or fail with a typed error that names the file. It may not
//! panic, hang, end the process or take much memory. One seed is one damaged file.

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

/// More than any of these small files needs.
const TIME_MAX: Duration = Duration::from_secs(30);

/// What came of a damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Rows(u64),
    /// The message, which names the file.
    Refused(String),
    /// What must not be, in words.
    Wrong(String),
}

/// A damaged file of one seed: of which file, how, and its bytes.
pub fn damaged(files: &[(String, Vec<u8>)], seed: u64) -> (&str, Damage, Vec<u8>) {
    let mut random = StdRng::seed_from_u64(seed);
    let (name, bytes) = &files[random.random_range(0..files.len())];
    let (_, other) = &files[random.random_range(0..files.len())];
    let (kind, bytes) = damage(&mut random, bytes, other);
    (name, kind, bytes)
}

/// Writes a damaged file into `folder`, under a name of its own, and reads it whole through the session.
pub async fn read(session: &Session, folder: &Path, seed: u64, bytes: &[u8]) -> Outcome {
    let path = folder.join(format!("seed{seed}.parquet"));
    std::fs::write(&path, bytes).expect("written");
    let outcome = read_file(session, &path).await;
    std::fs::remove_file(&path).expect("removed");
    outcome
}

async fn read_file(session: &Session, path: &Path) -> Outcome {
    let sql = format!("SELECT * FROM '{}'", path.display());
    let reading = std::panic::AssertUnwindSafe(run(session, &sql)).catch_unwind();
    match tokio::time::timeout(TIME_MAX, reading).await {
        Err(_) => Outcome::Wrong(format!("not done after {TIME_MAX:?}")),
        Ok(Err(_)) => Outcome::Wrong("it panicked".to_owned()),
        Ok(Ok(Ok((_, report)))) => Outcome::Rows(report.rows),
        Ok(Ok(Err(error))) => judge(path, &error),
    }
}

fn judge(path: &Path, error: &QueryError) -> Outcome {
    let message = error.to_string();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match error.kind() {
        ErrorKind::Data if message.contains(&name) && !message.contains("after 2 attempts") => {
            Outcome::Refused(message)
        }
        ErrorKind::Data => Outcome::Wrong(format!("the file is not named: {message}")),
        _ => Outcome::Wrong(format!("{error:?}")),
    }
}
