"""Tables that are partitioned, with files of other writers, and with several snapshots."""

import os

import common
from common import ROOT
from spark import alter, call, create, create_merging, imported, insert, sql

WRITERS = common.Writers()
table = WRITERS.table


# Partitions.


@table
def source_dropped(name):
    """F3: the source of a partition field was dropped, and manifests with its spec were written after that."""
    create(name, "id int, p int", "p")
    insert(name, "(1, 1), (2, 2)")
    insert(name, "(3, 1)")
    alter(name, "DROP PARTITION FIELD p")
    alter(name, "DROP COLUMN p")
    call(f"rewrite_manifests('{name}')")
    insert(name, "(4)")


@table
def by_bucket(name):
    create(name, "id int, name string, n bigint", "bucket(4, id), bucket(3, name)")
    insert(name, "(1, 'a', 10), (2, 'b', 20), (3, NULL, 30), (-4, '', 40), (NULL, 'é漢字', 50), (2147483647, 'z', 60)")


@table
def routed(name):
    """Two buckets: a lookup by both columns reaches few files."""
    create(name, "a int, b int, n int", "bucket(8, a), bucket(4, b)")
    sql(f"INSERT INTO m.{name} SELECT CAST(id DIV 4 AS int), CAST(id % 4 AS int), CAST(id AS int) FROM range(0, 64, 1, 1)")


@table
def by_truncate(name):
    create(name, "id int, name string", "truncate(10, id), truncate(2, name)")
    insert(name, "(-11, 'alpha'), (-10, 'alps'), (-1, 'a'), (0, 'beta'), (9, 'é漢字'), (10, ''), (NULL, NULL)")


@table
def by_time(name):
    """Months, days, hours and years before 1970."""
    create(name, "id int, d date, ts timestamp_ntz", "months(d), hours(ts)")
    insert(name, "(1, date'1969-12-31', timestamp_ntz'1969-12-31 23:59:59.999999'), (2, date'1970-01-01', timestamp_ntz'1970-01-01 00:00:00'), "
                 "(3, date'1969-12-01', timestamp_ntz'1969-12-31 22:59:59.999999'), (4, date'1969-11-30', timestamp_ntz'1969-12-31 23:00:00'), "
                 "(5, NULL, NULL), (6, date'2024-02-29', timestamp_ntz'2024-02-29 12:30:00')")


@table
def by_years_and_days(name):
    create(name, "id int, d date, ts timestamp", "years(d), days(ts)")
    insert(name, "(1, date'1969-12-31', timestamp'1969-12-31 23:59:59.999999Z'), (2, date'1970-01-01', timestamp'1970-01-01 00:00:00Z'), "
                 "(3, date'1968-12-31', timestamp'1969-12-30 23:59:59.999999Z'), (4, date'1900-01-01', timestamp'1900-01-01 00:00:00Z'), (5, NULL, NULL)")


@table
def by_identity(name):
    """Values that have to be escaped in folder names, an empty text, NULL, dates, decimals and truth."""
    create(name, "id int, k string, d date, n decimal(9, 2), b boolean", "k, d, n, b")
    insert(name, "(1, 'a/b', date'1969-12-31', -1.50, true), (2, 'a b%20', date'2024-02-29', 0.05, false), (3, '', NULL, NULL, NULL), (4, NULL, date'1970-01-01', 1234567.89, true)")


@table
def nan_partition(name):
    create(name, "id int, x double, f float", "x")
    insert(name, "(1, double('NaN'), float('NaN')), (2, 1.5, float('1.5')), (3, NULL, NULL), (4, double('-Infinity'), float('-Infinity')), (5, double('NaN'), float(0))")


@table
def nested_source(name):
    """F2: partitioned by a field of a struct."""
    create(name, "id int, s struct<x: int, y: string>", "s.x")
    insert(name, "(1, named_struct('x', 1, 'y', 'a')), (2, named_struct('x', 2, 'y', 'b')), (3, named_struct('x', NULL, 'y', 'c')), (4, NULL)")
    alter(name, "RENAME COLUMN s.x TO z")


@table
def partitioned_later(name):
    """F1: a column was added, and the table partitioned by it; older files have neither."""
    create(name, "id int")
    insert(name, "(1), (2)")
    alter(name, "ADD COLUMN region string")
    alter(name, "ADD PARTITION FIELD region")
    insert(name, "(3, 'eu'), (4, 'us'), (5, NULL)")

# Files that other writers left.


