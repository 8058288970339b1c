//! Tables on disk from beginning to end: created, appended to, found again, planned, refused.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use gust_catalog::{
    Catalog, CatalogStores, ColumnFacts, CompareOp, DataFile, Error, Field, FilePlan, Location, MappedField,
    PartitionField, PartitionValue, Predicate, Result, Scalar, ScanRequest, Schema, SortField, Table, Transform, Type,
};
use iceberg::MetadataLocation;
use iceberg::io::FileIO;
use iceberg::spec as ice;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

const NAMESPACE: &str = "sales.eu";

struct Fixture {
    folder: TempDir,
    catalog: Catalog,
}

impl Fixture {
    async fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("catalog.db");
        let warehouse = format!("file://{}/ware house/", folder.path().display());
        let catalog = Catalog::create_sqlite(&database, "demo", &warehouse, stores()).await.unwrap();
        catalog.create_namespace(NAMESPACE).await.unwrap();
        Fixture { folder, catalog }
    }

    /// Creates a table with columns id, day and name, partitioned by day's month and by name's bucket.
    async fn orders(&self) -> Table {
        let partition =
            [field("day_month", "day", Transform::Month), field("name_bucket", "name", Transform::Bucket(4))];
        let sort = [SortField { column: "id".into(), descending: false, nulls_first: true }];
        self.catalog.create_table(NAMESPACE, "orders", &schema(), &partition, &sort).await.unwrap()
    }

    async fn database(&self) -> SqlitePool {
        let database = self.folder.path().join("catalog.db");
        let options = SqliteConnectOptions::new().filename(database);
        SqlitePool::connect_with(options).await.unwrap()
    }

    /// Commits a change that this crate does not make, and loads the table after it.
    async fn evolve(
        &self,
        table: &Table,
        change: impl FnOnce(ice::TableMetadataBuilder) -> ice::TableMetadataBuilder,
    ) -> Table {
        let io = FileIO::new_with_fs();
        let from = table.metadata_location();
        let metadata = ice::TableMetadata::read_from(&io, from).await.unwrap();
        let metadata = change(metadata.into_builder(Some(from.to_string()))).build().unwrap().metadata;
        let to = MetadataLocation::from_str(from).unwrap().with_next_version().with_new_metadata(&metadata);
        metadata.write_to(&io, &to).await.unwrap();
        sqlx::query("UPDATE iceberg_tables SET metadata_location = ? WHERE metadata_location = ?")
            .bind(to.to_string())
            .bind(from)
            .execute(&self.database().await)
            .await
            .unwrap();
        self.catalog.load(NAMESPACE, "orders").await.unwrap()
    }
}

fn stores() -> CatalogStores {
    let local: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
    CatalogStores::new(move |_| Ok(Arc::clone(&local)))
}

fn schema() -> Schema {
    let column = |id, name: &str, ty| Field { id, name: name.into(), required: false, ty, initial_default: None };
    Schema {
        fields: vec![column(11, "id", Type::Long), column(12, "day", Type::Date), column(13, "name", Type::String)],
    }
}

fn field(name: &str, column: &str, transform: Transform) -> PartitionField {
    PartitionField { name: name.into(), column: column.into(), transform }
}

/// Makes a file with ids from `ids.0` to `ids.1`, all of one day and one name.
fn file(path: &str, ids: (i64, i64), day: i32, name: &str) -> DataFile {
    let name = Scalar::String(name.into());
    let bounds = |id| [(1, Scalar::Long(id)), (2, Scalar::Date(day)), (3, name.clone())];
    DataFile {
        path: format!("s3://bucket/{path}"),
        size_bytes: 1000,
        record_count: 10,
        column_sizes: [(1, 100), (2, 20), (3, 300)].into(),
        value_counts: [(1, 10), (2, 10), (3, 10)].into(),
        null_counts: [(1, 0), (2, 0), (3, 0)].into(),
        nan_counts: [].into(),
        lower_bounds: bounds(ids.0).into(),
        upper_bounds: bounds(ids.1).into(),
        partition: vec![
            PartitionValue { name: "day_month".into(), value: Transform::Month.apply(&Scalar::Date(day)) },
            PartitionValue { name: "name_bucket".into(), value: Transform::Bucket(4).apply(&name) },
        ],
        split_offsets: vec![4, 500],
    }
}

