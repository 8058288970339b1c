//! The schedulers of a process: one for each size of functions that is in use.

use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::{Scheduler, Settings, SpeculationPolicy};
use crate::error::QueryError;
use crate::fleet::Fleet;
use crate::model::{FunctionSize, PlatformTraits};

/// Made from the fleet's facts when they are first asked for.
#[derive(Debug, Default)]
pub struct Schedulers {
    by_memory: Mutex<Vec<(u32, Scheduler)>>,
}

impl Schedulers {
    /// The scheduler over functions of a size: the same as long as they are the same. Queries under way keep what they began with.
    ///
    /// # Errors
    /// Where the functions cannot be started.
    pub async fn of(&self, fleet: &Fleet, size: &FunctionSize) -> Result<Scheduler, QueryError> {
        let invoker = fleet.invoker(size).await?;
        let mut schedulers = self.by_memory.lock().expect("no holder panics");
        let known = schedulers.iter().find(|(memory_mb, _)| *memory_mb == size.memory_mb);
        if let Some((_, scheduler)) = known.filter(|(_, scheduler)| Arc::ptr_eq(&scheduler.shared.invoker, &invoker)) {
            return Ok(scheduler.clone());
        }
        let settings = settings(size, &fleet.platform().traits(), Uuid::new_v4().as_u64_pair().1);
        let scheduler = Scheduler::new(invoker, Arc::clone(fleet.breaker()), settings);
        schedulers.retain(|(memory_mb, _)| *memory_mb != size.memory_mb);
        schedulers.push((size.memory_mb, scheduler.clone()));
        Ok(scheduler)
    }
}

fn settings(size: &FunctionSize, traits: &PlatformTraits, seed: u64) -> Settings {
    let mut settings = Settings::new(size.functions_max, seed);
    settings.limits.ramp = size.ramp;
    if traits.shares_machine {
        settings.speculation = SpeculationPolicy::SAME_MACHINE;
    }
    settings
}
