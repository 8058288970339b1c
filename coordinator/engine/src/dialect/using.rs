//! Marks of the merged keys of `JOIN … USING` in a statement, before it is planned.
//!
//! `k` and `l.k` are the same column after planning. Only the text tells them apart. So unqualified keys become
//! `gust_merged_key(l.k)`, which [`super::merged_keys`] resolves, and `*` becomes
//! `l.* REPLACE (… AS k), r.* EXCLUDE (k)`: it has the key once, in the left table's place, as in DuckDB. A chain of
//! USING over one key is then not ambiguous.
//!
//! In a subquery of an expression an outer key is named with its table, because DataFusion needs that.
//!
//! A join in brackets at the beginning of a FROM is written without them, which means the same. Elsewhere in brackets
//! an outer join with USING or NATURAL is refused where its key would be the wrong one.
//!
//! Non-goals: outer NATURAL joins. Their keys are not in the text, and they are refused where the key would be the
//! wrong one.

use std::ops::ControlFlow;

use datafusion::common::Result;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ExcludeSelectItem, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, JoinConstraint, JoinOperator, ObjectName, OrderByKind, Query, ReplaceSelectElement,
    ReplaceSelectItem, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor, TableWithJoins,
    VisitorMut, WildcardAdditionalOptions,
};
use gust_protocol::functions::MergedKey;

use crate::sql::{Refusal, walk_mut};

/// Marks the merged keys of a statement.
///
/// # Errors
/// An error for a join whose key cannot be marked.
pub(crate) fn mark_merged_keys(statement: &mut Statement) -> Result<()> {
    let mut marker = Marker { refused: None };
    let _ = match statement {
        Statement::Statement(statement) => walk_mut(statement.as_mut(), &mut marker),
        Statement::Explain(explain) => return mark_merged_keys(&mut explain.statement),
        _ => ControlFlow::Continue(()),
    };
    marker.refused.map_or(Ok(()), |refusal| Err(refusal.into()))
}

/// Visitor that changes queries from the inside out.
struct Marker {
    refused: Option<Refusal>,
}

impl VisitorMut for Marker {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        select.from.iter_mut().for_each(without_brackets);
        let has_star = select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)));
        for join in select.from.iter().flat_map(|from| &from.joins) {
            let what = match &join.join_operator {
                JoinOperator::FullOuter(JoinConstraint::Natural) => Some("NATURAL FULL JOIN"),
                JoinOperator::Right(JoinConstraint::Natural) | JoinOperator::RightOuter(JoinConstraint::Natural) => {
                    Some("NATURAL RIGHT JOIN")
                }
                JoinOperator::Left(JoinConstraint::Natural) | JoinOperator::LeftOuter(JoinConstraint::Natural)
                    if has_star =>
                {
                    Some("SELECT * over NATURAL LEFT JOIN")
                }
                _ => None,
            };
            if let Some(what) = what {
                let hint = "write JOIN ... USING (columns)";
                self.refused.get_or_insert_with(|| {
                    Refusal::new(format!("{what} is not supported: the text does not name its keys"), hint)
                });
            }
        }
        if select.from.iter().any(|from| has_outer_keys(from, has_star)) {
            let hint = "write it as a query: JOIN (SELECT ... FROM ...) AS t";
            let what = "an outer JOIN with USING or NATURAL in brackets inside another join is not supported";
            self.refused.get_or_insert_with(|| Refusal::new(what, hint));
        }
        let keys = keys(select);
        if keys.is_empty() {
            return ControlFlow::Continue(());
        }
        let tables = tables(select);
        let items = std::mem::take(&mut select.projection);
        select.projection = items.into_iter().flat_map(|item| with_stars(item, &keys, tables.as_deref())).collect();
        name_keys(select, &keys);
        if tables.is_some() {
            name_later_keys(select, &keys);
        }
        walk_mut(select, &mut KeyMarker { keys: &keys, queries: 0 })
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let SetExpr::Select(select) = query.body.as_ref() else { return ControlFlow::Continue(()) };
        let keys = keys(select);
        let Some(order_by) = query.order_by.as_mut().filter(|_| !keys.is_empty()) else {
            return ControlFlow::Continue(());
        };
        let OrderByKind::Expressions(order) = &mut order_by.kind else { return ControlFlow::Continue(()) };
        for by in order {
            // A name in ORDER BY that an output column has is that column.
            let is_output =
                matches!(&by.expr, Expr::Identifier(name) if select.projection.iter().any(|item| outputs(item, name)));
            if !is_output {
                walk_mut(&mut by.expr, &mut KeyMarker { keys: &keys, queries: 0 })?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Writes `(a JOIN b) JOIN c` as `a JOIN b JOIN c`. Joins are read from the left anyway.
fn without_brackets(from: &mut TableWithJoins) {
    while let TableFactor::NestedJoin { table_with_joins, alias: None } = &from.relation {
        let inner = table_with_joins.as_ref().clone();
        from.relation = inner.relation;
        from.joins.splice(0..0, inner.joins);
    }
}

/// Tells if a join in brackets has merged keys that are not those of its left table.
fn has_outer_keys(from: &TableWithJoins, has_star: bool) -> bool {
    let factors = std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation));
    let mut nested = factors.filter_map(|factor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => Some(table_with_joins.as_ref()),
        _ => None,
    });
    nested.any(|nested| {
        let is_wrong = nested.joins.iter().any(|join| match &join.join_operator {
            JoinOperator::FullOuter(on) | JoinOperator::Right(on) | JoinOperator::RightOuter(on) => merges(on),
            JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => has_star && merges(on),
            _ => false,
        });
        is_wrong || has_outer_keys(nested, has_star)
    })
}

