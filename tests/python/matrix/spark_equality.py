"""Tables with equality deletes."""

import common
import spark
from spark import add_column, alter, call, create, create_merging, delete_keys, iceberg, imported, insert, integers, load, output, record, sql

WRITERS = common.Writers()
table = WRITERS.table


@table
def eq_null_key(name):
    create(name, "id int, name string")
    insert(name, "(1, 'a'), (2, NULL), (3, 'c'), (4, NULL), (5, '')")
    delete_keys(name, [{"name": None}, {"name": "c"}])


@table
def eq_reinserted(name):
    """The key is deleted, and inserted again."""
    create(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b')")
    delete_keys(name, [{"name": "b"}])
    insert(name, "(3, 'b'), (4, 'a')")
    delete_keys(name, [{"name": "a"}])
    insert(name, "(5, 'a')")


@table
def eq_scoped(name):
    """The delete is of one partition."""
    create(name, "id int, p int, name string", "p")
    insert(name, "(1, 1, 'a'), (2, 1, 'b'), (1, 2, 'c'), (2, 2, 'd')")
    java_table = load(name)
    delete_keys(name, [{"id": 1}], java_table.spec(), {"p": 1})


@table
def eq_scoped_by_bucket(name):
    create(name, "id int, name string", "bucket(4, id)")
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e'), (6, 'f'), (7, 'g'), (8, 'h')")
    # Rows 2 and 5 lie in some buckets: a delete in each bucket, with a key of the whole table.
    java_table = load(name)
    for bucket in range(4):
        delete_keys(name, [{"id": 2}, {"id": 5}], java_table.spec(), {java_table.spec().fields()[0].name(): bucket})


@table
def eq_global(name):
    """The delete's spec has no field, the table's later spec has one: the delete is of all partitions."""
    create(name, "id int, p int")
    insert(name, "(1, 1), (2, 2)")
    unpartitioned = load(name).spec()
    alter(name, "ADD PARTITION FIELD p")
    insert(name, "(1, 2), (3, 3), (1, 3)")
    delete_keys(name, [{"id": 1}], unpartitioned)
    insert(name, "(1, 9)")


@table
def eq_void_global(name):
    """The delete's spec has a void field only, so that it is of all partitions."""
    create(name, "id int, p int", "p", version=1)
    insert(name, "(1, 1), (2, 1), (1, 2), (3, 2)")
    alter(name, "DROP PARTITION FIELD p")
    alter(name, "SET TBLPROPERTIES ('format-version'='2')")
    java_table = load(name)
    delete_keys(name, [{"id": 1}], java_table.spec(), {java_table.spec().fields()[0].name(): None})
    insert(name, "(1, 3)")


@table
def eq_dropped_key(name):
    """The column of the key is dropped after the delete."""
    create(name, "id int, k int, name string")
    insert(name, "(1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')")
    delete_keys(name, [{"k": 2}])
    alter(name, "DROP COLUMN k")
    insert(name, "(4, 'd')")


@table
def eq_later_key(name):
    """The column of the key was added after the first rows, which are NULL there."""
    create(name, "id int")
    insert(name, "(1), (2)")
    alter(name, "ADD COLUMN k int")
    insert(name, "(3, 5), (4, NULL)")
    delete_keys(name, [{"k": None}])
    insert(name, "(5, NULL)")


@table
def eq_two_key_sets(name):
    create(name, "id int, a int, b string")
    insert(name, "(1, 1, 'x'), (2, 1, 'y'), (3, 2, 'x'), (4, 2, 'y'), (5, 3, 'z')")
    delete_keys(name, [{"a": 1, "b": "y"}])
    delete_keys(name, [{"id": 3}])
    delete_keys(name, [{"b": "z"}])


@table
def eq_renamed_key(name):
    create(name, "id int, k int")
    insert(name, "(1, 1), (2, 2), (3, 3)")
    delete_keys(name, [{"k": 2}])
    alter(name, "RENAME COLUMN k TO key")
    alter(name, "ADD COLUMN k int")
    insert(name, "(4, 2, 2)")
    delete_keys(name, [{"key": 3}])


@table
def eq_promoted_key(name):
    """Keys are ints in the delete file and in the first data file, and longs in the second."""
    create(name, "id int, k int")
    insert(name, "(1, 1), (2, 2)")
    delete_keys(name, [{"k": 2}])
    alter(name, "ALTER COLUMN k TYPE bigint")
    insert(name, "(3, 2), (4, 5000000000)")


@table
def eq_nested_key(name):
    """The key is a field of a struct."""
    create(name, "id int, s struct<a: int, b: string>")
    insert(name, "(1, named_struct('a', 1, 'b', 'x')), (2, named_struct('a', 2, 'b', 'y')), (3, NULL)")
    java_table = load(name)
    names = spark.SPARK._jvm.java.util.ArrayList()
    names.add("s.a")
    schema = java_table.schema().select(names)
    ids = integers([java_table.schema().findField("s.a").fieldId()])
    factory = iceberg().data.GenericAppenderFactory(java_table.schema(), java_table.spec(), ids, schema, None)
    writer = factory.newEqDeleteWriter(output(java_table), iceberg().FileFormat.PARQUET, None)
    inner = record(schema.findType("s").asStructType(), {"a": 2})
    writer.write(record(schema.asStruct(), {"s": inner}))
    writer.close()
    java_table.newRowDelta().addDeletes(writer.toDeleteFile()).commit()


@table
def eq_two_specs(name):
    """Two specs have equal partition values: the delete is of the one."""
    create(name, "id int, a int, b int", "a")
    insert(name, "(1, 1, 2), (2, 2, 1)")
    first = load(name).spec()
    alter(name, "DROP PARTITION FIELD a")
    alter(name, "ADD PARTITION FIELD b")
    insert(name, "(1, 2, 1), (3, 1, 1)")
    delete_keys(name, [{"id": 1}, {"id": 3}], first, {"a": 1})


@table
def eq_odd_partitions(name):
    """Partitions are NaN and NULL."""
    create(name, "id int, d double", "d")
    insert(name, "(1, double('NaN')), (2, double('NaN')), (1, NULL), (2, NULL), (1, 1.5), (2, 1.5)")
    spec = load(name).spec()
    delete_keys(name, [{"id": 1}], spec, {"d": float("nan")})
    delete_keys(name, [{"id": 2}], spec, {"d": None})


@table
def eq_rewritten_manifests(name):
    """Trap 12: entries are carried over with the numbers that they had, so that an older delete does not hit them."""
    create(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b')")
    delete_keys(name, [{"id": 2}])
    insert(name, "(2, 'new'), (3, 'c')")
    call(f"rewrite_manifests('{name}')")
    insert(name, "(4, 'd')")


@table
def eq_and_positions(name):
    create_merging(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')")
    sql(f"DELETE FROM m.{name} WHERE id = 1")
    delete_keys(name, [{"name": "c"}])
    insert(name, "(3, 'c'), (5, 'e')")
    sql(f"DELETE FROM m.{name} WHERE id = 5")


@table
def eq_typed_keys(name):
    """Keys of several types, one delete file each."""
    create(name, "id int, d date, ts timestamp_ntz, n decimal(9, 2), b boolean")
    insert(name, "(1, date'2024-02-29', timestamp_ntz'1969-12-31 23:59:59.999999', 1.50, true), "
                 "(2, date'1969-12-31', timestamp_ntz'2024-01-01 00:00:00', -1.50, true), (3, date'1970-01-01', timestamp_ntz'1970-01-01 00:00:00', 0.00, true), "
                 "(4, date'2024-03-01', timestamp_ntz'2024-01-02 00:00:00', 2.25, true), (5, date'2024-03-02', timestamp_ntz'2024-01-03 00:00:00', 100.00, true), "
                 "(6, date'2024-03-03', timestamp_ntz'2024-01-04 00:00:00', 7.00, false)")
    java = spark.SPARK._jvm.java
    delete_keys(name, [{"d": java.time.LocalDate.parse("1969-12-31")}])
    delete_keys(name, [{"ts": java.time.LocalDateTime.parse("2024-01-02T00:00:00")}])
    delete_keys(name, [{"n": java.math.BigDecimal("100.00")}])
    delete_keys(name, [{"b": False}])


@table
def eq_extra_columns(name):
    """The delete file has all columns, of which one is the key."""
    create(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b'), (2, 'c')")
    java_table = load(name)
    factory = iceberg().data.GenericAppenderFactory(java_table.schema(), java_table.spec(), integers([1]), java_table.schema(), None)
    writer = factory.newEqDeleteWriter(output(java_table), iceberg().FileFormat.PARQUET, None)
    writer.write(record(java_table.schema(), {"id": 2, "name": "b"}))
    writer.close()
    java_table.newRowDelta().addDeletes(writer.toDeleteFile()).commit()


@table
def eq_avro(name):
    """The delete file is Avro, which the specification allows."""
    create(name, "id int, name string")
    insert(name, "(1, 'a'), (2, 'b')")
    java_table = load(name)
    factory = iceberg().data.GenericAppenderFactory(java_table.schema(), java_table.spec(), integers([1, 2]), java_table.schema(), None)
    writer = factory.newEqDeleteWriter(output(java_table, "avro"), iceberg().FileFormat.AVRO, None)
    writer.write(record(java_table.schema(), {"id": 2, "name": "b"}))
    writer.close()
    java_table.newRowDelta().addDeletes(writer.toDeleteFile()).commit()


@table
def eq_partition_key(name):
    """The key is a column that files lack, because it stands in the partition only."""
    create(name, "id int, p string", "p")
    folder = imported(name, "SELECT * FROM VALUES (1, 'a'), (2, 'a'), (1, 'b') AS t(id, p)", "p")
    call(f"add_files(table => '{name}', source_table => '`parquet`.`{folder}`')")
    spec = load(name).spec()
    delete_keys(name, [{"id": 1, "p": "a"}, {"id": 2, "p": "b"}], spec, {"p": "a"})
    insert(name, "(1, 'a')")


@table
def eq_default_key(name):
    """The key has an initial default, which rows of older files have."""
    create(name, "id int", version=3)
    insert(name, "(1), (2)")
    add_column(name, "n", iceberg().types.Types.IntegerType.get(), 7)
    insert(name, "(3, 7), (4, 8)")
    delete_keys(name, [{"n": 7}])
    insert(name, "(6, 7)")


@table
def eq_null_rows(name):
    """Rows whose key is NULL are not hit by a key that is not."""
    create(name, "id int, k int, name string")
    insert(name, "(1, 1, 'a'), (2, 2, 'b'), (3, NULL, 'c'), (4, NULL, NULL)")
    delete_keys(name, [{"k": 2}])
    delete_keys(name, [{"k": 1, "name": "x"}])


@table
def eq_zero_partitions(name):
    """The delete is of the partition of negative zero. To Java zero is another partition; the specification does not say."""
    create(name, "id int, d double", "d")
    insert(name, "(1, 0D), (2, 0D)")
    insert(name, "(1, -0D), (2, -0D)")
    delete_keys(name, [{"id": 1}], load(name).spec(), {"d": -0.0})
