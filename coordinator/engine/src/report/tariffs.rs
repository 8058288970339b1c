//! Tariffs of a query's attempts: each has the memory size of the plan with which it began. Pure.

use std::collections::BTreeMap;

use gust_protocol::FragmentId;

use crate::cost::Tariff;
use crate::events::{QueryEvent, StampedEvent};

/// Tariffs for the attempts of a query, whose memory size the platform need not tell.
#[derive(Debug)]
pub struct AttemptTariffs<'a> {
    /// Tariffs of the sizes that were planned, in their order: one at least.
    tariffs: Vec<Tariff>,
    /// Positions of attempts' tariffs.
    begun: BTreeMap<(&'a FragmentId, u32), usize>,
}

impl<'a> AttemptTariffs<'a> {
    /// Folds a query's events. Attempts of earlier coordinators stand before the plan, which is like theirs.
    pub fn of(events: &'a [StampedEvent], tariff: &Tariff) -> Self {
        let first = events.iter().find_map(|stamped| picked_memory_mb(&stamped.event));
        let of_size = |memory_mb| Tariff { memory_mb, ..tariff.clone() };
        let (mut tariffs, mut begun) = (vec![of_size(first.unwrap_or(tariff.memory_mb))], BTreeMap::new());
        for StampedEvent { event, .. } in events {
            let planned = match event {
                QueryEvent::Enlarged { memory_mb, .. } => Some(*memory_mb),
                event => picked_memory_mb(event),
            };
            tariffs.extend(planned.map(of_size));
            if let QueryEvent::AttemptStarted { id, attempt, .. } = event {
                begun.insert((id, *attempt), tariffs.len() - 1);
            }
        }
        Self { tariffs, begun }
    }

    /// Returns the tariff of an attempt: the last one where its begin is not known.
    pub fn of_attempt(&self, id: &FragmentId, attempt: u32) -> &Tariff {
        let position = self.begun.get(&(id, attempt)).copied().unwrap_or(self.tariffs.len() - 1);
        &self.tariffs[position]
    }
}

/// Returns the memory size that a decision picked. None where it had no choice: then it is the first size, the tariff's own.
fn picked_memory_mb(event: &QueryEvent) -> Option<u32> {
    match event {
        QueryEvent::Planned { decision } => decision.choice.as_ref()?.picked.memory_mb,
        _ => None,
    }
}
