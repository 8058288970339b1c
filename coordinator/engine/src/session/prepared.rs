//! Prepared statements. PREPARE keeps a query's plan. EXECUTE makes a query of it that is decided, priced and run like
//! any other.
//!
//! DataFusion keeps such plans in a place that no other code can read. It would run them without functions and without
//! the cap.

use std::collections::BTreeMap;

use arrow::datatypes::FieldRef;
use datafusion::common::ParamValues;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Deallocate, Execute, Expr, LogicalPlan, Prepare, Statement};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::Session;
use crate::error::QueryError;
use crate::nearest::nearest;

/// Most statements that a session keeps.
const PREPARED_MAX: usize = 1_000;

/// Prepared statements of a session, by name.
pub(super) type Prepared = BTreeMap<String, PreparedPlan>;

#[derive(Debug, Clone)]
pub(super) struct PreparedPlan {
    /// Types of its parameters; empty if the values give them.
    fields: Vec<FieldRef>,
    plan: LogicalPlan,
}

impl Session {
    /// Carries out a PREPARE or DEALLOCATE. Returns true if the plan was one.
    pub(super) fn change_prepared(&self, plan: &LogicalPlan) -> Result<bool, QueryError> {
        match plan {
            LogicalPlan::Statement(Statement::Prepare(Prepare { name, fields, input })) => {
                let parameters = parameters(input)?;
                if !fields.is_empty() && fields.len() != parameters {
                    return Err(QueryError::sql(format!(
                        "PREPARE {name}: {} types, but the statement has {parameters} parameters",
                        fields.len()
                    )));
                }
                let mut prepared = self.prepared.lock().expect("no holder panics");
                if prepared.contains_key(name) {
                    return Err(QueryError::sql(format!("there is a prepared statement `{name}` already"))
                        .with_hint(format!("DEALLOCATE {name}, or give it another name"))
                        .with_sqlstate("42P05"));
                }
                if prepared.len() >= PREPARED_MAX {
                    return Err(QueryError::sql(format!("{PREPARED_MAX} statements are prepared; no more are kept"))
                        .with_hint("DEALLOCATE one"));
                }
                prepared.insert(name.clone(), PreparedPlan { fields: fields.clone(), plan: input.as_ref().clone() });
                Ok(true)
            }
            LogicalPlan::Statement(Statement::Deallocate(Deallocate { name })) => {
                let mut prepared = self.prepared.lock().expect("no holder panics");
                match prepared.remove(name) {
                    Some(_) => {}
                    None if name.eq_ignore_ascii_case("all") => prepared.clear(),
                    None => return Err(unknown(name, &prepared)),
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Returns the query of an EXECUTE with its parameters in place, also inside an EXPLAIN. Other plans stay as they
    /// are.
    pub(super) fn executed(&self, plan: LogicalPlan) -> Result<LogicalPlan, QueryError> {
        match plan {
            LogicalPlan::Statement(Statement::Execute(execute)) => self.with_parameters(&execute),
            LogicalPlan::Explain(mut explain) => {
                if let LogicalPlan::Statement(Statement::Execute(execute)) = explain.plan.as_ref() {
                    explain.plan = self.with_parameters(execute)?.into();
                }
                Ok(LogicalPlan::Explain(explain))
            }
            LogicalPlan::Analyze(mut analyze) => {
                if let LogicalPlan::Statement(Statement::Execute(execute)) = analyze.input.as_ref() {
                    analyze.input = self.with_parameters(execute)?.into();
                }
                Ok(LogicalPlan::Analyze(analyze))
            }
            plan => Ok(plan),
        }
    }

    fn with_parameters(&self, Execute { name, parameters: given }: &Execute) -> Result<LogicalPlan, QueryError> {
        let PreparedPlan { fields, plan } = {
            let prepared = self.prepared.lock().expect("no holder panics");
            prepared.get(name).cloned().ok_or_else(|| unknown(name, &prepared))?
        };
        let wanted = parameters(&plan)?;
        if given.len() != wanted {
            return Err(QueryError::sql(format!(
                "EXECUTE {name}: {} parameters are given, but the statement has {wanted}",
                given.len()
            )));
        }
        let state = self.context.state();
        let context = SimplifyContext::builder()
            .with_config_options(state.config_options().clone())
            .with_query_execution_start_time(state.execution_props().query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let mut values = Vec::with_capacity(given.len());
        for (index, expr) in given.iter().enumerate() {
            let value = match simplifier.simplify(expr.clone()).map_err(QueryError::from_engine)? {
                Expr::Literal(value, metadata) => ScalarAndMetadata::new(value, metadata),
                other => {
                    return Err(QueryError::sql(format!(
                        "EXECUTE {name}: parameter {} is no constant: {other}",
                        index + 1
                    ))
                    .with_hint("give a value"));
                }
            };
            values.push(match fields.get(index) {
                Some(field) => value.cast_storage_to(field.data_type()).map_err(QueryError::from_engine)?,
                None => value,
            });
        }
        plan.replace_params_with_values(&ParamValues::List(values)).map_err(QueryError::from_engine)
    }
}

/// Returns the number of parameters of a plan: the highest of their numbers, which begin with $1.
pub(super) fn parameters(plan: &LogicalPlan) -> Result<usize, QueryError> {
    let names = plan.get_parameter_names().map_err(QueryError::from_engine)?;
    let mut highest = 0;
    for name in &names {
        let number =
            name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()).filter(|number| *number > 0);
        let Some(number) = number.filter(|number| *number <= names.len()) else {
            return Err(QueryError::sql(format!("the parameter `{name}` is not one of $1 to ${}", names.len()))
                .with_hint("number parameters from $1 on, without gaps")
                .with_sqlstate("42P02"));
        };
        highest = highest.max(number);
    }
    Ok(highest)
}

fn unknown(name: &str, prepared: &Prepared) -> QueryError {
    let hint = match nearest(name, prepared.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("prepare it in the same text: PREPARE {name} AS SELECT ...; EXECUTE {name}"),
    };
    QueryError::sql(format!("there is no prepared statement `{name}`")).with_hint(hint).with_sqlstate("26000")
}
