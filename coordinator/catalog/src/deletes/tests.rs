//! Random histories of tables, against a judge that follows the specification row by row, and the rules one by one.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

type Partition = Option<i32>;

/// Data file of a history.
#[derive(Debug, Clone)]
struct File {
    path: String,
    sequence_number: i64,
    spec: i32,
    partition: Partition,
    /// Keys of its rows.
    rows: Vec<Option<i32>>,
}

/// Delete file of a history: its contents, which no index may see.
#[derive(Debug, Clone)]
struct Deleted {
    delete: Delete,
    spec: i32,
    partition: Partition,
    /// Paths and positions of a vector and of position deletes.
    rows: Vec<(String, usize)>,
    keys: BTreeSet<Option<i32>>,
}

/// Spec 0 has no fields, spec 1 a void one; the others part files.
fn is_unpartitioned(spec: i32) -> bool {
    spec < 2
}

fn key(spec: i32, partition: Partition) -> Arc<[u8]> {
    let value = if is_unpartitioned(spec) { None } else { partition };
    format!("{spec} {value:?}").into_bytes().into()
}

fn facts(id: i32, lower: Option<Scalar>, upper: Option<Scalar>, nulls: Option<u64>) -> ColumnFacts {
    ColumnFacts { id, lower, upper, nulls, ..ColumnFacts::default() }
}

/// Describes keys as writers do: with gaps, and now and then wrongly.
fn key_facts(keys: &[Option<i32>], rng: &mut StdRng) -> ColumnFacts {
    let values: Vec<i32> = keys.iter().flatten().copied().collect();
    let nulls = keys.len() - values.len();
    let bound = |value: Option<&i32>| value.map(|value| Scalar::Int(*value));
    let (mut lower, mut upper) = (bound(values.iter().min()), bound(values.iter().max()));
    match rng.random_range(0..6) {
        0 => lower = None,
        1 => upper = None,
        2 => (lower, upper) = (upper, lower),
        _ => {}
    }
    facts(1, lower, upper, rng.random_ratio(3, 4).then_some(nulls as u64))
}

/// Bounds of paths: right, cut, turned around or left out.
fn path_facts(paths: &[&str], rng: &mut StdRng) -> Option<ColumnFacts> {
    let text = |path: Option<&&str>| path.map(|path| Scalar::String((*path).to_owned()));
    let cut = |path: Option<&&str>| path.map(|path| Scalar::String(path.chars().take(4).collect()));
    let (lowest, highest) = (paths.iter().min(), paths.iter().max());
    match rng.random_range(0..4) {
        0 => None,
        1 => Some(facts(PATH_FIELD_ID, text(highest), text(lowest), None)).filter(|_| lowest != highest),
        2 => Some(facts(PATH_FIELD_ID, cut(lowest), cut(highest), None)),
        _ => Some(facts(PATH_FIELD_ID, text(lowest), text(highest), None)),
    }
}

/// Makes a history of files and deletes.
fn history(rng: &mut StdRng) -> (Vec<File>, Vec<Deleted>) {
    let (mut files, mut deletes) = (Vec::<File>::new(), Vec::<Deleted>::new());
    let mut vectors = BTreeSet::new();
    for sequence_number in 1..=rng.random_range(3..9) {
        for _ in 0..rng.random_range(0..3) {
            let keys = (0..rng.random_range(1..5)).map(|_| rng.random_ratio(5, 6).then(|| rng.random_range(0..6)));
            let rows = keys.collect();
            files.push(File {
                path: format!("s3://{}/{}", ["a", "b"][rng.random_range(0..2)], files.len()),
                // Compaction keeps old numbers.
                sequence_number: if rng.random_ratio(1, 5) {
                    rng.random_range(0..=sequence_number)
                } else {
                    sequence_number
                },
                spec: rng.random_range(0..4),
                partition: rng.random_ratio(4, 5).then(|| rng.random_range(0..2)),
                rows,
            });
        }
        for _ in 0..rng.random_range(0..3) {
            if files.is_empty() {
                continue;
            }
            let number = deletes.len();
            let target = files[rng.random_range(0..files.len())].clone();
            let (spec, partition) = (target.spec, target.partition);
            let neighbours: Vec<&File> =
                files.iter().filter(|file| key(file.spec, file.partition) == key(spec, partition)).collect();
            let mut rows: Vec<(String, usize)> = Vec::new();
            let mut keys = BTreeSet::new();
            let kind = match rng.random_range(0..4) {
                0 if vectors.insert(target.path.clone()) && target.sequence_number <= sequence_number => {
                    rows.extend((0..target.rows.len()).filter(|_| rng.random()).map(|row| (target.path.clone(), row)));
                    DeleteKind::Vector { of: target.path.clone() }
                }
                0 | 1 => {
                    rows.extend((0..target.rows.len()).filter(|_| rng.random()).map(|row| (target.path.clone(), row)));
                    DeleteKind::Positions { of: Some(target.path.clone()), paths: None }
                }
                2 => {
                    for file in &neighbours {
                        rows.extend((0..file.rows.len()).filter(|_| rng.random()).map(|row| (file.path.clone(), row)));
                    }
                    // A file that is not in the snapshot.
                    rows.push(("s3://a/gone".to_owned(), 0));
                    let paths: Vec<&str> = rows.iter().map(|(path, _)| path.as_str()).collect();
                    DeleteKind::Positions { of: None, paths: path_facts(&paths, rng) }
                }
                _ => {
                    keys.extend(
                        (0..rng.random_range(1..4)).map(|_| rng.random_ratio(5, 6).then(|| rng.random_range(0..6))),
                    );
                    let listed: Vec<Option<i32>> = keys.iter().copied().collect();
                    let facts = rng.random_ratio(4, 5).then(|| key_facts(&listed, rng));
                    let keys = vec![EqualityKey { id: 1, ty: Some(Type::Int), facts }];
                    DeleteKind::Equality { keys, is_global: is_unpartitioned(spec) }
                }
            };
            let record_count = if keys.is_empty() { rows.len() } else { keys.len() } as u64;
            let delete = Delete {
                path: format!("d{number}"),
                manifest: "m".into(),
                sequence_number,
                partition: key(spec, partition),
                record_count,
                kind,
            };
            deletes.push(Deleted { delete, spec, partition, rows, keys });
        }
    }
    (files, deletes)
}

