use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use fragment_fn::DeleteReader;
use gust_protocol::{DeleteSet, ObjectRef};

use super::*;
use crate::planner::passes::pack::{Lane, PackedFragment};

fn file(name: &str, access: u16, size_bytes: u64, content: DeleteContent) -> DeleteFile {
    let file = ObjectRef { access, path: name.to_owned(), size_bytes, etag: None, footer_bytes: None };
    DeleteFile { file, content }
}

fn vector() -> DeleteContent {
    DeleteContent::Vector { offset: 4, bytes: 10, cardinality: 1 }
}

fn keys(scope: u32, sequence_number: i64) -> DeleteContent {
    DeleteContent::Equality { ids: vec![1], scope, sequence_number }
}

fn deletes(path: &str, vector: Option<u32>, set: Option<u32>) -> UnitDeletes {
    UnitDeletes { path: path.to_owned(), rows: 10, vector, set, sequence_number: 1 }
}

fn set(positions: &[u32], scopes: &[u32]) -> DeleteSet {
    DeleteSet { positions: positions.to_vec(), scopes: scopes.to_vec() }
}

/// Makes a unit of each data file of a scan with these delete files.
fn units(files: Vec<DeleteFile>, sets: Vec<DeleteSet>, own: &[UnitDeletes]) -> Vec<Unit> {
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let schema = Arc::new(Schema::empty());
    let reader = DeleteReader::new(Arc::from([]), DeletePlan::new("t".to_owned(), files, sets), own, schema, &pool);
    let reader = Arc::new(reader);
    let unit = |deletes: &UnitDeletes| {
        let mut file = PartitionedFile::new(deletes.path.clone(), 100);
        file.extensions.insert(FileDeletes::new(Arc::clone(&reader), deletes.clone()).expect("its files"));
        Unit { file, weight_bytes: 1, leaf: 0 }
    };
    own.iter().map(unit).collect()
}

/// Tells what a request says of its units' deletes, with the files' names.
fn told(units: &[&Unit], digested: Option<&DigestedDeletes>) -> Vec<String> {
    let mut request = RequestDeletes::of(units, digested);
    let own = units.iter().map(|unit| unit.file.extensions.get::<FileDeletes>().expect("deletes"));
    let named: Vec<Option<UnitDeletes>> = own.map(|own| request.unit(own)).collect();
    let (files, sets) = request.into_parts();
    let name = |place: &u32| files[*place as usize].file.path.as_str();
    let told = |unit: &Option<UnitDeletes>| {
        let Some(unit) = unit else { return "none".to_owned() };
        let DeleteSet { positions, scopes } = unit.set.map(|set| sets[set as usize].clone()).unwrap_or_default();
        let positions: Vec<&str> = positions.iter().map(name).collect();
        format!("{} {:?} {positions:?} {scopes:?}", unit.path, unit.vector.as_ref().map(name))
    };
    let all: Vec<&str> = files.iter().map(|file| file.file.path.as_str()).collect();
    assert!(files.iter().all(|file| file.file.access == 1 || file.file.path == "exchange"), "{files:?}");
    [format!("{all:?}, {} sets", sets.len())].into_iter().chain(named.iter().map(told)).collect()
}

