//! Async methods of DataFusion's traits whose arguments have expressions.
//!
//! `async_trait` boxes a future within bounds on lifetimes. Within bounds rustc keeps no proof that a type is `Send`. Expressions and plans
//! are some hundred types that refer to one another, so that each of them is proved anew from all the others. One method took
//! up to half a minute of every build. The functions here box the future without bounds.

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::logical_expr::Expr;
use futures::future::BoxFuture;

/// Future of a plan or of a table.
pub(super) type Boxed<'a, T> = BoxFuture<'a, Result<Arc<T>>>;

/// Arguments of `TableProvider::scan`.
pub(super) struct AskedScan<'a> {
    pub(super) state: &'a dyn Session,
    pub(super) projection: Option<&'a Vec<usize>>,
    pub(super) filters: &'a [Expr],
    pub(super) limit: Option<usize>,
}

/// Writes `TableProvider::scan` of a table as an async function of the table and of an [`AskedScan`].
macro_rules! boxed_scan {
    ($table:ty, $planned:path) => {
        fn scan<'table, 'state, 'columns, 'filters, 'scan>(
            &'table self,
            state: &'state dyn datafusion::catalog::Session,
            projection: Option<&'columns Vec<usize>>,
            filters: &'filters [datafusion::logical_expr::Expr],
            limit: Option<usize>,
        ) -> crate::tables::boxed::Boxed<'scan, dyn datafusion::physical_plan::ExecutionPlan>
        where
            'table: 'scan,
            'state: 'scan,
            'columns: 'scan,
            'filters: 'scan,
            Self: 'scan,
        {
            fn boxed<'a>(
                table: &'a $table,
                asked: crate::tables::boxed::AskedScan<'a>,
            ) -> crate::tables::boxed::Boxed<'a, dyn datafusion::physical_plan::ExecutionPlan> {
                Box::pin($planned(table, asked))
            }
            boxed(self, crate::tables::boxed::AskedScan { state, projection, filters, limit })
        }
    };
}
pub(super) use boxed_scan;

/// Writes `TableProviderFactory::create` as an async function of the same arguments.
macro_rules! boxed_create {
    ($made:path) => {
        fn create<'factory, 'state, 'command, 'table>(
            &'factory self,
            state: &'state dyn datafusion::catalog::Session,
            command: &'command datafusion::logical_expr::CreateExternalTable,
        ) -> crate::tables::boxed::Boxed<'table, dyn datafusion::catalog::TableProvider>
        where
            'factory: 'table,
            'state: 'table,
            'command: 'table,
            Self: 'table,
        {
            fn boxed<'a>(
                state: &'a dyn datafusion::catalog::Session,
                command: &'a datafusion::logical_expr::CreateExternalTable,
            ) -> crate::tables::boxed::Boxed<'a, dyn datafusion::catalog::TableProvider> {
                Box::pin($made(state, command))
            }
            boxed(state, command)
        }
    };
}
pub(super) use boxed_create;
