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

/// Rows of a fragment, here or in the exchange.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FragmentResult {
    /// An Arrow IPC stream.
    Inline { part: StreamSummary, bytes: Base64 },
    /// An Arrow IPC stream.
    Object { object: ObjectRef, part: StreamSummary },
    /// Rows by partition. `part` is the summary of all bytes, `regions` are [`crate::parts::Regions`].
    Parts { place: PartsPlace, part: StreamSummary, regions: Base64 },
}

/// Place of rows by partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartsPlace {
    Inline(Base64),
    Object(ObjectRef),
}

impl FragmentResult {
    pub fn part(&self) -> &StreamSummary {
        match self {
            Self::Inline { part, .. } | Self::Object { part, .. } | Self::Parts { part, .. } => part,
        }
    }

    /// Returns the length of the encoded rows that came with the result itself; None where they are in the exchange.
    pub fn inline_bytes(&self) -> Option<usize> {
        match self {
            Self::Inline { bytes, .. } | Self::Parts { place: PartsPlace::Inline(bytes), .. } => Some(bytes.0.len()),
            Self::Object { .. } | Self::Parts { place: PartsPlace::Object(_), .. } => None,
        }
    }
}

/// Length, rows and checksum of one Arrow IPC stream, or of messages of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSummary {
    /// Length of the stream in bytes, after compression.
    pub bytes: u64,
    pub rows: u64,
    /// CRC-32 (IEEE) of the stream's bytes. Torn or swapped bytes are refused.
    pub crc32: u32,
}
