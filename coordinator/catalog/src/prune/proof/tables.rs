//! Proof over whole tables: random schemas, specs, deletes, manifests and predicates. A table is planned with and without its predicate,
//! and the rows that a reader finds by the plans are compared with those of the history that made it.
//!
//! The reader here has the rows of all files and follows a plan to the letter: files that it keeps, vectors and positions of a file,
//! keys by scopes and sequence numbers. The truth follows the specification's sentences, and knows no plan.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::*;
use crate::avro::tests::file as avro_file;
use crate::error::Error;
use crate::manifests::tests::{Lake, column, list, listed, manifest_schema};
use crate::scan::{DeleteContent, DeleteSet, FilePlan};

/// Tables of the test that always runs.
const TABLES: u64 = 300;
const PREDICATES: usize = 4;

/// Field of a spec.
#[derive(Debug, Clone, Copy)]
struct Part {
    of_a: bool,
    transform: Transform,
}

type Tuple = Vec<Option<Scalar>>;

#[derive(Debug)]
struct DataFile {
    path: String,
    rows: Vec<Row>,
    sequence_number: i64,
    spec: usize,
    tuple: Tuple,
}

#[derive(Debug)]
struct DeleteFile {
    path: String,
    sequence_number: i64,
    spec: usize,
    tuple: Tuple,
    content: Deleted,
}

#[derive(Debug)]
enum Deleted {
    Vector {
        of: String,
        positions: BTreeSet<usize>,
    },
    Positions {
        of: Option<String>,
        rows: BTreeSet<(String, usize)>,
    },
    /// Values of `b`.
    Keys(BTreeSet<Option<i32>>),
}

/// Table with everything that its history knows.
#[derive(Debug)]
struct History {
    a: Type,
    /// Ids of `a` and `b`.
    ids: [i32; 2],
    specs: Vec<Vec<Part>>,
    files: Vec<DataFile>,
    deletes: Vec<DeleteFile>,
}

fn random_type(rng: &mut StdRng) -> Type {
    let decimal = Type::Decimal { precision: 9, scale: 2 };
    let types = [
        Type::Boolean,
        Type::Int,
        Type::Long,
        Type::Float,
        Type::Double,
        decimal,
        Type::Date,
        Type::Time,
        Type::Timestamp,
        Type::Timestamptz,
        Type::TimestampNs,
        Type::String,
        Type::Uuid,
        Type::Binary,
    ];
    types[rng.random_range(0..types.len())].clone()
}

fn random_transform(ty: &Type, rng: &mut StdRng) -> Transform {
    use Transform::*;
    let all: &[Transform] = match ty {
        Type::Boolean | Type::Float | Type::Double => &[Identity, Void],
        Type::Int | Type::Long | Type::Decimal { .. } | Type::String => &[Identity, Bucket(3), Truncate(3), Void],
        Type::Date => &[Identity, Bucket(3), Year, Month, Day],
        Type::Timestamp | Type::Timestamptz | Type::TimestampNs => &[Identity, Bucket(3), Year, Month, Day, Hour],
        Type::Binary => &[Identity, Bucket(3), Truncate(2)],
        _ => &[Identity, Bucket(3), Void],
    };
    all[rng.random_range(0..all.len())]
}

impl History {
    fn random(rng: &mut StdRng) -> History {
        let a = random_type(rng);
        let first = rng.random_range(1..40);
        let ids = if rng.random() { [first, first + rng.random_range(1..9)] } else { [first + 9, first] };
        let part = |rng: &mut StdRng| {
            let of_a = rng.random_ratio(2, 3);
            Part { of_a, transform: random_transform(if of_a { &a } else { &Type::Int }, rng) }
        };
        let specs = (0..rng.random_range(1..4)).map(|_| (0..rng.random_range(0..3)).map(|_| part(rng)).collect());
        let mut history = History { ids, specs: specs.collect(), a: a.clone(), files: Vec::new(), deletes: Vec::new() };
        for sequence_number in 1..=rng.random_range(2..8) {
            if history.files.is_empty() || rng.random_ratio(3, 5) {
                let spec = rng.random_range(0..history.specs.len());
                for _ in 0..rng.random_range(1..4) {
                    history.append(spec, sequence_number, rng);
                }
            } else {
                history.delete(sequence_number, rng);
            }
        }
        history
    }

