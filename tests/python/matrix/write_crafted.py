"""Writes the tables of the matrix whose metadata no careful writer leaves: Spark writes them, and their manifests, lists and
metadata files are changed afterwards.

    write_crafted.py [TABLE ...]
"""

import json
import os
import pathlib
import struct
from collections.abc import Callable

import common
import fastavro
import spark
from common import ROOT, local, metadata_file
from spark import alter, create, create_merging, data_files, delete_keys, delete_positions, iceberg, imported, insert, load, sql

PATH_ID = 2147483546
WRITERS = common.Writers()
table = WRITERS.table


# Avro files, with their schemas and headers as they are.


def read_avro(path: str) -> tuple[dict, dict, list[dict]]:
    with open(local(path), "rb") as file:
        reader = fastavro.reader(file)
        header = {key: value for key, value in reader.metadata.items() if not key.startswith("avro.")}
        return json.loads(reader.metadata["avro.schema"]), header, list(reader)


def write_avro(path: str, schema: dict, header: dict, records: list[dict], codec: str = "deflate") -> None:
    with open(local(path), "wb") as file:
        fastavro.writer(file, fastavro.parse_schema(schema), records, codec=codec, metadata=header)


def field(schema: dict, name: str) -> dict:
    return next(field for field in schema["fields"] if field["name"] == name)


def current_list(name: str) -> str:
    metadata = json.loads(metadata_file(name).read_text())
    current = metadata["current-snapshot-id"]
    return next(snapshot for snapshot in metadata["snapshots"] if snapshot["snapshot-id"] == current)["manifest-list"]


def edit_list(name: str, edit: Callable[[list[dict], dict], None], codec: str = "deflate") -> None:
    """Changes the entries and the schema of the current manifest list."""
    path = current_list(name)
    schema, header, records = read_avro(path)
    edit(records, schema)
    write_avro(path, schema, header, records, codec)


def edit_manifests(name: str, edit: Callable[[list[dict], dict], None], content: int = 0, codecs: list[str] = ()) -> None:
    """Changes the entries and the schemas of the current manifests of a kind, and the lengths in their list."""

    def each(manifests: list[dict], _schema: dict) -> None:
        chosen = [manifest for manifest in manifests if manifest["content"] == content]
        for number, manifest in enumerate(chosen):
            path = manifest["manifest_path"]
            schema, header, records = read_avro(path)
            edit(records, schema)
            write_avro(path, schema, header, records, codecs[number] if codecs else "deflate")
            manifest["manifest_length"] = os.path.getsize(local(path))

    edit_list(name, each)


def set_bound(entry: dict, side: str, key: int, value: bytes | None) -> None:
    """Sets the bound of a column, `lower_bounds` or `upper_bounds`, or removes it."""
    pairs = [pair for pair in entry["data_file"][side] or [] if pair["key"] != key]
    entry["data_file"][side] = pairs + ([] if value is None else [{"key": key, "value": value}])


def set_count(entry: dict, counts: str, key: int, value: int) -> None:
    pairs = [pair for pair in entry["data_file"][counts] or [] if pair["key"] != key]
    entry["data_file"][counts] = [*pairs, {"key": key, "value": value}]


def i32(value: int) -> bytes:
    return struct.pack("<i", value)


def i64(value: int) -> bytes:
    return struct.pack("<q", value)


@table
def c_inverted_bounds(name):
    """H1: the lower bound is above the upper one, so that both are worthless."""
    create(name, "id int, s string")
    insert(name, "(1, 'a'), (2, 'b'), (3, 'c')")

    def edit(entries, _schema):
        for entry in entries:
            set_bound(entry, "lower_bounds", 1, i32(9))
            set_bound(entry, "upper_bounds", 1, i32(0))
            set_bound(entry, "lower_bounds", 2, b"x")
            set_bound(entry, "upper_bounds", 2, b"A")

    edit_manifests(name, edit)