fn merges(on: &JoinConstraint) -> bool {
    matches!(on, JoinConstraint::Using(_) | JoinConstraint::Natural)
}

/// A key of USING, and the table of its left column if the text tells it.
struct UsingKey {
    name: Ident,
    owner: Option<Ident>,
}

impl UsingKey {
    fn is(&self, name: &Ident) -> bool {
        same(&self.name, name)
    }

    fn marked(&self) -> Expr {
        marked(match &self.owner {
            Some(owner) => Expr::CompoundIdentifier(vec![owner.clone(), self.name.clone()]),
            None => Expr::Identifier(self.name.clone()),
        })
    }
}

fn marked(key: Expr) -> Expr {
    let args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(key))];
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(MergedKey::NAME)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// Tells if two names are equal. A name without quotes is lower case.
fn same(a: &Ident, b: &Ident) -> bool {
    let name = |ident: &Ident| match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    };
    name(a) == name(b)
}

fn keys(select: &Select) -> Vec<UsingKey> {
    let mut keys: Vec<UsingKey> = Vec::new();
    for from in &select.from {
        for (index, join) in from.joins.iter().enumerate() {
            for name in using(&join.join_operator) {
                if !keys.iter().any(|key| key.is(&name)) {
                    let owner = if index == 0 { name_of(&from.relation) } else { None };
                    keys.push(UsingKey { name, owner });
                }
            }
        }
    }
    keys
}

/// Returns the keys of a USING join.
fn using(join: &JoinOperator) -> Vec<Ident> {
    use JoinOperator as Of;
    let constraint = match join {
        Of::Join(on) | Of::Inner(on) | Of::Left(on) | Of::LeftOuter(on) | Of::Right(on) | Of::RightOuter(on) => on,
        Of::FullOuter(on) | Of::LeftSemi(on) | Of::LeftAnti(on) | Of::RightSemi(on) | Of::RightAnti(on) => on,
        _ => return Vec::new(),
    };
    let JoinConstraint::Using(names) = constraint else { return Vec::new() };
    names.iter().filter_map(|name| name.0.last()?.as_ident().cloned()).collect()
}