fn compare(column: &str, op: CompareOp, value: Scalar) -> Predicate {
    Predicate::Compare { column: column.into(), op, value }
}

/// Plans with the metrics of all columns.
async fn planned(table: &Table, predicate: &Predicate) -> Result<FilePlan> {
    let columns = table.schema().fields.iter().flat_map(|field| table.leaf_ids(&field.name)).collect();
    table.plan(&ScanRequest { predicate, columns: &columns, also: &BTreeSet::new() }).await
}

/// Compares the files of a plan with those that were appended.
fn assert_holds(plan: &FilePlan, appended: &[DataFile]) {
    assert_eq!(plan.files.len(), appended.len());
    for (found, file) in plan.files.iter().zip(appended) {
        assert_eq!(found.path.to_string(), file.path);
        assert_eq!((found.size_bytes, found.record_count), (file.size_bytes, file.record_count));
        assert_eq!(found.column_bytes.iter().copied().collect::<BTreeMap<_, _>>(), file.column_sizes);
        assert_eq!(found.split_offsets[..], file.split_offsets);
        assert_eq!(found.identity_values.len(), 0);
        let facts = |id: &i32| ColumnFacts {
            id: *id,
            values: file.value_counts.get(id).copied(),
            nulls: file.null_counts.get(id).copied(),
            nans: file.nan_counts.get(id).copied(),
            lower: file.lower_bounds.get(id).cloned(),
            upper: file.upper_bounds.get(id).cloned(),
        };
        assert_eq!(found.columns[..], file.value_counts.keys().map(facts).collect::<Vec<_>>());
    }
}

fn paths(plan: &FilePlan) -> Vec<String> {
    let paths = plan.files.iter().map(|file| file.path.to_string());
    paths.map(|path| path.strip_prefix("s3://bucket/").unwrap().to_owned()).collect()
}

/// Prints the pruning as EXPLAIN would.
fn reasons(plan: &FilePlan) -> Vec<String> {
    let reasons = plan.pruning.by_reason.iter();
    reasons
        .map(|pruned| {
            let bytes = pruned.bytes.map_or("?".to_string(), |bytes| bytes.to_string());
            let (reason, manifests, files) = (&pruned.reason, pruned.manifests, pruned.files);
            format!("{reason}: {manifests} manifests, {files} files, {bytes} bytes")
        })
        .collect()
}

#[tokio::test]
async fn a_table_is_created_filled_and_found_again() {
    let fixture = Fixture::new().await;
    let empty = fixture.orders().await;
    assert_eq!(empty.snapshot_id(), None);
    assert_eq!(empty.name(), "sales.eu.orders");
    assert!(empty.location().ends_with("/ware house/sales/eu/orders"), "{}", empty.location());
    let ids: Vec<_> = empty.schema().fields.iter().map(|field| field.id).collect();
    assert_eq!(ids, [1, 2, 3], "the table assigns its own ids");
    let plan = planned(&empty, &Predicate::AlwaysTrue).await.unwrap();
    assert_eq!((plan.files.len(), plan.pruning.bytes_total), (0, Some(0)));

    let first = [file("a", (1, 9), 40, "ann"), file("b", (10, 19), 80, "carol")];
    let second = [file("c", (20, 29), 80, "ann")];
    let filled = fixture.catalog.append(&empty, &first).await.unwrap();
    let filled = fixture.catalog.append(&filled, &second).await.unwrap();
    let expect: Vec<_> = first.iter().chain(&second).cloned().collect();

    let folder = filled.location().trim_start_matches("file://");
    let reopened = [
        filled.clone(),
        fixture.catalog.load(NAMESPACE, "orders").await.unwrap(),
        Table::open(folder, &stores()).await.unwrap(),
        Table::open(&format!("{}/", filled.location()), &stores()).await.unwrap(),
        Table::open(filled.metadata_location(), &stores()).await.unwrap(),
    ];
    for table in &reopened {
        let plan = planned(table, &Predicate::AlwaysTrue).await.unwrap();
        assert_holds(&plan, &expect);
        assert_eq!(table.snapshot_id(), filled.snapshot_id());
        assert!(table.snapshot_timestamp_unix_ms() > Some(0));
        assert_eq!(table.partition_fields()[0], field("day_month", "day", Transform::Month));
        assert_eq!(table.schema(), empty.schema());
    }
    assert!(planned(&empty, &Predicate::AlwaysTrue).await.unwrap().files.is_empty(), "pinned");

    assert_eq!(fixture.catalog.namespaces().await.unwrap(), [NAMESPACE]);
    assert_eq!(fixture.catalog.tables(NAMESPACE).await.unwrap(), ["orders"]);
    assert!(fixture.catalog.tables("none").await.unwrap().is_empty());
}

