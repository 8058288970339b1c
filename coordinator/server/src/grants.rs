//! Grants of users and groups: what is wrong with them at the start, and those of one user.

use std::collections::BTreeMap;

use gust_engine::config::{BudgetHolder, CatalogConfig, Config, GrantConfig, TablePattern};
use gust_engine::error::QueryError;
use gust_engine::nearest::nearest;
use gust_engine::session::{OWN_CATALOG, OWN_SCHEMA, Session};
use gust_engine::storage::Reach;
use gust_engine::tables::grants::TableGrants;

use crate::budgets::is_known;
use crate::jwt::Provider;
use crate::tokens::Tokens;

/// Name of the setting in messages.
const SETTING: &str = "server.grant";

/// Checks that the users, groups and catalogs of all grants are there, and that their paths are within the reach. A mistake would take
/// tables away without a word.
///
/// # Errors
/// [`gust_engine::error::ErrorKind::Setup`] for the first that is not.
pub(crate) fn check(
    config: &Config,
    reach: &Reach,
    tokens: Option<&Tokens>,
    provider: Option<&Provider>,
) -> Result<(), QueryError> {
    let refused = |words: String| QueryError::setup(format!("{SETTING}: {words}"));
    let none = Tokens::default();
    for GrantConfig { users, groups, .. } in &config.server.grants {
        let tokens = match (tokens, provider) {
            (None, None) => return Err(refused("the server has no users".to_owned()).with_hint("set server.tokens")),
            (tokens, _) => tokens.unwrap_or(&none),
        };
        let users = users.iter().cloned().map(BudgetHolder::User);
        for holder in users.chain(groups.iter().cloned().map(BudgetHolder::Group)) {
            is_known(SETTING, &holder, tokens, provider)?;
        }
    }
    check_places(&config.server.grants, &config.catalogs, reach)
}

/// Checks that the catalogs of all grants are there, and that their paths are within the reach.
///
/// # Errors
/// [`gust_engine::error::ErrorKind::Setup`] for the first that is not.
pub(crate) fn check_places(
    grants: &[GrantConfig],
    catalogs: &BTreeMap<String, CatalogConfig>,
    reach: &Reach,
) -> Result<(), QueryError> {
    let refused = |words: String| QueryError::setup(format!("{SETTING}: {words}"));
    for GrantConfig { tables, paths, .. } in grants {
        for catalog in tables.iter().filter_map(TablePattern::catalog) {
            let known = catalogs.keys().map(String::as_str);
            if catalog == OWN_CATALOG || catalogs.contains_key(catalog) {
                continue;
            }
            let near = nearest(catalog, known);
            let hint = near.map_or("add it under [catalogs]".to_owned(), |near| format!("did you mean `{near}`?"));
            return Err(refused(format!("there is no catalog `{catalog}` in the configuration")).with_hint(hint));
        }
        for path in paths {
            if !reach.holds(path)? {
                let hint = "a path is a catalog's warehouse, a place of server.reach, or below one";
                return Err(refused(format!("`{path}` is outside of what this server reads")).with_hint(hint));
            }
        }
    }
    Ok(())
}

/// Checks that the set-up has made all tables that grants call by their names alone.
///
/// # Errors
/// [`gust_engine::error::ErrorKind::Setup`] for the first that it has not.
pub(crate) fn check_set_up(base: &Session) -> Result<(), QueryError> {
    let own = base.context().catalog(OWN_CATALOG).and_then(|own| own.schema(OWN_SCHEMA));
    let made = own.map(|own| own.table_names()).unwrap_or_default();
    let wanted = base.config().server.grants.iter().flat_map(|grant| &grant.tables);
    for name in wanted.filter_map(TablePattern::set_up_table) {
        if made.iter().any(|made| made == name) {
            continue;
        }
        let hint = match nearest(name, made.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "a table of a catalog is catalog.namespace.table".to_owned(),
        };
        return Err(QueryError::setup(format!("{SETTING}: --setup makes no table `{name}`")).with_hint(hint));
    }
    Ok(())
}

/// Adds up what grants give a user of these groups.
///
/// # Errors
/// Those of [`TableGrants::new`].
pub(crate) fn of(grants: &[GrantConfig], user: &str, groups: &[String]) -> Result<TableGrants, QueryError> {
    let is_his = |grant: &&GrantConfig| {
        grant.users.iter().any(|of| of == user) || grant.groups.iter().any(|of| groups.contains(of))
    };
    TableGrants::new(user, grants.iter().filter(is_his))
}