@table
def imported_with_mapping(name):
    """F12: files without ids are read by the name mapping, which a rename extends."""
    create(name, "id int, name string, s struct<a: int, b: int>, l array<int>, m map<string, int>")
    folder = imported(name, "SELECT * FROM VALUES (1, 'a', named_struct('a', 1, 'b', 10), array(1, 2), map('k', 1)), (2, NULL, NULL, NULL, NULL) AS t(id, name, s, l, m)")
    call(f"add_files(table => '{name}', source_table => '`parquet`.`{folder}`')")
    alter(name, "RENAME COLUMN name TO title")
    alter(name, "ADD COLUMN name string")
    alter(name, "RENAME COLUMN s.a TO z")
    insert(name, "(3, 'c', named_struct('z', 3, 'b', 30), array(3), map('k', 3), 'new')")


@table
def imported_without_mapping(name):
    """Files without ids in a table without a mapping: nothing says which column is which."""
    create(name, "id int, name string")
    folder = imported(name, "SELECT * FROM VALUES (1, 'a'), (2, 'b') AS t(id, name)")
    call(f"add_files(table => '{name}', source_table => '`parquet`.`{folder}`')")
    alter(name, "UNSET TBLPROPERTIES ('schema.name-mapping.default')")


@table
def imported_partitions(name):
    """Trap 8: as Hive leaves them, files lack the partition's column, and timestamps are INT96."""
    create(name, "id int, ts timestamp, p string", "p")
    folder = imported(name, "SELECT * FROM VALUES (1, timestamp'1500-01-01 00:00:00Z', 'a'), (2, timestamp'2024-02-29 12:30:00.123456Z', 'a'), "
                            "(3, timestamp'3000-01-01 00:00:00Z', 'b/c'), (4, NULL, 'b/c'), (5, timestamp'1969-12-31 23:59:59.999999Z', 'a') AS t(id, ts, p)", "p")
    call(f"add_files(table => '{name}', source_table => '`parquet`.`{folder}`')")
    insert(name, "(6, timestamp'2024-01-01 00:00:00Z', 'a')")


@table
def imported_wrong_partition(name):
    """Trap 8: the file has the partition's column with another value than the metadata; the metadata is right."""
    create(name, "id int, p string", "p")
    folder = imported(name, "SELECT * FROM VALUES (1, 'file'), (2, 'file') AS t(id, p)")
    os.makedirs(f"{folder}/p=metadata")
    for file in os.listdir(folder):
        if file.startswith("part-"):
            os.rename(f"{folder}/{file}", f"{folder}/p=metadata/{file}")
    call(f"add_files(table => '{name}', source_table => '`parquet`.`{folder}`')")

# Snapshots.


@table
def rolled_back(name):
    create(name, "id int")
    insert(name, "(1)")
    first = sql(f"SELECT snapshot_id FROM m.{name}.snapshots")[0].snapshot_id
    insert(name, "(2)")
    call(f"rollback_to_snapshot('{name}', {first})")


@table
def branched(name):
    """A branch has rows that the table has not."""
    create_merging(name, "id int", version=2)
    insert(name, "(1), (2)")
    alter(name, "CREATE BRANCH b")
    sql(f"INSERT INTO m.{name}.branch_b VALUES (3)")
    sql(f"DELETE FROM m.{name}.branch_b WHERE id = 1")
    alter(name, "CREATE TAG t")
    insert(name, "(4)")


@table
def expired(name):
    """Older snapshots are expired, and their manifests gone."""
    create(name, "id int, p int", "p")
    insert(name, "(1, 1), (2, 2)")
    insert(name, "(3, 1)")
    sql(f"DELETE FROM m.{name} WHERE p = 2")
    call(f"expire_snapshots(table => '{name}', older_than => timestamp'2100-01-01 00:00:00', retain_last => 1)")


@table
def versions(name):
    """A column is dropped and added again, a branch goes its own way, a snapshot is rolled back and one is expired."""
    create(name, "id int, x int")
    insert(name, "(1, 10)")
    alter(name, "CREATE TAG first")
    insert(name, "(2, 20)")
    second = sql(f"SELECT snapshot_id FROM m.{name}.refs WHERE name = 'main'")[0].snapshot_id
    alter(name, "CREATE BRANCH ahead")
    alter(name, "DROP COLUMN x")
    alter(name, "ADD COLUMN x string")
    sql(f"INSERT INTO m.{name}.branch_ahead VALUES (3, 'b')")
    insert(name, "(4, 'gone')")
    gone = sql(f"SELECT snapshot_id FROM m.{name}.refs WHERE name = 'main'")[0].snapshot_id
    call(f"rollback_to_snapshot('{name}', {second})")
    insert(name, "(5, 'n')")
    call(f"expire_snapshots(table => '{name}', snapshot_ids => array({gone}))")


@table
def bare_paths(name):
    """Paths of data files have no scheme, and lie elsewhere."""
    create_merging(name, "id int, name string", **{"write.data.path": f"{ROOT}/{name}/elsewhere"})
    insert(name, "(1, 'a'), (2, 'b')")
    sql(f"DELETE FROM m.{name} WHERE id = 1")
