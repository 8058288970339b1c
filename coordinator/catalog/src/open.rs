//! Tables without a catalog: a metadata file, or the folder of a table.
//!
//! A folder is only a guess at the current version: the highest number in `metadata/`, unless
//! `version-hint.text` names another. A commit that failed half-way can leave a higher number behind.

use futures::StreamExt;
use futures::future::BoxFuture;

use crate::error::{Error, Result};
use crate::location::Location;
use crate::storage::CatalogStores;
use crate::table::Table;

const METADATA_SUFFIXES: [&str; 3] = [".metadata.json.gz", ".gz.metadata.json", ".metadata.json"];

impl Table {
    /// Opens `…/metadata/00001-….metadata.json`, or the table folder above it.
    ///
    /// # Errors
    /// Those of a table of a catalog, and invalid where the folder's current version is ambiguous.
    pub fn open<'a>(location: &'a str, stores: &'a CatalogStores) -> BoxFuture<'a, Result<Table>> {
        Box::pin(async move {
            let location = location.trim_end_matches('/');
            if METADATA_SUFFIXES.iter().any(|suffix| location.ends_with(suffix)) {
                let folder = location.rsplit('/').nth(2).unwrap_or(location);
                return Table::load(folder, location, stores).await;
            }
            let metadata_location = current_metadata(location, stores).await?;
            let folder = location.rsplit('/').next().unwrap_or(location);
            Table::load(folder, &metadata_location, stores).await
        })
    }
}

async fn current_metadata(folder: &str, stores: &CatalogStores) -> Result<String> {
    let hint = match stores.read(&format!("{folder}/metadata/version-hint.text")).await {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).trim().to_string()),
        Err(Error::Missing { .. }) => None,
        Err(error) => return Err(error),
    };
    let files = metadata_files(folder, stores).await?;
    let chosen = match &hint {
        Some(hint) => hinted(hint, &files),
        None => newest(&files),
    };
    match chosen[..] {
        [name] => Ok(format!("{folder}/metadata/{name}")),
        [] => Err(Error::NotFound {
            what: format!("Iceberg table in {folder}"),
            hint: Some(match hint {
                Some(hint) => format!("version-hint.text files {hint}, which is not there"),
                None => "expected metadata/*.metadata.json in it".to_string(),
            }),
        }),
        [one, other, ..] => {
            let [folder, one, other] = [folder, one, other].map(str::to_owned);
            Err(Error::Ambiguous { folder, one, other })
        }
    }
}

/// Metadata file of a table's folder.
struct MetadataVersion {
    version: u64,
    name: String,
}

/// Lists the metadata files of a folder.
async fn metadata_files(folder: &str, stores: &CatalogStores) -> Result<Vec<MetadataVersion>> {
    let Location { store, .. } = Location::parse(&format!("{folder}/metadata"))?;
    if store.scheme() != "file" && store.path() != "/" {
        let why = "its name has an empty segment; pass the path of the metadata file";
        return Err(Error::Invalid(format!("cannot list the folder {folder}: {why}")));
    }
    let (store, path) = stores.locate(&format!("{folder}/metadata"))?;
    let mut objects = store.list(Some(&path));
    let mut files = Vec::new();
    while let Some(object) = objects.next().await {
        let object = object.map_err(|error| Error::from_object_store(folder, error))?;
        let inside = object.location.prefix_match(&path).map(Iterator::count);
        let name = object.location.filename().unwrap_or_default();
        if let (Some(1), Some(version)) = (inside, version(name)) {
            files.push(MetadataVersion { version, name: name.to_string() });
        }
    }
    Ok(files)
}

fn newest(files: &[MetadataVersion]) -> Vec<&str> {
    let newest = files.iter().map(|file| file.version).max();
    of_version(newest, files)
}

/// Finds the files of a hint, which is a version, or a file's name with or without its suffix.
fn hinted<'a>(hint: &str, files: &'a [MetadataVersion]) -> Vec<&'a str> {
    if let Ok(version) = hint.parse() {
        return of_version(Some(version), files);
    }
    let names = files.iter().map(|file| file.name.as_str());
    names.filter(|name| *name == hint || stem(name) == Some(hint)).collect()
}