    fn tuple(&self, spec: usize, row: &Row) -> Tuple {
        let value = |part: &Part| {
            let value = if part.of_a { row.0.clone() } else { row.1.map(Scalar::Int) };
            match part.transform {
                Transform::Void => None,
                transform => value.and_then(|value| judge_transform(transform, self.source(part), &value)),
            }
        };
        self.specs[spec].iter().map(value).collect()
    }

    fn source(&self, part: &Part) -> &Type {
        if part.of_a { &self.a } else { &Type::Int }
    }

    fn append(&mut self, spec: usize, sequence_number: i64, rng: &mut StdRng) {
        let row = |rng: &mut StdRng| -> Row {
            (
                rng.random_ratio(7, 8).then(|| random_value(&self.a, rng)),
                rng.random_ratio(7, 8).then(|| rng.random_range(0..6)),
            )
        };
        let first = row(rng);
        let tuple = self.tuple(spec, &first);
        let mut rows = vec![first];
        for _ in 0..30 {
            let next = row(rng);
            if rows.len() < ROWS_PER_FILE_MAX && same_tuple(&self.tuple(spec, &next), &tuple) {
                rows.push(next);
            }
        }
        let path = format!("s3://b/data/{}.parquet", self.files.len());
        self.files.push(DataFile { path, rows, sequence_number, spec, tuple });
    }

    fn delete(&mut self, sequence_number: i64, rng: &mut StdRng) {
        let of = &self.files[rng.random_range(0..self.files.len())];
        let (spec, tuple) = (of.spec, of.tuple.clone());
        let some = |file: &DataFile, rng: &mut StdRng| -> BTreeSet<usize> {
            (0..file.rows.len()).filter(|_| rng.random()).collect()
        };
        let has_vector = |path: &str| {
            self.deletes.iter().any(|delete| matches!(&delete.content, Deleted::Vector { of, .. } if of == path))
        };
        let content = match rng.random_range(0..4) {
            0 if !has_vector(&of.path) => Deleted::Vector { of: of.path.clone(), positions: some(of, rng) },
            1 => {
                let rows = some(of, rng).into_iter().map(|position| (of.path.clone(), position));
                Deleted::Positions { of: Some(of.path.clone()), rows: rows.collect() }
            }
            2 => {
                let of_partition =
                    self.files.iter().filter(|file| file.spec == spec && same_tuple(&file.tuple, &tuple));
                let rows = of_partition.flat_map(|file| {
                    some(file, rng).into_iter().map(|position| (file.path.clone(), position)).collect::<Vec<_>>()
                });
                Deleted::Positions { of: None, rows: rows.collect() }
            }
            _ => Deleted::Keys(
                (0..rng.random_range(1..3)).map(|_| rng.random_ratio(5, 6).then(|| rng.random_range(0..6))).collect(),
            ),
        };
        let path = format!("s3://b/deletes/{}.parquet", self.deletes.len());
        self.deletes.push(DeleteFile { path, sequence_number, spec, tuple, content });
    }

