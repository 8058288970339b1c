//! Iceberg tables on S3 whose files lie where few engines look, and the engines that judge them: F11 (files in several stores) and F13
//! (keys with an empty segment) of the review of November 2026.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use object_store::ObjectStoreExt;
use parquet::file::properties::WriterProperties;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use crate::iceberg::{DataFile, IcebergTable, field, parquet};
use crate::s3::identity::{COORDINATOR, access_key};
use crate::s3::{REGION, S3Server, SECRET_ACCESS_KEY};
use crate::{cloud, python};

const ROWS: i64 = 10;

/// Table with its rows.
#[derive(Debug, Clone)]
pub struct OddTable {
    /// Number of the finding.
    pub name: &'static str,
    pub metadata: String,
    pub ids: Vec<i64>,
}

/// Answer of an engine.
#[derive(Debug, Clone, Deserialize)]
pub struct Judged {
    pub engine: String,
    /// None where it refuses the table.
    pub ids: Option<Vec<i64>>,
    #[serde(default)]
    pub error: String,
}

/// Writes a file wherever its location says.
///
/// # Errors
/// Those of the store, and locations that are none.
pub async fn put(server: &S3Server, location: &str, bytes: Vec<u8>) -> anyhow::Result<u64> {
    let size = bytes.len() as u64;
    let place = gust_catalog::Location::parse(location)?;
    if place.store.scheme() == "file" {
        let path = Path::new("/").join(place.path.as_ref());
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, bytes)?;
        return Ok(size);
    }
    let mut access = cloud::access(server, "writer");
    access.url = place.store.to_string();
    let opened = fragment_fn::connect(&access, None).map_err(anyhow::Error::msg)?;
    opened.store.put(&place.path, bytes.into()).await?;
    Ok(size)
}

/// Writes a table for each finding, and one without any. `folder` is one of this machine.
///
/// # Errors
/// Those of [`put`].
pub async fn write(server: &S3Server, folder: &Path) -> anyhow::Result<Vec<OddTable>> {
    let here = Url::from_directory_path(folder).map_err(|()| anyhow::anyhow!("no absolute path"))?;
    let places = [
        ("plain", server.url("plain"), vec![server.url("plain/data/a.parquet")]),
        ("F11", server.url("several"), vec![server.url("several/data/a.parquet"), format!("{here}data/b.parquet")]),
        ("F13", server.url("empty"), vec![server.url("empty//data/a.parquet"), server.url("empty/data/b.parquet")]),
    ];
    let mut tables = Vec::new();
    for (name, location, paths) in places {
        let mut data = Vec::new();
        for (path, first) in paths.iter().zip((0..).step_by(100)) {
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + ROWS));
            let bytes = parquet(&[field(1, "id", DataType::Int64)], vec![ids], WriterProperties::default())?;
            data.push(DataFile::new(path, put(server, path, bytes).await?, ROWS as u64));
        }
        let ids = (0..100 * data.len() as i64).filter(|id| id % 100 < ROWS).collect();
        let fields = json!([{"id": 1, "name": "id", "required": false, "type": "long"}]);
        let properties = json!({});
        let table = IcebergTable { location, fields, data, properties, ..IcebergTable::default() };
        for (path, bytes) in table.metadata() {
            put(server, &path, bytes).await?;
        }
        tables.push(OddTable { name, metadata: table.metadata_path(), ids });
    }
    Ok(tables)
}

/// Asks engines, by their names in `location_judge.py`, for the ids of a table.
///
/// # Errors
/// A script that fails, and one that does not answer for each engine.
pub fn judge(python: &Path, server: &S3Server, table: &OddTable, engines: &[&str]) -> anyhow::Result<Vec<Judged>> {
    let (key, endpoint) = (access_key(COORDINATOR), server.endpoint());
    let mut command = Command::new(python);
    command.arg(python::scripts().join("location_judge.py"));
    command.args([table.metadata.as_str(), endpoint, REGION, &key, SECRET_ACCESS_KEY]).args(engines);
    let output = command.output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let judged = stdout.lines().filter(|line| line.starts_with("{\"engine\"")).map(serde_json::from_str);
    let judged = judged.collect::<Result<Vec<Judged>, _>>()?;
    ensure!(
        output.status.success() && judged.len() == engines.len(),
        "location_judge.py ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(judged)
}
