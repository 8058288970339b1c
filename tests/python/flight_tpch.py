"""Compares answers of a server over Flight SQL with those of the command line: flight_tpch.py URI FOLDER.

FOLDER has queries as N.sql and their rows as N.arrow, an Arrow stream. Types are the same but for views and dictionaries, which become
plain. The last line of the output is `ok` and the number of queries.
"""

import pathlib
import sys

import adbc_driver_flightsql.dbapi as flight
import pyarrow as pa

PLAIN = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def plain(field):
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, PLAIN.get(kind, kind))


uri, folder = sys.argv[1], pathlib.Path(sys.argv[2])
queries = sorted(folder.glob("*.sql"))
for query in queries:
    expect = pa.ipc.open_stream(query.with_suffix(".arrow")).read_all()
    expect = expect.cast(pa.schema([plain(field) for field in expect.schema]))
    with flight.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(query.read_text())
        seen = cursor.fetch_arrow_table()
    assert seen.schema.equals(expect.schema), (query.name, seen.schema, expect.schema)
    assert seen.equals(expect) and seen.num_rows > 0, (query.name, seen.num_rows, expect.num_rows)
print("ok", len(queries))