@table
def c_cut_upper_bound(name):
    """H2: the upper bound was cut and not rounded up."""
    create(name, "id int, s string, b binary")
    insert(name, "(1, 'abcdef', X'0102FF'), (2, 'abc', X'00')")

    def edit(entries, _schema):
        for entry in entries:
            set_bound(entry, "upper_bounds", 2, b"abc")
            set_bound(entry, "upper_bounds", 3, b"\x01\x02")

    edit_manifests(name, edit)


@table
def c_cut_summary(name):
    """H2: the upper bound of the list's summary was cut and not rounded up."""
    create(name, "id int, s string", "s")
    insert(name, "(1, 'abcdef'), (2, 'abc'), (3, NULL)")

    def edit(manifests, _schema):
        for manifest in manifests:
            manifest["partitions"][0]["upper_bound"] = b"abc"

    edit_list(name, edit)


@table
def c_summary_without_bounds(name):
    """H3: a summary says that there are NULLs, and has no bounds; that is no word about the other values."""
    create(name, "id int, p int", "p")
    insert(name, "(1, 1), (2, 2), (3, NULL)")

    def edit(manifests, _schema):
        for manifest in manifests:
            manifest["partitions"][0].update(lower_bound=None, upper_bound=None)

    edit_list(name, edit)


@table
def c_no_summaries(name):
    """The list has no summaries at all."""
    create(name, "id int, p int", "p")
    insert(name, "(1, 1), (2, 2)")

    def edit(manifests, _schema):
        for manifest in manifests:
            manifest["partitions"] = None

    edit_list(name, edit)


@table
def c_impossible_counts(name):
    """H4: more NULLs than values, and more values than rows: sums over several files."""
    create(name, "id int, n int")
    insert(name, "(1, 10), (2, NULL), (3, 30)")

    def edit(entries, _schema):
        for entry in entries:
            set_count(entry, "value_counts", 2, 2)
            set_count(entry, "null_value_counts", 2, 7)

    edit_manifests(name, edit)


@table
def c_inverted_path_bounds(name):
    """H5: the bounds of the path in a position delete file are inverted: the deletes still apply."""
    create_merging(name, "id int", **{"write.delete.granularity": "partition"})
    insert(name, "(1), (2), (3)")
    insert(name, "(4), (5), (6)")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 5)")

    def edit(entries, _schema):
        for entry in entries:
            set_bound(entry, "lower_bounds", PATH_ID, b"z")
            set_bound(entry, "upper_bounds", PATH_ID, b"!")

    edit_manifests(name, edit, content=1)


@table
def c_cut_path_bounds(name):
    """H5: both bounds of the path were cut to the same text, which is no file's path: the deletes still apply."""
    create_merging(name, "id int", **{"write.delete.granularity": "partition"})
    insert(name, "(1), (2), (3)")
    insert(name, "(4), (5), (6)")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 5)")

    def edit(entries, _schema):
        for entry in entries:
            set_bound(entry, "lower_bounds", PATH_ID, f"file:{ROOT}".encode()[:16])
            set_bound(entry, "upper_bounds", PATH_ID, f"file:{ROOT}".encode()[:16])

    edit_manifests(name, edit, content=1)


@table
def c_no_path_bounds(name):
    """A position delete file without any bound and without a referenced file."""
    create_merging(name, "id int")
    insert(name, "(1), (2), (3)")
    insert(name, "(4), (5), (6)")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 5)")

    def edit(entries, _schema):
        for entry in entries:
            entry["data_file"].update(lower_bounds=None, upper_bounds=None, referenced_data_file=None)

    edit_manifests(name, edit, content=1)


@table
def c_older_positions(name):
    """Position deletes that are older than the rows do not apply to them, although they name their file."""
    create_merging(name, "id int", **{"write.delete.granularity": "partition"})
    insert(name, "(1), (2)")
    insert(name, "(3), (4)")
    sql(f"DELETE FROM m.{name} WHERE id IN (2, 4)")

    def edit(entries, _schema):
        for entry in entries:
            entry.update(status=0, sequence_number=1, file_sequence_number=1)

    edit_manifests(name, edit, content=1)

    def earlier(manifests, _schema):
        for manifest in manifests:
            if manifest["content"] == 1:
                manifest.update(min_sequence_number=1, added_files_count=0, existing_files_count=1,
                                existing_rows_count=manifest["added_rows_count"], added_rows_count=0)

    edit_list(name, earlier)


