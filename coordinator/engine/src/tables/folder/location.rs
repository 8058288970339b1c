//! A location of a table's files, as it is written: a path, a URL, a pattern.
//!
//! Names are taken as they stand. `?` and `#` of a URL begin no query and no fragment, and `%41` belongs to a name, as
//! in AWS's tools. `%41` is read as `A` only if nothing has that name.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::Path;
use percent_encoding::percent_decode_str;

use super::error::FolderError;
use super::glob::is_pattern;
use crate::storage::Reach;
use crate::tables::grants::TableGrants;

/// One location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableLocation {
    /// Text as it was written.
    pub(super) text: String,
    pub(super) store: ObjectStoreUrl,
    /// Names from the store's root on.
    pub(super) names: Vec<String>,
    /// Number of names at the beginning that were not written, but are the current folder's.
    pub(super) implied_names: usize,
    /// True if it can only be a folder.
    pub(super) is_folder: bool,
    /// Grants of the user who wrote it; None for one who may name every place.
    pub(super) grants: Option<Arc<TableGrants>>,
}

impl TableLocation {
    /// Parses a path, a URL or a pattern.
    ///
    /// # Errors
    /// [`FolderError`] for an empty text, a URL without a bucket, and a file URL with a host. An I/O error without a
    /// current folder.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let refused = |reason: &str| FolderError::NotALocation { location: text.to_owned(), reason: reason.to_owned() };
        if text.is_empty() {
            return Err(refused("it is empty").into());
        }
        let is_folder = text.ends_with('/');
        let Some((scheme, rest)) = split_scheme(text) else {
            let path = text
                .strip_prefix("file:")
                .filter(|path| path.starts_with('/'))
                .map_or_else(|| in_home_folder(text), Into::into);
            return Ok(Self { text: text.to_owned(), ..Self::local(&path)? });
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if scheme == "file" {
            if !matches!(host, "" | "localhost") {
                return Err(refused("a file URL begins with file:///").into());
            }
            return Ok(Self { text: text.to_owned(), ..Self::local(&format!("/{path}"))? });
        }
        if host.is_empty() {
            return Err(refused("it names no bucket").into());
        }
        if host.contains('@') {
            return Err(refused("a bucket's name has no `@`, and credentials are set in the configuration").into());
        }
        let store = ObjectStoreUrl::parse(format!("{scheme}://{host}"))?;
        let names = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let is_folder = is_folder || path.is_empty();
        Ok(Self { text: text.to_owned(), store, names, implied_names: 0, is_folder, grants: None })
    }

    fn local(text: &str) -> Result<Self> {
        let mut names: Vec<String> = Vec::new();
        let mut implied_names = 0;
        if !text.starts_with('/') {
            let current = std::env::current_dir()?;
            names.extend(current.iter().skip(1).map(|name| name.to_string_lossy().into_owned()));
            implied_names = names.len();
        }
        for name in text.split('/') {
            match name {
                "" | "." => {}
                ".." => {
                    names.pop();
                    implied_names = implied_names.min(names.len());
                }
                name => names.push(name.to_owned()),
            }
        }
        let is_folder = text.ends_with(['/']) || std::path::Path::new(text).is_dir();
        let (text, store) = (text.to_owned(), ObjectStoreUrl::local_filesystem());
        Ok(Self { text, store, names, implied_names, is_folder, grants: None })
    }

    /// Checks that a session may read below its names before the first pattern.
    ///
    /// # Errors
    /// [`crate::error::QueryError`] if it may not.
    pub(super) fn check(&self, reach: &Reach) -> Result<()> {
        let Some(beginning) = self.beginning() else { return Ok(()) };
        Ok(reach.check(self.store.as_str(), &beginning)?)
    }

    /// Checks that its writer may name it, as far as it has no pattern.
    ///
    /// # Errors
    /// [`crate::error::QueryError`] if no grant gives it.
    pub(super) fn check_granted(&self) -> Result<()> {
        let (Some(grants), Some(beginning)) = (&self.grants, self.beginning()) else { return Ok(()) };
        Ok(grants.check(self.store.as_str(), &beginning)?)
    }