#[tokio::test]
async fn plan_names_what_pruned() {
    let fixture = Fixture::new().await;
    let table = fixture.orders().await;
    let many = [file("a", (1, 9), 40, "ann"), file("b", (10, 19), 40, "carol"), file("c", (20, 29), 400, "ann")];
    let table = fixture.catalog.append(&table, &many).await.unwrap();
    let late = [file("d", (30, 39), 9_000, "ann")];
    let table = fixture.catalog.append(&table, &late).await.unwrap();

    let check = async |predicate: Predicate, files: &[&str], expect: &[&str]| {
        let plan = planned(&table, &predicate).await.unwrap();
        assert_eq!(paths(&plan), files, "{predicate:?}");
        assert_eq!(reasons(&plan), expect, "{predicate:?}");
        let pruning = plan.pruning;
        let pruned: u64 = pruning.by_reason.iter().map(|pruned| pruned.files).sum();
        assert_eq!(pruning.files_total, 4);
        assert_eq!(pruning.files_kept + pruned, 4);
        assert_eq!(pruning.bytes_total, Some(4000));
        assert_eq!(pruning.bytes_kept, 1000 * files.len() as u64);
        let unread: u64 = pruning.by_reason.iter().map(|pruned| pruned.manifests).sum();
        assert_eq!((pruning.manifests_total, pruning.manifests_read), (2, 2 - unread));
    };
    let day = |op, day| compare("day", op, Scalar::Date(day));
    let id = |op, id| compare("id", op, Scalar::Long(id));
    let name = |names: &[&str]| Predicate::In {
        column: "name".into(),
        values: names.iter().map(|name| Scalar::String(name.to_string())).collect(),
        negated: false,
    };
    use CompareOp::*;
    check(Predicate::AlwaysTrue, &["a", "b", "c", "d"], &[]).await;
    check(day(Lt, 100), &["a", "b"], &["day_month month(day): 1 manifests, 2 files, 2000 bytes"]).await;
    check(
        Predicate::And(vec![day(Lt, 100), id(LtEq, 9)]),
        &["a"],
        &["day_month month(day): 1 manifests, 2 files, 2000 bytes", "id bounds: 0 manifests, 1 files, 1000 bytes"],
    )
    .await;
    check(name(&["carol"]), &["b"], &["name_bucket bucket[4](name): 1 manifests, 3 files, 3000 bytes"]).await;
    check(Predicate::AlwaysFalse, &[], &["a condition that is never true: 2 manifests, 4 files, 4000 bytes"]).await;
    let null = Predicate::IsNull { column: "id".into(), negated: false };
    check(null.clone(), &[], &["id bounds: 0 manifests, 4 files, 4000 bytes"]).await;
    check(Predicate::Or(vec![null, id(GtEq, 30)]), &["d"], &["id bounds: 0 manifests, 3 files, 3000 bytes"]).await;
    // `AlwaysTrue` stands for a part that cannot be expressed: it must not become false.
    let unknown = Predicate::And(vec![Predicate::AlwaysTrue, id(Gt, 0)]);
    check(Predicate::Not(Box::new(unknown)), &["a", "b", "c", "d"], &[]).await;

    let error = planned(&table, &compare("nope", Eq, Scalar::Int(1))).await;
    assert!(matches!(error, Err(Error::Invalid(why)) if why.contains("no column nope")));
}

