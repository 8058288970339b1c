//! Files that the keys of gathered build sides leave out of a stage, before a function is invoked.

use std::collections::HashSet;

use datafusion::common::Result;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use object_store::path::Path;

use super::broadcast::GatheredRows;
use crate::events::QueryEvent;
use crate::planner::Stage;
use crate::planner::keys::{Came, UnitFilter, join_keys};
use crate::planner::passes::units::Unit;
use crate::tables::iceberg::AskedAgain;
use crate::tables::keys::ColumnKeys;

/// Returns the stage over the units that may have a row for its joins, or None if that are all. `builds` are its build sides, by their numbers.
///
/// # Errors
/// Those of a key that cannot be computed. A catalog that cannot be asked once more leaves out nothing.
pub(super) async fn narrowed(
    stage: &Stage,
    builds: &[&GatheredRows],
    footers: &FileMetadataCache,
) -> Result<Option<Stage>> {
    let is_empty = |rows: &&GatheredRows| rows.batches.iter().all(|rows| rows.num_rows() == 0);
    let is_empty = |came: Came| matches!(came, Came::Build(build) if builds.get(build).is_some_and(is_empty));
    if let Some(none) = stage.without_rows(&is_empty) {
        return Ok(Some(none));
    }
    // The place of a fragment's rows may follow from its files.
    if stage.units.is_empty() || stage.keeps_groups {
        return Ok(None);
    }
    let mut keys = Vec::new();
    for key in join_keys(stage) {
        let Some(rows) = builds.get(key.build) else { continue };
        keys.extend(key.of_rows(&rows.schema, &rows.batches)?);
    }
    if keys.is_empty() {
        return Ok(None);
    }
    let filter = UnitFilter::new(stage, keys);
    let places = places(stage, &filter.keys).await;
    let is_kept = |unit: &Unit| {
        places.as_ref().is_none_or(|places| places.contains(&unit.file.object_meta.location))
            && filter.may_have(unit, footers)
    };
    let mut kept: Vec<Unit> = Vec::new();
    for unit in &stage.units {
        // Statistics of many row groups take long, and others want the thread.
        tokio::task::consume_budget().await;
        kept.extend(is_kept(unit).then(|| unit.clone()));
    }
    Ok((kept.len() < stage.units.len()).then(|| stage.over(kept)))
}

/// Asks the table of a stage's files for those that may have the keys. None where there is nobody to ask.
async fn places(stage: &Stage, keys: &[ColumnKeys]) -> Option<HashSet<Path>> {
    let table = stage.units.iter().find_map(|unit| unit.file.extensions.get::<AskedAgain>())?;
    match table.places_with(keys).await {
        Ok(places) => Some(places),
        Err(error) => {
            tracing::debug!(stage = stage.index, %error, "the keys of joins leave out no file");
            None
        }
    }
}

/// Tells what was left out of a stage.
pub(super) fn told(planned: &Stage, narrowed: &Stage) -> QueryEvent {
    let count = |all: usize, left: usize| all.saturating_sub(left) as u64;
    QueryEvent::KeysLeftOut {
        stage: planned.index,
        units: count(planned.units.len(), narrowed.units.len()),
        fragments: count(planned.fragments.len(), narrowed.fragments.len()),
        bytes: planned.weight_bytes().saturating_sub(narrowed.weight_bytes()),
    }
}
