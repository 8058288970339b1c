"""Plans a scan of an Iceberg table on S3 by another engine, and prints its seconds and the peak of this process's memory.

    plan_judge.py ENGINE METADATA COLUMN VALUE RUNS      ENGINE is pyiceberg or duckdb

Prints {"cold_seconds", "warm_seconds", "peak_bytes", "files"}. The server and its keys come from the variables AWS_ENDPOINT,
AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. pyiceberg lists the files that a scan needs. DuckDB explains the query; it
does not say how many files there are.
"""

import json
import os
import resource
import sys
import time


def pyiceberg_plans(metadata: str, column: str, value: int):
    from pyiceberg.expressions import EqualTo
    from pyiceberg.table import StaticTable

    properties = {
        "s3.endpoint": os.environ["AWS_ENDPOINT"],
        "s3.region": os.environ["AWS_REGION"],
        "s3.access-key-id": os.environ["AWS_ACCESS_KEY_ID"],
        "s3.secret-access-key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }

    def plan() -> int:
        table = StaticTable.from_metadata(metadata, properties)
        return len(list(table.scan(row_filter=EqualTo(column, value), selected_fields=(column, "c3")).plan_files()))

    return plan


def duckdb_plans(metadata: str, column: str, value: int):
    import duckdb
    import duckdb_extension_avro
    import duckdb_extension_httpfs
    import duckdb_extension_iceberg

    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    for package, name in ((duckdb_extension_httpfs, "httpfs"), (duckdb_extension_avro, "avro"), (duckdb_extension_iceberg, "iceberg")):
        folder = os.path.dirname(package.__file__)
        connection.execute(f"LOAD '{folder}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")
    host = os.environ["AWS_ENDPOINT"].removeprefix("http://")
    connection.execute(f"""CREATE SECRET (TYPE s3, KEY_ID '{os.environ["AWS_ACCESS_KEY_ID"]}', SECRET '{os.environ["AWS_SECRET_ACCESS_KEY"]}',
        REGION '{os.environ["AWS_REGION"]}', ENDPOINT '{host}', URL_STYLE 'path', USE_SSL false)""")

    def plan() -> None:
        connection.execute(f"EXPLAIN SELECT {column}, c3 FROM iceberg_scan('{metadata}') WHERE {column} = {value}").fetchall()

    return plan


def main() -> None:
    engine, metadata, column, value, runs = sys.argv[1:]
    plan = {"pyiceberg": pyiceberg_plans, "duckdb": duckdb_plans}[engine](metadata, column, int(value))
    seconds = []
    for _ in range(int(runs) + 1):
        started = time.perf_counter()
        files = plan()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({"cold_seconds": seconds[0], "warm_seconds": seconds[1:], "peak_bytes": peak, "files": files}))


if __name__ == "__main__":
    main()
