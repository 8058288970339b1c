//! Context of a query, shared by all of its stages.

use std::collections::BTreeMap;

use gust_protocol::FragmentLimits;

use crate::exchange::Exchange;
use crate::model::load::fragment_limits;
use crate::scheduler::QueryAttempts;
use crate::storage::StoreCredentials;

/// Context of a query. The session makes it, and plans carry it as a session extension.
#[derive(Debug)]
pub struct QueryContext {
    pub id: String,
    pub attempts: QueryAttempts,
    pub exchange: Exchange,
    pub credentials: StoreCredentials,
    /// Limits of an attempt. A stage with many fragments lowers `inline_bytes_max`.
    pub limits: FragmentLimits,
    /// Session settings that a function must share.
    pub options: BTreeMap<String, String>,
}

impl QueryContext {
    /// Returns the limits of one of `fragments` fragments. Their results may wait in a quarter of the coordinator's
    /// memory, at most 256 MiB.
    pub fn fragment_limits(&self, fragments: usize, memory_bytes_max: u64) -> FragmentLimits {
        fragment_limits(self.limits, fragments, memory_bytes_max)
    }
}
