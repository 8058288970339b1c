//! Walks over a statement's syntax tree, compiled once for all visitors.
//!
//! The parser's `visit` is generic. It compiles a walk over the whole grammar, thousands of functions, for each type of
//! visitor. Eleven visitors made most of this crate's code. Here the walk calls its visitor by a table of methods, and
//! is compiled once.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, Statement, TableFactor, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};

macro_rules! walk {
    ($(#[$doc:meta])* fn $walk:ident($tree:ty) by $visitor:ident { $($hook:ident($node:ty),)* }) => {
        $(#[$doc])*
        pub(crate) fn $walk<V: $visitor>(tree: $tree, visitor: &mut V) -> ControlFlow<V::Break> {
            /// A visitor, and the value that ended its walk.
            struct BreakKeeper<'a, V: $visitor>(&'a mut V, Option<V::Break>);

            impl<V: $visitor> $visitor for BreakKeeper<'_, V> {
                type Break = ();

                $(fn $hook(&mut self, node: $node) -> ControlFlow<()> {
                    self.0.$hook(node).map_break(|end| self.1 = Some(end))
                })*
            }

            /// A visitor by its methods.
            struct DynVisitor<'a>(&'a mut dyn $visitor<Break = ()>);

            impl $visitor for DynVisitor<'_> {
                type Break = ();

                $(fn $hook(&mut self, node: $node) -> ControlFlow<()> {
                    self.0.$hook(node)
                })*
            }

            let mut ending = BreakKeeper(visitor, None);
            let _ = tree.visit(&mut DynVisitor(&mut ending));
            ending.1.map_or(ControlFlow::Continue(()), ControlFlow::Break)
        }
    };
}

walk! {
    /// Shows all parts of a tree to a visitor, until it ends the walk.
    fn walk(&impl Visit) by Visitor {
        pre_visit_query(&Query),
        post_visit_query(&Query),
        pre_visit_select(&Select),
        post_visit_select(&Select),
        pre_visit_relation(&ObjectName),
        post_visit_relation(&ObjectName),
        pre_visit_table_factor(&TableFactor),
        post_visit_table_factor(&TableFactor),
        pre_visit_expr(&Expr),
        post_visit_expr(&Expr),
        pre_visit_statement(&Statement),
        post_visit_statement(&Statement),
        pre_visit_value(&ValueWithSpan),
        post_visit_value(&ValueWithSpan),
    }
}

walk! {
    /// Lets a visitor change all parts of a tree, until it ends the walk.
    fn walk_mut(&mut impl VisitMut) by VisitorMut {
        pre_visit_query(&mut Query),
        post_visit_query(&mut Query),
        pre_visit_select(&mut Select),
        post_visit_select(&mut Select),
        pre_visit_relation(&mut ObjectName),
        post_visit_relation(&mut ObjectName),
        pre_visit_table_factor(&mut TableFactor),
        post_visit_table_factor(&mut TableFactor),
        pre_visit_expr(&mut Expr),
        post_visit_expr(&mut Expr),
        pre_visit_statement(&mut Statement),
        post_visit_statement(&mut Statement),
        pre_visit_value(&mut ValueWithSpan),
        post_visit_value(&mut ValueWithSpan),
    }
}
