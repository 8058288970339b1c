//! Context of a query, shared by all of its stages.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::Result;
use futures::{StreamExt, TryStreamExt, stream};
use gust_protocol::{AccessTable, FragmentLimits, StoreAccess};

use crate::exchange::Exchange;
use crate::model::load::fragment_limits;
use crate::resume::WorkLog;
use crate::scheduler::QueryAttempts;
use crate::storage::{StoreCredentials, Stores};

/// Context of a query. The session makes it, and plans carry it as a session extension.
#[derive(Debug)]
pub struct QueryContext {
    pub id: String,
    pub attempts: QueryAttempts,
    pub exchange: Exchange,
    pub credentials: StoreCredentials,
    /// Stores of the query, which know the credentials that catalogs have lent.
    pub stores: Stores,
    /// Limits of an attempt. A stage with many fragments lowers `inline_bytes_max`.
    pub limits: FragmentLimits,
    /// Session settings that a function must share.
    pub options: BTreeMap<String, String>,
    /// Log of its work, if another coordinator may go on with it.
    pub work: Option<Arc<WorkLog>>,
}

impl QueryContext {
    /// Makes the access table of a stage's requests: the exchange, then these stores, as functions reach them now.
    ///
    /// # Errors
    /// Those of a catalog that lends no credentials any more.
    pub async fn access_table(&self, stores: &[StoreAccess]) -> Result<AccessTable> {
        let all = std::iter::once(&self.exchange.access).chain(stores);
        let accesses = all.map(|access| self.credentials.apply(access)).collect::<Vec<_>>();
        let with_keys = stream::iter(accesses).then(|access| self.stores.with_lent_keys(access));
        Ok(AccessTable(with_keys.try_collect().await?))
    }

    /// Returns the limits of one of `fragments` fragments. Their results may wait in a quarter of the coordinator's
    /// memory, at most 256 MiB.
    pub fn fragment_limits(&self, fragments: usize, memory_bytes_max: u64) -> FragmentLimits {
        fragment_limits(self.limits, fragments, memory_bytes_max)
    }
}