/// Finds the deleted rows of a file by the sentences of the specification.
fn judged(file: &File, deletes: &[Deleted]) -> BTreeSet<usize> {
    let same = |deleted: &Deleted| {
        deleted.spec == file.spec && (is_unpartitioned(file.spec) || deleted.partition == file.partition)
    };
    let is_vector = |deleted: &&Deleted| matches!(&deleted.delete.kind, DeleteKind::Vector { of } if *of == file.path);
    let has_vector = deletes.iter().any(|deleted| is_vector(&deleted));
    let mut rows = BTreeSet::new();
    for deleted in deletes {
        let number = deleted.delete.sequence_number;
        let applies = match &deleted.delete.kind {
            DeleteKind::Vector { of } => *of == file.path,
            DeleteKind::Positions { of, .. } => {
                !has_vector && number >= file.sequence_number && (of.is_some() || same(deleted))
            }
            DeleteKind::Equality { .. } => {
                number > file.sequence_number && (is_unpartitioned(deleted.spec) || same(deleted))
            }
        };
        if applies {
            rows.extend(deleted.rows.iter().filter(|(path, _)| *path == file.path).map(|(_, row)| *row));
            let keyed = file.rows.iter().enumerate().filter(|(_, key)| deleted.keys.contains(key));
            rows.extend(keyed.map(|(row, _)| row));
        }
    }
    rows
}

/// Finds the deleted rows of a file as a reader does, from what the index says.
fn read(file: &File, found: &FoundDeletes, index: &DeleteIndex, used: &[u32], deletes: &[Deleted]) -> BTreeSet<usize> {
    let mut rows = BTreeSet::new();
    for number in found.vector.iter().chain(&found.set.positions) {
        let rows_of = deletes[*number as usize].rows.iter().filter(|(path, _)| *path == file.path);
        rows.extend(rows_of.map(|(_, row)| *row));
    }
    for number in used {
        let Deleted { delete, keys, .. } = &deletes[*number as usize];
        if matches!(delete.kind, DeleteKind::Equality { .. })
            && found.set.equality.contains(&index.scope(delete))
            && delete.sequence_number > file.sequence_number
        {
            rows.extend(file.rows.iter().enumerate().filter(|(_, key)| keys.contains(key)).map(|(row, _)| row));
        }
    }
    rows
}

#[test]
fn random_histories_are_read_as_the_specification_says() {
    let mut rng = StdRng::seed_from_u64(4);
    let (mut deleted, mut skipped) = (0, 0);
    for _ in 0..2_000 {
        let (files, deletes) = history(&mut rng);
        let index = DeleteIndex::new(deletes.iter().map(|deleted| deleted.delete.clone()).collect()).unwrap();
        for file in &files {
            let columns = [key_facts(&file.rows, &mut rng)];
            let partition = key(file.spec, file.partition);
            let of = DeletesOf {
                path: &file.path,
                record_count: file.rows.len() as u64,
                sequence_number: file.sequence_number,
                partition: &partition,
                columns: if rng.random_ratio(4, 5) { &columns } else { &[] },
            };
            // Deletes of other files are in use before this one's are found.
            let mut marks: Vec<bool> = deletes.iter().map(|_| rng.random_ratio(1, 3)).collect();
            let found = index.of(of, &mut marks).unwrap();
            let used: Vec<u32> = (0..).zip(&marks).filter(|(_, used)| **used).map(|(number, _)| number).collect();
            let rows = read(file, &found, &index, &used, &deletes);
            assert_eq!(rows, judged(file, &deletes), "{file:#?} {found:?} {deletes:#?}");
            deleted += rows.len();
            skipped += usize::from(used.len() < deletes.len());
        }
    }
    assert!(deleted > 2_000 && skipped > 2_000, "{deleted} {skipped}");
}

