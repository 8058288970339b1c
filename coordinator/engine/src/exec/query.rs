//! What a query lends to all of its stages.

use std::collections::BTreeMap;

use gust_protocol::Limits;

use crate::exchange::Exchange;
use crate::model::TimeModel;
use crate::scheduler::QueryAttempts;
use crate::storage::StoreCredentials;

/// Made at the door, carried all the way as a session extension.
#[derive(Debug)]
pub struct QueryContext {
    pub id: String,
    pub attempts: QueryAttempts,
    /// What tells how long a fragment should take.
    pub model: TimeModel,
    pub exchange: Exchange,
    pub credentials: StoreCredentials,
    /// Per attempt; a stage lowers `inline_bytes_max` where its fragments are many.
    pub limits: Limits,
    /// Session settings that a function must share.
    pub options: BTreeMap<String, String>,
}

impl QueryContext {
    /// Results of a stage that may wait in memory at once, over all of its fragments.
    const RESULTS_HELD_BYTES_MAX: u64 = 256 << 20;

    /// The limits of one of `fragments` fragments, whose results may wait in a quarter of the coordinator's memory.
    pub fn fragment_limits(&self, fragments: usize, memory_bytes_max: u64) -> Limits {
        Self::limits_of(self.limits, fragments, memory_bytes_max)
    }

    /// The same from the limits of an attempt whose stage is not known.
    pub fn limits_of(limits: Limits, fragments: usize, memory_bytes_max: u64) -> Limits {
        let share = Self::RESULTS_HELD_BYTES_MAX.min(memory_bytes_max / 4) / fragments.max(1) as u64;
        Limits { inline_bytes_max: limits.inline_bytes_max.min(share), ..limits }
    }
}
