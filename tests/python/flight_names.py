"""Lists what a user sees over Flight SQL: flight_names.py URI TOKEN SEEN HIDDEN TABLE.

SEEN and HIDDEN are names with commas between, and TABLE is one that the user may not read. The last line of the output is `ok`.
"""

import json
import sys

import adbc_driver_flightsql.dbapi as flight
import adbc_driver_manager
from adbc_driver_flightsql import DatabaseOptions

URI, TOKEN, SEEN, HIDDEN, TABLE = sys.argv[1:6]
OPTIONS = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {TOKEN}"}

with flight.connect(URI, db_kwargs=OPTIONS, autocommit=True) as connection:
    for depth in ["catalogs", "db_schemas", "tables", "all"]:
        listed = json.dumps(connection.adbc_get_objects(depth=depth).read_all().to_pylist(), default=str)
        for name in HIDDEN.split(","):
            assert f'"{name}"' not in listed, (depth, name, listed)
    for name in SEEN.split(","):
        assert f'"{name}"' in listed, (name, listed)
    with connection.cursor() as cursor:
        for act in [cursor.adbc_prepare, cursor.adbc_execute_schema, cursor.execute]:
            try:
                act(f"SELECT * FROM {TABLE}")
            except adbc_driver_manager.Error as error:
                assert "there is no table" in str(error), error
            else:
                raise AssertionError(f"{TABLE} is there for {act.__name__}")
print("ok")
