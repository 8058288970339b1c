//! Copies of an expression in what a statement is written as. They are bounded, since nested calls would multiply. A call
//! that differs each time would have another value in each copy.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, Visitor};

use super::Refusal;
use super::walk::walk;

/// Bytes of SQL that writing out adds to one statement: to its comparisons, and to its calls of functions.
pub(super) const COPIED_BYTES_MAX: usize = 1 << 20;

/// Functions whose value differs from call to call.
const VOLATILE: [&str; 3] = ["random", "rand", "uuid"];

/// Part of a statement that is written with copies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Copied<'a> {
    /// A comparison with ANY or ALL.
    Comparison,
    /// A call of the function with this name.
    Call(&'a str),
}

/// Size of the copies in a statement so far.
#[derive(Debug, Default)]
pub(super) struct CopiedBytes {
    bytes: usize,
    /// True if the statement may be larger than the one that was checked.
    pub(super) is_any_written: bool,
}

impl CopiedBytes {
    /// Counts an expression that is written `times` more times.
    pub(super) fn add(&mut self, expr: &Expr, times: usize, of: Copied<'_>) -> Result<(), Refusal> {
        if times == 0 {
            return Ok(());
        }
        if walk(expr, &mut VolatileFinder).is_break() {
            let what = match of {
                Copied::Comparison => "ANY or ALL".to_owned(),
                Copied::Call(name) => name.to_owned(),
            };
            let hint =
                "compute it in an inner query: FROM (SELECT random() AS a FROM ...), or give its LIMIT an ORDER BY";
            return Err(Refusal::new(
                format!("{what} of a volatile value is not supported: the value would be computed more than once"),
                hint,
            ));
        }
        self.bytes = self.bytes.saturating_add(expr.to_string().len().saturating_mul(times));
        if self.bytes > COPIED_BYTES_MAX {
            let (what, hint) = match of {
                Copied::Comparison => (
                    "comparisons with ANY and ALL",
                    "compute what is compared in an inner query, or compare with a subquery: ANY (SELECT ...)",
                ),
                Copied::Call(_) => ("calls of other engines' functions", "compute their arguments in an inner query"),
            };
            return Err(Refusal::new(
                format!(
                    "the statement's {what} are {} bytes or more once they are written out; at most {COPIED_BYTES_MAX} are planned",
                    self.bytes
                ),
                hint,
            ));
        }
        Ok(())
    }
}

/// Visitor that stops at an expression whose value may differ the next time it is computed.
struct VolatileFinder;

impl Visitor for VolatileFinder {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.0.last().and_then(|part| part.as_ident()).map(|name| name.value.to_lowercase());
        if name.is_some_and(|name| VOLATILE.contains(&name.as_str())) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if query.limit_clause.is_some() && query.order_by.is_none() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
