//! Runs CREATE TABLE AS. Its query is decided, priced, capped, run and planned again like any other. Its rows become
//! the table's.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::logical_expr::CreateMemoryTable;

use super::{RunningStatement, Session};
use crate::error::QueryError;
use crate::tables::folder::tables_only;
use crate::tables::memory_table::TableRows;

impl Session {
    /// Returns true if the table is to be made, because it is not there yet or is to be replaced.
    ///
    /// # Errors
    /// An error for a table that is there without IF NOT EXISTS or OR REPLACE, and for both of them together.
    pub(super) async fn is_to_create(&self, create: &CreateMemoryTable) -> Result<bool, QueryError> {
        let CreateMemoryTable { name, if_not_exists, or_replace, .. } = create;
        let is_there = tables_only(self.context.table(name.clone())).await.is_ok();
        match (is_there, if_not_exists, or_replace) {
            (_, true, true) => Err(QueryError::sql(format!("CREATE TABLE {name}: either IF NOT EXISTS or OR REPLACE"))),
            (true, false, false) => {
                let exists = DataFusionError::Execution(format!("Table '{name}' already exists"));
                Err(QueryError::from_engine(exists))
            }
            (true, true, false) => Ok(false),
            (true, false, true) | (false, ..) => Ok(true),
        }
    }
}

impl RunningStatement {
    /// Reads the query to its end and makes the table.
    pub(super) async fn create(&mut self, create: CreateMemoryTable) -> Result<(), QueryError> {
        let mut names = HashSet::new();
        if let Some(twice) = self.schema.fields().iter().find(|field| !names.insert(field.name())) {
            let message = format!("CREATE TABLE {}: two columns are named `{}`", create.name, twice.name());
            return Err(self.failed(QueryError::sql(message).with_hint("give one another name with AS")));
        }
        let context = self.session.context.clone();
        // The session's pool counts the rows, for the table outlives the query and its pool.
        let mut rows = TableRows::new(Arc::clone(&self.schema), create.name.table(), &self.session.tables);
        while let Some(batch) = self.next_batch().await? {
            if let Err(error) = rows.add(&batch) {
                self.stream = None;
                return Err(self.failed(QueryError::from_engine(error)));
            }
        }
        // The rows are the table's, and not the statement's.
        self.rows = 0;
        let (name, or_replace) = (create.name.clone(), create.or_replace);
        let made = rows.into_table(create).and_then(|table| {
            if or_replace {
                context.deregister_table(name.clone())?;
            }
            context.register_table(name, Arc::new(table))
        });
        made.map(drop).map_err(|error| self.failed(QueryError::from_engine(error)))
    }
}
