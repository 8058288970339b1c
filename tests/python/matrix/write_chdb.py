"""Writes the tables of the matrix that ClickHouse writes, through chdb.

    write_chdb.py [TABLE ...]

Each table is written in a process of its own, because chdb has one server a process.
"""

import functools
import subprocess
import sys
import tempfile

import common
from common import ROOT

WRITERS = common.Writers()
table = WRITERS.table


def statements(name: str, columns: str, partition: str, *changes: str) -> list[str]:
    partition = f"PARTITION BY {partition}" if partition else ""
    return [
        "SET allow_insert_into_iceberg = 1",
        "SET mutations_sync = 2",
        f"CREATE TABLE {name} ({columns}) ENGINE = IcebergLocal('{ROOT}/{name}/', 'Parquet') {partition}",
        *changes,
    ]


@table
def ch_plain(name):
    """Types as ClickHouse writes them, NaN and NULL."""
    columns = "id Int32, name Nullable(String), d Nullable(Date32), x Float64, l Int64, n Nullable(Decimal(9, 2)), ts Nullable(DateTime64(6))"
    return statements(name, columns, "",
        f"INSERT INTO {name} VALUES (1, 'a', '2024-02-29', nan, 5000000000, 1.50, '1969-12-31 23:59:59.999999'), (2, NULL, NULL, 1.5, -1, NULL, NULL)",
        f"INSERT INTO {name} VALUES (3, '', '1969-12-31', -2.5, 0, -0.01, '2024-02-29 12:30:00')")


@table
def ch_bucket(name):
    """F6 and H3: the partition field is named like its column, and the list's summaries have no bounds."""
    return statements(name, "id Int32, name Nullable(String)", "icebergBucket(4, id)",
        f"INSERT INTO {name} VALUES (1, 'a'), (2, NULL), (3, 'c'), (4, 'd'), (5, 'e')",
        f"INSERT INTO {name} VALUES (6, 'f'), (7, 'g')")


@table
def ch_identity(name):
    return statements(name, "id Int32, p Nullable(String), q Int32", "(p, q)",
        f"INSERT INTO {name} VALUES (1, 'a', 1), (2, 'b', 1), (3, NULL, 2), (4, 'a', 2)",
        f"INSERT INTO {name} VALUES (5, 'c/d', 1)")


@table
def ch_truncate(name):
    return statements(name, "id Int32, name String", "icebergTruncate(2, name)",
        f"INSERT INTO {name} VALUES (1, 'alpha'), (2, 'alps'), (3, 'beta'), (4, 'a'), (5, '')")


@table
def ch_nested(name):
    """Structs, arrays and maps with ClickHouse's field ids."""
    return statements(name, "id Int32, s Tuple(a Int32, b String), l Array(Int32), m Map(String, Int32)", "",
        f"INSERT INTO {name} VALUES (1, (1, 'x'), [1, 2], map('k', 1)), (2, (2, 'y'), [], map())")


@table
def ch_deletes(name):
    """ClickHouse's position deletes."""
    return statements(name, "id Int32, name String", "",
        f"INSERT INTO {name} VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        f"INSERT INTO {name} VALUES (4, 'd'), (5, 'e'), (6, 'f')",
        f"ALTER TABLE {name} DELETE WHERE id IN (2, 4)",
        f"INSERT INTO {name} VALUES (7, 'g')",
        f"ALTER TABLE {name} DELETE WHERE id = 7 OR id = 1")


@table
def ch_updated(name):
    return statements(name, "id Int32, name String", "",
        f"INSERT INTO {name} VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        f"ALTER TABLE {name} UPDATE name = 'new' WHERE id = 2")


@table
def ch_evolved(name):
    """Columns added, dropped and promoted by ClickHouse."""
    return statements(name, "id Int32, a Nullable(String), n Nullable(Int32)", "",
        f"INSERT INTO {name} VALUES (1, 'a', 10), (2, NULL, NULL)",
        f"ALTER TABLE {name} ADD COLUMN b Nullable(String)",
        f"ALTER TABLE {name} DROP COLUMN a",
        f"ALTER TABLE {name} MODIFY COLUMN n Nullable(Int64)",
        f"INSERT INTO {name} (id, n, b) VALUES (3, 5000000000, 'b')")


def run(texts: list[str]) -> None:
    from chdb import session

    with tempfile.TemporaryDirectory() as folder:
        connection = session.Session(folder)
        for text in texts:
            connection.query(text)
        connection.close()


def apart(write) -> None:
    # ClickHouse reads and writes files below its working directory only.
    code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); import write_chdb; write_chdb.run({write()!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


if __name__ == "__main__":
    common.main(__doc__, {name: functools.partial(apart, write) for name, write in WRITERS.items()})