    /// Returns true where the specification says that the row is deleted.
    fn is_deleted(&self, file: &DataFile, position: usize) -> bool {
        let vector = self.deletes.iter().find_map(|delete| match &delete.content {
            Deleted::Vector { of, positions } if *of == file.path => Some(positions),
            _ => None,
        });
        let same_partition = |delete: &DeleteFile| delete.spec == file.spec && same_tuple(&delete.tuple, &file.tuple);
        self.deletes.iter().any(|delete| match &delete.content {
            Deleted::Vector { .. } => false,
            // A vector replaces them.
            Deleted::Positions { .. } if vector.is_some() => false,
            Deleted::Positions { of: Some(_), rows } => {
                delete.sequence_number >= file.sequence_number && rows.contains(&(file.path.clone(), position))
            }
            Deleted::Positions { of: None, rows } => {
                delete.sequence_number >= file.sequence_number
                    && same_partition(delete)
                    && rows.contains(&(file.path.clone(), position))
            }
            Deleted::Keys(keys) => {
                let is_global = self.specs[delete.spec].iter().all(|part| part.transform == Transform::Void);
                delete.sequence_number > file.sequence_number
                    && (is_global || same_partition(delete))
                    && keys.contains(&file.rows[position].1)
            }
        }) || vector.is_some_and(|positions| positions.contains(&position))
    }

    /// Lists the rows, each by its file and position, that match.
    fn truth(&self, matches: &dyn Fn(&Row) -> bool) -> BTreeSet<(String, usize)> {
        let rows = self.files.iter().flat_map(|file| (0..file.rows.len()).map(move |position| (file, position)));
        let left = rows.filter(|(file, position)| matches(&file.rows[*position]) && !self.is_deleted(file, *position));
        left.map(|(file, position)| (file.path.clone(), position)).collect()
    }

    /// Lists the rows that a reader finds by a plan.
    fn read(&self, plan: &FilePlan, matches: &dyn Fn(&Row) -> bool) -> BTreeSet<(String, usize)> {
        let contents = |number: &u32| {
            let path = plan.deletes[*number as usize].path.to_string();
            &self.deletes.iter().find(|delete| delete.path == path).unwrap().content
        };
        let mut found = BTreeSet::new();
        for planned in &plan.files {
            let path = planned.path.to_string();
            let file = self.files.iter().find(|file| file.path == path).unwrap();
            let none = DeleteSet::default();
            let set = planned.deletes.set.map_or(&none, |set| &plan.delete_sets[set as usize]);
            let is_deleted = |position: usize, row: &Row| {
                let by_vector = planned.deletes.vector.iter().any(|number| match contents(number) {
                    Deleted::Vector { of, positions } => *of == path && positions.contains(&position),
                    other => panic!("{other:?} is no vector"),
                });
                let by_positions = set.positions.iter().any(|number| match contents(number) {
                    Deleted::Positions { rows, .. } => rows.contains(&(path.clone(), position)),
                    other => panic!("{other:?} has no positions"),
                });
                let by_keys = (0..).zip(&plan.deletes).any(|(number, delete)| match &delete.content {
                    DeleteContent::Equality { scope, sequence_number, .. } => {
                        let Deleted::Keys(keys) = contents(&number) else { panic!("{delete:?} has no keys") };
                        set.equality.contains(scope)
                            && *sequence_number > planned.sequence_number
                            && keys.contains(&row.1)
                    }
                    _ => false,
                });
                by_vector || by_positions || by_keys
            };
            for (position, row) in file.rows.iter().enumerate() {
                if matches(row) && !is_deleted(position, row) {
                    found.insert((path.clone(), position));
                }
            }
        }
        found
    }