@table
def c_summaries_of_deletes(name):
    """H2 and H3 in the summaries of manifests of deletes: they do not say that no delete applies."""
    create_merging(name, "id int, p string", "p")
    insert(name, "(1, 'abcdef'), (2, 'abcdef'), (3, 'abc'), (4, 'abc')")
    sql(f"DELETE FROM m.{name} WHERE id = 1")
    sql(f"DELETE FROM m.{name} WHERE id = 3")

    def edit(manifests, _schema):
        bad = [{"upper_bound": b"abc"}, {"contains_null": True, "lower_bound": None, "upper_bound": None}]
        deletes = [manifest for manifest in manifests if manifest["content"] == 1]
        # The manifests are sorted from the newest to the oldest.
        for manifest, changes in zip(reversed(deletes), bad, strict=True):
            manifest["partitions"][0].update(changes)

    edit_list(name, edit)


@table
def c_long_bounds_of_ints(name):
    """F9: bounds of ints and dates have 8 bytes, as ClickHouse wrote them before 2026-09."""
    create(name, "id int, d date")
    insert(name, "(-1, date'1969-12-31'), (2, date'2024-02-29'), (3, NULL)")

    def edit(entries, _schema):
        for entry in entries:
            set_bound(entry, "lower_bounds", 1, i64(-1))
            set_bound(entry, "upper_bounds", 1, i64(3))
            set_bound(entry, "lower_bounds", 2, i64(-1))
            set_bound(entry, "upper_bounds", 2, i64(19782))

    edit_manifests(name, edit)


@table
def c_bounds_cut_within_a_character(name):
    """F9: bounds of texts were cut within a character, so that they are no UTF-8."""
    create(name, "id int, s string")
    insert(name, "(1, 'aé'), (2, 'b漢')")

    def edit(entries, _schema):
        for entry in entries:
            set_bound(entry, "lower_bounds", 2, "aé".encode()[:2])
            set_bound(entry, "upper_bounds", 2, "b漢".encode()[:3])

    edit_manifests(name, edit)


@table
def c_bounds_of_odd_ids(name):
    """F9: bounds stand under a struct's id, and under an id that the schema does not have."""
    create(name, "id int, s struct<a: int, b: string>")
    insert(name, "(1, named_struct('a', 1, 'b', 'x')), (2, NULL)")

    def edit(entries, _schema):
        for entry in entries:
            set_bound(entry, "lower_bounds", 2, b"\x01")
            set_bound(entry, "upper_bounds", 2, b"\x02")
            set_bound(entry, "lower_bounds", 99, b"")
            set_bound(entry, "upper_bounds", 99, b"\xff\xff\xff")

    edit_manifests(name, edit)


@table
def c_date_to_timestamp(name):
    """Version 3 promotes a date to a timestamp: bounds of older files are days."""
    create(name, "id int, d date", version=3)
    insert(name, "(1, date'2024-02-29'), (2, date'1969-12-31'), (3, NULL)")

    def edit(metadata):
        schema = json.loads(json.dumps(metadata["schemas"][0]))
        schema["schema-id"] = 1
        schema["fields"][1]["type"] = "timestamp"
        metadata["schemas"].append(schema)
        metadata["current-schema-id"] = 1

    common.edit_metadata(name, edit)


