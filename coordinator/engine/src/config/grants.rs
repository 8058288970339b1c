//! Grants: the tables and paths that users and groups of a server may read.

use serde::{Deserialize, Deserializer};

use super::units;

/// Catalog and schema of the tables that a session makes itself. They are DataFusion's defaults.
pub const OWN_CATALOG: &str = "datafusion";
pub const OWN_SCHEMA: &str = "public";

/// Part of a pattern that stands for every name.
const EVERY: &str = "*";

/// Tables and paths for users and groups.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "GrantFields")]
pub struct GrantConfig {
    pub users: Vec<String>,
    pub groups: Vec<String>,
    pub tables: Vec<TablePattern>,
    /// Folders and URLs that a statement may name, with all that is below them.
    pub paths: Vec<String>,
}

/// Keys of a grant, as they are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantFields {
    users: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    tables: Option<Vec<TablePattern>>,
    #[serde(default, deserialize_with = "optional_locations")]
    paths: Option<Vec<String>>,
}

fn optional_locations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    units::locations(deserializer).map(Some)
}

impl TryFrom<GrantFields> for GrantConfig {
    type Error = &'static str;

    fn try_from(fields: GrantFields) -> Result<Self, Self::Error> {
        let GrantFields { users, groups, tables, paths } = fields;
        // An empty list is a mistake rather than a wish.
        if [&users, &groups].into_iter().flatten().any(Vec::is_empty) {
            return Err("a name or more in `users` and in `groups`");
        }
        if tables.as_ref().is_some_and(Vec::is_empty) || paths.as_ref().is_some_and(Vec::is_empty) {
            return Err("one or more in `tables` and in `paths`");
        }
        if users.is_none() && groups.is_none() {
            return Err("`users`, `groups` or both");
        }
        if tables.is_none() && paths.is_none() {
            return Err("`tables`, `paths` or both");
        }
        let [users, groups, paths] = [users, groups, paths].map(Option::unwrap_or_default);
        Ok(Self { users, groups, tables: tables.unwrap_or_default(), paths })
    }
}

/// Tables of a name, or of all names, in a namespace of a catalog, or in all. A part that is None stands for every name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TablePattern {
    catalog: Option<String>,
    /// Levels of a namespace with dots between.
    namespace: Option<String>,
    table: Option<String>,
}

impl TryFrom<String> for TablePattern {
    type Error = &'static str;

    /// Reads `catalog.namespace.table`, or the name of a table of the set-up.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut parts = parts(&text)?;
        let Some(table) = parts.pop() else { return Err("a name") };
        if parts.is_empty() {
            let Some(table) = table else {
                return Err("`*.*.*` for all tables, or `datafusion.public.*` for all tables of --setup");
            };
            let [catalog, namespace, table] =
                [OWN_CATALOG, OWN_SCHEMA, table.as_str()].map(|name| Some(name.to_owned()));
            return Ok(Self { catalog, namespace, table });
        }
        let catalog = parts.remove(0);
        let namespace = match parts.as_slice() {
            [] => return Err("catalog.namespace.table, or the name of one table of --setup"),
            [only] => only.clone(),
            levels => match levels.iter().cloned().collect::<Option<Vec<_>>>() {
                Some(levels) => Some(levels.join(".")),
                None => return Err("one `*` for a namespace, however deep it is"),
            },
        };
        Ok(Self { catalog, namespace, table })
    }
}

impl TablePattern {
    /// Tells if it has a table.
    pub fn has(&self, catalog: &str, namespace: &str, table: &str) -> bool {
        self.has_some_of(catalog, namespace) && fits(self.table.as_deref(), table)
    }

    /// Tells if it may have a table of a namespace.
    pub fn has_some_of(&self, catalog: &str, namespace: &str) -> bool {
        self.has_some_in(catalog) && fits(self.namespace.as_deref(), namespace)
    }

    /// Tells if it may have a table of a catalog.
    pub fn has_some_in(&self, catalog: &str) -> bool {
        fits(self.catalog.as_deref(), catalog)
    }

    /// Returns its catalog; None for every catalog.
    pub fn catalog(&self) -> Option<&str> {
        self.catalog.as_deref()
    }

    /// Returns its table where it is one of the set-up.
    pub fn set_up_table(&self) -> Option<&str> {
        let is_own = self.catalog.as_deref() == Some(OWN_CATALOG) && self.namespace.as_deref() == Some(OWN_SCHEMA);
        self.table.as_deref().filter(|_| is_own)
    }
}

fn fits(part: Option<&str>, name: &str) -> bool {
    part.is_none_or(|part| part == name)
}

