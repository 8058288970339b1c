//! Damaged files give rows, or an error that names the file. `lab fuzz` does the same for many more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::prelude::SessionContext;
use fragment_fn::{NeededColumns, PinnedFile, project, read_footer, read_shipped};
use gust_engine::config::Target;
use gust_tests::fuzz::{Damage, FileOutcome, damaged, files, read};
use gust_tests::query::session;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_schema};
use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::bad_input::{Place, check, fails};

/// Files of each target that must be refused, at least: damage that is never seen proves nothing.
const REFUSED_MIN: usize = 60;

async fn check_seeds(target: Target, seeds: std::ops::Range<u64>) {
    fragment_fn::quiet_caught_panics();
    let folder = TempDir::new().expect("a folder");
    let session = session(target, 2, env!("CARGO_BIN_EXE_bootstrap_under_test"));
    let files = files();
    let (mut wrong, mut refused, mut fired) = (Vec::new(), 0, BTreeMap::new());
    for seed in seeds {
        let (name, damage, bytes) = damaged(&files, seed);
        match read(&session, folder.path(), seed, &bytes).await {
            FileOutcome::Rows(_) => {}
            FileOutcome::Refused(_) => {
                refused += 1;
                *fired.entry(damage).or_insert(0) += 1;
            }
            FileOutcome::Wrong(how) => wrong.push(format!("seed {seed}, {damage:?} of {name}: {how}")),
        }
    }
    session.close().await;
    assert!(wrong.is_empty(), "{target:?}:\n{}", wrong.join("\n"));
    assert!(refused >= REFUSED_MIN, "{target:?}: only {refused} were refused: {fired:?}");
    let silent: Vec<_> = Damage::ALL.iter().filter(|damage| !fired.contains_key(damage)).collect();
    assert!(silent.is_empty(), "{target:?}: nothing was refused after {silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_read_or_refused_locally() {
    check_seeds(Target::Local, 0..150).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_read_or_refused_on_functions() {
    check_seeds(Target::InProcess, 150..300).await;
}

/// Undamaged, every file but the encrypted ones is read whole, on each target.
#[tokio::test(flavor = "multi_thread")]
async fn undamaged_files_are_read_whole() {
    let folder = TempDir::new().expect("a folder");
    for target in [Target::Local, Target::InProcess] {
        let session = session(target, 2, env!("CARGO_BIN_EXE_bootstrap_under_test"));
        for (seed, (name, bytes)) in files().into_iter().enumerate() {
            let outcome = read(&session, folder.path(), seed as u64, &bytes).await;
            let is_right = match &outcome {
                FileOutcome::Rows(rows) => *rows == 400 && !name.starts_with("encrypted"),
                FileOutcome::Refused(why) => why.contains("it is encrypted") && name.starts_with("encrypted"),
                FileOutcome::Wrong(_) => false,
            };
            assert!(is_right, "{target:?}, {name}: {outcome:?}");
        }
        session.close().await;
    }
}

/// A part of a footer that travels says of its columns and row groups what the whole footer says, and rows read by it are equal.
#[tokio::test(flavor = "multi_thread")]
async fn shipped_footers_mean_the_same() {
    let mut random = StdRng::seed_from_u64(1);
    for (name, bytes) in files().into_iter().filter(|(name, _)| !name.starts_with("encrypted")) {
        let (store, key) = (Arc::new(InMemory::new()), Key::from("a.parquet"));
        let bytes = Bytes::from(bytes);
        store.put(&key, bytes.clone().into()).await.expect("put");
        let object = store.get(&key).await.expect("an object").meta;
        let footers = SessionContext::new().runtime_env().cache_manager.get_file_metadata_cache();
        let whole =
            read_footer(&PinnedFile::new(store, object.clone()), None, footers.as_ref()).await.expect("a footer");
        let roots: Vec<String> =
            whole.file_metadata().schema().get_fields().iter().map(|root| root.name().to_owned()).collect();
        for _ in 0..20 {
            let mut some =
                |share: f64| roots.iter().filter(|_| random.random_bool(share)).cloned().collect::<BTreeSet<_>>();
            let columns = NeededColumns { read: some(0.4), compared: some(0.2) };
            let groups = [&[0, 1][..], &[0], &[1]][random.random_range(0..3)];
            let what = format!("{name}: {columns:?} of {groups:?}");
            let shipped = project(&whole, &columns, groups).expect(&what);
            let part = read_shipped(&shipped, &object).expect(&what);
            same_meaning(&whole, &part, &columns, groups, &what);
            let needed = columns.read.union(&columns.compared).cloned().collect();
            let all = (0..groups.len()).collect();
            assert_eq!(rows(&bytes, &part, &needed, all), rows(&bytes, &whole, &needed, groups.to_vec()), "{what}");
        }
    }
}

/// Checks that each kept part of a footer is as it was.
fn same_meaning(
    whole: &ParquetMetaData,
    part: &ParquetMetaData,
    columns: &NeededColumns,
    groups: &[usize],
    what: &str,
) {
    let (all, kept) = (whole.file_metadata(), part.file_metadata());
    let arrow =
        |file: &FileMetaData| parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()).expect(what);
    let (own, all_arrow) = (arrow(kept), arrow(all));
    let first = all.schema().get_fields()[0].name();
    let is_kept = |name: &str| name == first || columns.read.contains(name) || columns.compared.contains(name);
    let expected: Vec<_> = all_arrow.fields().iter().filter(|field| is_kept(field.name())).cloned().collect();
    assert_eq!(own.fields().to_vec(), expected, "{what}");
    let leaves: Vec<usize> = (0..all.schema_descr().num_columns())
        .filter(|leaf| is_kept(all.schema_descr().get_column_root(*leaf).name()))
        .collect();
    assert_eq!((part.num_row_groups(), kept.schema_descr().num_columns()), (groups.len(), leaves.len()), "{what}");
    let has_index = !columns.compared.is_empty() && whole.column_index().is_some();
    assert_eq!((part.column_index().is_some(), part.offset_index().is_some()), (has_index, has_index), "{what}");
    for (place, group) in groups.iter().enumerate() {
        assert_eq!(part.row_group(place).num_rows(), whole.row_group(*group).num_rows(), "{what}");
        for (column, leaf) in leaves.iter().enumerate() {
            let (mine, other) = (part.row_group(place).column(column), whole.row_group(*group).column(*leaf));
            let same = |chunk: &ColumnChunkMetaData| {
                (
                    (chunk.column_path().clone(), chunk.byte_range(), chunk.num_values(), chunk.compression_codec()),
                    (chunk.uncompressed_size(), chunk.data_page_offset(), chunk.dictionary_page_offset()),
                    chunk.encodings().collect::<Vec<_>>(),
                    chunk.column_descr().self_type().clone(),
                )
            };
            assert_eq!(same(mine), same(other), "{what}");
            let is_compared = columns.compared.contains(all.schema_descr().get_column_root(*leaf).name());
            let bounds = |chunk: &ColumnChunkMetaData| {
                (chunk.statistics().cloned(), chunk.bloom_filter_offset(), chunk.bloom_filter_length())
            };
            assert_eq!(bounds(mine), if is_compared { bounds(other) } else { (None, None, None) }, "{what}");
            if let (Some(part), Some(whole)) = (part.offset_index(), whole.offset_index()) {
                assert_eq!(part[place][column].page_locations(), whole[*group][*leaf].page_locations(), "{what}");
            }
            if let (Some(part), Some(whole), true) = (part.column_index(), whole.column_index(), is_compared) {
                assert_eq!(part[place][column], whole[*group][*leaf], "{what}");
            }
        }
    }
}

/// Reads the columns of some row groups, by this footer.
fn rows(
    file: &Bytes,
    footer: &Arc<ParquetMetaData>,
    columns: &BTreeSet<String>,
    groups: Vec<usize>,
) -> Vec<RecordBatch> {
    let footer = ArrowReaderMetadata::try_new(Arc::clone(footer), ArrowReaderOptions::new()).expect("a schema");
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), footer);
    let mask = ProjectionMask::columns(reader.parquet_schema(), columns.iter().map(String::as_str));
    let reader = reader.with_projection(mask).with_row_groups(groups).build().expect("a reader");
    reader.collect::<Result<_, _>>().expect("rows")
}