    /// Writes the table's files: each commit of a spec is a manifest, or several are one.
    async fn write(&self, rng: &mut StdRng) -> Lake {
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

fn same_tuple(a: &Tuple, b: &Tuple) -> bool {
    let same = |(a, b): (&Option<Scalar>, &Option<Scalar>)| match (a, b) {
        (Some(Scalar::Float(a)), Some(Scalar::Float(b))) => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
        (Some(Scalar::Double(a)), Some(Scalar::Double(b))) => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
        (a, b) => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
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

/// Checks a table, and returns how many files predicates and deletes have left out.
async fn check(seed: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let history = History::random(&mut rng);
    let lake = history.write(&mut rng).await;
    let mut pruned = 0;
    let (mut scans, mut plans) = (Vec::new(), Vec::new());
    for number in 0..PREDICATES {
        let predicate = match number {
            0 => Predicate::AlwaysTrue,
            _ => random_predicate(&history.a, 2, &mut rng),
        };
        let columns: Vec<i32> = history.ids.iter().copied().filter(|_| rng.random()).collect();
        let plan = lake.plan(&predicate, &columns).await;
        let plan = plan.unwrap_or_else(|error| panic!("seed {seed}: {}: {history:#?}", told(&error)));
        pruned += plan.pruning.files_total - plan.pruning.files_kept;
        for judge in Judge::all() {
            let matches = |row: &Row| judge.matches(&predicate, row) == Some(true);
            let (found, truth) = (history.read(&plan, &matches), history.truth(&matches));
            assert_eq!(found, truth, "seed {seed}: {predicate:?} of {history:#?}");
        }
        scans.push((predicate, columns.into_iter().collect()));
        plans.push(plan);
    }
    // Scans of one statement are planned together. Texts tell NaN from other values.
    let together = lake.afresh().plans(&scans).await.unwrap();
    assert_eq!(format!("{together:?}"), format!("{plans:?}"), "seed {seed}");
    damage(seed, &lake, &history, &mut rng).await;
    pruned
}

/// Damages one of the metadata files after another. Each gives a plan or an error that is no panic. A file that was cut gives the whole
/// plan or an error.
async fn damage(seed: u64, lake: &Lake, history: &History, rng: &mut StdRng) {
    let names = ["list".to_owned(), "m0".to_owned(), "m1".to_owned()];
    let all = lake.plan(&Predicate::AlwaysTrue, &history.ids).await;
    let all = format!("{:?}", all.unwrap_or_else(|error| panic!("seed {seed}: {}", told(&error))));
    for name in &names {
        let Some(whole) = lake.get(name).await else { continue };
        let mut damaged = whole.clone();
        let is_cut = rng.random_ratio(1, 3);
        // Blocks end behind sync markers.
        let ends = whole.windows(16).enumerate().filter(|(_, bytes)| *bytes == b"the sync marker!");
        let ends: Vec<usize> = ends.map(|(start, _)| start + 16).filter(|end| *end < whole.len()).collect();
        match is_cut {
            true if rng.random() => damaged.truncate(ends[rng.random_range(0..ends.len())]),
            true => damaged.truncate(rng.random_range(0..whole.len())),
            false => {
                for _ in 0..rng.random_range(1..4) {
                    let place = rng.random_range(0..damaged.len());
                    match rng.random_range(0..3) {
                        0 => damaged[place] ^= 1 << rng.random_range(0..8),
                        1 => damaged[place] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
                        _ => damaged.truncate(place.max(1)),
                    }
                }
            }
        }
        lake.put(name, damaged).await;
        let predicate = if is_cut { Predicate::AlwaysTrue } else { random_predicate(&history.a, 1, rng) };
        match lake.afresh().plan(&predicate, &history.ids).await {
            Ok(plan) => assert!(!is_cut || format!("{plan:?}") == all, "seed {seed}: {name} was cut unseen"),
            Err(error) => assert!(!told(&error).contains("panic"), "seed {seed}, {name}: {}", told(&error)),
        }
        lake.put(name, whole).await;
    }
}

fn told(error: &Error) -> String {
    match error {
        Error::Corrupt { source, .. } => format!("{error}: {source}"),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn a_table_is_planned_with_all_of_its_rows() {
    let mut pruned = 0;
    for seed in 0..TABLES {
        pruned += check(seed).await;
    }
    assert!(pruned > TABLES, "pruned only {pruned} files");
}

/// `cargo test --release -p gust-catalog --lib -- --ignored many_tables`
#[tokio::test]
#[ignore = "ten thousand tables take minutes"]
async fn many_tables_are_planned_with_all_of_their_rows() {
    for seed in TABLES..TABLES + 10_000 {
        check(seed).await;
    }
}
