//! Metadata of a table, as a writer leaves it.

use serde_json::{Value as Json, json};

use super::history::{DataFile, DeleteFile, Deleted, Part, Tuple};
use super::*;
use crate::avro::tests::file as avro_file;
use crate::manifests::tests::{column, list, listed, manifest_schema};

impl History {
    /// Writes the table's files: each commit of a spec is a manifest, or several are one.
    pub(super) async fn write(&self, rng: &mut StdRng) -> Lake {
        let [a, b] = self.ids;
        let ty = self.a.to_string();
        let columns = match a < b {
            true => json!([column(a, "a", ty.as_str()), column(b, "b", "int")]),
            false => json!([column(b, "b", "int"), column(a, "a", ty.as_str())]),
        };
        let mut lake = Lake::new(3, columns, json!([]));
        let specs = (0..).zip(&self.specs).map(|(id, parts)| json!({"spec-id": id, "fields": self.spec_json(parts)}));
        lake.metadata["partition-specs"] = specs.collect();
        let mut rows = Vec::new();
        for spec in 0..self.specs.len() {
            let files = self.files.iter().filter(|file| file.spec == spec);
            let entries: Vec<_> =
                files.map(|file| (file.sequence_number, &file.tuple, self.data_entry(file, rng))).collect();
            self.put(&lake, spec, 0, entries, &mut rows, rng).await;
            let deletes = self.deletes.iter().filter(|delete| delete.spec == spec);
            let entries: Vec<_> =
                deletes.map(|delete| (delete.sequence_number, &delete.tuple, self.delete_entry(delete, rng))).collect();
            self.put(&lake, spec, 1, entries, &mut rows, rng).await;
        }
        for at in (1..rows.len()).rev() {
            rows.swap(at, rng.random_range(0..=at));
        }
        lake.put("list", list(&rows)).await;
        let sum = |content: i32, name: &str| {
            let own = rows.iter().filter(|row| row["content"] == json!(content));
            own.map(|row| row[name].as_u64().unwrap()).sum::<u64>().to_string()
        };
        lake.metadata["snapshots"][0]["summary"] = json!({
            "operation": "overwrite",
            "total-data-files": sum(0, "added_files_count"), "total-records": sum(0, "added_rows_count"),
            "total-delete-files": sum(1, "added_files_count"), "total-position-deletes": sum(1, "added_rows_count"),
            "total-equality-deletes": "0",
        });
        lake
    }

    fn spec_json(&self, parts: &[Part]) -> Json {
        let fields = (0..).zip(parts).map(|(number, part)| {
            json!({"source-id": self.ids[usize::from(!part.of_a)], "field-id": 1000 + number, "name": format!("p{number}"),
                "transform": part.transform.to_string()})
        });
        fields.collect()
    }

    /// Writes entries of one spec and content into manifests of one commit, or of several.
    async fn put(
        &self,
        lake: &Lake,
        spec: usize,
        content: i32,
        entries: Vec<(i64, &Tuple, Json)>,
        listed_rows: &mut Vec<Json>,
        rng: &mut StdRng,
    ) {
        let mut manifests: Vec<Vec<(i64, &Tuple, Json)>> = Vec::new();
        for entry in entries {
            match manifests.last_mut() {
                Some(last) if rng.random() => last.push(entry),
                _ => manifests.push(vec![entry]),
            }
        }
        for entries in manifests {
            let number = entries.iter().map(|(number, ..)| *number).max().unwrap();
            let tuples: Vec<_> = entries.iter().map(|(_, tuple, _)| *tuple).collect();
            let summaries = self.summaries(spec, &tuples, rng);
            let count = entries.len();
            let counted = |(_, _, entry): &(i64, &Tuple, Json)| entry["data_file"]["record_count"].as_u64().unwrap();
            let records = entries.iter().map(counted).sum::<u64>();
            let entries = entries.into_iter().map(|(own, _, mut entry)| {
                // Numbers are inherited only where the manifest's commit has added the file.
                if own != number || rng.random_ratio(1, 4) {
                    entry["sequence_number"] = json!(own);
                    entry["status"] = json!(rng.random_range(0..2));
                }
                entry
            });
            let entries: Vec<_> = entries.collect();
            let header = [
                ("partition-spec", self.spec_json(&self.specs[spec]).to_string()),
                ("partition-spec-id", spec.to_string()),
            ];
            let codec = ["null", "deflate", "zstandard", "snappy"][rng.random_range(0..4)];
            let bytes = avro_file(&manifest_schema(&self.partition_fields(spec)), &header, codec, &entries);
            let name = format!("m{}", listed_rows.len());
            let mut row = listed(&format!("s3://b/{name}"), bytes.len(), content, number);
            row["partition_spec_id"] = json!(spec);
            row["added_files_count"] = json!(count);
            row["added_rows_count"] = json!(records);
            row["partitions"] = summaries;
            listed_rows.push(row);
            lake.put(&name, bytes).await;
        }
    }

    fn partition_type(&self, part: &Part) -> Option<Type> {
        result_type_of(part.transform, self.source(part))
    }

    fn partition_fields(&self, spec: usize) -> Vec<Json> {
        let field = |(number, part): (usize, &Part)| {
            let name = format!("p{number}");
            let ty = match self.partition_type(part) {
                None | Some(Type::Int | Type::Date) => json!("int"),
                Some(Type::Boolean) => json!("boolean"),
                Some(Type::Float) => json!("float"),
                Some(Type::Double) => json!("double"),
                Some(Type::String) => json!("string"),
                Some(Type::Uuid) => json!({"type": "fixed", "name": format!("uuid{number}"), "size": 16}),
                Some(Type::Binary | Type::Decimal { .. }) => json!("bytes"),
                Some(_) => json!("long"),
            };
            json!({"name": name, "type": ["null", ty], "default": null, "field-id": 1000 + number})
        };
        self.specs[spec].iter().enumerate().map(field).collect()
    }

