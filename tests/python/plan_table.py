"""Writes the metadata of an Iceberg table whose data files do not exist: for planning alone.

    plan_table.py FOLDER LOCATION FILES MANIFESTS COLUMNS

FOLDER gets `metadata/`; the metadata says that the table is at LOCATION. Columns c1, c2, … are long; the files of a manifest lie in
as many partitions of c1 by identity. Each file has sizes, counts and bounds of all columns, as Java's writer leaves them.
"""

import json
import pathlib
import sys
import uuid

import fastavro

ROWS = 1_000


def optional(name: str, id: int, kind) -> dict:
    return {"name": name, "type": ["null", kind], "default": None, "field-id": id}


def required(name: str, id: int, kind) -> dict:
    return {"name": name, "type": kind, "field-id": id}


def metrics(name: str, id: int, key: int, value: int, kind: str) -> dict:
    pair = {"type": "record", "name": f"k{key}_v{value}", "fields": [required("key", key, "int"), required("value", value, kind)]}
    return optional(name, id, {"type": "array", "logicalType": "map", "items": pair})


MANIFEST = {"type": "record", "name": "manifest_entry", "fields": [
    required("status", 0, "int"),
    optional("snapshot_id", 1, "long"),
    optional("sequence_number", 3, "long"),
    optional("file_sequence_number", 4, "long"),
    required("data_file", 2, {"type": "record", "name": "r2", "fields": [
        required("content", 134, "int"),
        required("file_path", 100, "string"),
        required("file_format", 101, "string"),
        required("partition", 102, {"type": "record", "name": "r102", "fields": [optional("c1", 1000, "long")]}),
        required("record_count", 103, "long"),
        required("file_size_in_bytes", 104, "long"),
        metrics("column_sizes", 108, 117, 118, "long"),
        metrics("value_counts", 109, 119, 120, "long"),
        metrics("null_value_counts", 110, 121, 122, "long"),
        metrics("nan_value_counts", 137, 138, 139, "long"),
        metrics("lower_bounds", 125, 126, 127, "bytes"),
        metrics("upper_bounds", 128, 129, 130, "bytes"),
        optional("key_metadata", 131, "bytes"),
        optional("split_offsets", 132, {"type": "array", "items": "long", "element-id": 133}),
        optional("sort_order_id", 140, "int"),
    ]}),
]}
LIST = {"type": "record", "name": "manifest_file", "fields": [
    required("manifest_path", 500, "string"),
    required("manifest_length", 501, "long"),
    required("partition_spec_id", 502, "int"),
    required("content", 517, "int"),
    required("sequence_number", 515, "long"),
    required("min_sequence_number", 516, "long"),
    required("added_snapshot_id", 503, "long"),
    required("added_files_count", 504, "int"),
    required("existing_files_count", 505, "int"),
    required("deleted_files_count", 506, "int"),
    required("added_rows_count", 512, "long"),
    required("existing_rows_count", 513, "long"),
    required("deleted_rows_count", 514, "long"),
    optional("partitions", 507, {"type": "array", "element-id": 508, "items": {"type": "record", "name": "r508", "fields": [
        required("contains_null", 509, "boolean"),
        optional("contains_nan", 518, "boolean"),
        optional("lower_bound", 510, "bytes"),
        optional("upper_bound", 511, "bytes"),
    ]}}),
]}


def entry(location: str, manifest: int, file: int, columns: int) -> dict:
    ids = range(1, columns + 1)
    map_of = lambda value: [{"key": id, "value": value(id)} for id in ids]
    least = lambda id: file if id == 1 else (manifest * 1_000_003 + file * 7_919) * id
    bound = lambda id, more: (least(id) + (more if id > 1 else 0)).to_bytes(8, "little")
    name = uuid.uuid5(uuid.NAMESPACE_OID, f"{manifest}-{file}")
    return {"status": 1, "snapshot_id": 1, "sequence_number": None, "file_sequence_number": None, "data_file": {
        "content": 0,
        "file_path": f"{location}/data/c1={file}/{manifest:05}-{file}-{name}-00001.parquet",
        "file_format": "PARQUET",
        "partition": {"c1": file},
        "record_count": ROWS,
        "file_size_in_bytes": 64 << 20,
        "column_sizes": map_of(lambda id: 40_000 + file * id),
        "value_counts": map_of(lambda _: ROWS),
        "null_value_counts": map_of(lambda _: 0),
        "nan_value_counts": [],
        "lower_bounds": map_of(lambda id: bound(id, 0)),
        "upper_bounds": map_of(lambda id: bound(id, 7_000)),
        "key_metadata": None,
        "split_offsets": [4],
        "sort_order_id": 0,
    }}


def main() -> None:
    folder, location, files, manifests, columns = pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    fields = [{"id": id, "name": f"c{id}", "required": False, "type": "long"} for id in range(1, columns + 1)]
    schema = {"type": "struct", "schema-id": 0, "fields": fields}
    spec = [{"source-id": 1, "field-id": 1000, "name": "c1", "transform": "identity"}]
    header = {"schema": json.dumps(schema), "schema-id": "0", "partition-spec": json.dumps(spec), "partition-spec-id": "0",
              "format-version": "2", "content": "data"}
    each = files // manifests
    listed = []
    for manifest in range(manifests):
        path = folder / "metadata" / f"{manifest:05}-m0.avro"
        with path.open("wb") as out:
            fastavro.writer(out, MANIFEST, (entry(location, manifest, file, columns) for file in range(each)), codec="deflate", metadata=header)
        bound = lambda value: value.to_bytes(8, "little")
        listed.append({
            "manifest_path": f"{location}/metadata/{path.name}", "manifest_length": path.stat().st_size, "partition_spec_id": 0,
            "content": 0, "sequence_number": 1, "min_sequence_number": 1, "added_snapshot_id": 1, "added_files_count": each,
            "existing_files_count": 0, "deleted_files_count": 0, "added_rows_count": each * ROWS, "existing_rows_count": 0,
            "deleted_rows_count": 0,
            "partitions": [{"contains_null": False, "contains_nan": False, "lower_bound": bound(0), "upper_bound": bound(each - 1)}],
        })
    with (folder / "metadata" / "snap-1.avro").open("wb") as out:
        fastavro.writer(out, LIST, listed, codec="deflate", metadata={"format-version": "2", "snapshot-id": "1", "sequence-number": "1"})
    metadata = {
        "format-version": 2, "table-uuid": "8f3b1b2c-4a53-4b5e-9a55-6a1f0c9d7e21", "location": location,
        "last-sequence-number": 1, "last-updated-ms": 0, "last-column-id": columns, "current-schema-id": 0, "schemas": [schema],
        "default-spec-id": 0, "partition-specs": [{"spec-id": 0, "fields": spec}], "last-partition-id": 1000,
        "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}], "properties": {}, "current-snapshot-id": 1,
        "snapshots": [{"snapshot-id": 1, "sequence-number": 1, "timestamp-ms": 0, "schema-id": 0,
                       "manifest-list": f"{location}/metadata/snap-1.avro", "summary": {"operation": "append"}}],
    }
    (folder / "metadata" / "v1.metadata.json").write_text(json.dumps(metadata))


if __name__ == "__main__":
    main()
