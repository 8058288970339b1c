"""Reads the first rows of a query over Flight SQL, and kills the functions of its server: flight_cut.py URI PID SQL.

A client that then takes the rows for all fails. The last line of the output is `ok`.
"""

import os
import pathlib
import signal
import sys
import threading

import adbc_driver_flightsql.dbapi as flight
import adbc_driver_manager
import pyarrow as pa

uri, server, sql = sys.argv[1], int(sys.argv[2]), sys.argv[3]
ended = threading.Event()
killed = set()


def functions():
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == server:
            yield int(stat.parent.name)


def kill():
    while not ended.wait(0.02):
        for function in functions():
            try:
                os.kill(function, signal.SIGKILL)
                killed.add(function)
            except ProcessLookupError:
                pass


killer = threading.Thread(target=kill)
with flight.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute(sql)
    reader = cursor.fetch_record_batch()
    rows = reader.read_next_batch().num_rows
    killer.start()
    try:
        for batch in reader:
            rows += batch.num_rows
    except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
        assert "function" in str(error), error
    else:
        raise AssertionError(f"{rows} rows were taken for all")
    finally:
        ended.set()
        killer.join()
assert rows > 0 and killed, (rows, killed)
print("ok", rows, len(killed))