    fn summaries(&self, spec: usize, tuples: &[&Tuple], rng: &mut StdRng) -> Json {
        if rng.random_ratio(1, 8) {
            return json!(null);
        }
        let judge = Judge { order: Order::Total, unknown: None };
        let summary = |number: usize| {
            let values: Vec<_> = tuples.iter().map(|tuple| &tuple[number]).collect();
            let mut sorted: Vec<_> =
                values.iter().filter_map(|value| value.as_ref()).filter(|value| !value.is_nan()).collect();
            sorted.sort_by(|a, b| judge.compare(a, b).unwrap());
            let has_nan = values.iter().any(|value| value.as_ref().is_some_and(Scalar::is_nan));
            json!({"contains_null": values.iter().any(|value| value.is_none()), "contains_nan": has_nan,
                "lower_bound": sorted.first().map(|value| single_value(value)),
                "upper_bound": sorted.last().map(|value| single_value(value))})
        };
        (0..self.specs[spec].len()).map(summary).collect()
    }

    fn partition(&self, tuple: &Tuple) -> Json {
        let named = (0..).zip(tuple).map(|(number, value): (usize, _)| {
            let value = match value {
                None => json!(null),
                Some(Scalar::Boolean(v)) => json!(v),
                Some(Scalar::Float(v)) => json!(v.to_string()),
                Some(Scalar::Double(v)) => json!(v.to_string()),
                Some(Scalar::String(v)) => json!(v),
                Some(value @ (Scalar::Uuid(_) | Scalar::Binary(_) | Scalar::Decimal { .. })) => {
                    json!(single_value(value))
                }
                Some(value) => json!(integer(value)),
            };
            (format!("p{number}"), value)
        });
        Json::Object(named.collect())
    }

    fn entry(&self, path: &str, tuple: &Tuple, content: i32, format: &str, rows: usize) -> Json {
        json!({"status": 1, "snapshot_id": 1, "data_file": {"content": content, "file_path": path, "file_format": format,
            "partition": self.partition(tuple), "record_count": rows, "file_size_in_bytes": 1000}})
    }

    fn data_entry(&self, file: &DataFile, rng: &mut StdRng) -> Json {
        let mut entry = self.entry(&file.path, &file.tuple, 0, "PARQUET", file.rows.len());
        put_metrics(&mut entry, &self.ids, &describe(&file.rows, None, rng).columns);
        entry
    }

    fn delete_entry(&self, delete: &DeleteFile, rng: &mut StdRng) -> Json {
        let entry = |content, format, rows| self.entry(&delete.path, &delete.tuple, content, format, rows);
        match &delete.content {
            Deleted::Vector { of, positions } => {
                let mut entry = entry(1, "PUFFIN", positions.len());
                entry["data_file"]["referenced_data_file"] = json!(of);
                entry["data_file"]["content_offset"] = json!(4);
                entry["data_file"]["content_size_in_bytes"] = json!(40);
                entry
            }
            Deleted::Positions { of, rows } => {
                let mut entry = entry(1, "PARQUET", rows.len());
                entry["data_file"]["referenced_data_file"] = json!(of);
                entry
            }
            Deleted::Keys(keys) => {
                let mut entry = entry(2, "PARQUET", keys.len());
                entry["data_file"]["equality_ids"] = json!([self.ids[1]]);
                let rows: Vec<Row> = keys.iter().map(|key| (None, *key)).collect();
                let [_, b] = describe(&rows, None, rng).columns;
                put_metrics(&mut entry, &self.ids[1..], &[b]);
                entry
            }
        }
    }
}

/// Writes a value as the specification's appendix D says.
fn single_value(value: &Scalar) -> Vec<u8> {
    match value {
        Scalar::Boolean(v) => vec![u8::from(*v)],
        Scalar::Int(v) | Scalar::Date(v) => v.to_le_bytes().into(),
        Scalar::Float(v) => v.to_le_bytes().into(),
        Scalar::Double(v) => v.to_le_bytes().into(),
        Scalar::String(v) => v.as_bytes().into(),
        Scalar::Binary(v) => v.clone(),
        Scalar::Uuid(v) => v.to_be_bytes().into(),
        Scalar::Decimal { unscaled, .. } => unscaled.to_be_bytes().into(),
        other => integer(other).to_le_bytes().into(),
    }
}

fn put_metrics(entry: &mut Json, ids: &[i32], columns: &[ColumnFacts]) {
    let mut put = |name: &str, value: &dyn Fn(&ColumnFacts) -> Option<Json>| {
        let found = ids.iter().zip(columns).filter_map(|(id, facts)| Some(json!({"key": id, "value": value(facts)?})));
        entry["data_file"][name] = found.collect();
    };
    put("value_counts", &|facts| Some(json!(facts.values?)));
    put("null_value_counts", &|facts| Some(json!(facts.nulls?)));
    put("nan_value_counts", &|facts| Some(json!(facts.nans?)));
    put("lower_bounds", &|facts| Some(json!(single_value(facts.lower.as_ref()?))));
    put("upper_bounds", &|facts| Some(json!(single_value(facts.upper.as_ref()?))));
}
