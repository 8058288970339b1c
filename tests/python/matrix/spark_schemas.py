"""Tables whose schema changed, and columns whose bounds are odd."""

import common
import spark
from spark import alter, create, insert, sql

WRITERS = common.Writers()
table = WRITERS.table


@table
def map_evolved(name):
    """W1: fields of a map's value are dropped and added."""
    create(name, "id int, m map<string, struct<a: int, b: int>>")
    insert(name, "(1, map('k', named_struct('a', 1, 'b', 2))), (2, map()), (3, NULL)")
    alter(name, "DROP COLUMN m.value.a")
    alter(name, "ADD COLUMN m.value.c int")
    insert(name, "(4, map('k', named_struct('b', 20, 'c', 30)))")


@table
def list_evolved(name):
    """W2: fields of a list's element are dropped, added, and added again under the old name."""
    create(name, "id int, l array<struct<a: int, b: int>>")
    insert(name, "(1, array(named_struct('a', 1, 'b', 2), NULL)), (2, array()), (3, NULL)")
    alter(name, "DROP COLUMN l.element.a")
    alter(name, "ADD COLUMN l.element.c int")
    alter(name, "ADD COLUMN l.element.a int")
    insert(name, "(4, array(named_struct('b', 20, 'c', 30, 'a', 40)))")


@table
def struct_replaced(name):
    """F8: a struct has no field of the file's any more, and a map's value one more."""
    create(name, "id int, s struct<a: int>, m map<string, struct<a: int>>")
    insert(name, "(1, named_struct('a', 1), map('k', named_struct('a', 1))), (2, NULL, NULL)")
    alter(name, "ADD COLUMN s.z int")
    alter(name, "DROP COLUMN s.a")
    alter(name, "ADD COLUMN m.value.b int")
    insert(name, "(3, named_struct('z', 30), map('k', named_struct('a', 3, 'b', 30)))")


@table
def deeply_evolved(name):
    """Lists of maps of structs, with a struct in a struct renamed."""
    create(name, "id int, d array<map<string, struct<x: int, inner: struct<a: int, b: int>>>>")
    insert(name, "(1, array(map('k', named_struct('x', 1, 'inner', named_struct('a', 2, 'b', 3)))))")
    alter(name, "RENAME COLUMN d.element.value.inner TO within")
    alter(name, "DROP COLUMN d.element.value.within.a")
    alter(name, "RENAME COLUMN d.element.value.within.b TO a")
    alter(name, "ADD COLUMN d.element.value.y int FIRST")
    insert(name, "(2, array(map('k', named_struct('y', 10, 'x', 20, 'within', named_struct('a', 30)))))")


@table
def promoted(name):
    create(name, "id int, n int, f float, d decimal(5, 2)", "n")
    insert(name, "(1, 1, float(1.5), 123.45), (2, -2, float('NaN'), -0.01), (3, NULL, NULL, NULL)")
    alter(name, "ALTER COLUMN n TYPE bigint")
    alter(name, "ALTER COLUMN f TYPE double")
    alter(name, "ALTER COLUMN d TYPE decimal(20, 2)")
    insert(name, "(4, 5000000000, 1e300, 123456789012345678.99)")


@table
def readded(name):
    """A column is dropped and added again under its name, with another type."""
    create(name, "id int, x int")
    insert(name, "(1, 10), (2, 20)")
    alter(name, "DROP COLUMN x")
    insert(name, "(3)")
    alter(name, "ADD COLUMN x string")
    insert(name, "(4, 'x'), (5, NULL)")


@table
def reordered(name):
    """Columns change places and names."""
    create(name, "id int, a string, b string")
    insert(name, "(1, 'a1', 'b1')")
    alter(name, "ALTER COLUMN b FIRST")
    alter(name, "RENAME COLUMN a TO c")
    alter(name, "RENAME COLUMN b TO a")
    alter(name, "RENAME COLUMN c TO b")
    insert(name, "('b2', 2, 'a2')")


@table
def required_relaxed(name):
    create(name, "id int NOT NULL, n int NOT NULL")
    insert(name, "(1, 1)")
    alter(name, "ALTER COLUMN n DROP NOT NULL")
    insert(name, "(2, NULL)")


@table
def metrics(name):
    """Trap 15: bounds are cut after 16 characters, of any width; columns are all NULL, and NaN."""
    create(name, "id int, s string, d double, n decimal(38, 10), e string, b binary")
    top = chr(0x10FFFF)
    spark.SPARK.createDataFrame([(1, "é" * 20, float("nan")), (2, top * 20, -0.0), (3, "é" * 16 + "a", 1.0)], "id int, s string, d double").createOrReplaceTempView("texts")
    sql(f"INSERT INTO m.{name} SELECT id, s, d, CAST('9999999999999999999999999999.9999999999' AS decimal(38, 10)), NULL, unhex(repeat('FF', 20)) FROM texts")
    insert(name, "(4, 'z', double('-Infinity'), CAST('-9999999999999999999999999999.9999999999' AS decimal(38, 10)), NULL, X'00')")


@table
def no_metrics(name):
    create(name, "id int, n int, s string", **{"write.metadata.metrics.default": "none"})
    insert(name, "(1, 10, 'a'), (2, NULL, NULL)")
    insert(name, "(3, 30, 'c')")
