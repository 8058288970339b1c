//! What is wrong with a data file, by its name.

use datafusion::common::DataFusionError;
use gust_protocol::FragmentErrorKind;

/// A file that cannot be read. It would fail the same way anywhere and any number of times.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// Truncated, damaged or no Parquet.
    #[error("file `{file}`: {reason}")]
    Corrupt { file: String, reason: String },
    /// Whole, but of a kind that is not read.
    #[error("file `{file}`: {reason}")]
    Unsupported { file: String, reason: String },
}

impl FileFault {
    pub(crate) fn corrupt(file: &impl ToString, reason: impl ToString) -> Self {
        Self::Corrupt { file: file.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn kind(&self) -> FragmentErrorKind {
        match self {
            Self::Corrupt { .. } => FragmentErrorKind::FileCorrupt,
            Self::Unsupported { .. } => FragmentErrorKind::Execution,
        }
    }
}

impl From<FileFault> for DataFusionError {
    fn from(fault: FileFault) -> Self {
        Self::External(Box::new(fault))
    }
}
