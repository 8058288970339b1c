//! A look at the coordinator's own plan: which scans would stay here if functions ran the others. No stage is encoded.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::plan::{file_scan, loses_values};

use crate::planner::graph::is_parquet;

/// Numbers of Parquet scans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Scans {
    all: usize,
    /// Scans under an operator that has a value which cannot travel, and no other scan.
    kept: usize,
}

/// Returns true if some scans of a local plan cannot travel to functions, and others can.
pub fn keeps_some(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let Scans { all, kept } = scans(plan, &mut HashMap::new());
    0 < kept && kept < all
}

/// Counts scans. An operator above two scans is in no fragment. Of those above one, some may be in none, such as a filter above an aggregate:
/// then a scan counts as kept that may travel.
fn scans(plan: &Arc<dyn ExecutionPlan>, known: &mut HashMap<DataType, bool>) -> Scans {
    let mut found = Scans { all: usize::from(file_scan(plan).is_some_and(is_parquet)), kept: 0 };
    for child in plan.children() {
        let Scans { all, kept } = scans(child, known);
        found = Scans { all: found.all + all, kept: found.kept + kept };
    }
    if found == (Scans { all: 1, kept: 0 }) && loses_values(plan, known) {
        found.kept = 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::passes::samples::Sample;

    #[tokio::test]
    async fn scans_are_kept_by_values_that_cannot_travel() {
        let sample = Sample::new().await;
        let half = "arrow_cast(b, 'Float16') > arrow_cast(2, 'Float16')";
        let counted = format!("SELECT count(CASE WHEN {half} THEN 1 END) AS a FROM t");
        let filtered = format!("SELECT a FROM t WHERE {half}");
        for (sql, all, kept) in [
            ("SELECT a FROM t WHERE b > 2".to_owned(), 1, 0),
            (filtered.clone(), 1, 1),
            (counted.clone(), 1, 1),
            (format!("{counted} UNION ALL SELECT max(a + 0) FROM t"), 2, 1),
            (format!("{filtered} UNION ALL {counted}"), 2, 2),
            ("SELECT 1 AS a WHERE arrow_cast(random(), 'Float16') > arrow_cast(2, 'Float16')".to_owned(), 0, 0),
            (format!("SELECT x.a FROM t AS x JOIN t AS y ON x.a = y.a AND {}", half.replace("b,", "x.b + y.b,")), 2, 0),
        ] {
            // The coordinator's plan spreads rows over its cores.
            let plan = sample.context.sql(&sql).await.expect("SQL").create_physical_plan().await.expect("a plan");
            assert_eq!(scans(&plan, &mut HashMap::new()), Scans { all, kept }, "{sql}");
            assert_eq!(keeps_some(&plan), 0 < kept && kept < all);
        }
    }
}
