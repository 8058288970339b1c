"""Tables that Java's generic writers alone have written: the library's own records, appenders and commits, and no engine."""

import common
import spark
from spark import iceberg, keys_file, positions_file, record, rows_file

WRITERS = common.Writers()
table = WRITERS.table


def fields(*columns):
    """A schema of optional fields: names with types of the library."""
    nested = iceberg().types.Types.NestedField
    array = spark.SPARK.sparkContext._gateway.new_array(nested, len(columns))
    for number, (name, kind) in enumerate(columns):
        array[number] = nested.optional(number + 1, name, kind)
    return iceberg().Schema(array)


def create(name: str, schema, spec=None, version: int = 2):
    """Makes a table, and returns it."""
    jvm = spark.SPARK._jvm
    tables = iceberg().hadoop.HadoopTables(jvm.org.apache.hadoop.conf.Configuration())
    properties = jvm.java.util.HashMap()
    properties.put("format-version", str(version))
    return tables.create(schema, spec or iceberg().PartitionSpec.unpartitioned(), properties, f"file:{common.ROOT}/{name}")


def append(java_table, *files) -> None:
    commit = java_table.newAppend()
    for file in files:
        commit.appendFile(file)
    commit.commit()


def delete(java_table, *files) -> None:
    commit = java_table.newRowDelta()
    for file in files:
        commit.addDeletes(file)
    commit.commit()


def types():
    return iceberg().types.Types


@table
def j_types(name):
    java = spark.SPARK._jvm.java
    schema = fields(
        ("id", types().IntegerType.get()), ("name", types().StringType.get()), ("day", types().DateType.get()),
        ("price", types().DecimalType.of(9, 2)), ("x", types().DoubleType.get()), ("ok", types().BooleanType.get()),
    )
    java_table = create(name, schema)
    day, price = java.time.LocalDate.parse, java.math.BigDecimal
    rows = [
        {"id": 1, "name": "a", "day": day("2024-02-29"), "price": price("1.50"), "x": 0.5, "ok": True},
        {"id": 2, "name": None, "day": day("1969-12-31"), "price": price("-1.50"), "x": float("nan"), "ok": False},
        {"id": 3, "name": "é", "day": None, "price": None, "x": None, "ok": None},
    ]
    append(java_table, rows_file(java_table, rows))


@table
def j_parted(name):
    """Files of two partitions, with a file of keys and one of positions."""
    schema = fields(("id", types().IntegerType.get()), ("p", types().StringType.get()))
    spec = iceberg().PartitionSpec.builderFor(schema).identity("p").build()
    java_table = create(name, schema, spec)
    first = rows_file(java_table, [{"id": 1, "p": "a"}, {"id": 2, "p": "a"}, {"id": 3, "p": "a"}], spec, {"p": "a"})
    other = rows_file(java_table, [{"id": 1, "p": "b"}, {"id": 2, "p": "b"}], spec, {"p": "b"})
    append(java_table, first, other)
    delete(java_table, keys_file(java_table, [{"id": 1}], spec, {"p": "a"}))
    delete(java_table, positions_file(java_table, [(other.path(), 1)], spec, {"p": "b"}))
    append(java_table, rows_file(java_table, [{"id": 1, "p": "a"}], spec, {"p": "a"}))


@table
def j_evolved(name):
    """A column is renamed, and another added, between two commits."""
    schema = fields(("id", types().IntegerType.get()), ("old", types().StringType.get()))
    java_table = create(name, schema)
    append(java_table, rows_file(java_table, [{"id": 1, "old": "x"}, {"id": 2, "old": None}]))
    java_table.updateSchema().renameColumn("old", "new").addColumn("n", types().IntegerType.get()).commit()
    java_table.refresh()
    append(java_table, rows_file(java_table, [{"id": 3, "new": "y", "n": 30}]))