@table
def c_v1_null_counts(name):
    """F10: the list is of version 1 and has no counts, the table of version 2."""
    create(name, "id int, p int", "p", version=1)
    insert(name, "(1, 1), (2, 2)")
    insert(name, "(3, 1)")
    counts = [f"{kind}_{what}_count" for kind in ("added", "existing", "deleted") for what in ("data_files", "files", "rows")]

    def edit(manifests, schema):
        for at, entry in enumerate(schema["fields"]):
            if entry["name"] in counts and not isinstance(entry["type"], list):
                schema["fields"][at] = {**entry, "type": ["null", entry["type"]], "default": None}
        for manifest in manifests:
            manifest.update({count: None for count in counts if count in manifest})

    edit_list(name, edit)
    alter(name, "SET TBLPROPERTIES ('format-version'='2')")


@table
def c_v1_manifests_in_metadata(name):
    """Version 1 may list its manifests in the metadata file."""
    create(name, "id int, p int", "p", version=1)
    insert(name, "(1, 1), (2, 2)")
    insert(name, "(3, 1)")
    _, _, manifests = read_avro(current_list(name))

    def edit(metadata):
        for snapshot in metadata["snapshots"]:
            del snapshot["manifest-list"]
            snapshot["manifests"] = [manifest["manifest_path"] for manifest in manifests]
        metadata["snapshots"] = metadata["snapshots"][-1:]
        metadata["snapshot-log"] = metadata["snapshot-log"][-1:]

    common.edit_metadata(name, edit)


@table
def c_unknown_transform(name):
    """F14: a transform that nobody knows: it does not prune, and the table can be read."""
    create(name, "id int, n int", "bucket(4, n)", version=3)
    insert(name, "(1, 1), (2, 2), (3, NULL)")

    def edit(metadata):
        for spec in metadata["partition-specs"]:
            for partition in spec["fields"]:
                partition["transform"] = "zorder[4]"

    common.edit_metadata(name, edit)


@table
def c_multi_argument_transform(name):
    """F14: a transform of two columns, as version 3 writes it."""
    create(name, "id int, a int, b int", "bucket(4, a)", version=3)
    insert(name, "(1, 1, 1), (2, 2, 2), (3, NULL, 3)")

    def edit(metadata):
        for spec in metadata["partition-specs"]:
            for partition in spec["fields"]:
                partition["transform"] = "bucketv2[4]"
                partition["source-ids"] = [2, 3]
                del partition["source-id"]

    common.edit_metadata(name, edit)


@table
def c_foreign_deletes(name):
    """Position deletes of a file that is not in the snapshot are no error."""
    create(name, "id int")
    insert(name, "(1), (2)")
    delete_positions(name, [(f"file:{ROOT}/{name}/data/foreign.parquet", 0), (f"file:{ROOT}/{name}/data/foreign.parquet", 10)])
    delete_positions(name, [(data_files(name)[0], 0), (f"file:{ROOT}/{name}/data/zz.parquet", 1)])


@table
def c_foreign_vector(name):
    """A deletion vector of a file that is not in the snapshot is no error."""
    create_merging(name, "id int", version=3)
    insert(name, "(1), (2), (3)")
    sql(f"DELETE FROM m.{name} WHERE id = 2")

    def edit(entries, _schema):
        for entry in entries:
            entry["data_file"]["referenced_data_file"] = f"file:{ROOT}/{name}/data/foreign.parquet"

    edit_manifests(name, edit, content=1)


@table
def c_existing_numbers(name):
    """Trap 12: an entry is carried over in a manifest with a larger number; its own number counts."""
    create(name, "id int")
    insert(name, "(1), (2)")
    delete_keys(name, [{"id": 1}])

    def edit(entries, _schema):
        for entry in entries:
            entry.update(status=0, sequence_number=1, file_sequence_number=1)

    edit_manifests(name, edit)

    def later(manifests, _schema):
        for manifest in manifests:
            if manifest["content"] == 0:
                rows = manifest["added_rows_count"]
                manifest.update(sequence_number=2, min_sequence_number=1, added_files_count=0, existing_files_count=1,
                                added_rows_count=0, existing_rows_count=rows)

    edit_list(name, later)


