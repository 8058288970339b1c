//! Names of the tables that a statement reads, for the history.

use std::collections::BTreeSet;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ResolvedTableReference, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as EngineStatement;
use fragment_fn::stack::on_big_stack;
use futures::FutureExt;

use super::Session;
use super::statement::{OWN_CATALOG, OWN_SCHEMA, Statement, query_of_a_table, with_table};
use crate::sql;
use crate::tables::folder::is_path;
use crate::tables::memory_table::MemoryTable;

/// Relation as far as the history cares.
enum Relation {
    /// A table whose files are read, or a path.
    Table,
    /// Tables that a view is over.
    View(Vec<TableReference>),
    /// Rows in memory, or a name that nothing has.
    NothingIsRead,
}

impl Session {
    /// Returns the tables and paths that a statement reads, sorted. A view stands for its tables, and rows in memory for none. A
    /// table of a catalog has its name in full. A table of the session's own has no catalog, and a schema only if it is not `public`. Paths
    /// stay as they are written, also in `read_parquet('path')`.
    pub fn tables_of(&self, statement: &Statement) -> Vec<String> {
        let state = self.context.state();
        // The table that CREATE TABLE AS makes is none that is read, and a reader's call is its path.
        let mut read = query_of_a_table(&statement.sql).unwrap_or_else(|| statement.sql.as_ref().clone());
        sql::write_readers(&mut read);
        let creates = matches!(read, EngineStatement::CreateExternalTable(_));
        let references = on_big_stack(|| state.resolve_table_references(&read)).unwrap_or_default();
        let mut names = BTreeSet::new();
        for reference in references {
            match self.relation(&state, &reference) {
                Relation::View(tables) => {
                    let read =
                        tables.into_iter().filter(|table| matches!(self.relation(&state, table), Relation::Table));
                    names.extend(read.map(|table| name_in(&state, table)));
                }
                Relation::NothingIsRead if !creates => {}
                Relation::Table | Relation::NothingIsRead => _ = names.insert(name_in(&state, reference)),
            }
        }
        names.into_iter().collect()
    }

    /// Looks at a relation of the session's own. Those of catalogs are tables.
    fn relation(&self, state: &SessionState, reference: &TableReference) -> Relation {
        let defaults = &state.config_options().catalog;
        let resolved = reference.clone().resolve(&defaults.default_catalog, &defaults.default_schema);
        // The schema would list the files of a path.
        if is_path(&resolved.table) || (&*resolved.catalog, &*resolved.schema) != (OWN_CATALOG, OWN_SCHEMA) {
            return Relation::Table;
        }
        let Some(schema) = self.context.catalog(OWN_CATALOG).and_then(|catalog| catalog.schema(OWN_SCHEMA)) else {
            return Relation::Table;
        };
        if !schema.table_exist(&resolved.table) {
            return Relation::NothingIsRead;
        }
        // The schema has its tables in memory.
        let Some(Ok(Some(table))) = schema.table(&resolved.table).now_or_never() else { return Relation::Table };
        match table.get_logical_plan() {
            Some(plan) => Relation::View(scanned(&plan)),
            None if table.downcast_ref::<MemoryTable>().is_some() => Relation::NothingIsRead,
            None => Relation::Table,
        }
    }
}

fn name_in(state: &SessionState, reference: TableReference) -> String {
    let defaults = &state.config_options().catalog;
    // A version is one of its table.
    let reference = match reference.table().contains(char::is_control) {
        true => with_table(&reference, sql::versions::table_of(reference.table())),
        false => reference,
    };
    if is_path(reference.table()) {
        return reference.table().to_owned();
    }
    let resolved = reference.resolve(&defaults.default_catalog, &defaults.default_schema);
    let ResolvedTableReference { catalog, schema, table } = &resolved;
    match (&**catalog, &**schema) {
        (OWN_CATALOG, OWN_SCHEMA) => table.to_string(),
        (OWN_CATALOG, schema) => format!("{schema}.{table}"),
        (catalog, schema) => format!("{catalog}.{schema}.{table}"),
    }
}

/// Lists the tables that a view's plan scans. Views in it are written out.
fn scanned(plan: &LogicalPlan) -> Vec<TableReference> {
    let mut tables = Vec::new();
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            tables.push(scan.table_name.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    tables
}