#[tokio::test]
async fn manifests_are_pruned_by_their_own_spec_and_column_names_of_today() {
    let fixture = Fixture::new().await;
    let table = fixture.orders().await;
    let by_month = [file("a", (1, 9), 40, "ann"), file("b", (10, 19), 400, "carol")];
    let table = fixture.catalog.append(&table, &by_month).await.unwrap();
    let table = fixture
        .evolve(&table, |builder| {
            let schema = ice::Schema::builder().with_schema_id(1).with_fields([
                Arc::new(ice::NestedField::optional(1, "number", ice::PrimitiveType::Long.into())),
                Arc::new(ice::NestedField::optional(2, "day", ice::PrimitiveType::Date.into())),
                Arc::new(ice::NestedField::optional(3, "name", ice::PrimitiveType::String.into())),
                Arc::new(ice::NestedField::optional(4, "id", ice::PrimitiveType::Int.into())),
            ]);
            let spec =
                ice::UnboundPartitionSpec::builder().add_partition_field(2, "day_year", ice::Transform::Year).unwrap();
            builder
                .add_current_schema(schema.build().unwrap())
                .unwrap()
                .add_default_partition_spec(spec.build())
                .unwrap()
        })
        .await;
    let mut by_year = file("c", (20, 29), 9_000, "ann");
    by_year.partition = vec![PartitionValue { name: "day_year".into(), value: Some(Scalar::Int(24)) }];
    let table = fixture.catalog.append(&table, &[by_year]).await.unwrap();

    let check = async |predicate: Predicate, files: &[&str], expect: &[&str]| {
        let plan = planned(&table, &predicate).await.unwrap();
        assert_eq!(paths(&plan), files, "{predicate:?}");
        assert_eq!(reasons(&plan), expect, "{predicate:?}");
    };
    check(
        compare("day", CompareOp::Eq, Scalar::Date(40)),
        &["a"],
        &[
            "day_year year(day): 1 manifests, 1 files, 1000 bytes",
            "day_month month(day): 0 manifests, 1 files, 1000 bytes",
        ],
    )
    .await;
    // The column was renamed from `id`, and another column has that name now.
    check(
        compare("number", CompareOp::GtEq, Scalar::Long(10)),
        &["b", "c"],
        &["number bounds: 0 manifests, 1 files, 1000 bytes"],
    )
    .await;
    // The column was added after all files were written: they hold NULL, but nothing says so.
    check(compare("id", CompareOp::Eq, Scalar::Int(1)), &["a", "b", "c"], &[]).await;
}

#[tokio::test]
async fn a_commit_against_an_older_snapshot_conflicts() {
    let fixture = Fixture::new().await;
    let empty = fixture.orders().await;
    let other = fixture.catalog.load(NAMESPACE, "orders").await.unwrap();
    let files = [file("a", (1, 9), 40, "ann")];
    fixture.catalog.append(&empty, &files).await.unwrap();
    let error = fixture.catalog.append(&other, &files).await.unwrap_err();
    assert!(matches!(&error, Error::Conflict { table } if table == "sales.eu.orders"), "{error}");
    let table = fixture.catalog.load(NAMESPACE, "orders").await.unwrap();
    assert_holds(&planned(&table, &Predicate::AlwaysTrue).await.unwrap(), &files);
    let folder = Table::open(table.location(), &stores()).await.unwrap();
    assert_eq!(folder.snapshot_id(), table.snapshot_id(), "the loser left no version behind");
}