    /// Returns its names before the first pattern. A name that no store can hold is refused later, by its own words.
    fn beginning(&self) -> Option<Path> {
        path_of(self.names.iter().map(String::as_str).take_while(|name| !is_pattern(name))).ok()
    }

    pub(super) fn is_local(&self) -> bool {
        self.store == ObjectStoreUrl::local_filesystem()
    }

    /// Tells if it is a folder of this machine that exists.
    pub(super) fn is_local_folder(&self) -> bool {
        self.is_local() && std::path::Path::new("/").join(self.names.join("/")).is_dir()
    }

    /// Returns the location with `%41` read as `A`, if it is a URL that has such an escape.
    pub(super) fn decoded(&self) -> Option<Self> {
        if !self.text.contains("://") {
            return None;
        }
        let decode = |name: &String| percent_decode_str(name).decode_utf8().ok().map(|name| name.into_owned());
        let names: Vec<String> = self.names.iter().map(decode).collect::<Option<_>>()?;
        (names != self.names).then(|| Self { names, ..self.clone() })
    }

    /// Returns the names as a pattern without a slash at its beginning. A slash at its end says that it can only be a
    /// folder.
    pub(super) fn pattern(&self) -> String {
        let slash = if self.is_folder { "/" } else { "" };
        self.names.join("/") + slash
    }
}

/// Joins names to a path of object_store's, which takes them literally.
///
/// # Errors
/// An error for a name that object_store cannot hold, such as one with control characters.
pub(super) fn path_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Path> {
    let joined = names.into_iter().collect::<Vec<_>>().join("/");
    Path::parse(&joined).map_err(|e| object_store::Error::from(e).into())
}

/// Puts `~/x` into the user's folder, as a shell does, unless a folder has the name `~`.
fn in_home_folder(text: &str) -> Cow<'_, str> {
    let below = text.strip_prefix("~/").filter(|_| !std::path::Path::new("~").exists());
    match (below, std::env::home_dir()) {
        (Some(below), Some(home)) => format!("{}/{below}", home.display()).into(),
        _ => text.into(),
    }
}

/// Splits `s3://…` into `s3` and the rest. A local path has None.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (is_scheme && scheme.starts_with(|c: char| c.is_ascii_alphabetic())).then_some((scheme, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, store: &str, pattern: &str, written: usize) {
        let location = TableLocation::parse(text).expect(text);
        assert_eq!((location.store.as_str(), location.pattern().as_str()), (store, pattern), "{text}");
        assert_eq!(location.names.len() - location.implied_names, written, "{text}");
    }

    #[test]
    fn names_are_taken_as_they_stand() {
        check("s3://b/t/a b%3A?#.p", "s3://b/", "t/a b%3A?#.p", 2);
        check("s3a://b", "s3a://b/", "/", 0);
        check("s3://b/t/", "s3://b/", "t/", 1);
        check("file:///x/y z/*.p", "file:///", "x/y z/*.p", 3);
        check("file:/x/y", "file:///", "x/y", 2);
        let home = std::env::home_dir().expect("a home").display().to_string();
        check("~/x/*.p", "file:///", &format!("{}/x/*.p", home.trim_matches('/')), home.matches('/').count() + 2);
        check("/nowhere/./a/../b//c.p", "file:///", "nowhere/b/c.p", 3);
        let here = TableLocation::parse("d=1/*.p").expect("a path");
        assert!(here.pattern().ends_with("/d=1/*.p") && here.names.len() - here.implied_names == 2, "{here:?}");
        let decoded = TableLocation::parse("s3://b/a%20b/").expect("a URL").decoded().expect("another reading");
        assert_eq!(decoded.pattern(), "a b/");
        assert_eq!(TableLocation::parse("/x/a%20b").expect("a path").decoded(), None);
        for bad in ["", "s3:///t", "s3://id@b/t", "file://host/t"] {
            TableLocation::parse(bad).expect_err(bad);
        }
    }
}
