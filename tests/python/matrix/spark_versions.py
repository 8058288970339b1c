"""Tables of version 1 and of version 3."""

import common
from spark import add_column, alter, call, create, create_merging, delete_keys, iceberg, insert, load, sql

WRITERS = common.Writers()
table = WRITERS.table


# Version 1.


@table
def v1_plain(name):
    create(name, "id int, name string", version=1)
    insert(name, "(1, 'a'), (2, NULL)")
    insert(name, "(3, 'c')")


@table
def v1_void(name):
    """F4: the field that is left in the spec is named like its column."""
    create(name, "id int, p string", "p", version=1)
    insert(name, "(1, 'a'), (2, 'b'), (3, NULL)")
    alter(name, "DROP PARTITION FIELD p")
    insert(name, "(4, 'a'), (5, 'c')")


@table
def v1_void_dropped(name):
    """F5: and the column is dropped."""
    create(name, "id int, p string", "p", version=1)
    insert(name, "(1, 'a'), (2, 'b')")
    alter(name, "DROP PARTITION FIELD p")
    insert(name, "(3, 'c')")
    alter(name, "DROP COLUMN p")
    insert(name, "(4)")


@table
def v1_upgraded(name):
    """No snapshot was written after the upgrade, so that the manifest list is of version 1."""
    create(name, "id int, p int", "p", version=1)
    insert(name, "(1, 1), (2, 2)")
    insert(name, "(3, 1)")
    alter(name, "SET TBLPROPERTIES ('format-version'='2')")


@table
def v1_upgraded_deletes(name):
    """Rows of version 1 have sequence number 0, and deletes of version 2 are newer."""
    create(name, "id int, name string", version=1)
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c')")
    alter(name, "SET TBLPROPERTIES ('format-version'='2', 'write.delete.mode'='merge-on-read')")
    sql(f"DELETE FROM m.{name} WHERE id = 2")
    insert(name, "(4, 'd')")
    delete_keys(name, [{"id": 3}])
    insert(name, "(3, 'again')")

# Version 3.


@table
def v3_vectors(name):
    """One Puffin file holds the vectors of two data files."""
    create_merging(name, "id int, name string", version=3)
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')")
    insert(name, "(5, 'e'), (6, 'f'), (7, NULL)")
    insert(name, "(8, 'h')")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 4, 6)")


@table
def v3_vectors_twice(name):
    """A second vector replaces the first."""
    create_merging(name, "id int, p int", "p", version=3)
    insert(name, "(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)")
    sql(f"DELETE FROM m.{name} WHERE id IN (1, 5)")
    sql(f"DELETE FROM m.{name} WHERE id = 3")


