//! Errors inside a function, by the caller's next step.

use std::fmt::Display;

use datafusion::common::DataFusionError;
use serde::{Deserialize, Serialize};

/// A fragment's failure, as the function saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct FragmentError {
    pub kind: FragmentErrorKind,
    /// Lowercase, no full stop; names the file where one is to blame.
    pub message: String,
    /// Next step, if it is more precise than the kind's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Rows that are lost, for [`FragmentErrorKind::InputLost`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostInput>,
}

/// Rows of another stage that are torn or gone, and the attempt that wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("rows of fragment {index} of stage {stage}, attempt {attempt}, are lost: {reason}")]
pub struct LostInput {
    pub stage: u32,
    pub index: u32,
    pub attempt: u32,
    pub reason: String,
}

impl FragmentError {
    pub fn new(kind: FragmentErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, lost: None }
    }

    /// Sets the next step. None removes it.
    #[must_use]
    pub fn with_hint(self, hint: Option<impl Into<String>>) -> Self {
        Self { hint: hint.map(Into::into), ..self }
    }
}

/// Writes a message and, on a line of its own, the next step. Every face shows errors in this way; nothing else writes that line.
pub fn with_hint_line(message: impl Display, hint: Option<impl Display>) -> String {
    match hint {
        Some(hint) => format!("{message}\nhint: {hint}"),
        None => message.to_string(),
    }
}

/// An error of an expression that knows the next step. It travels through DataFusion as an external error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Advised {
    pub message: String,
    pub hint: String,
}

impl Advised {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl From<Advised> for DataFusionError {
    fn from(advised: Advised) -> Self {
        Self::External(Box::new(advised))
    }
}

/// The kind says what the caller can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FragmentErrorKind {
    /// The function speaks another protocol version or knows other SQL functions: deploy a matching one.
    VersionMismatch,
    /// The request could not be understood: a bug, not a passing fault.
    MalformedRequest,
    /// The plan could not be decoded: a bug, not a passing fault.
    PlanDecode,
    /// A data file that was planned is not there any more: plan again.
    FileMissing,
    /// A data file is not the one that was planned (size or etag differ): plan again.
    FileChanged,
    /// A data file is truncated or is not Parquet: repair the table.
    FileCorrupt,
    /// A data file's columns do not fit the table's: repair the table.
    SchemaMismatch,
    /// The store refused the function's credentials.
    AccessDenied,
    /// The store answered with an error or not at all; it may answer the next time.
    Storage,
    /// The store asked to slow down (503 SlowDown, 429).
    StorageThrottled,
    /// Rows that another stage has left in the exchange are torn or gone: run their producer again.
    InputLost,
    /// The memory pool was exhausted even with spilling: use smaller fragments or larger functions.
    OutOfMemory,
    /// The temporary folder is full.
    DiskFull,
    /// The deadline passed before the fragment was done.
    DeadlineExceeded,
    /// The result does not fit the response, and there is no exchange.
    ResultTooLarge,
    /// The query itself is at fault (division by zero, an invalid cast).
    Execution,
    /// The function panicked while it ran the fragment.
    Panic,
}

impl FragmentErrorKind {
    /// Every kind, for tests that must cover them all.
    pub const ALL: [Self; 17] = [
        Self::VersionMismatch,
        Self::MalformedRequest,
        Self::PlanDecode,
        Self::FileMissing,
        Self::FileChanged,
        Self::FileCorrupt,
        Self::SchemaMismatch,
        Self::AccessDenied,
        Self::Storage,
        Self::StorageThrottled,
        Self::InputLost,
        Self::OutOfMemory,
        Self::DiskFull,
        Self::DeadlineExceeded,
        Self::ResultTooLarge,
        Self::Execution,
        Self::Panic,
    ];

    /// Returns true where another attempt at the same fragment can succeed with nothing else changed.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Storage | Self::StorageThrottled | Self::Panic => true,
            Self::VersionMismatch
            | Self::MalformedRequest
            | Self::PlanDecode
            | Self::FileMissing
            | Self::FileChanged
            | Self::FileCorrupt
            | Self::SchemaMismatch
            | Self::AccessDenied
            | Self::InputLost
            | Self::OutOfMemory
            | Self::DiskFull
            | Self::DeadlineExceeded
            | Self::ResultTooLarge
            | Self::Execution => false,
        }
    }
}