#[tokio::test]
async fn bad_input_is_named() {
    let fixture = Fixture::new().await;
    let table = fixture.orders().await;
    let Fixture { folder, catalog } = &fixture;
    let check = |error: Error, expect: &str| {
        let told = format!("{error}; {}", error.hint().unwrap_or_default());
        assert!(told.contains(expect), "{told}");
    };

    let error = catalog.load(NAMESPACE, "order").await.unwrap_err();
    check(error, "table sales.eu.order not found");
    let database = folder.path().join("catalog.db");
    let misnamed = Catalog::sqlite(&database, "prod", "/w", stores()).await.unwrap();
    let error = misnamed.load(NAMESPACE, "orders").await.unwrap_err();
    check(error, "has no catalog prod, only demo");
    let missing = folder.path().join("none.db");
    let error = Catalog::sqlite(&missing, "demo", "/w", stores()).await.unwrap_err();
    check(error, "none.db not found");
    std::fs::write(&missing, "").unwrap();
    let error = Catalog::sqlite(&missing, "demo", "/w", stores()).await.unwrap_err();
    check(error, "has no table iceberg_tables");

    let error = catalog.create_namespace(NAMESPACE).await.unwrap_err();
    check(error, "namespace sales.eu already exists");
    let create = async |partition: PartitionField| {
        let schema = schema();
        let partition = [partition];
        let created = catalog.create_table(NAMESPACE, "orders", &schema, &partition, &[]);
        created.await.unwrap_err()
    };
    let error = create(field("d", "day", Transform::Day)).await;
    check(error, "table sales.eu.orders already exists");
    let error = create(field("d", "none", Transform::Day)).await;
    check(error, "no column none to partition or sort by");
    let error = create(field("the-day", "day", Transform::Day)).await;
    check(error, "is not of ASCII letters");
    let error = create(field("h", "day", Transform::Hour)).await;
    check(error, "cannot create table orders");

    let append = async |change: fn(&mut DataFile)| {
        let mut file = file("a", (1, 9), 40, "ann");
        change(&mut file);
        catalog.append(&table, &[file]).await.unwrap_err()
    };
    let error = append(|file| file.partition.truncate(1)).await;
    check(error, "it has no value of partition field name_bucket");
    let error = append(|file| file.partition[0].value = Some(Scalar::Boolean(true))).await;
    check(error, "is no value of partition field day_month");
    let error = append(|file| {
        file.lower_bounds.insert(1, Scalar::Date(0));
    })
    .await;
    check(error, "is no bound of field 1");

    let error = catalog.append(&table, &[]).await.unwrap_err();
    check(error, "no data files to append to table sales.eu.orders");
    let bare = Table::open(table.location(), &stores()).await.unwrap();
    let error = catalog.append(&bare, &[]).await.unwrap_err();
    check(error, "table orders was not loaded from a catalog");

    std::fs::remove_file(table.metadata_location().trim_start_matches("file://")).unwrap();
    let error = catalog.load(NAMESPACE, "orders").await.unwrap_err();
    check(error, ".metadata.json is not there");
}

#[tokio::test]
async fn contents_that_would_be_read_wrongly_are_refused() {
    let check = async |entries: Vec<ice::DataFile>, expect: &str| {
        let fixture = Fixture::new().await;
        let table = fixture.orders().await;
        let first = [file("a", (1, 9), 40, "ann")];
        let table = fixture.catalog.append(&table, &first).await.unwrap();
        let table = add_manifest(&fixture, &table, entries).await;
        let error = planned(&table, &Predicate::AlwaysTrue).await.unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert!(message.contains("table sales.eu.orders has"), "{message}");
        assert!(message.contains(expect), "{message}");
    };
    use ice::DataContentType::*;
    use ice::DataFileFormat::*;
    let encrypted = ice_file(Data, Parquet, Some(vec![1]));
    check(vec![ice_file(PositionDeletes, Parquet, Some(vec![1]))], "encrypted delete files").await;
    check(vec![ice_file(PositionDeletes, Avro, None)], "delete files in format avro").await;
    check(vec![ice_file(Data, Orc, None)], "data files in format orc").await;
    check(vec![encrypted], "encrypted data files").await;
}