/// A damaged footer that came along is read as another one or refused with the file's name. It never panics.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_shipped_footers_are_refused_by_name() {
    fragment_fn::quiet_caught_panics();
    let mut random = StdRng::seed_from_u64(2);
    let (mut refused, mut read) = (0, 0);
    for (_, bytes) in files().into_iter().filter(|(name, _)| !name.starts_with("encrypted")) {
        let whole = gust_tests::parquet_files::footer(&bytes);
        let names = whole.file_metadata().schema().get_fields().iter().map(|root| root.name().to_owned());
        let columns = NeededColumns { read: names.clone().collect(), compared: names.take(2).collect() };
        let shipped = project(&whole, &columns, &[0, 1]).expect("a footer");
        let object = ObjectMeta {
            location: Key::from("t/a.parquet"),
            last_modified: Default::default(),
            size: bytes.len() as u64,
            e_tag: None,
            version: None,
        };
        for _ in 0..50 {
            let mut damaged = shipped.to_vec();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..damaged.len());
                damaged[place] = random.random();
            }
            damaged.truncate(damaged.len() - random.random_range(0..2) * random.random_range(0..30));
            match read_shipped(&damaged.into(), &object) {
                Ok(_) => read += 1,
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("`t/a.parquet`"), "{error}");
                }
            }
        }
    }
    assert!(refused > 100 && read > 0, "{refused} were refused, {read} read");
}