@table
def v3_vector_over_positions(name):
    """A vector replaces the position deletes of its file; the other file keeps its position deletes."""
    create_merging(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')")
    insert(name, "(5, 'e'), (6, 'f')")
    sql(f"DELETE FROM m.{name} WHERE id IN (1, 6)")
    alter(name, "SET TBLPROPERTIES ('format-version'='3')")
    sql(f"DELETE FROM m.{name} WHERE id = 3")


@table
def v3_upgraded(name):
    """Position deletes of version 2 in a table of version 3, which has no vector."""
    create_merging(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c')")
    sql(f"DELETE FROM m.{name} WHERE id = 2")
    alter(name, "SET TBLPROPERTIES ('format-version'='3')")


@table
def v3_compacted(name):
    """Trap 5: deletes of both kinds, and then a compaction."""
    create_merging(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c')")
    sql(f"DELETE FROM m.{name} WHERE id = 2")
    alter(name, "SET TBLPROPERTIES ('format-version'='3')")
    insert(name, "(4, 'd'), (5, 'e')")
    sql(f"DELETE FROM m.{name} WHERE id IN (3, 5)")
    call(f"rewrite_data_files(table => '{name}', options => map('min-input-files', '1', 'delete-file-threshold', '1'))")


@table
def v3_row_groups(name):
    """Trap 6: positions are of the file, not of the row group."""
    create_merging(name, "id int, name string", version=3, **{"write.parquet.row-group-size-bytes": "1", "write.parquet.row-group-check-min-record-count": "100"})
    sql(f"INSERT INTO m.{name} SELECT CAST(id AS int), concat('n', id) FROM range(0, 300, 1, 1)")
    sql(f"DELETE FROM m.{name} WHERE id IN (0, 99, 100, 250)")


@table
def v3_whole_file_by_vector(name):
    create_merging(name, "id int", version=3)
    insert(name, "(1), (2), (3), (4)")
    insert(name, "(5)")
    sql(f"DELETE FROM m.{name} WHERE id IN (1, 3)")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 4)")


@table
def v3_long_vector(name):
    """A vector with a run of 70,000 positions, beyond one container of the bitmap."""
    create_merging(name, "id int, k int", version=3)
    sql(f"INSERT INTO m.{name} SELECT CAST(id AS int), CAST(id DIV 1000 AS int) FROM range(0, 80000, 1, 1)")
    sql(f"DELETE FROM m.{name} WHERE (id >= 5000 AND id < 75000) OR id = 79999")


@table
def v3_vector_and_keys(name):
    create_merging(name, "id int, name string", version=3)
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')")
    sql(f"DELETE FROM m.{name} WHERE id = 1")
    delete_keys(name, [{"name": "d"}])
    insert(name, "(4, 'd')")


@table
def v3_gzip(name):
    """F7: the metadata file is compressed."""
    create(name, "id int, name string", version=3, **{"write.metadata.compression-codec": "gzip"})
    insert(name, "(1, 'a'), (2, 'b')")


@table
def v2_gzip(name):
    create(name, "id int, name string", **{"write.metadata.compression-codec": "gzip"})
    insert(name, "(1, 'a'), (2, 'b')")


@table
def v3_defaults(name):
    """Columns with initial defaults; the default for writing changes later, and old rows keep the first."""
    create(name, "id int", version=3)
    insert(name, "(1), (2)")
    types = iceberg().types.Types
    add_column(name, "n", types.IntegerType.get(), 7)
    add_column(name, "name", types.StringType.get(), "none")
    add_column(name, "flag", types.BooleanType.get(), True)
    insert(name, "(3, 30, 'c', false), (4, NULL, NULL, NULL)")
    load(name).updateSchema().updateColumnDefault("n", iceberg().expressions.Expressions.lit(8)).commit()


@table
def v3_default_renamed(name):
    """The column with a default is renamed and promoted, and a column is added under its old name, without a default."""
    create(name, "id int", version=3)
    insert(name, "(1)")
    add_column(name, "n", iceberg().types.Types.IntegerType.get(), 7)
    alter(name, "RENAME COLUMN n TO m")
    alter(name, "ALTER COLUMN m TYPE bigint")
    alter(name, "ADD COLUMN n int")
    insert(name, "(2, 5000000000, 1)")


@table
def v3_nested_defaults(name):
    """A field with an initial default is added to a struct, which is NULL in one row."""
    create(name, "id int, s struct<a: int>", version=3)
    insert(name, "(1, named_struct('a', 1)), (2, NULL)")
    add_column(name, "b", iceberg().types.Types.IntegerType.get(), 5, parent="s")
    insert(name, "(3, named_struct('a', 3, 'b', 30)), (4, named_struct('a', 4, 'b', NULL))")


@table
def v3_unknown(name):
    """F14: a column whose type nobody knows yet."""
    create(name, "id int", version=3)
    insert(name, "(1), (2)")
    add_column(name, "u", iceberg().types.Types.UnknownType.get())


@table
def v3_row_lineage(name):
    """Rows that were updated carry the columns of their lineage in the file."""
    create(name, "id int, n int", version=3)
    insert(name, "(1, 10), (2, 20)")
    sql(f"UPDATE m.{name} SET n = 21 WHERE id = 2")