#[tokio::test]
async fn deletes_that_are_gone_do_not_matter() {
    let fixture = Fixture::new().await;
    let table = fixture.orders().await;
    let first = [file("a", (1, 9), 40, "ann")];
    let table = fixture.catalog.append(&table, &first).await.unwrap();
    let table = add_manifest(&fixture, &table, vec![]).await;
    let plan = planned(&table, &Predicate::AlwaysTrue).await.unwrap();
    assert_eq!(paths(&plan), ["a"]);
}

#[tokio::test]
async fn older_catalog_tables_and_gzipped_metadata_are_read() {
    let fixture = Fixture::new().await;
    let table = fixture.orders().await;
    let first = [file("a", (1, 9), 40, "ann")];
    let table = fixture.catalog.append(&table, &first).await.unwrap();
    let table = fixture
        .evolve(&table, |builder| {
            let codec = "write.metadata.compression-codec".to_string();
            builder.set_properties([(codec, "gzip".to_string())].into()).unwrap()
        })
        .await;
    assert!(table.metadata_location().ends_with(".gz.metadata.json"));
    sqlx::query("ALTER TABLE iceberg_tables DROP COLUMN iceberg_type")
        .execute(&fixture.database().await)
        .await
        .unwrap();

    let database = fixture.folder.path().join("catalog.db");
    let catalog = Catalog::sqlite(&database, "demo", "/w", stores()).await.unwrap();
    assert_eq!(catalog.tables(NAMESPACE).await.unwrap(), ["orders"]);
    let table = catalog.load(NAMESPACE, "orders").await.unwrap();
    let second = [file("b", (1, 9), 40, "ann")];
    let table = catalog.append(&table, &second).await.unwrap();
    let plan = planned(&table, &Predicate::AlwaysTrue).await.unwrap();
    assert_eq!(paths(&plan), ["a", "b"]);
}