/// Splits a pattern at its dots. A part in double quotes is a name, also with dots and stars in it. None is a star.
fn parts(text: &str) -> Result<Vec<Option<String>>, &'static str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, behind) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (name, behind) = unquoted(quoted)?;
                (Some(name), behind)
            }
            None => {
                let (part, behind) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
                (name_or_star(part)?, behind)
            }
        };
        parts.push(part);
        match behind.strip_prefix('.') {
            Some(more) => rest = more,
            None if behind.is_empty() => return Ok(parts),
            None => return Err("a dot behind each name in double quotes"),
        }
    }
}

/// Reads a part without quotes.
fn name_or_star(part: &str) -> Result<Option<String>, &'static str> {
    match part {
        EVERY => Ok(None),
        "" => Err("a name or `*` in each part"),
        part if part.contains('*') => Err("`*` as a whole part, such as lake.sales.*"),
        part if part.contains('"') || part.trim() != part => Err("double quotes around a name with blanks or quotes"),
        part => Ok(Some(part.to_owned())),
    }
}

/// Reads a name up to its closing quote. Two quotes in it are one. Returns what is behind it as well.
fn unquoted(text: &str) -> Result<(String, &str), &'static str> {
    let (mut name, mut rest) = (String::new(), text);
    loop {
        let Some((before, behind)) = rest.split_once('"') else { return Err("a closing double quote") };
        name.push_str(before);
        match behind.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if name.is_empty() => return Err("a name or `*` in each part"),
            None => return Ok((name, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_a_part_and_a_bare_name_for_a_table_of_the_set_up() {
        for (pattern, [catalog, namespace, table], expect) in [
            ("lake.sales.orders", ["lake", "sales", "orders"], true),
            ("lake.sales.orders", ["lake", "sales", "Orders"], false),
            ("lake.sales.orders", ["lake", "sales", "orders$files"], false),
            ("lake.sales.orders", ["lake", "hr", "orders"], false),
            ("lake.sales.*", ["lake", "sales", "any.thing"], true),
            ("lake.sales.*", ["lake", "sales.eu", "t"], false),
            ("lake.sales.eu.*", ["lake", "sales.eu", "t"], true),
            ("lake.\"sales.eu\".\"a.\"\"*\"", ["lake", "sales.eu", "a.\"*"], true),
            ("lake.*.t", ["lake", "sales.eu", "t"], true),
            ("lake.*.t", ["lake", "sales", "u"], false),
            ("*.*.*", ["lake", "sales", "t"], true),
            ("*.*.*", [OWN_CATALOG, OWN_SCHEMA, "trips"], true),
            ("trips", [OWN_CATALOG, OWN_SCHEMA, "trips"], true),
            ("trips", ["lake", "public", "trips"], false),
            ("lake.sales.\"*\"", ["lake", "sales", "t"], false),
        ] {
            let read = TablePattern::try_from(pattern.to_owned()).expect(pattern);
            assert_eq!(read.has(catalog, namespace, table), expect, "{pattern}: {catalog}.{namespace}.{table}");
        }
        let read = |text: &str| TablePattern::try_from(text.to_owned()).expect("a pattern");
        assert!(read("lake.*.t").has_some_of("lake", "any") && !read("lake.a.t").has_some_of("lake", "b"));
        assert!(read("*.a.t").has_some_in("any") && !read("lake.a.t").has_some_in("other"));
        assert_eq!(
            ["trips", "lake.a.trips", "datafusion.public.*"].map(|it| read(it).set_up_table().is_some()),
            [true, false, false]
        );
    }

    #[test]
    fn a_bad_pattern_says_what_is_expected() {
        for (pattern, words) in [
            ("", "a name or `*` in each part"),
            ("lake..t", "a name or `*` in each part"),
            ("lake.sales.", "a name or `*` in each part"),
            ("lake.\"\".t", "a name or `*` in each part"),
            ("lake.sales.or*", "`*` as a whole part"),
            ("lake.**.t", "`*` as a whole part"),
            ("*", "`*.*.*` for all tables"),
            ("lake.*", "catalog.namespace.table"),
            ("sales.orders", "catalog.namespace.table"),
            ("lake.a.*.t", "one `*` for a namespace"),
            ("lake.a.\"t", "a closing double quote"),
            ("lake.\"a\"b.t", "a dot behind each name"),
            ("lake.a.t ", "double quotes around a name"),
        ] {
            let refused = TablePattern::try_from(pattern.to_owned()).expect_err(pattern);
            assert!(refused.contains(words), "{pattern}: {refused}");
        }
    }
}
