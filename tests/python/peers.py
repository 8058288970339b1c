"""Runs TPC-H with another engine, for its time beside ours (`lab latency`).

    peers.py polars|duckdb|datafusion

The first line of stdout is the engine's version. Then each line of stdin is a question in JSON, and each line of stdout its
answer, `{"seconds": S, "rows": N}`:

    {"tables": {"NAME": "LOCATION/", …}}                       makes a table of each folder of Parquet files
    {"query": {"number": N, "sql": "…", "rows": "PATH"}}       runs a query; its rows become PATH, an Arrow IPC file

The clock stops when the rows are in memory, before they are written. A location is a folder or `s3://BUCKET/…`, whose server
and keys are in AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import argparse
import json
import os
import sys
import time

import pyarrow as pa


class Polars:
    def __init__(self) -> None:
        import polars
        import polars_queries

        self.version = f"Polars {polars.__version__}"
        self.polars, self.queries, self.frames = polars, polars_queries.QUERIES, {}

    def create(self, name: str, location: str) -> None:
        options = None
        if location.startswith("s3://"):
            names = ["aws_endpoint_url", "aws_region", "aws_access_key_id", "aws_secret_access_key"]
            options = {name: os.environ[name.upper()] for name in names} | {"aws_allow_http": "true"}
        self.frames[name] = self.polars.scan_parquet(f"{location}*.parquet", storage_options=options)

    def run(self, number: int, sql: str) -> pa.Table:
        return self.queries[number - 1](self.frames).collect().to_arrow()


class DuckDb:
    THREADS = 8

    def __init__(self) -> None:
        import duckdb
        import duckdb_extension_httpfs

        self.version = f"DuckDB {duckdb.__version__}, {self.THREADS} threads"
        self.connection = duckdb.connect(config={"threads": self.THREADS})
        folder = os.path.dirname(duckdb_extension_httpfs.__file__)
        self.connection.execute(f"LOAD '{folder}/extensions/v{duckdb.__version__}/httpfs.duckdb_extension'")
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "").removeprefix("http://")
        settings = {
            "s3_endpoint": endpoint,
            "s3_url_style": "path",
            "s3_use_ssl": False,
            "s3_region": os.environ.get("AWS_REGION", ""),
            "s3_access_key_id": os.environ.get("AWS_ACCESS_KEY_ID", ""),
            "s3_secret_access_key": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
            # By default DuckDB would keep the bytes that it has read. Every side reads them anew for each query.
            "enable_external_file_cache": False,
        }
        for name, value in settings.items():
            self.connection.execute(f"SET {name} = {value if isinstance(value, bool) else repr(value)}")

    def create(self, name: str, location: str) -> None:
        self.connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{location}*.parquet')")

    def run(self, number: int, sql: str) -> pa.Table:
        return self.connection.execute(sql).to_arrow_table()


class DataFusion:
    def __init__(self) -> None:
        import datafusion

        self.version = f"DataFusion {datafusion.__version__}"
        self.datafusion, self.context, self.bucket = datafusion, datafusion.SessionContext(), None

    def create(self, name: str, location: str) -> None:
        if location.startswith("s3://") and self.bucket is None:
            self.bucket = location.removeprefix("s3://").split("/")[0]
            store = self.datafusion.object_store.AmazonS3(
                bucket_name=self.bucket,
                region=os.environ["AWS_REGION"],
                access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
                secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
                endpoint=os.environ["AWS_ENDPOINT_URL"],
                allow_http=True,
            )
            self.context.register_object_store("s3://", store, self.bucket)
        statement = f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'"
        self.context.sql(statement).collect()

    def run(self, number: int, sql: str) -> pa.Table:
        return self.context.sql(sql).to_arrow_table()


def answer(engine: Polars | DuckDb | DataFusion, question: dict) -> dict:
    match question:
        case {"tables": tables}:
            started = time.perf_counter()
            for name, location in tables.items():
                engine.create(name, location)
            return {"seconds": time.perf_counter() - started, "rows": 0}
        case {"query": {"number": number, "sql": sql, "rows": path}}:
            started = time.perf_counter()
            rows = engine.run(number, sql)
            seconds = time.perf_counter() - started
            with pa.ipc.new_file(path, rows.schema) as writer:
                writer.write_table(rows)
            return {"seconds": seconds, "rows": rows.num_rows}
        case _:
            raise ValueError(f"no question: {question}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engines = {"polars": Polars, "duckdb": DuckDb, "datafusion": DataFusion}
    parser.add_argument("engine", choices=engines)
    engine = engines[parser.parse_args().engine]()
    print(engine.version, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
