//! Faults of a history's file, by what its owner can do.

use std::path::PathBuf;

use humansize::{BINARY, format_size};

use super::WRITE_MAX;
use super::store::LOCK_WAIT_MAX;

/// A history that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {fault}", path.display())]
pub struct HistoryError {
    pub path: PathBuf,
    pub fault: HistoryFault,
}

/// Fault of the file. Its text is the end of a sentence that the file's path begins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryFault {
    #[error("cannot be opened: {0}")]
    Unusable(String),
    #[error("is locked by another program, for {} s or longer", LOCK_WAIT_MAX.as_secs())]
    Locked,
    #[error("is damaged, or no history: {0}")]
    Damaged(String),
    #[error("belongs to another program")]
    Foreign,
    #[error("was written by an earlier gust (its version is {found}, this gust knows {known})")]
    Older { found: i64, known: i64 },
    #[error("was written by a later gust (its version is {found}, this gust knows {known})")]
    Newer { found: i64, known: i64 },
    #[error(
        "is full: it has reached history.bytes_max = {}, or its disk is full", format_size(*bytes_max, BINARY)
    )]
    Full { bytes_max: u64 },
    #[error("cannot be read or written: {0}")]
    Disk(String),
    #[error("did not answer within {} s", WRITE_MAX.as_secs())]
    Slow,
    #[error("failed: {0}")]
    Other(String),
}

impl HistoryFault {
    /// Returns the next step.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unusable(_) => "set history.path to a file that can be written, or history.enabled = false",
            Self::Locked => "end that program, or set history.path to another file",
            Self::Damaged(_) => "move it away, and a new one is begun; `sqlite3 FILE .recover` may save what is in it",
            Self::Foreign => "set history.path to a file of its own",
            Self::Older { .. } => "move it away, and a new one is begun",
            Self::Newer { .. } => "use that gust, or set history.path to another file",
            Self::Full { .. } => "raise history.bytes_max, lower history.retention_days, or free space",
            Self::Disk(_) => {
                "look at its disk, which may be over a quota or broken, or set history.path to another one"
            }
            Self::Slow => "set history.path to a file on a local disk",
            Self::Other(_) => return None,
        })
    }

    /// Finds the fault by SQLite's primary result code (sqlite.org/rescode.html).
    pub(super) fn of(error: &sqlx::Error, bytes_max: u64) -> Self {
        let Some(error) = error.as_database_error() else { return Self::Other(error.to_string()) };
        let message = error.message().to_owned();
        let code = error.code().and_then(|code| code.parse::<u32>().ok()).map(|extended| extended & 0xff);
        match code {
            // BUSY, LOCKED
            Some(5 | 6) => Self::Locked,
            // PERM, READONLY, CANTOPEN
            Some(3 | 8 | 14) => Self::Unusable(message),
            // CORRUPT, NOTADB
            Some(11 | 26) => Self::Damaged(message),
            // IOERR
            Some(10) => Self::Disk(message),
            Some(13) => Self::Full { bytes_max },
            _ => Self::Other(message),
        }
    }
}