@table
def c_codecs(name):
    """Manifests in all four codecs, and a list in none."""
    create(name, "id int")
    for number in range(1, 5):
        insert(name, f"({number})")
    edit_manifests(name, lambda _entries, _schema: None, codecs=["null", "deflate", "zstandard", "snappy"])
    edit_list(name, lambda _manifests, _schema: None, codec="null")


@table
def c_unknown_fields(name):
    """The manifest has fields of ids that nobody knows, and unions in another order."""
    create(name, "id int, p int", "p")
    insert(name, "(1, 1), (2, NULL)")

    def edit(entries, schema):
        file = field(schema, "data_file")["type"]
        extra = {"type": "record", "name": "r9000", "fields": [{"name": "a", "type": {"type": "array", "items": "double"}, "field-id": 9001},
                                                              {"name": "m", "type": {"type": "map", "values": "string"}, "field-id": 9002}]}
        file["fields"].insert(2, {"name": "extra", "type": ["null", extra], "default": None, "field-id": 9000})
        for nullable in file["fields"]:
            if nullable["name"] in ("sort_order_id", "split_offsets"):
                nullable["type"].reverse()
                nullable.pop("default", None)
        for entry in entries:
            entry["data_file"]["extra"] = {"a": [1.0, 2.0], "m": {"k": "v"}}

    edit_manifests(name, edit)


@table
def c_renamed_fields(name):
    """Fields of manifests are known by their ids, and not by their names."""
    create(name, "id int, p int", "p")
    insert(name, "(1, 1), (2, 2)")

    def edit(entries, schema):
        file = field(schema, "data_file")["type"]
        field(file, "record_count")["name"] = "rows"
        partition = field(file, "partition")["type"]["fields"][0]
        partition["name"] = "other"
        for entry in entries:
            entry["data_file"]["rows"] = entry["data_file"].pop("record_count")
            entry["data_file"]["partition"] = {"other": entry["data_file"]["partition"]["p"]}

    edit_manifests(name, edit)


@table
def c_unknown_keys(name):
    """The metadata file has keys that nobody knows, and lacks those that may be missing."""
    create(name, "id int")
    insert(name, "(1)")

    def edit(metadata):
        metadata["x-unknown"] = {"a": [1, None]}
        metadata["schemas"][0]["x-unknown"] = True
        metadata["schemas"][0]["fields"][0]["x-unknown"] = "x"
        for key in ("refs", "snapshot-log", "metadata-log", "statistics", "partition-statistics", "properties"):
            metadata.pop(key, None)

    common.edit_metadata(name, edit)


@table
def c_no_snapshot(name):
    """A snapshot of -1 is none."""
    create(name, "id int")
    insert(name, "(1)")

    def edit(metadata):
        metadata["current-snapshot-id"] = -1
        metadata["refs"] = {}

    common.edit_metadata(name, edit)


@table
def c_struct_missing(name):
    """Question 1 of trap 8: a file lacks the whole struct, and its partition has a field of it."""
    create(name, "id int, s struct<x: int, y: string>", "s.x")
    folder = pathlib.Path(imported(name, "SELECT * FROM VALUES (1), (2) AS t(id)"))
    parquet = next(folder.glob("*.parquet"))
    java_table = load(name)
    files = iceberg().DataFiles
    metrics = iceberg().Metrics(2, None, None, None, None)
    file = (files.builder(java_table.spec()).withPath(f"file:{parquet}").withFormat("parquet").withFileSizeInBytes(parquet.stat().st_size)
            .withMetrics(metrics).withPartitionPath(f"{java_table.spec().fields()[0].name()}=7").build())
    java_table.newAppend().appendFile(file).commit()
    alter(name, """SET TBLPROPERTIES ('schema.name-mapping.default'='[{"field-id": 1, "names": ["id"]}, {"field-id": 2, "names": ["s"], "fields": [{"field-id": 3, "names": ["x"]}, {"field-id": 4, "names": ["y"]}]}]')""")
    insert(name, "(3, named_struct('x', 3, 'y', 'c'))")


if __name__ == "__main__":
    spark.start()
    common.main(__doc__, WRITERS)
