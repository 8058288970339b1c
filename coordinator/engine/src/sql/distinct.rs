//! `a IS DISTINCT FROM b AND c` means `(a IS DISTINCT FROM b) AND c`.
//!
//! The parser takes `b AND c` for the right side (sqlparser 0.62, apache/datafusion-sqlparser-rs 2436). That is another
//! value when all three are booleans. Here the pieces are put together again by their precedence.
//!
//! A test below asks the parser alone as well. This file can go when that test fails.

use std::iter::Peekable;
use std::vec::IntoIter;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

/// Regroups a condition whose last comparison took too much. A tree is visited from its top: the operands to the left
/// decide to which operator a piece belongs.
pub(super) fn regroup(expr: &mut Expr) {
    if ends_in_greedy_comparison(expr) {
        let mut pieces = Vec::new();
        take_apart(expr.clone(), &mut pieces);
        if let Some(regrouped) = disjunction(&mut pieces.into_iter().peekable()) {
            *expr = regrouped;
        }
    }
}

/// A piece of a condition, in the order of the text.
enum Piece {
    Operand(Box<Expr>),
    Not,
    And,
    Or,
}

/// Tells if the last operand of a condition is a comparison that took the operands after it, too.
fn ends_in_greedy_comparison(mut expr: &Expr) -> bool {
    loop {
        expr = match expr {
            Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, right, .. } => right,
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => expr,
            Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => return is_condition(right),
            _ => return false,
        }
    }
}

/// Tells if an expression is an AND or an OR without brackets around it.
fn is_condition(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. })
}

fn take_apart(expr: Expr, pieces: &mut Vec<Piece>) {
    match expr {
        Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
            take_apart(*left, pieces);
            pieces.push(if op == BinaryOperator::And { Piece::And } else { Piece::Or });
            take_apart(*right, pieces);
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            pieces.push(Piece::Not);
            take_apart(*expr, pieces);
        }
        Expr::IsDistinctFrom(left, right) if is_condition(&right) => {
            compared(*right, |right| Expr::IsDistinctFrom(left, right), pieces);
        }
        Expr::IsNotDistinctFrom(left, right) if is_condition(&right) => {
            compared(*right, |right| Expr::IsNotDistinctFrom(left, right), pieces);
        }
        operand => pieces.push(Piece::Operand(Box::new(operand))),
    }
}

/// Adds the comparison with the first operand of `right`, and then the rest of `right`.
fn compared(right: Expr, compare: impl FnOnce(Box<Expr>) -> Expr, pieces: &mut Vec<Piece>) {
    let mut rest = Vec::new();
    take_apart(right, &mut rest);
    let mut rest = rest.into_iter().peekable();
    if let Some(first) = operand(&mut rest) {
        pieces.push(Piece::Operand(Box::new(compare(Box::new(first)))));
    }
    pieces.extend(rest);
}

type Pieces = Peekable<IntoIter<Piece>>;

fn disjunction(pieces: &mut Pieces) -> Option<Expr> {
    let mut left = conjunction(pieces)?;
    while pieces.next_if(|piece| matches!(piece, Piece::Or)).is_some() {
        left = binary(left, BinaryOperator::Or, conjunction(pieces)?);
    }
    Some(left)
}

fn conjunction(pieces: &mut Pieces) -> Option<Expr> {
    let mut left = operand(pieces)?;
    while pieces.next_if(|piece| matches!(piece, Piece::And)).is_some() {
        left = binary(left, BinaryOperator::And, operand(pieces)?);
    }
    Some(left)
}

fn operand(pieces: &mut Pieces) -> Option<Expr> {
    match pieces.next()? {
        Piece::Operand(expr) => Some(*expr),
        Piece::Not => Some(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(operand(pieces)?) }),
        Piece::And | Piece::Or => None,
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use datafusion::sql::sqlparser::ast::VisitorMut;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::walk_mut;
    use super::*;

    fn parsed(text: &str) -> Expr {
        Parser::new(&GenericDialect {}).try_with_sql(text).expect("tokens").parse_expr().expect("an expression")
    }

    struct Separate;

    impl VisitorMut for Separate {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            regroup(expr);
            ControlFlow::Continue(())
        }
    }

    fn separated(text: &str) -> Expr {
        let mut expr = parsed(text);
        assert!(walk_mut(&mut expr, &mut Separate).is_continue());
        expr
    }

    struct WithoutBrackets;

    impl VisitorMut for WithoutBrackets {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Nested(inner) = expr {
                *expr = (**inner).clone();
            }
            ControlFlow::Continue(())
        }
    }

    #[test]
    fn operands_after_a_comparison_stay_outside_it() {
        for (text, meant) in [
            ("a IS DISTINCT FROM b", "(a IS DISTINCT FROM b)"),
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("a IS NOT DISTINCT FROM b OR c AND d", "(a IS NOT DISTINCT FROM b) OR c AND d"),
            ("x AND a IS DISTINCT FROM b OR c", "x AND (a IS DISTINCT FROM b) OR c"),
            ("NOT a IS DISTINCT FROM b + 1 AND c = d", "NOT (a IS DISTINCT FROM b + 1) AND c = d"),
            (
                "a IS DISTINCT FROM b AND c IS DISTINCT FROM d OR e",
                "(a IS DISTINCT FROM b) AND (c IS DISTINCT FROM d) OR e",
            ),
            ("x OR a IS DISTINCT FROM b AND c OR d", "x OR (a IS DISTINCT FROM b) AND c OR d"),
        ] {
            let mut meant = parsed(meant);
            assert!(walk_mut(&mut meant, &mut WithoutBrackets).is_continue());
            assert_eq!(separated(text).to_string(), meant.to_string(), "{text}");
            assert_eq!(separated(text), meant, "{text}");
        }
    }

    #[test]
    fn brackets_keep_their_operands() {
        for text in ["a IS DISTINCT FROM (b AND c)", "(a IS DISTINCT FROM b) OR c", "f(a IS DISTINCT FROM b, c AND d)"]
        {
            assert_eq!(separated(text), parsed(text), "{text}");
        }
    }

    /// The parser is corrected when this fails. Then this file can go.
    #[test]
    fn the_parser_alone_takes_too_much() {
        assert!(ends_in_greedy_comparison(&parsed("a IS DISTINCT FROM b AND c")));
    }
}