#[tokio::test]
async fn a_name_mapping_is_handed_on() {
    let fixture = Fixture::new().await;
    let table = fixture.orders().await;
    assert_eq!(table.name_mapping(), None);
    let map = async |json: &str| {
        let property = ("schema.name-mapping.default".to_string(), json.to_string());
        let set = |builder: ice::TableMetadataBuilder| builder.set_properties([property].into()).unwrap();
        fixture.evolve(&table, set).await
    };
    let table = map(r#"[{"field-id": 1, "names": ["id", "ident"]}, {"names": ["x"]}]"#).await;
    let field = |id, names: &[&str]| MappedField {
        id,
        names: names.iter().map(|name| name.to_string()).collect(),
        fields: vec![],
    };
    let expect = [field(Some(1), &["id", "ident"]), field(None, &["x"])];
    assert_eq!(table.name_mapping(), Some(&expect[..]));
}

fn ice_file(content: ice::DataContentType, format: ice::DataFileFormat, key: Option<Vec<u8>>) -> ice::DataFile {
    // The partition of day 40 and ann.
    let Some(Scalar::Int(bucket)) = Transform::Bucket(4).apply(&Scalar::String("ann".into())) else { panic!() };
    let partition = [Some(ice::Literal::int(1)), Some(ice::Literal::int(bucket))];
    ice::DataFileBuilder::default()
        .content(content)
        .file_path("s3://bucket/other".to_string())
        .file_format(format)
        .partition(ice::Struct::from_iter(partition))
        .record_count(1)
        .file_size_in_bytes(1)
        .key_metadata(key)
        .build()
        .unwrap()
}

/// Adds a snapshot with one more manifest. Without entries, the manifest has a delete file that was removed.
async fn add_manifest(fixture: &Fixture, table: &Table, entries: Vec<ice::DataFile>) -> Table {
    let io = FileIO::new_with_fs();
    let metadata = ice::TableMetadata::read_from(&io, table.metadata_location()).await.unwrap();
    let parent = metadata.current_snapshot().unwrap();
    let location = |name: &str| format!("{}/metadata/{name}.avro", table.location());
    let builder = ice::ManifestWriterBuilder::new(
        io.new_output(location("added")).unwrap(),
        Some(7),
        metadata.current_schema().clone(),
        metadata.default_partition_spec().as_ref().clone(),
    );
    let is_data = |file: &ice::DataFile| file.content_type() == ice::DataContentType::Data;
    let mut writer = match entries.first().is_some_and(is_data) {
        true => builder.build_v2_data(),
        false => builder.build_v2_deletes(),
    };
    if entries.is_empty() {
        use ice::{DataContentType::PositionDeletes, DataFileFormat::Parquet};
        let removed = ice_file(PositionDeletes, Parquet, None);
        writer.add_delete_file(removed, 1, Some(1)).unwrap();
    }
    for entry in entries {
        writer.add_file(entry, -1).unwrap();
    }
    let manifest = writer.write_manifest_file().await.unwrap();

    let parent_list = io.new_input(parent.manifest_list()).unwrap().read().await.unwrap();
    let version = ice::FormatVersion::V2;
    let parent_list = ice::ManifestList::parse_with_version(&parent_list, version).unwrap();
    let manifests = parent_list.entries().iter().cloned().chain([manifest]);
    let output = io.new_output(location("list")).unwrap();
    let writer = output.writer().await.unwrap();
    let parent_id = Some(parent.snapshot_id());
    let mut writer = ice::ManifestListWriter::v2(writer, 7, parent_id, 2);
    writer.add_manifests(manifests).unwrap();
    writer.close().await.unwrap();

    let snapshot = ice::Snapshot::builder()
        .with_snapshot_id(7)
        .with_parent_snapshot_id(parent_id)
        .with_sequence_number(2)
        .with_timestamp_ms(parent.timestamp_ms() + 1)
        .with_manifest_list(location("list"))
        .with_summary(ice::Summary { operation: ice::Operation::Overwrite, additional_properties: Default::default() })
        .build();
    let commit = |builder: ice::TableMetadataBuilder| builder.set_branch_snapshot(snapshot, ice::MAIN_BRANCH).unwrap();
    fixture.evolve(table, commit).await
}

#[tokio::test]
async fn tables_live_in_object_stores_and_are_used_from_other_threads() {
    let folder = tempfile::tempdir().unwrap();
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let stores = CatalogStores::new(move |url| match url.as_str() {
        "s3://bucket/" => Ok(Arc::clone(&bucket)),
        other => Err(format!("no store for {other}").into()),
    });
    let database = folder.path().join("catalog.db");
    // Spawned, the work shows that a runtime can move every future between threads.
    let work = async move {
        let catalog = Catalog::create_sqlite(&database, "demo", "s3a://bucket/wh", stores.clone()).await.unwrap();
        catalog.create_namespace("n").await.unwrap();
        let table = catalog.create_table("n", "t", &schema(), &[], &[]).await.unwrap();
        let mut file = file("a", (1, 9), 40, "ann");
        file.partition = vec![];
        let table = catalog.append(&table, &[file.clone()]).await.unwrap();
        assert!(table.metadata_location().starts_with("s3a://bucket/wh/n/t/metadata/"));
        for table in [
            catalog.load("n", "t").await.unwrap(),
            Table::open("s3://bucket/wh/n/t", &stores).await.unwrap(),
            Table::open(table.metadata_location(), &stores).await.unwrap(),
        ] {
            let plan = planned(&table, &Predicate::AlwaysTrue).await.unwrap();
            assert_holds(&plan, &[file.clone()]);
        }
        let error = Table::open("s3://other/wh/n/t", &stores).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    };
    tokio::spawn(work).await.unwrap();
}

#[test]
fn data_file_paths_resolve_like_metadata_paths() {
    let location = Location::parse(&file("a b%20", (0, 0), 0, "").path).unwrap();
    assert_eq!(location.store.as_str(), "s3://bucket/");
    assert_eq!(location.path.as_ref(), "a b%20");
}