/// Returns the qualifier of a table's columns.
fn name_of(table: &TableFactor) -> Option<Ident> {
    let (alias, name) = match table {
        TableFactor::Table { alias, name, .. } => (alias, name.0.last().and_then(|part| part.as_ident()).cloned()),
        TableFactor::Derived { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::Function { alias, .. } => (alias, None),
        _ => return None,
    };
    let name = alias.as_ref().map(|alias| alias.name.clone()).or(name)?;
    // A path in single quotes is a table. As a qualifier it is a name in double quotes.
    Some(if name.quote_style == Some('\'') { Ident::with_quote('"', name.value) } else { name })
}

/// A table whose columns `*` has.
struct StarTable {
    name: Ident,
    /// Keys that a table before it has, too. `*` does not repeat them.
    repeated_keys: Vec<Ident>,
}

/// Returns the tables whose columns `*` has. Returns None if one has no name, or if there is a right semi or anti join.
fn tables(select: &Select) -> Option<Vec<StarTable>> {
    let mut tables = Vec::new();
    for from in &select.from {
        tables.push(StarTable { name: name_of(&from.relation)?, repeated_keys: Vec::new() });
        for join in &from.joins {
            match join.join_operator {
                JoinOperator::LeftSemi(_) | JoinOperator::LeftAnti(_) => {}
                JoinOperator::RightSemi(_) | JoinOperator::RightAnti(_) => return None,
                _ => {
                    let (name, repeated_keys) = (name_of(&join.relation)?, using(&join.join_operator));
                    tables.push(StarTable { name, repeated_keys });
                }
            }
        }
    }
    Some(tables)
}

/// Writes `*` as a `*` for each table, with each key once and merged.
fn with_stars(item: SelectItem, keys: &[UsingKey], tables: Option<&[StarTable]>) -> Vec<SelectItem> {
    let SelectItem::Wildcard(mut options) = item else { return vec![item] };
    let is_plain = options == WildcardAdditionalOptions::default();
    let Some(tables) = tables.filter(|_| is_plain && keys.iter().all(|key| key.owner.is_some())) else {
        let replace = options.opt_replace.get_or_insert(ReplaceSelectItem { items: vec![] });
        let is_left_out = |key: &&UsingKey| match &options.opt_exclude {
            Some(ExcludeSelectItem::Single(name)) => is_name(name, &key.name),
            Some(ExcludeSelectItem::Multiple(names)) => names.iter().any(|name| is_name(name, &key.name)),
            None => false,
        };
        let kept = keys.iter().filter(|key| !is_left_out(key));
        replace.items.extend(kept.map(|key| Box::new(replacement(key))));
        options.opt_replace = options.opt_replace.filter(|replace| !replace.items.is_empty());
        return vec![SelectItem::Wildcard(options)];
    };
    let star = |StarTable { name, repeated_keys }: &StarTable| {
        let owned = keys.iter().filter(|key| key.owner.as_ref() == Some(name) && repeated_keys.is_empty());
        let items: Vec<_> = owned.map(|key| Box::new(replacement(key))).collect();
        let names: Vec<_> = repeated_keys.iter().map(|key| ObjectName::from(vec![key.clone()])).collect();
        let options = WildcardAdditionalOptions {
            opt_replace: (!items.is_empty()).then_some(ReplaceSelectItem { items }),
            opt_exclude: (!names.is_empty()).then_some(ExcludeSelectItem::Multiple(names)),
            ..WildcardAdditionalOptions::default()
        };
        let table = SelectItemQualifiedWildcardKind::ObjectName(ObjectName::from(vec![name.clone()]));
        SelectItem::QualifiedWildcard(table, options)
    };
    tables.iter().map(star).collect()
}

fn is_name(name: &ObjectName, key: &Ident) -> bool {
    name.0.last().and_then(|part| part.as_ident()).is_some_and(|name| same(name, key))
}

fn replacement(key: &UsingKey) -> ReplaceSelectElement {
    ReplaceSelectElement { expr: key.marked(), column_name: key.name.clone(), as_keyword: true }
}

/// Writes a key that two USING joins have had before as ON. DataFusion 55.2 calls it ambiguous from the third join on
/// (`Column::normalize_with_schemas_and_ambiguity_check`). Only INNER and LEFT joins are written so; others stay, and
/// are refused.
fn name_later_keys(select: &mut Select, keys: &[UsingKey]) {
    for from in &mut select.from {
        let mut before: Vec<Ident> = Vec::new();
        for join in &mut from.joins {
            let names = using(&join.join_operator);
            let is_late = names.iter().any(|name| before.iter().filter(|earlier| same(earlier, name)).count() >= 2);
            let Some(table) = name_of(&join.relation).filter(|_| is_late) else {
                before.extend(names);
                continue;
            };
            let equal = |name: &Ident| {
                let key = keys.iter().find(|key| key.is(name)).filter(|key| key.owner.is_some())?;
                let (left, op) = (Box::new(key.marked()), BinaryOperator::Eq);
                let right = Box::new(Expr::CompoundIdentifier(vec![table.clone(), name.clone()]));
                Some(Expr::BinaryOp { left, op, right })
            };
            let on: Option<Vec<Expr>> = names.iter().map(equal).collect();
            let and =
                |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) };
            if let Some(on) = on.and_then(|on| on.into_iter().reduce(and)) {
                match &mut join.join_operator {
                    JoinOperator::Join(constraint)
                    | JoinOperator::Inner(constraint)
                    | JoinOperator::Left(constraint)
                    | JoinOperator::LeftOuter(constraint) => *constraint = JoinConstraint::On(on),
                    _ => {}
                }
            }
        }
    }
}

/// Names a column that is a key by itself. Beside `l.k` the engine allows no `k`, and the column is `k_1`.
fn name_keys(select: &mut Select, keys: &[UsingKey]) {
    let is_key = |name: &Ident| keys.iter().any(|key| key.is(name));
    let taken = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(name)) => name.last().is_some_and(is_key),
        SelectItem::QualifiedWildcard(_, options) => *options == WildcardAdditionalOptions::default(),
        _ => false,
    });
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(Expr::Identifier(name)) = item
            && is_key(name)
        {
            let value = if taken { format!("{}_1", name.value) } else { name.value.clone() };
            let alias = Ident { value, ..name.clone() };
            *item = SelectItem::ExprWithAlias { expr: Expr::Identifier(name.clone()), alias };
        }
    }
}

fn outputs(item: &SelectItem, name: &Ident) -> bool {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => same(alias, name),
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => true,
        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAliases { .. } => false,
    }
}

/// Visitor that marks the names of one query, and not those of queries in it.
struct KeyMarker<'a> {
    keys: &'a [UsingKey],
    queries: usize,
}

impl VisitorMut for KeyMarker<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr
            && self.queries == 0
            && let Some(key) = self.keys.iter().find(|key| key.is(name))
        {
            *expr = key.marked();
        }
        ControlFlow::Continue(())
    }
}
