//! Parameters of statements, `$1` and so on: their types before there are values, and their values in the plan.

use std::collections::HashMap;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{Cast, Expr, LogicalPlan, Statement as PlanStatement};
use futures::future::BoxFuture;

use super::Session;
use super::catalogs::used;
use super::prepared::parameters;
use super::run::shown;
use super::statement::Statement;
use crate::error::QueryError;
use crate::planner::explain;

/// Types of a statement that has not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Types of its parameters, in their order.
    pub parameters: Vec<DataType>,
    /// Columns of its rows; None for a statement that only changes the session.
    pub schema: Option<SchemaRef>,
}

impl Statement {
    /// Returns the same statement with values of its parameters: the first is that of `$1`.
    #[must_use]
    pub fn with_parameters(self, parameters: Vec<ScalarValue>) -> Self {
        Self { parameters, ..self }
    }
}

impl Session {
    /// Returns the types of a statement's parameters and rows, with its values if it has some. It reads no data.
    ///
    /// A parameter has its declared type, else the one that its surroundings suggest, else it is text.
    ///
    /// # Errors
    /// The error of a statement that cannot be planned.
    pub fn describe<'a>(
        &'a self,
        statement: Statement,
        declared: &'a [Option<DataType>],
    ) -> BoxFuture<'a, Result<Described, QueryError>> {
        self.describe_holding(statement, declared, Box::new(()))
    }

    /// Does the same, and drops a value once no thread plans any more: planning cannot be stopped, also where nobody waits for it.
    ///
    /// # Errors
    /// The error of a statement that cannot be planned.
    pub fn describe_holding<'a>(
        &'a self,
        statement: Statement,
        declared: &'a [Option<DataType>],
        held: Box<dyn Send>,
    ) -> BoxFuture<'a, Result<Described, QueryError>> {
        Box::pin(async move {
            let (session, declared) = (self.for_query(), declared.to_vec());
            let describing = async move {
                let _until_its_end = held;
                session.described(statement, &declared).await
            };
            let timeout = self.timeout();
            let described = tokio::time::timeout(timeout, self.engine.workers.describe(describing)).await;
            described.unwrap_or_else(|_| Err(QueryError::timed_out(timeout)))
        })
    }

    async fn described(self, statement: Statement, declared: &[Option<DataType>]) -> Result<Described, QueryError> {
        let is_copy = statement.is_copy();
        let Statement { sql, mode, parameters: values, .. } = statement;
        if used(&sql).is_some() || is_copy {
            return Ok(Described { parameters: Vec::new(), schema: None });
        }
        let (logical, names) = self.logical_plan(*sql).await?;
        let logical = self.executed(logical)?;
        let types = types(&logical, declared)?;
        let described = |schema| Described { parameters: types.clone(), schema };
        if let LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) = logical {
            return Ok(described(None));
        }
        if mode.is_cost_of(&logical)? {
            return Ok(described(Some(explain::cost_schema())));
        }
        if let LogicalPlan::Explain(explain) = &logical {
            return Ok(described(Some(explain.schema.inner().clone())));
        }
        if let LogicalPlan::Analyze(analyze) = &logical {
            return Ok(described(Some(analyze.schema.inner().clone())));
        }
        let values = match values.is_empty() {
            true => types.iter().map(ScalarValue::try_new_null).collect::<Result<_, _>>(),
            false => Ok(values),
        };
        let logical = bound(logical, values.map_err(QueryError::from_engine)?)?;
        let optimized = self.context.state().optimize(&logical).map_err(QueryError::from_engine)?;
        Ok(described(Some(shown(optimized.schema().as_arrow(), &logical, &names))))
    }
}

/// Returns the types of a plan's parameters.
fn types(plan: &LogicalPlan, declared: &[Option<DataType>]) -> Result<Vec<DataType>, QueryError> {
    if matches!(plan, LogicalPlan::Statement(PlanStatement::Prepare(_))) {
        return Ok(Vec::new());
    }
    let count = parameters(plan)?.max(declared.len());
    let mut suggested = cast_to(plan);
    // The engine refuses to suggest anything where a parameter has two surroundings that differ.
    let known = plan.get_parameter_types().unwrap_or_default();
    suggested.extend(known.into_iter().filter(|(_, data_type)| data_type.is_some()));
    let mut type_of = |index: usize| {
        let declared = declared.get(index).cloned().flatten();
        let suggested = suggested.remove(&format!("${}", index + 1)).flatten();
        declared.or(suggested).filter(|known| !known.is_null()).unwrap_or(DataType::Utf8)
    };
    Ok((0..count).map(&mut type_of).collect())
}

