//! Faults of a data file, with its name.

use datafusion::common::DataFusionError;
use gust_protocol::FragmentErrorKind;

use crate::classify::find;

/// A file that cannot be read. It would fail the same way anywhere and any number of times.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// It is truncated, damaged or no Parquet.
    #[error("file `{file}`: {reason}")]
    Corrupt { file: String, reason: String },
    /// It is not there.
    #[error("file `{file}` was not found: {reason}")]
    Missing { file: String, reason: String },
    /// It says which rows of data files are deleted, and what it says makes no sense.
    #[error("file `{file}` of table `{table}`: {reason}")]
    Deletes { file: String, table: String, reason: String },
    /// It is no file of the user's: the coordinator has written it for this query.
    #[error("object `{object}` of the exchange: {reason}")]
    Exchange { object: String, reason: String },
    /// It is not the file that was planned.
    #[error("file `{file}` has changed: {reason}")]
    Changed { file: String, reason: String },
    /// It is whole, but its values or types do not fit the table's.
    #[error("file `{file}`: {reason}")]
    Mismatch { file: String, reason: String },
    /// It is whole, but of a kind that is not read.
    #[error("file `{file}`: {reason}")]
    Unsupported { file: String, reason: String },
}

impl FileFault {
    pub(crate) fn corrupt(file: &impl ToString, reason: impl ToString) -> Self {
        Self::Corrupt { file: file.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn mismatch(file: &impl ToString, error: &DataFusionError) -> Self {
        let reason = match (find(error), error.find_root()) {
            (Some(SchemaMismatch(reason)), _) | (None, DataFusionError::Execution(reason)) => reason.clone(),
            (None, other) => other.strip_backtrace(),
        };
        Self::Mismatch { file: file.to_string(), reason }
    }

    pub(crate) fn deletes(file: &impl ToString, table: &impl ToString, reason: impl ToString) -> Self {
        Self::Deletes { file: file.to_string(), table: table.to_string(), reason: reason.to_string() }
    }

    /// Returns the next step, where the kind of the error does not say it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        let of_deletes = "the table's delete files are damaged; roll it back to an earlier snapshot";
        matches!(self, Self::Deletes { .. }).then_some(of_deletes)
    }

    pub(crate) fn kind(&self) -> FragmentErrorKind {
        match self {
            Self::Corrupt { .. } | Self::Deletes { .. } => FragmentErrorKind::FileCorrupt,
            Self::Missing { .. } => FragmentErrorKind::FileMissing,
            Self::Exchange { .. } => FragmentErrorKind::Storage,
            Self::Changed { .. } => FragmentErrorKind::FileChanged,
            Self::Mismatch { .. } => FragmentErrorKind::SchemaMismatch,
            Self::Unsupported { .. } => FragmentErrorKind::Execution,
        }
    }
}

impl From<FileFault> for DataFusionError {
    fn from(fault: FileFault) -> Self {
        Self::External(Box::new(fault))
    }
}

/// Mismatch of a file's columns and the table's. The code that matches columns does not know the file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema mismatch: {0}")]
pub(crate) struct SchemaMismatch(pub(crate) String);

impl From<SchemaMismatch> for DataFusionError {
    fn from(mismatch: SchemaMismatch) -> Self {
        Self::External(Box::new(mismatch))
    }
}

/// Makes a [`SchemaMismatch`] with a reason in the words of `format!`, as an error of DataFusion's.
macro_rules! mismatch_err {
    ($($words:tt)*) => {
        Err(datafusion::common::DataFusionError::from($crate::fault::SchemaMismatch(format!($($words)*))))
    };
}
pub(crate) use mismatch_err;
