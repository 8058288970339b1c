//! Names of tables in nested namespaces.
//!
//! A namespace `a.b` is one schema of the engine, `"a.b"`. Of a name with more parts than the engine takes, those between the
//! catalog and the table are joined. The first part is a catalog where there is one of that name.
//!
//! ```text
//!  lake.a.b.t   lake."a.b".t            where `lake` is a catalog
//!  a.b.t        "a.b".t                 where `a` is none
//! ```

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Statement, VisitorMut};

use super::limits::folded_name;
use super::walk::walk_mut;

/// Writes the names of a statement's tables with three parts at most.
pub(super) fn rewrite(statement: &mut Statement, catalogs: &[String]) {
    let _: ControlFlow<()> = walk_mut(statement, &mut Relations(catalogs));
}

struct Relations<'a>(&'a [String]);

impl VisitorMut for Relations<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<()> {
        if let Some(joined) = joined(name, self.0) {
            *name = joined;
        }
        ControlFlow::Continue(())
    }
}

fn joined(name: &ObjectName, catalogs: &[String]) -> Option<ObjectName> {
    let parts: Vec<&Ident> = name.0.iter().map(ObjectNamePart::as_ident).collect::<Option<_>>()?;
    let is_catalog = |part: &Ident| catalogs.contains(&folded_name(part));
    let (catalog, namespace, table) = match parts.as_slice() {
        [] | [_] | [_, _] => return None,
        [_, _, _] if is_catalog(parts[0]) => return None,
        [first, namespace @ .., table] if is_catalog(first) => (Some(*first), namespace, *table),
        [namespace @ .., table] => (None, namespace, *table),
    };
    let levels: Vec<String> = namespace.iter().map(|level| folded_name(level)).collect();
    let schema = Ident::with_quote('"', levels.join("."));
    let parts = catalog.into_iter().cloned().chain([schema, table.clone()]);
    Some(ObjectName(parts.map(ObjectNamePart::Identifier).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parsed;

    #[test]
    fn levels_between_catalog_and_table_are_joined() {
        let catalogs = ["lake".to_owned(), "Other".to_owned()];
        for (text, expect) in [
            ("SELECT * FROM t", "SELECT * FROM t"),
            ("SELECT * FROM a.t", "SELECT * FROM a.t"),
            ("SELECT * FROM lake.t", "SELECT * FROM lake.t"),
            ("SELECT * FROM lake.a.t", "SELECT * FROM lake.a.t"),
            ("SELECT * FROM Lake.A.b.T", "SELECT * FROM Lake.\"a.b\".T"),
            ("SELECT * FROM \"Other\".\"A\".\"x y\".t", "SELECT * FROM \"Other\".\"A.x y\".t"),
            ("SELECT * FROM a.b.t, (SELECT 1 FROM a.b.c.u)", "SELECT * FROM \"a.b\".t, (SELECT 1 FROM \"a.b.c\".u)"),
            ("SELECT * FROM \"Lake\".a.t", "SELECT * FROM \"Lake.a\".t"),
            ("DESCRIBE lake.a.b.t", "DESCRIBE lake.\"a.b\".t"),
        ] {
            let mut statement = parsed(text);
            rewrite(&mut statement, &catalogs);
            assert_eq!(statement.to_string(), expect, "{text}");
        }
    }
}
