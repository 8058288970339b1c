//! Schedulers of a process: one for each size of functions that is in use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::{Scheduler, SchedulerSettings, SpeculationPolicy};
use crate::error::QueryError;
use crate::fleet::Fleet;
use crate::model::{FunctionSize, PlatformTraits};

/// Schedulers by size. Each is made from the fleet's facts when it is first asked for.
#[derive(Debug, Default)]
pub struct Schedulers {
    by_memory_mb: Mutex<BTreeMap<u32, Scheduler>>,
}

impl Schedulers {
    /// Returns the scheduler over functions of a size, the same one as long as its invoker is the same. Queries under
    /// way keep the one that they began with.
    ///
    /// # Errors
    /// The platform's, if the functions cannot be started.
    pub async fn for_size(&self, fleet: &Fleet, size: &FunctionSize) -> Result<Scheduler, QueryError> {
        let invoker = fleet.invoker(size).await?;
        let mut schedulers = self.by_memory_mb.lock().expect("no holder panics");
        let known = schedulers.get(&size.memory_mb);
        if let Some(scheduler) = known.filter(|scheduler| Arc::ptr_eq(&scheduler.shared.invoker, &invoker)) {
            return Ok(scheduler.clone());
        }
        let settings = settings(size, &fleet.platform().traits(), Uuid::new_v4().as_u64_pair().1);
        let scheduler = Scheduler::new(invoker, Arc::clone(fleet.breaker()), settings);
        schedulers.insert(size.memory_mb, scheduler.clone());
        Ok(scheduler)
    }
}

fn settings(size: &FunctionSize, traits: &PlatformTraits, seed: u64) -> SchedulerSettings {
    let mut settings = SchedulerSettings::new(size.functions_max, seed);
    settings.limits.ramp = size.ramp;
    if traits.shares_machine {
        settings.speculation = SpeculationPolicy::SAME_MACHINE;
    }
    settings
}

#[cfg(test)]
mod tests {
    use gust_protocol::{AheadBounds, FragmentLimits};

    use super::*;
    use crate::config::{Config, Target};
    use crate::fleet::Asking;
    use crate::storage::Stores;

    #[tokio::test]
    async fn functions_of_one_size_have_one_scheduler() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Arc::new(Config { on: Target::InProcess, ..Config::default() });
        let stores = Stores::new(config.s3.clone());
        let fleet = Fleet::new(&config, &stores, folder.path(), Vec::new()).expect("a fleet");
        assert!(!fleet.has_started());
        let size = fleet.facts(Asking::Always).await.expect("a size").sizes.remove(0);
        let schedulers = Schedulers::default();
        let [first, second] = [schedulers.for_size(&fleet, &size).await, schedulers.for_size(&fleet, &size).await];
        let (first, second) = (first.expect("started"), second.expect("started"));
        assert!(fleet.has_started() && Arc::ptr_eq(&first.shared, &second.shared));
        let larger = FunctionSize { memory_mb: 2 * size.memory_mb, ..size };
        let larger = schedulers.for_size(&fleet, &larger).await.expect("started");
        assert!(!Arc::ptr_eq(&first.shared, &larger.shared));
    }

    #[test]
    fn functions_on_this_machine_speculate_late() {
        let config = Config { on: Target::InProcess, ..Config::default() };
        let here = crate::fleet::traits(&config);
        let there = crate::fleet::traits(&Config { on: Target::Lambda, ..config });
        let size = FunctionSize {
            kind: "x".to_owned(),
            memory_mb: 1,
            architecture: None,
            lanes: 1,
            cores: 1.0,
            limits: FragmentLimits {
                memory_bytes_max: 1,
                temp_bytes_max: 1,
                bridge_bytes: 1,
                inline_bytes_max: 1,
                ahead: AheadBounds::default(),
                late_columns_percent_max: 0,
            },
            functions_max: 3,
            is_one_environment: false,
            ramp: Some(crate::model::EnvironmentRamp::lambda(2)),
            model: crate::model::TimeModel::laptop(1),
        };
        let (here, there) = (settings(&size, &here, 7), settings(&size, &there, 7));
        assert_eq!(
            (here.speculation, there.speculation),
            (SpeculationPolicy::SAME_MACHINE, SpeculationPolicy::ELSEWHERE)
        );
        assert_eq!((there.limits.in_flight_max, there.limits.ramp), (3, size.ramp));
    }
}
