//! Iceberg's absolute paths, as an object store and a path within it.
//!
//! A location is not a URL. Nothing in it is percent-encoded, so that `a%20b` and `a b` are two files.

use object_store::path::Path;
use url::Url;

use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Root of the store: `file:///` or `s3://bucket/`. The schemes s3a and s3n become s3. A key with an empty segment, which no
    /// [`Path`] can hold, is below a root of its own: `s3://bucket/t//`.
    pub store: Url,
    pub path: Path,
}

impl Location {
    /// Parses `/a/b`, `file:/a/b`, `file:///a/b`, `s3://bucket/key` and other schemes of that form.
    ///
    /// # Errors
    /// Invalid: a relative path, or `..`.
    pub fn parse(location: &str) -> Result<Location> {
        let invalid = |why: &str| Error::Invalid(format!("cannot use location {location}: {why}"));
        let (store, path) = match location.split_once(':') {
            _ if location.starts_with('/') => ("file:///".to_string(), location),
            Some(("file", rest)) => {
                let rest = rest.strip_prefix("//").unwrap_or(rest);
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err(invalid("a file has an absolute path"));
                }
                ("file:///".to_string(), path)
            }
            Some((scheme, rest)) => {
                let rest = rest.strip_prefix("//").ok_or_else(|| invalid("expected a scheme followed by ://"))?;
                let scheme = match scheme {
                    "s3a" | "s3n" => "s3",
                    other => other,
                };
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                if authority.contains('@') {
                    return Err(invalid("a bucket's name has no `@`"));
                }
                let (root, path) = match path.rfind("//") {
                    Some(empty) => path.split_at(empty + 2),
                    None if path.starts_with('/') => path.split_at(1),
                    None => ("", path),
                };
                if root.split('/').any(|part| part == "." || part == "..") {
                    return Err(invalid("it has a segment `.` or `..`"));
                }
                (format!("{scheme}://{authority}/{}", encoded(root)), path)
            }
            None => return Err(invalid("it is relative; pass an absolute path or a URL")),
        };
        // Only file systems take `//` for `/`.
        let path = match store.as_str() {
            "file:///" => path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"),
            _ => path.to_string(),
        };
        let store = Url::parse(&store).map_err(|error| invalid(&error.to_string()))?;
        let path = Path::parse(path).map_err(|error| invalid(&error.to_string()))?;
        Ok(Location { store, path })
    }
}

/// Encodes a root as keys are encoded in requests, so that a URL takes nothing in it for its own.
fn encoded(root: &str) -> String {
    let mut encoded = String::with_capacity(root.len());
    for byte in root.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte))
            }
            byte => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_splits_store_and_path() {
        let check = |location: &str, expect: Option<(&str, &str)>| {
            let parsed = Location::parse(location).ok();
            let parsed = parsed.as_ref().map(|l| (l.store.as_str(), l.path.as_ref()));
            assert_eq!(parsed, expect, "{location}");
        };
        check("/a/b c.avro", Some(("file:///", "a/b c.avro")));
        check("file:///a/b", Some(("file:///", "a/b")));
        check("file:/a//b/", Some(("file:///", "a/b")));
        check("file://localhost/a", Some(("file:///", "a")));
        check("file://a/b", None);
        check("s3://bucket/a%20b/c=1", Some(("s3://bucket/", "a%20b/c=1")));
        check("s3a://bucket/a:b", Some(("s3://bucket/", "a:b")));
        check("s3://bucket", Some(("s3://bucket/", "")));
        check("memory://x/a", Some(("memory://x/", "a")));
        check("s3://bucket//a", Some(("s3://bucket//", "a")));
        check("s3://bucket/t//data/x", Some(("s3://bucket/t//", "data/x")));
        check("s3://bucket/t///a//x/y", Some(("s3://bucket/t///a//", "x/y")));
        check("s3://bucket/a b%20=//x", Some(("s3://bucket/a%20b%2520%3D//", "x")));
        check("s3://id@bucket/a", None);
        check("s3://bucket//../a", None);
        check("s3://bucket/../b//a", None);
        check("/a/../b", None);
        check("a/b", None);
        check("s3:bucket", None);
    }
}