/// The program runs with its processes: exit code 1, one attempt, no stack trace, nothing left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_on_the_command_line() {
    let place = Place::new("");
    std::fs::create_dir(place.path("t")).expect("made");
    let valid = files().into_iter().find(|(name, _)| name == "dictionary").expect("a file").1;
    std::fs::write(place.path("t/0.parquet"), &valid).expect("written");
    let size = valid.len();
    let claims = |length: u32| [&valid[..size - 8], &length.to_le_bytes(), b"PAR1"].concat();
    let damaged = [
        ("longer than the file", claims(size as u32 + 100)),
        ("longer than any", claims(u32::MAX)),
        ("none", claims(0)),
        ("of two bytes", claims(2)),
        ("cut", valid[..size / 2].to_vec()),
        ("text", b"id,name\n1,one\n2,two\n".to_vec()),
        ("encrypted", files().into_iter().find(|(name, _)| name == "encrypted").expect("a file").1),
    ];
    for (what, bytes) in damaged {
        std::fs::write(place.path("t/1.parquet"), &bytes).expect("written");
        for on in ["local", "processes"] {
            let query = ["query", "--on", on, "--functions", "3", "SELECT sum(i32) FROM 't/'"];
            fails(&place, &query, 1, &["t/1.parquet"]);
            let words = String::from_utf8_lossy(&place.gust(&query).output().expect("it starts").stderr).into_owned();
            assert!(!words.contains("attempts") && !words.contains("stack backtrace"), "{what}, {on}: {words}");
        }
    }
}

/// Files without columns have rows all the same.
#[tokio::test(flavor = "multi_thread")]
async fn files_without_columns_have_rows() {
    let place = Place::new("");
    std::fs::create_dir(place.path("t")).expect("made");
    for (name, rows) in [("0", 2), ("1", 3)] {
        std::fs::write(place.path(&format!("t/{name}.parquet")), gust_tests::parquet_files::without_columns(rows))
            .expect("written");
    }
    for on in ["local", "in-process", "processes", "auto"] {
        for (sql, expect) in
            [("SELECT 1 AS one FROM 't/'", "one\n1\n1\n1\n1\n1\n"), ("SELECT count(*) AS n FROM 't/'", "n\n5\n")]
        {
            for verb in ["query", "explain"] {
                let mut arguments = vec![verb, "--on", on, sql];
                arguments.splice(3..3, if verb == "query" { vec!["--format", "csv"] } else { vec![] });
                let output = place.gust(&arguments).output().expect("it starts");
                check(&output, 0, &[]);
                if verb == "query" {
                    assert_eq!(String::from_utf8_lossy(&output.stdout), expect, "{on}: {sql}");
                }
            }
        }
    }
}

/// A schema is followed by recursion. One that is too deep is refused before anything follows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_nested_too_deep_is_refused() {
    let place = Place::new("");
    std::fs::create_dir(place.path("t")).expect("made");
    for (groups, code, expect) in [(20, 0, ""), (400, 1, "its schema is nested too deep")] {
        std::fs::write(place.path("t/0.parquet"), gust_tests::parquet_files::nested(groups)).expect("written");
        for on in ["local", "processes"] {
            let query = ["query", "--on", on, "--format", "csv", "SELECT count(*) AS n FROM 't/'"];
            check(&place.gust(&query).output().expect("it starts"), code, &[expect]);
        }
    }
}
