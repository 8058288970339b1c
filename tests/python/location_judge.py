"""Asks engines for the ids of an Iceberg table on S3 whose files lie where few engines look: in several stores, below empty segments.

    location_judge.py METADATA ENDPOINT REGION KEY SECRET ENGINE...      ENGINE is pyiceberg, duckdb or chdb

Prints a line for each engine, in their order: {"engine", "ids"} or {"engine", "error"}. Spark needs a library for S3 that no package of PyPI has.
"""

import json
import os
import sys


def pyiceberg(metadata: str) -> list[int]:
    from pyiceberg.table import StaticTable

    properties = {
        "s3.endpoint": os.environ["AWS_ENDPOINT"],
        "s3.region": os.environ["AWS_REGION"],
        "s3.access-key-id": os.environ["AWS_ACCESS_KEY_ID"],
        "s3.secret-access-key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    return StaticTable.from_metadata(metadata, properties).scan().to_arrow()["id"].to_pylist()


def duckdb(metadata: str) -> list[int]:
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
    return [row[0] for row in connection.execute(f"SELECT id FROM iceberg_scan('{metadata}')").fetchall()]


def chdb(metadata: str) -> list[int]:
    import chdb

    bucket_and_table, _, _ = metadata.removeprefix("s3://").rpartition("/metadata/")
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    url = f"{os.environ['AWS_ENDPOINT']}/{bucket_and_table}/"
    answer = chdb.query(f"SELECT id FROM icebergS3('{url}', '{key}', '{secret}')", "JSONCompact")
    return [int(row[0]) for row in json.loads(answer.bytes())["data"]]


def main() -> None:
    metadata, *server, engines = *sys.argv[1:6], sys.argv[6:]
    os.environ.update(zip(("AWS_ENDPOINT", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), server))
    for engine in engines:
        try:
            told = {"ids": sorted({"pyiceberg": pyiceberg, "duckdb": duckdb, "chdb": chdb}[engine](metadata))}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps({"engine": engine, **told}), flush=True)


if __name__ == "__main__":
    main()