fn delete(kind: DeleteKind, sequence_number: i64, partition: &str) -> Delete {
    let partition = partition.as_bytes().into();
    Delete { path: "d".to_owned(), manifest: "m".into(), sequence_number, partition, record_count: 1, kind }
}

fn found(deletes: Vec<Delete>, sequence_number: i64, columns: &[ColumnFacts]) -> Result<FoundDeletes, String> {
    let mut used = vec![false; deletes.len()];
    let index = DeleteIndex::new(deletes).map_err(|fault| fault.why)?;
    let of = DeletesOf { path: "f", record_count: 10, sequence_number, partition: b"p", columns };
    index.of(of, &mut used).map_err(|fault| fault.why)
}

#[test]
fn a_vector_replaces_positions_and_is_the_only_one() {
    let vector = |number| delete(DeleteKind::Vector { of: "f".to_owned() }, number, "p");
    let positions = |of: Option<&str>| DeleteKind::Positions { of: of.map(str::to_owned), paths: None };
    let both = vec![delete(positions(Some("f")), 9, "p"), vector(5), delete(positions(None), 9, "p")];
    let expect = FoundDeletes { vector: Some(1), ..FoundDeletes::default() };
    assert_eq!(found(both, 5, &[]), Ok(expect));
    let error = found(vec![vector(1), vector(2)], 1, &[]).unwrap_err();
    assert_eq!(error, "file f has two deletion vectors, in d and in d");
    let error = found(vec![vector(3)], 5, &[]).unwrap_err();
    assert_eq!(error, "the deletion vector of f has sequence number 3, the file has 5");
    let mut large = vector(5);
    large.record_count = 11;
    let error = found(vec![large], 5, &[]).unwrap_err();
    assert_eq!(error, "the deletion vector of f has 11 positions, the file has 10 rows");
    // A file that the snapshot does not have.
    let other = delete(DeleteKind::Vector { of: "gone".to_owned() }, 1, "p");
    assert_eq!(found(vec![other], 5, &[]), Ok(FoundDeletes::default()));
}

#[test]
fn positions_go_by_number_partition_and_path() {
    let check = |of: Option<&str>, bounds: Option<(&str, &str)>, number, partition, expect: bool| {
        let text = |text: &str| Some(Scalar::String(text.to_owned()));
        let paths = bounds.map(|(lower, upper)| facts(PATH_FIELD_ID, text(lower), text(upper), None));
        let delete = delete(DeleteKind::Positions { of: of.map(str::to_owned), paths }, number, partition);
        let found = found(vec![delete], 5, &[]).unwrap();
        assert_eq!(!found.set.positions.is_empty(), expect, "{of:?} {bounds:?} {number} {partition}");
    };
    check(None, None, 5, "p", true);
    check(None, None, 4, "p", false);
    check(None, None, 5, "q", false);
    check(Some("f"), None, 5, "q", true);
    check(Some("g"), None, 5, "p", false);
    check(Some("f"), None, 4, "p", false);
    check(None, Some(("f", "f")), 5, "p", true);
    check(None, Some(("a", "e")), 5, "p", false);
    check(None, Some(("g", "z")), 5, "p", false);
    // H5: bounds that are turned around or cut bring no deleted row back.
    check(None, Some(("z", "a")), 5, "p", true);
    check(None, Some(("", "")), 5, "p", true);
}

#[test]
fn equality_goes_by_smaller_numbers_scope_and_keys() {
    let bounds = |lower, upper, nulls| facts(1, Some(Scalar::Int(lower)), Some(Scalar::Int(upper)), nulls);
    let check = |is_global, keys: Option<ColumnFacts>, number, partition, expect: bool| {
        let keys = vec![EqualityKey { id: 1, ty: Some(Type::Int), facts: keys }];
        let delete = delete(DeleteKind::Equality { keys, is_global }, number, partition);
        let found = found(vec![delete], 5, &[bounds(10, 20, Some(0))]).unwrap();
        assert_eq!(!found.set.equality.is_empty(), expect, "{is_global} {number} {partition}");
        assert!(found.set.equality.iter().all(|scope| (*scope == GLOBAL_SCOPE) == is_global));
    };
    check(false, None, 6, "p", true);
    check(false, None, 5, "p", false);
    check(false, None, 6, "q", false);
    check(true, None, 6, "q", true);
    check(false, Some(bounds(20, 30, Some(0))), 6, "p", true);
    check(false, Some(bounds(21, 30, Some(0))), 6, "p", false);
    check(false, Some(bounds(1, 9, Some(0))), 6, "p", false);
    // NULL is a key, and is not within bounds.
    check(false, Some(bounds(21, 30, Some(1))), 6, "p", true);
    check(false, Some(bounds(21, 30, None)), 6, "p", true);
    check(false, Some(bounds(30, 21, Some(0))), 6, "p", true);
}
