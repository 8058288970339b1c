//! Long chains of AND, OR and UNION as balanced trees.
//!
//! The parser makes a chain of n operands a tree n deep. The engine's planner takes n² steps over it: half a minute for
//! 10,000 ORs. All three operators are associative. A balanced tree keeps the order of the operands, and with it the
//! order of evaluation. The statement prints as before, because the parser's trees print no parentheses of their own.

use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, SetExpr, SetOperator, SetQuantifier, Value, VisitMut, VisitorMut,
};

use super::walk::walk_mut;

/// Operands of the shortest chain that is balanced. Chains that people write are shorter and are planned as they are.
const OPERANDS_MIN: usize = 64;

pub(super) fn balance(tree: &mut impl VisitMut) {
    let ControlFlow::Continue(()) = walk_mut(tree, &mut Balance);
}

struct Balance;

impl VisitorMut for Balance {
    type Break = std::convert::Infallible;

    // A visit before the children takes a chain apart once, at its top.
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        super::distinct::regroup(expr);
        for op in [BinaryOperator::Or, BinaryOperator::And] {
            if operands_of(expr, &op) >= OPERANDS_MIN {
                let joined =
                    |left, right| Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) };
                *expr = paired(take_operands(expr, &op), joined);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let mut branch = query.body.as_mut();
        loop {
            if let Some(chain) = long_union(branch) {
                let joined = |left, right| SetExpr::SetOperation {
                    op: SetOperator::Union,
                    set_quantifier: chain.quantifier,
                    left: Box::new(left),
                    right: Box::new(right),
                };
                *branch = paired(take_branches(branch, &chain), joined);
                return ControlFlow::Continue(());
            }
            match branch {
                SetExpr::SetOperation { left, .. } => branch = left,
                _ => return ControlFlow::Continue(()),
            }
        }
    }
}

/// Joins neighbours until one operand is left.
pub(super) fn paired<T>(mut operands: Vec<T>, joined: impl Fn(T, T) -> T) -> T {
    while operands.len() > 1 {
        let mut pairs = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => joined(left, right),
                None => left,
            });
        }
        operands = pairs;
    }
    operands.pop().expect("a chain has operands")
}

fn operands_of(expr: &Expr, of: &BinaryOperator) -> usize {
    let (mut count, mut rest) = (1, expr);
    while let Expr::BinaryOp { left, op, .. } = rest {
        if op != of {
            break;
        }
        count += 1;
        rest = left;
    }
    count
}

fn take_operands(expr: &mut Expr, of: &BinaryOperator) -> Vec<Expr> {
    let mut operands = Vec::new();
    let mut rest = mem::replace(expr, Expr::Value(Value::Null.into()));
    loop {
        match rest {
            Expr::BinaryOp { left, op, right } if op == *of => {
                operands.push(*right);
                rest = *left;
            }
            first => {
                operands.push(first);
                operands.reverse();
                return operands;
            }
        }
    }
}

/// A long chain of equal UNIONs.
struct UnionChain {
    quantifier: SetQuantifier,
    branches: usize,
}

fn long_union(set: &SetExpr) -> Option<UnionChain> {
    let SetExpr::SetOperation { set_quantifier: quantifier, .. } = set else { return None };
    if !matches!(quantifier, SetQuantifier::All | SetQuantifier::None | SetQuantifier::Distinct) {
        return None;
    }
    let (mut count, mut rest) = (1, set);
    while let SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, left, .. } = rest {
        if set_quantifier != quantifier {
            break;
        }
        count += 1;
        rest = left;
    }
    (count >= OPERANDS_MIN).then_some(UnionChain { quantifier: *quantifier, branches: count })
}

fn take_branches(set: &mut SetExpr, chain: &UnionChain) -> Vec<SetExpr> {
    let nothing = || {
        SetExpr::Values(datafusion::sql::sqlparser::ast::Values {
            explicit_row: false,
            value_keyword: false,
            rows: Vec::new(),
        })
    };
    let mut branches = Vec::with_capacity(chain.branches);
    let mut rest = mem::replace(set, nothing());
    loop {
        match rest {
            SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, left, right }
                if set_quantifier == chain.quantifier =>
            {
                branches.push(*right);
                rest = *left;
            }
            first => {
                branches.push(first);
                branches.reverse();
                return branches;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Statement;

    use super::*;
    use crate::sql::parsed;

    /// Counts the operators above each other on the longest way down an expression.
    fn depth(expr: &Expr) -> usize {
        match expr {
            Expr::BinaryOp { left, right, .. } => 1 + depth(left).max(depth(right)),
            _ => 0,
        }
    }

    #[test]
    fn a_chain_prints_as_before_and_is_as_deep_as_it_must_be() {
        for (op, count, deep) in [("OR", 4000, 12), ("AND", 100, 7), ("OR", 63, 62), ("+", 100, 99)] {
            let chain = (0..count).map(|at| format!("a{at}")).collect::<Vec<_>>().join(&format!(" {op} "));
            let text = format!("SELECT {chain}");
            let mut statement = parsed(&text);
            balance(&mut statement);
            assert_eq!(statement.to_string(), text);
            let Statement::Query(query) = &statement else { panic!("{statement}") };
            let SetExpr::Select(select) = query.body.as_ref() else { panic!("{query}") };
            let datafusion::sql::sqlparser::ast::SelectItem::UnnamedExpr(expr) = &select.projection[0] else {
                panic!("{select}")
            };
            assert_eq!(depth(expr), deep, "{op}");
        }
    }

    #[test]
    fn unions_of_one_kind_are_balanced() {
        fn branches_deep(set: &SetExpr) -> usize {
            match set {
                SetExpr::SetOperation { left, right, .. } => 1 + branches_deep(left).max(branches_deep(right)),
                _ => 0,
            }
        }
        let all = vec!["SELECT 1"; 200].join(" UNION ALL ");
        for (text, deep) in [
            (all.clone(), 8),
            (format!("{all} UNION SELECT 2"), 9),
            (vec!["SELECT 1"; 100].join(" EXCEPT "), 99),
            (vec!["SELECT 1"; 128].join(" UNION "), 7),
        ] {
            let mut statement = parsed(&text);
            balance(&mut statement);
            assert_eq!(statement.to_string(), text);
            let Statement::Query(query) = &statement else { panic!("{statement}") };
            assert_eq!(branches_deep(&query.body), deep);
        }
    }
}
