"""Tables with position deletes of version 2, and with files that were dropped."""

import common
import spark
from common import ROOT
from spark import alter, call, create, create_merging, data_files, delete_positions, insert, keys_file, load, positions_file, rows_file, sql

WRITERS = common.Writers()
table = WRITERS.table


@table
def v2_positions(name):
    create_merging(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e'), (6, NULL)")
    insert(name, "(7, 'g'), (8, 'h'), (9, 'i')")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 5)")
    sql(f"DELETE FROM m.{name} WHERE id IN (6, 8)")


@table
def v2_positions_by_partition(name):
    """One delete file names several data files of its partition."""
    create_merging(name, "id int, p string", "p", **{"write.delete.granularity": "partition"})
    insert(name, "(1, 'a'), (2, 'a'), (3, 'b'), (4, 'b'), (5, NULL), (6, NULL)")
    insert(name, "(11, 'a'), (12, 'a'), (13, 'b'), (14, 'b'), (15, NULL), (16, NULL)")
    sql(f"DELETE FROM m.{name} WHERE id IN (1, 12, 14, 5)")


@table
def v2_positions_of_two_specs(name):
    create_merging(name, "id int, a int, b int", "a", **{"write.delete.granularity": "partition"})
    insert(name, "(1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2)")
    alter(name, "DROP PARTITION FIELD a")
    alter(name, "ADD PARTITION FIELD b")
    insert(name, "(5, 1, 1), (6, 1, 1), (7, 2, 2), (8, 2, 2)")
    sql(f"DELETE FROM m.{name} WHERE id IN (1, 4, 6, 7)")
    alter(name, "DROP PARTITION FIELD b")
    insert(name, "(9, 1, 1), (10, 1, 1)")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 9)")


@table
def v2_row_groups(name):
    """Rows 0 to 299 in row groups of 100, deleted at the edges of each."""
    create_merging(name, "id int, name string", **{"write.parquet.row-group-size-bytes": "1", "write.parquet.row-group-check-min-record-count": "100"})
    sql(f"INSERT INTO m.{name} SELECT CAST(id AS int), concat('n', id) FROM range(0, 300, 1, 1)")
    sql(f"DELETE FROM m.{name} WHERE id IN (0, 99, 100, 199, 200, 299)")


@table
def v2_row_group_gone(name):
    """The second of three row groups is deleted whole, and more of the first."""
    create_merging(name, "id int, name string", **{"write.parquet.row-group-size-bytes": "1", "write.parquet.row-group-check-min-record-count": "100"})
    sql(f"INSERT INTO m.{name} SELECT CAST(id AS int), concat('n', id) FROM range(0, 300, 1, 1)")
    sql(f"DELETE FROM m.{name} WHERE id BETWEEN 95 AND 199")


@table
def v2_updated(name):
    create_merging(name, "id int, n int")
    insert(name, "(1, 10), (2, 20), (3, 30)")
    sql(f"UPDATE m.{name} SET n = n + 1 WHERE id >= 2")
    sql(f"UPDATE m.{name} SET n = n + 1 WHERE id = 3")


@table
def v2_merged(name):
    """A merge that deletes, updates and inserts; an update moves a row into another partition."""
    create_merging(name, "id int, p string, n int", "p")
    insert(name, "(1, 'a', 10), (2, 'a', 20), (3, 'b', 30), (4, 'b', 40)")
    spark.SPARK.sql("SELECT * FROM VALUES (1, 'a', 0), (2, 'c', 22), (4, 'b', 44), (5, 'c', 50) AS s(id, p, n)").createOrReplaceTempView("source")
    sql(f"MERGE INTO m.{name} t USING source s ON t.id = s.id WHEN MATCHED AND s.n = 0 THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET p = s.p, n = s.n WHEN NOT MATCHED THEN INSERT *")


@table
def v2_whole_file_by_positions(name):
    """Every row of the first file is deleted, in two commits, and the file is still in the manifest."""
    create_merging(name, "id int")
    insert(name, "(1), (2), (3), (4)")
    insert(name, "(5)")
    sql(f"DELETE FROM m.{name} WHERE id IN (1, 3)")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 4)")


@table
def same_commit(name):
    """Rows, position deletes and equality deletes in one commit, as Flink writes an upsert: positions apply to rows of their own
    commit, and keys do not."""
    create(name, "id int, name string")
    insert(name, "(1, 'old'), (2, 'old'), (3, 'old')")
    java_table = load(name)
    rows = rows_file(java_table, [{"id": 1, "name": "first"}, {"id": 1, "name": "second"}, {"id": 2, "name": "new"}])
    positions = positions_file(java_table, [(rows.location(), 0)])
    keys = keys_file(java_table, [{"id": 1}, {"id": 2}])
    java_table.newRowDelta().addRows(rows).addDeletes(positions).addDeletes(keys).commit()


@table
def positions_of_one_file(name):
    """A position file without a referenced file, whose two bounds of the path are equal; the other file is not hit."""
    create(name, "id int")
    insert(name, "(1), (2), (3)")
    insert(name, "(4), (5), (6)")
    first, _ = data_files(name)
    delete_positions(name, [(first, 0), (first, 2)])


@table
def positions_with_rows(name):
    """The delete file has the deleted rows beside their positions."""
    create(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c')")
    java_table = load(name)
    (first,) = data_files(name)
    deletes = positions_file(java_table, [(first, 0), (first, 1)], rows=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    java_table.newRowDelta().addDeletes(deletes).commit()


@table
def positions_before_their_file(name):
    """A position delete is older than a file that was added under the same path range: it only hits what it names."""
    create(name, "id int")
    insert(name, "(1), (2)")
    (first,) = data_files(name)
    delete_positions(name, [(first, 1), (f"file:{ROOT}/{name}/data/zzz.parquet", 0)])
    insert(name, "(3), (4)")


@table
def positions_of_promoted_partitions(name):
    """The partition's value is an int where rows were added, and a long where they were deleted."""
    create_merging(name, "id int, p int", "p", **{"write.delete.granularity": "partition"})
    insert(name, "(1, 1), (2, 1), (3, 2), (4, 2)")
    insert(name, "(5, 1), (6, 1)")
    alter(name, "ALTER COLUMN p TYPE bigint")
    sql(f"DELETE FROM m.{name} WHERE id IN (1, 4, 6)")
    insert(name, "(7, 5000000000)")


@table
def deleted_then_rewritten(name):
    """Manifests were rewritten after position deletes: entries are carried over with their own numbers."""
    create_merging(name, "id int, p int", "p")
    insert(name, "(1, 1), (2, 1), (3, 2)")
    insert(name, "(4, 1), (5, 2), (6, 2)")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 5)")
    call(f"rewrite_manifests('{name}')")
    insert(name, "(7, 1)")
    sql(f"DELETE FROM m.{name} WHERE p = 1 AND id = 4")


@table
def files_dropped(name):
    """Whole files are deleted by metadata: the manifest is rewritten with entries that are deleted and entries that exist."""
    create(name, "id int, p int", "p")
    insert(name, "(1, 1), (2, 2), (3, 3), (4, 4)")
    insert(name, "(5, 1), (6, 2)")
    sql(f"DELETE FROM m.{name} WHERE p = 2")
    sql(f"DELETE FROM m.{name} WHERE p = 3")
