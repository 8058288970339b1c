//! Templates: SQL in which `$1`, `$2` … stand for arguments.
//!
//! A template is parsed once. Arguments are put into its tree, and never into its text.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::{LazyLock, Mutex};

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, ObjectNamePart, Query, Value, ValueWithSpan, Visitor, VisitorMut, WindowType,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Span;

use super::walk::{walk, walk_mut};

/// Returns the tree of an expression's template.
pub(super) fn template(text: &'static str) -> Expr {
    static PARSED: LazyLock<Mutex<HashMap<&'static str, Expr>>> = LazyLock::new(Mutex::default);
    let mut parsed = PARSED.lock().expect("no holder panics");
    parsed.entry(text).or_insert_with(|| composed(text)).clone()
}

/// Returns the tree of a template that is composed of parts.
pub(super) fn composed(text: &str) -> Expr {
    let parser = Parser::new(&GenericDialect {}).try_with_sql(text);
    parser.and_then(|mut parser| parser.parse_expr()).expect("a template is SQL")
}

/// Returns the tree of a query's template with its arguments.
pub(super) fn query(text: &str, arguments: &[Expr]) -> Query {
    let parser = Parser::new(&GenericDialect {}).try_with_sql(text);
    let mut query = *parser.and_then(|mut parser| parser.parse_query()).expect("a template is SQL");
    let at = Span::empty();
    let ControlFlow::Continue(()) = walk_mut(&mut query, &mut Filler { arguments, clauses: None, at });
    query
}

/// Returns how often a template has each of so many arguments.
pub(super) fn uses(template: &Expr, arguments: usize) -> Vec<usize> {
    struct Uses(Vec<usize>);
    impl Visitor for Uses {
        type Break = Infallible;
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
            if let Some(uses) = number(expr).and_then(|number| self.0.get_mut(number)) {
                *uses += 1;
            }
            ControlFlow::Continue(())
        }
    }
    let mut uses = Uses(vec![0; arguments]);
    let ControlFlow::Continue(()) = walk(template, &mut uses);
    uses.0
}

/// Clauses of a call that go to the aggregate inside a template.
pub(super) struct Clauses {
    /// Name of that aggregate.
    pub(super) onto: &'static str,
    pub(super) filter: Option<Box<Expr>>,
    pub(super) over: Option<WindowType>,
}

/// Puts arguments into a template. Its words have the position of the call in the statement.
pub(super) fn filled(mut template: Expr, arguments: &[Expr], clauses: Option<&Clauses>, at: Span) -> Expr {
    let ControlFlow::Continue(()) = walk_mut(&mut template, &mut Filler { arguments, clauses, at });
    template
}

struct Filler<'a> {
    arguments: &'a [Expr],
    clauses: Option<&'a Clauses>,
    at: Span,
}

impl VisitorMut for Filler<'_> {
    type Break = Infallible;

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<Infallible> {
        value.span = self.at;
        ControlFlow::Continue(())
    }

    // An expression is visited after its parts, so that nothing is visited that is put into it here.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        if let Some(number) = number(expr) {
            *expr = in_brackets(self.arguments[number].clone());
        } else if let Expr::Function(function) = expr {
            self.complete(function);
        }
        ControlFlow::Continue(())
    }
}

impl Filler<'_> {
    fn complete(&self, function: &mut Function) {
        let [ObjectNamePart::Identifier(name)] = function.name.0.as_mut_slice() else { return };
        name.span = self.at;
        let Some(clauses) = self.clauses.filter(|clauses| name.value == clauses.onto) else { return };
        function.over.clone_from(&clauses.over);
        let Some(filter) = clauses.filter.clone() else { return };
        function.filter = Some(match function.filter.take() {
            Some(own) => Box::new(Expr::BinaryOp {
                left: Box::new(in_brackets(*own)),
                op: BinaryOperator::And,
                right: Box::new(in_brackets(*filter)),
            }),
            None => filter,
        });
    }
}

/// Returns the place of the argument that an expression of a template stands for, from 0.
fn number(expr: &Expr) -> Option<usize> {
    let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = expr else { return None };
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// Puts brackets around an expression that would print otherwise than it is meant.
pub(super) fn in_brackets(expr: Expr) -> Expr {
    match expr {
        Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::Value(_)
        | Expr::TypedString(_)
        | Expr::Function(_)
        | Expr::Nested(_)
        | Expr::Subquery(_)
        | Expr::Array(_)
        | Expr::Lambda(_) => expr,
        other => Expr::Nested(Box::new(other)),
    }
}
