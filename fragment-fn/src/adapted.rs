//! Expressions in terms of a file, kept for the next file of a scan.
//!
//! DataFusion's opener makes an adapter for each file and rewrites the scan's expressions by it. The files of a table mostly have
//! one schema, and the opener hands in the same expressions for each file. Their rewritten forms depend on nothing else.
//!
//! Non-goals: expressions that differ from file to file, such as those with the file's own constants. They leave no room for
//! others only for a while.

use std::collections::VecDeque;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;

/// Schemas of files that are kept for one scan, at most.
const SCHEMAS_MAX: usize = 8;

/// Expressions that are kept for one schema, at most.
const EXPRESSIONS_MAX: usize = 256;

/// Makes adapters by another factory, and keeps those of the last schemas.
pub(crate) struct Adapted {
    factory: Arc<dyn PhysicalExprAdapterFactory>,
    kept: Mutex<VecDeque<Arc<Adapter>>>,
}

impl Adapted {
    pub(crate) fn by(factory: Arc<dyn PhysicalExprAdapterFactory>) -> Self {
        Self { factory, kept: Mutex::default() }
    }
}

impl PhysicalExprAdapterFactory for Adapted {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let mut kept = self.kept.lock().expect("no holder panics");
        let is_same = |adapter: &&Arc<Adapter>| adapter.physical == physical && adapter.logical == logical;
        if let Some(same) = kept.iter().find(is_same) {
            return Ok(Arc::clone(same) as _);
        }
        let by = self.factory.create(Arc::clone(&logical), Arc::clone(&physical))?;
        let new = Arc::new(Adapter { by, logical, physical, kept: Mutex::default() });
        push(&mut kept, SCHEMAS_MAX, Arc::clone(&new));
        Ok(new)
    }
}

/// Adapter for files of one schema.
#[derive(Debug)]
struct Adapter {
    by: Arc<dyn PhysicalExprAdapter>,
    logical: SchemaRef,
    physical: SchemaRef,
    kept: Mutex<VecDeque<Rewritten>>,
}

#[derive(Debug)]
struct Rewritten {
    /// It is kept, so that no other expression gets its place in memory.
    from: Arc<dyn PhysicalExpr>,
    to: Arc<dyn PhysicalExpr>,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let found = {
            let kept = self.kept.lock().expect("no holder panics");
            kept.iter().find(|kept| Arc::ptr_eq(&kept.from, &expr)).map(|kept| Arc::clone(&kept.to))
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let to = self.by.rewrite(Arc::clone(&expr))?;
        let mut kept = self.kept.lock().expect("no holder panics");
        push(&mut kept, EXPRESSIONS_MAX, Rewritten { from: expr, to: Arc::clone(&to) });
        Ok(to)
    }
}

fn push<T>(kept: &mut VecDeque<T>, max: usize, new: T) {
    if kept.len() >= max {
        kept.pop_front();
    }
    kept.push_back(new);
}

impl Debug for Adapted {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Adapted").field(&self.factory).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    #[derive(Debug, Default)]
    struct Counting {
        adapters: AtomicUsize,
        rewrites: Arc<AtomicUsize>,
    }

    #[derive(Debug)]
    struct CountingAdapter {
        physical: SchemaRef,
        rewrites: Arc<AtomicUsize>,
    }

    impl PhysicalExprAdapterFactory for Counting {
        fn create(&self, _: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
            self.adapters.fetch_add(1, Relaxed);
            Ok(Arc::new(CountingAdapter { physical, rewrites: Arc::clone(&self.rewrites) }))
        }
    }

    impl PhysicalExprAdapter for CountingAdapter {
        fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
            self.rewrites.fetch_add(1, Relaxed);
            let column = expr.downcast_ref::<Column>().expect("a column");
            Ok(Arc::new(Column::new_with_schema(column.name(), &self.physical)?))
        }
    }

    #[test]
    fn files_of_one_schema_share_their_expressions() {
        let schema = |names: &[&str]| {
            let field = |name: &&str| Field::new(*name, DataType::Int64, true);
            Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()))
        };
        let counting = Arc::new(Counting::default());
        let adapted = Adapted::by(Arc::clone(&counting) as _);
        let column = |index| Arc::new(Column::new("b", index)) as Arc<dyn PhysicalExpr>;
        let (one, same) = (column(1), column(1));
        let index = |physical: SchemaRef, expr: &Arc<dyn PhysicalExpr>| {
            let adapter = adapted.create(schema(&["a", "b"]), physical).expect("an adapter");
            let to = adapter.rewrite(Arc::clone(expr)).expect("a column");
            to.downcast_ref::<Column>().expect("a column").index()
        };
        // Two writers, by turns.
        for _ in 0..3 {
            assert_eq!(index(schema(&["a", "b"]), &one), 1);
            assert_eq!(index(schema(&["b"]), &one), 0);
        }
        let counts = || (counting.adapters.load(Relaxed), counting.rewrites.load(Relaxed));
        assert_eq!(counts(), (2, 2));
        assert_eq!(index(schema(&["b"]), &same), 0);
        assert_eq!(counts(), (2, 3));
        // Kept expressions are bounded.
        for _ in 0..2 * EXPRESSIONS_MAX {
            index(schema(&["b"]), &column(1));
        }
        assert_eq!(index(schema(&["b"]), &one), 0);
        assert_eq!(counts(), (2, 3 + 2 * EXPRESSIONS_MAX + 1));
    }
}
