//! The response: rows or an error, and the usage.

use serde::{Deserialize, Serialize};

use crate::{Base64, FragmentError, FragmentId, ObjectRef, Usage};

/// Answer to one attempt, success or not. `usage` is metered either way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FragmentResponse {
    pub version: u32,
    pub id: FragmentId,
    pub attempt: u32,
    pub outcome: Result<FragmentResult, FragmentError>,
    pub usage: Usage,
}

/// Rows as an Arrow IPC stream, here or in the exchange.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FragmentResult {
    Inline { part: StreamSummary, bytes: Base64 },
    Object { object: ObjectRef, part: StreamSummary },
}

impl FragmentResult {
    pub fn part(&self) -> &StreamSummary {
        match self {
            Self::Inline { part, .. } | Self::Object { part, .. } => part,
        }
    }
}

/// Length, rows and checksum of one Arrow IPC stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSummary {
    /// Length of the stream in bytes, after compression.
    pub bytes: u64,
    pub rows: u64,
    /// CRC-32 (IEEE) of the stream's bytes. Torn or swapped bytes are refused.
    pub crc32: u32,
}