#[test]
fn a_request_names_each_delete_file_and_each_set_once() {
    let files = vec![
        file("v", 0, 1000, vector()),
        file("p", 0, 100, DeleteContent::Positions),
        file("q", 0, 200, DeleteContent::Positions),
        file("k", 0, 50, keys(3, 9)),
        file("old", 0, 40, keys(3, 1)),
    ];
    let sets = vec![set(&[], &[3]), set(&[1, 2], &[]), set(&[2], &[3])];
    let own = [
        deletes("a", Some(0), Some(0)),
        deletes("b", None, Some(1)),
        deletes("c", None, Some(2)),
        deletes("d", None, Some(2)),
    ];
    let units = units(files, sets, &own);
    let all = FragmentDeletes::of(&units);
    assert_eq!((all.files().count(), all.reads().bytes), (4, 10 + 100 + 200 + 50), "old keys delete nothing");
    let units: Vec<&Unit> = units.iter().collect();
    let expect = [
        r#"["v", "p", "q", "k"], 3 sets"#,
        r#"a Some("v") [] [3]"#,
        r#"b None ["p", "q"] []"#,
        r#"c None ["q"] [3]"#,
        r#"d None ["q"] [3]"#,
    ];
    assert_eq!(told(&units, None), expect);
    assert_eq!(told(&units[2..], None), [r#"["q", "k"], 1 sets"#, expect[3], expect[4]]);
    assert_eq!(told(&[], None), ["[], 0 sets"]);

    // The coordinator has read the positions of `b` and `c`.
    let made = file("exchange", 0, 77, vector());
    let vectors = [("b".to_owned(), Some(made)), ("c".to_owned(), None)].into();
    let mut digested = DigestedDeletes { vectors, ..DigestedDeletes::default() };
    // No row of `b` is deleted, and nothing else is asked of its fragment.
    let vectors = [("b".to_owned(), None)].into();
    let nothing = DigestedDeletes { vectors, ..DigestedDeletes::default() };
    assert_eq!(told(&units[1..2], Some(&nothing)), ["[], 0 sets", "none"]);
    let expect = [
        r#"["v", "q", "k", "exchange"], 3 sets"#,
        expect[1],
        r#"b Some("exchange") [] []"#,
        "c None [] [3]",
        expect[4],
    ];
    assert_eq!(told(&units, Some(&digested)), expect);

    // And the keys, which nobody needs whose files are as new.
    let content = DeleteContent::Keys { ids: vec![1], scope: 3, newest: 9, offset: 77, bytes: 5, crc32: 0 };
    let made = |since, until| DigestedKeys { file: file("exchange", 0, 82, content.clone()), since, until };
    digested.keys.insert(0, made(1, 1));
    let expect = [r#"["v", "q", "exchange", "exchange"], 3 sets"#, expect[1], expect[2], expect[3], expect[4]];
    assert_eq!(told(&units, Some(&digested)), expect);
    assert_eq!(told(&units[1..2], Some(&digested))[0], r#"["exchange"], 0 sets"#);
    // A list that costs the fragment more than its files.
    digested.keys.insert(0, made(1, 0));
    assert_eq!(told(&units, Some(&digested))[0], r#"["v", "q", "k", "exchange"], 3 sets"#);
}

/// Two scopes and two lists of fields, of which one group is digested, and of this one the newer files alone.
#[test]
fn a_request_takes_its_part_of_a_digest() {
    let of = |name: &str, ids: &[i32], scope, sequence_number| {
        let ids = ids.to_vec();
        file(name, 0, 50, DeleteContent::Equality { ids, scope, sequence_number })
    };
    let files = vec![
        of("a2", &[1], 3, 2),
        of("a5", &[1], 3, 5),
        of("a7", &[1], 3, 7),
        of("ab", &[1, 2], 3, 6),
        of("b", &[1], 4, 6),
    ];
    let at = |path: &str, set, sequence_number| UnitDeletes { sequence_number, ..deletes(path, None, Some(set)) };
    let own = [at("old", 0, 1), at("middle", 0, 4), at("new", 0, 6), at("other", 1, 1)];
    let units = units(files, vec![set(&[], &[3]), set(&[], &[4])], &own);
    let plan = own_plan(&units);
    let group = plan.groups().iter().position(|group| group.scope == 3 && group.ids == [1]).expect("a group");
    let content = DeleteContent::Keys { ids: vec![1], scope: 3, newest: 7, offset: 0, bytes: 5, crc32: 0 };
    let made = DigestedKeys { file: file("exchange", 0, 82, content), since: 4, until: 4 };
    let digested = DigestedDeletes { keys: [(group, made)].into(), ..DigestedDeletes::default() };
    let names = |unit: usize| told(&[&units[unit]], Some(&digested))[0].clone();
    assert_eq!(names(0), r#"["a2", "exchange", "ab"], 1 sets"#);
    assert_eq!(names(1), r#"["exchange", "ab"], 1 sets"#);
    // Its one file is less than the list.
    assert_eq!(names(2), r#"["a7"], 1 sets"#);
    assert_eq!(names(3), r#"["b"], 1 sets"#);
}

fn own_plan(units: &[Unit]) -> &DeletePlan {
    own(&units[0]).expect("deletes").plan()
}

/// 10,000 data files, 2,000 files of keys and 500 of positions, all of which apply to all.
#[test]
fn a_request_of_many_files_is_small() {
    let mut files: Vec<DeleteFile> = (0..500).map(|_| file("p", 0, 1, DeleteContent::Positions)).collect();
    files.extend((0..2_000).map(|_| file("k", 0, 1, keys(0, 9))));
    let sets = vec![set(&(0..500).collect::<Vec<_>>(), &[0])];
    let own: Vec<_> = (0..10_000).map(|number| deletes(&number.to_string(), None, Some(0))).collect();
    let units = units(files, sets, &own);
    let units: Vec<&Unit> = units.iter().collect();
    assert_eq!(FragmentDeletes::of(units.iter().copied()).files().count(), 2_500);
    let mut request = RequestDeletes::of(&units, None);
    let named: Vec<UnitDeletes> =
        units.iter().filter_map(|unit| request.unit(unit.file.extensions.get().expect("deletes"))).collect();
    let (files, sets) = request.into_parts();
    let bytes = serde_json::to_vec(&(named, files, sets)).expect("plain data").len();
    assert!(bytes < 1_200_000, "{bytes} bytes");
}

/// Makes the deletes of a stage with one fragment for each list of units.
fn stage(units: &[Unit], fragments: &[&[usize]], bounds: &DigestBounds) -> StageDeletes {
    let fragment = |units: &&[usize]| PackedFragment { lanes: vec![Lane { units: units.to_vec() }] };
    StageDeletes::of(units, &fragments.iter().map(fragment).collect::<Vec<_>>(), bounds)
}

/// Makes the deletes of a stage with a fragment for each data file.
fn stage_of_each(files: Vec<DeleteFile>, sets: Vec<DeleteSet>, own: &[UnitDeletes]) -> StageDeletes {
    let units = units(files, sets, own);
    let each: Vec<[usize; 1]> = (0..units.len()).map(|unit| [unit]).collect();
    stage(&units, &each.iter().map(|unit| &unit[..]).collect::<Vec<_>>(), &DigestBounds::default())
}

#[test]
fn positions_are_digested_where_fragments_would_read_many_bytes_again() {
    let check = |size_bytes: u64, fragments: usize, expect: &[usize]| {
        let files = vec![
            file("p", 0, size_bytes, DeleteContent::Positions),
            file("q", 0, 10, DeleteContent::Positions),
            file("k", 0, 1 << 30, keys(3, 9)),
        ];
        let sets = vec![set(&[0], &[3]), set(&[0, 1], &[3])];
        let own: Vec<_> =
            (0..fragments).map(|number| deletes(&format!("{number}"), None, Some(number.min(1) as u32))).collect();
        let found = stage_of_each(files, sets, &own);
        let found = found.digest().cloned().unwrap_or_default();
        assert_eq!(&found.vectors[..found.vectors.len().min(2)], expect, "{size_bytes} bytes, {fragments} fragments");
        assert_eq!(found.keys, [], "one file of keys is read as one digest is");
    };
    check(20 << 20, 4, &[]);
    check(20 << 20, 5, &[0, 1]);
    check(1 << 20, 5, &[]);
    // More than a digest may have.
    check(1 << 30, 5, &[]);
    check(1 << 20, 100, &[0, 1]);
}

#[test]
fn keys_are_digested_where_fragments_would_send_many_requests_again() {
    let check = |count: usize, size_bytes: u64, fragments: usize, expect: bool| {
        let files: Vec<DeleteFile> = (0..count).map(|_| file("k", 0, size_bytes, keys(3, 9))).collect();
        let own: Vec<_> = (0..fragments).map(|number| deletes(&format!("{number}"), None, Some(0))).collect();
        let found = stage_of_each(files, vec![set(&[], &[3])], &own);
        let (count, name) = (count as u64, format!("{count} files of {size_bytes} bytes, {fragments} fragments"));
        // Values without the files' frames, and a frame of the list's own.
        let digest = count * size_bytes.saturating_sub(400) + 512;
        match found.digest() {
            Some(work) => {
                assert!(expect, "{name}");
                assert_eq!(work.keys, [GroupWork { group: 0, unit: 0, since: 1, until: 1 }], "{name}");
                assert_eq!((work.files as u64, work.vectors.len(), work.written_bytes), (count, 0, digest), "{name}");
                assert_eq!((work.reads.footers, work.reads.bytes), (count, count * size_bytes), "{name}");
                assert_eq!((found.reads(0).requests(), found.reads(0).bytes), (1, digest), "{name}");
            }
            None => {
                assert!(!expect, "{name}");
                assert_eq!((found.reads(0).footers, found.reads(0).bytes), (count, count * size_bytes), "{name}");
            }
        }
    };
    check(2_000, 1_000, 100, true);
    check(2_000, 1_000, 5, true);
    check(2_000, 1_000, 4, false);
    // A digest is as large as its files: only requests are saved.
    check(1, 30 << 20, 100, false);
    check(2, 1_000, 100, true);
    check(2, 1_000, 30, false);
    // More than a digest may have.
    check(2_000, 1 << 20, 100, false);
}

/// Fragments whose data files are newer than all keys need none of them, and others need those that are newer.
#[test]
fn a_digest_is_for_the_fragments_that_need_it() {
    let files: Vec<DeleteFile> = (0..100).map(|number| file("k", 0, 500, keys(3, number))).collect();
    let own: Vec<_> = (0..12)
        .map(|number| UnitDeletes { sequence_number: 10 * number, ..deletes(&format!("{number}"), None, Some(0)) })
        .collect();
    let found = stage_of_each(files.clone(), vec![set(&[], &[3])], &own);
    let requests = |found: &StageDeletes| (0..12).map(|fragment| found.reads(fragment).requests()).collect::<Vec<_>>();
    // The list is of the files that the second needs: the ten more of the first are as dear as one more of a list for all.
    assert_eq!(requests(&found), [11, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
    let digest = found.digest().expect("a digest");
    assert_eq!((digest.keys[0].since, digest.keys[0].until, digest.files), (10, 90, 89));
    // Four of them are no reason.
    let found = stage_of_each(files, vec![set(&[], &[3])], &own[6..]);
    assert_eq!(requests(&found)[..6], [39, 29, 19, 9, 0, 0]);
}

/// Vectors share the bytes of their files, and bounds of tests digest all.
#[test]
fn a_fragment_reads_the_vectors_of_its_data_files_together() {
    let files = vec![
        file("v", 0, 1000, vector()),
        file("p", 0, 400, DeleteContent::Positions),
        file("q", 0, 90, DeleteContent::Positions),
        file("k", 0, 50, keys(3, 9)),
    ];
    let sets = vec![set(&[1], &[]), set(&[1, 2], &[3])];
    let own = [
        deletes("a", Some(0), None),
        deletes("b", None, Some(0)),
        deletes("c", None, Some(1)),
        // Another part of the same file.
        deletes("c", None, Some(1)),
        deletes("d", None, Some(1)),
    ];
    let units = units(files, sets, &own);
    let found = stage(&units, &[&[0, 1, 2, 3], &[4]], &DigestBounds::NONE);
    let part = |count, bytes| Reads { runs: count, runs_max: count, bytes, ..Reads::default() };
    // 400 bytes are of three files, 90 of two; of the keys nothing is left but a frame.
    let (p, q, k) = (133, 45, 512);
    assert_eq!(found.reads(0), part(3, 10 + p + (p + q) + k));
    assert_eq!(found.reads(1), part(2, p + q + k));
    let work = found.digest().expect("a digest");
    let keys = GroupWork { group: 0, unit: 2, since: 1, until: 1 };
    assert_eq!((&work.vectors[..], &work.keys[..]), (&[1, 2, 4][..], &[keys][..]));
    assert_eq!((work.files, work.reads.bytes, work.written_bytes), (3, 540, p + 2 * (p + q) + k));
    let found = stage(&units, &[&[0, 1, 2, 3], &[4]], &DigestBounds::default());
    assert!(found.digest().is_none());
    assert_eq!(found.reads(1), Reads { footers: 3, footers_max: 3, bytes: 540, ..Reads::default() });
}

#[test]
fn delete_files_are_read_once_however_many_units_need_them() {
    const MIB: u64 = 1 << 20;
    let files = vec![
        file("v", 0, 9 * MIB, vector()),
        file("p", 0, 1000, DeleteContent::Positions),
        file("q", 0, 3 * MIB, DeleteContent::Positions),
    ];
    let sets = vec![set(&[1, 2], &[]), set(&[2], &[])];
    let reads = |own: &[UnitDeletes]| FragmentDeletes::of(&units(files.clone(), sets.clone(), own)).reads();
    let own = |vector, set| deletes("a", vector, set);
    let vector = Reads { runs: 1, runs_max: 1, bytes: 10, ..Reads::default() };
    assert_eq!(reads(&[own(Some(0), None), own(Some(0), None)]), vector);
    let bytes = 1000 + 3 * MIB;
    let positions =
        Reads { footers: 2, footers_max: 3, row_groups: 1, runs: 1, runs_max: 3, bytes, ..Reads::default() };
    assert_eq!(reads(&[own(None, Some(0)), own(None, Some(1))]), positions);
}

/// One old file of 60 MB applies to one old data file. A hundred others need the 500 small ones after it, and only these.
#[test]
fn an_old_large_file_is_no_part_of_a_digest_for_all() {
    const MB: u64 = 1_000_000;
    let small = |number| file("small", 0, 1_000, keys(3, number));
    let files: Vec<DeleteFile> =
        [file("large", 0, 60 * MB, keys(3, 2))].into_iter().chain((0..500).map(|_| small(9))).collect();
    let at = |path: &str, sequence_number| UnitDeletes { sequence_number, ..deletes(path, None, Some(0)) };
    let own: Vec<UnitDeletes> =
        [at("old", 1)].into_iter().chain((0..100).map(|number| at(&number.to_string(), 5))).collect();
    let found = stage_of_each(files, vec![set(&[], &[3])], &own);
    let work = found.digest().expect("a digest");
    assert_eq!((work.keys[0].since, work.keys[0].until, work.files), (5, 5, 500));
    assert!(work.reads.bytes < MB && work.written_bytes < MB, "{work:?}");
    // The old one reads the large file, and the list.
    assert!(found.reads(0).bytes > 60 * MB && found.reads(0).requests() <= 3, "{:?}", found.reads(0));
    let list = 500 * (1_000 - 400) + 512;
    assert!(
        (1..101)
            .all(|fragment| found.reads(fragment) == Reads { runs: 1, runs_max: 1, bytes: list, ..Reads::default() })
    );
}

/// A fragment whose data files are newer than all but a few files reads these, not the list of all.
#[test]
fn a_list_is_for_the_fragments_that_it_costs_less() {
    let files: Vec<DeleteFile> = (1..=20).map(|number| file("k", 0, 2 << 20, keys(3, number))).collect();
    let at =
        |path: usize, sequence_number| UnitDeletes { sequence_number, ..deletes(&path.to_string(), None, Some(0)) };
    let own: Vec<UnitDeletes> = (0..50).map(|number| at(number, if number < 48 { 5 } else { 18 })).collect();
    let found = stage_of_each(files.clone(), vec![set(&[], &[3])], &own);
    // 15 files of 2 MiB are 30 MiB in one list, and 45 MiB with their requests. The last two need 2 files: 6 MiB.
    let work = found.digest().expect("a digest");
    assert_eq!((work.keys[0].since, work.keys[0].until, work.files), (5, 5, 15));
    assert_eq!(found.reads(0).requests(), 1);
    assert_eq!((found.reads(48).bytes, found.reads(49).bytes), (4 << 20, 4 << 20));
}

/// Forty groups that fit one by one do not fit together: those that save most are digested.
#[test]
fn a_digest_is_bounded_over_all_groups_when_it_is_planned() {
    const MIB: u64 = 1 << 20;
    // Each group has five files; each is read by ten fragments, and those of later scopes are larger.
    let mut files = Vec::new();
    for scope in 0..40_u32 {
        files.extend((0..5).map(|_| file("k", 0, MIB / 2 + u64::from(scope) * 1_000, keys(scope, 9))));
    }
    let sets = (0..40).map(|scope| set(&[], &[scope])).collect();
    let own: Vec<_> = (0..400).map(|number| deletes(&number.to_string(), None, Some(number % 40))).collect();
    let found = stage_of_each(files, sets, &own);
    let work = found.digest().expect("a digest");
    assert!(work.written_bytes <= 32 * MIB && work.written_bytes > 29 * MIB, "{} bytes", work.written_bytes);
    assert_eq!(work.keys.len(), 12);
    // Others are read by the functions.
    let requests: Vec<u64> = (0..40).map(|fragment| found.reads(fragment).requests()).collect();
    assert_eq!(requests.iter().filter(|requests| **requests == 1).count(), 12, "{requests:?}");
    assert!(requests.iter().all(|requests| [1, 10].contains(requests)), "{requests:?}");
    // Vectors take room, too.
    let mut files: Vec<DeleteFile> = (0..5).map(|_| file("k", 0, 2 * MIB, keys(0, 9))).collect();
    files.push(file("p", 0, 30 * MIB, DeleteContent::Positions));
    let own: Vec<_> = (0..20).map(|number| deletes(&number.to_string(), None, Some(0))).collect();
    let work = |positions: &[u32]| stage_of_each(files.clone(), vec![set(positions, &[0])], &own).digest().cloned();
    let with_vectors = work(&[5]).expect("a digest");
    assert_eq!((with_vectors.vectors.len(), with_vectors.keys.len()), (20, 0));
    let without = work(&[]).expect("a digest");
    assert_eq!((without.vectors.len(), without.keys.len()), (0, 1));
}
