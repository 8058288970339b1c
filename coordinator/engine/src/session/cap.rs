//! Cap of a statement, in dollars. A statement that is sure to exceed it is refused before it runs. All later spending
//! is held against it.

use std::sync::Arc;

use gust_protocol::Usage;

use super::Session;
use crate::cap::{Cap, lower_bound};
use crate::cost::{Tariff, own_cost};
use crate::error::QueryError;
use crate::events::EventLog;
use crate::money::Money;
use crate::planner::PlannedQuery;
use crate::planner::certain_work::certain_work;

impl Session {
    /// Returns the prices by which a cap is kept.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if there are none.
    pub(super) async fn tariff_for_cap(&self) -> Result<Tariff, QueryError> {
        self.tariff().await.map_err(|error| {
            let what = format!("a cap cannot be kept without prices: {error}");
            QueryError::setup(what).with_default_hint(error.hint()).with_source(error)
        })
    }

    /// Opens the cap of a query that is planned.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::CapReached`] if the query is sure to cost more than `limit`, and
    /// [`crate::error::ErrorKind::Setup`] if there are no prices.
    pub(super) async fn open_cap(
        &self,
        limit: Money,
        planned: &PlannedQuery,
        events: EventLog,
    ) -> Result<Arc<Cap>, QueryError> {
        let mut tariff = self.tariff_for_cap().await?;
        if let Some(functions) = &planned.functions {
            tariff = functions.packed.size.tariff(&tariff);
        }
        let fragments = planned.stages().iter().map(|stage| stage.fragments.len() as u64).sum();
        let certain = certain_work(planned);
        let at_least = lower_bound(certain.fragments, certain.files, &tariff);
        let (stores, prices) = (self.stores.clone(), tariff.clone());
        let own = move |result_bytes| {
            let Usage { requests, bytes_read, .. } = stores.billed_usage();
            own_cost(&requests, bytes_read.saturating_sub(result_bytes), events.elapsed(), &prices)
        };
        let cap = Cap::new(limit, tariff, fragments, own);
        cap.allow(at_least).map_err(QueryError::over_cap)?;
        Ok(cap)
    }
}