fn of_version(wanted: Option<u64>, files: &[MetadataVersion]) -> Vec<&str> {
    let matching = files.iter().filter(|file| Some(file.version) == wanted);
    matching.map(|file| file.name.as_str()).collect()
}

fn stem(name: &str) -> Option<&str> {
    METADATA_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix))
}

/// Reads the version from `v12.metadata.json` or `00012-….metadata.json`.
fn version(name: &str) -> Option<u64> {
    let stem = stem(name)?;
    let digits = match stem.strip_prefix('v') {
        Some(digits) => digits,
        None => stem.split('-').next()?,
    };
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::local_stores;

    #[test]
    fn version_of_metadata_files() {
        let check = |name, expect| assert_eq!(version(name), expect, "{name}");
        check("v12.metadata.json", Some(12));
        check("v12.gz.metadata.json", Some(12));
        check("v12.metadata.json.gz", Some(12));
        check("00012-9c4f.metadata.json", Some(12));
        check("snap-12.avro", None);
        check("x.metadata.json", None);
        check("version-hint.text", None);
    }

    #[tokio::test]
    async fn current_metadata_follows_hint_then_number() {
        let check = async |files: &[(&str, &str)], expect: Result<&str, &str>| {
            let folder = tempfile::tempdir().unwrap();
            let metadata = folder.path().join("metadata");
            std::fs::create_dir_all(metadata.join("below")).unwrap();
            std::fs::write(metadata.join("below/v99.metadata.json"), "{}").unwrap();
            for (name, content) in files {
                std::fs::write(metadata.join(name), content).unwrap();
            }
            let folder = folder.path().to_str().unwrap();
            let found = current_metadata(folder, &local_stores()).await;
            match (found, expect) {
                (Ok(found), Ok(expect)) => assert_eq!(found, format!("{folder}/metadata/{expect}")),
                (Err(error), Err(expect)) => {
                    let told = format!("{error}; {}", error.hint().unwrap_or_default());
                    assert!(told.contains(expect), "{told}");
                }
                (found, expect) => panic!("{files:?}: {found:?}, expected {expect:?}"),
            }
        };
        let (v2, v10) = (("v2.metadata.json", "{}"), ("v10.metadata.json", "{}"));
        let (a, b) = (("00003-a.metadata.json", "{}"), ("00003-b.metadata.json", "{}"));
        check(&[v2, v10], Ok("v10.metadata.json")).await;
        check(&[v2, v10, ("version-hint.text", "2\n")], Ok("v2.metadata.json")).await;
        check(&[a, b, ("version-hint.text", "00003-b")], Ok("00003-b.metadata.json")).await;
        check(&[v2, a, b], Err("two newest metadata files")).await;
        check(&[v2, ("version-hint.text", "7")], Err("files 7, which is not there")).await;
        check(&[], Err("expected metadata/*.metadata.json")).await;
    }

    #[tokio::test]
    async fn open_refuses_what_it_would_read_wrongly() {
        let check = async |metadata: &str, expect: &str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("v1.metadata.json");
            std::fs::write(&file, metadata).unwrap();
            let error = Table::open(file.to_str().unwrap(), &local_stores()).await;
            let error = error.unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        };
        let column = |column: &str| {
            format!(
                r#"{{"format-version": 3, "current-schema-id": 1, "schemas": [{{"schema-id": 1,
                "type": "struct", "fields": [{column}]}}]}}"#
            )
        };
        check(r#"{"format-version": 4}"#, "format version 4").await;
        let variant = column(r#"{"id": 1, "name": "v", "required": false, "type": "variant"}"#);
        check(&variant, "column v of type variant").await;
        let nested = column(
            r#"{"id": 1, "name": "l", "required": false, "type": {"type": "list",
            "element-id": 2, "element-required": false, "element": "geometry(srid:4326)"}}"#,
        );
        check(&nested, "of type geometry(srid:4326)").await;
        let default = column(r#"{"id": 1, "name": "d", "required": true, "type": "int", "initial-default": [7]}"#);
        check(&default, "column d of type int with an initial default").await;
        check("{}", "cannot read").await;
        check("not json", "cannot read").await;
    }
}