/// Returns the types that parameters are cast to, by their names.
fn cast_to(plan: &LogicalPlan) -> HashMap<String, Option<DataType>> {
    let mut types = HashMap::new();
    let mut look = |expr: &Expr| {
        if let Expr::Cast(Cast { expr, field }) = expr
            && let Expr::Placeholder(Placeholder { id, .. }) = expr.as_ref()
        {
            types.insert(id.clone(), Some(field.data_type().clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    };
    let looked = plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(&mut look)));
    looked.map_or_else(|_| HashMap::new(), |_| types)
}

/// Puts values in the place of a plan's parameters.
pub(super) fn bound(plan: LogicalPlan, values: Vec<ScalarValue>) -> Result<LogicalPlan, QueryError> {
    if values.is_empty() {
        return Ok(plan);
    }
    let wanted = parameters(&plan)?;
    if values.len() < wanted {
        let given = values.len();
        return Err(QueryError::sql(format!("the statement has {wanted} parameters, and {given} values are given"))
            .with_sqlstate("08P01"));
    }
    plan.replace_params_with_values(&ParamValues::from(values)).map_err(QueryError::from_engine)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::Duration;

    use datafusion::common::DataFusionError;
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
    use futures::FutureExt;

    use super::*;
    use crate::config::{Config, Target};

    #[tokio::test]
    async fn a_description_that_nobody_waits_for_holds_its_turn_while_it_is_planned() {
        let session = Session::new(Config { on: Target::Local, ..Config::default() }).expect("a session");
        let (started, starts) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let goes_on = Mutex::new(goes_on);
        // The optimizer computes it, as its argument is constant.
        let slow = move |values: &[ColumnarValue]| {
            started.send(()).expect("it is waited for");
            goes_on.lock().expect("no panic").recv().expect_err("nothing is sent");
            Ok::<_, DataFusionError>(values[0].clone())
        };
        let types = (vec![DataType::Int64], DataType::Int64);
        session.context.register_udf(create_udf("slow", types.0, types.1, Volatility::Immutable, Arc::new(slow)));
        let (statement, turn) = (session.parse("SELECT slow(1) AS a").expect("SQL").remove(0), Arc::new(()));
        let mut describing = session.describe_holding(statement, &[], Box::new(Arc::clone(&turn)));
        assert!(describing.as_mut().now_or_never().is_none(), "it is planned elsewhere");
        starts.recv_timeout(Duration::from_secs(20)).expect("it is planned");
        drop(describing);
        assert_eq!(Arc::strong_count(&turn), 2, "it is planned still");
        drop(go_on);
        let ended = async {
            while Arc::strong_count(&turn) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it has ended");
        session.close().await;
    }

    #[tokio::test]
    async fn a_statement_is_described_and_runs_with_its_values() {
        let session = Session::new(Config { on: Target::Local, ..Config::default() }).expect("a session");
        let statement = |sql: &str| session.parse(sql).expect("SQL").remove(0);
        session.set_up("CREATE TABLE t AS SELECT 1 AS k, DATE '2024-01-02' AS d").await.expect("a table");
        let check =
            async |sql: &str, declared: &[Option<DataType>], types: &[DataType], columns: &[(&str, DataType)]| {
                let Described { parameters, schema } = session.describe(statement(sql), declared).await.expect(sql);
                assert_eq!(parameters, types, "{sql}");
                let fields = schema.iter().flat_map(|schema| schema.fields().iter());
                let seen: Vec<_> = fields.map(|field| (field.name().as_str(), field.data_type().clone())).collect();
                assert_eq!(seen, columns, "{sql}");
            };
        check("SELECT k AS a FROM t WHERE d > $1", &[], &[DataType::Date32], &[("a", DataType::Int64)]).await;
        check("SELECT $1::int AS a", &[], &[DataType::Int32], &[("a", DataType::Int32)]).await;
        check("SELECT $1 AS a", &[], &[DataType::Utf8], &[("a", DataType::Utf8)]).await;
        check("SELECT $1 AS a", &[Some(DataType::Int16)], &[DataType::Int16], &[("a", DataType::Int16)]).await;
        check(
            "SELECT k + $2 AS a, $1 || 'x' AS b FROM t",
            &[None, Some(DataType::Float64)],
            &[DataType::Utf8, DataType::Float64],
            &[("a", DataType::Float64), ("b", DataType::Utf8)],
        )
        .await;
        check("SET gust.max_cost = 1", &[], &[], &[]).await;
        let run = async |sql: &str, values: Vec<ScalarValue>| {
            let mut running = session.run(statement(sql).with_parameters(values)).await?;
            let rows = running.next().await?.expect("rows");
            running.finish().await;
            Ok::<_, QueryError>(ScalarValue::try_from_array(rows.column(0), 0).expect("a value"))
        };
        let date = |days| ScalarValue::Date32(Some(days));
        let sql = "SELECT count(*) FROM t WHERE d > $1 AND k = $2";
        for (days, found) in [(0, 1), (100_000, 0)] {
            let counted = run(sql, vec![date(days), ScalarValue::Int32(Some(1))]).await.expect(sql);
            assert_eq!(counted, ScalarValue::Int64(Some(found)));
        }
        let error = run(sql, vec![date(0)]).await.expect_err("too few values");
        assert_eq!(error.sqlstate(), "08P01", "{error}");
        session.close().await;
    }
}
