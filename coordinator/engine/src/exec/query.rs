//! What a query lends to all of its stages.

use std::collections::BTreeMap;

use gust_protocol::Limits;

use crate::exchange::Exchange;
use crate::model::TimeModel;
use crate::model::load::fragment_limits;
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
    /// The limits of one of `fragments` fragments, whose results may wait in a quarter of the coordinator's memory.
    pub fn fragment_limits(&self, fragments: usize, memory_bytes_max: u64) -> Limits {
        fragment_limits(self.limits, fragments, memory_bytes_max)
    }
}
