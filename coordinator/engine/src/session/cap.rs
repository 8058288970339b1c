//! Cap of a statement, in dollars. A statement that is sure to exceed it is refused before it runs. All later spending
//! is held against it.

use std::sync::Arc;

use gust_protocol::Usage;

use super::Session;
use crate::cap::{CHECK_INTERVAL, Cap, Limits, OverBudget, Purse, lower_bound};
use crate::cost::{Tariff, own_cost};
use crate::error::QueryError;
use crate::events::EventLog;
use crate::money::Money;
use crate::planner::PlannedQuery;
use crate::planner::certain_work::certain_work;

impl Session {
    /// Returns the limits of a statement's money; None where it has none.
    pub(super) fn limits(&self, purse: Option<&Arc<Purse>>) -> Option<Limits> {
        let (own, purse) = (self.cap(), purse.cloned());
        (own.is_some() || purse.is_some()).then(|| Limits { own: own.unwrap_or(Money::MAX), purse })
    }

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
    /// [`crate::error::ErrorKind::CapReached`] if the query is sure to cost more than its limits allow, and
    /// [`crate::error::ErrorKind::Setup`] if there are no prices.
    pub(super) async fn open_cap(
        &self,
        limits: impl Into<Limits>,
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
        let cap = self.cap_with(limits, tariff, fragments, events);
        cap.allow(at_least).map_err(QueryError::over_cap)?;
        Ok(cap)
    }

    /// Opens the cap of a statement that reads files here, without a plan.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if there are no prices.
    pub(super) async fn cap_of_own(&self, limits: Limits, events: EventLog) -> Result<Arc<Cap>, QueryError> {
        Ok(self.cap_with(limits, self.tariff_for_cap().await?, 0, events))
    }

    /// Waits until one of the budgets that a statement shares is over, and tells them meanwhile what its start has spent here. Where
    /// there are none, or no prices, it waits for ever.
    pub(super) async fn over_budget(&self, purse: Option<Arc<Purse>>, events: EventLog) -> OverBudget {
        let (Some(purse), Ok(tariff)) = (purse, self.tariff().await) else { return std::future::pending().await };
        let spending = self.own_spending(tariff, events);
        loop {
            if let Some(over) = purse.note_at_least(spending(0)) {
                return over;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    fn cap_with(&self, limits: impl Into<Limits>, tariff: Tariff, fragments: u64, events: EventLog) -> Arc<Cap> {
        let spending = self.own_spending(tariff.clone(), events);
        Cap::new(limits, tariff, fragments, spending)
    }

    /// Returns what a statement has spent here. The argument is the bytes of results to leave out.
    fn own_spending(&self, prices: Tariff, events: EventLog) -> impl Fn(u64) -> Money + Send + Sync + use<> {
        let stores = self.stores.clone();
        move |result_bytes| {
            let Usage { requests, bytes_read, .. } = stores.billed_usage();
            own_cost(&requests, bytes_read.saturating_sub(result_bytes), events.elapsed(), &prices)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::cap::{AttemptRequest, AttemptWork, OverCap};
    use crate::config::{Config, Target};

    #[tokio::test(flavor = "multi_thread")]
    async fn attempts_are_priced_at_the_size_that_was_picked() {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["a", "b"] {
            let path = folder.path().join(format!("{file}.parquet"));
            let copy = format!("COPY (SELECT 1 AS k) TO '{}'", path.display());
            SessionContext::new().sql(&copy).await.expect("SQL").collect().await.expect("written");
        }
        let session = Session::new(Config { on: Target::InProcess, ..Config::default() }).expect("a session");
        let query = session.for_query();
        let statement = query.parse(&format!("SELECT sum(k) FROM '{}/'", folder.path().display()));
        let (logical, _) = query.logical_plan(*statement.expect("SQL").remove(0).sql).await.expect("names");
        let mut planned = query.planner().plan(query.context.state(), &logical).await.expect("a plan");
        // AWS's list price of a GB-second, in nano-dollars. The first size has 2 GB. An attempt is paid for 3 s and a second of grace.
        let gb_second = if cfg!(target_arch = "aarch64") { 13_333.4 } else { 16_666.7 };
        for gigabytes in [2, 10] {
            let functions = planned.functions.as_mut().expect("functions");
            functions.packed.size.memory_mb = gigabytes * 1024;
            let limit = Money::from_nano_dollars(10_000);
            let cap = query.open_cap(limit, &planned, EventLog::start()).await.expect("it may begin");
            let second = Duration::from_secs(1);
            let request =
                AttemptRequest { work: AttemptWork::default(), expected: second, time_max: 30 * second, timed_out: 0 };
            let OverCap::WhileRunning(stopped) = cap.reserve(request).await.expect_err("it is too dear") else {
                panic!("it has begun")
            };
            let expect = f64::from(4 * gigabytes) * gb_second + 200.0;
            let seen = stopped.next.expect("the price of an attempt").nano_dollars() as f64;
            assert!((seen - expect).abs() <= 1.0, "{gigabytes} GB: {seen} for {expect}");
        }
        session.close().await;
    }
}
