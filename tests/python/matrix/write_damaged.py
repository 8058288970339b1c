"""Writes the tables of the matrix whose deletes are damaged, as copies of checked-in tables under other names. It needs fastavro alone.

    write_damaged.py [TABLE ...]
"""

import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable

import common
import fastavro
from common import ROOT, TABLES, edit_metadata, local, metadata_file

WRITERS = common.Writers()
table = WRITERS.table

Edit = Callable[[dict], None]


def renamed(value: object, old: str, new: str) -> object:
    """The same value with another folder in its texts."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {key: renamed(part, old, new) for key, part in value.items()}
    if isinstance(value, list):
        return [renamed(part, old, new) for part in value]
    return value


def edit_avro(path: pathlib.Path, edit: Callable[[list[dict]], list[dict]]) -> None:
    with open(path, "rb") as file:
        reader = fastavro.reader(file)
        header = {key: value for key, value in reader.metadata.items() if not key.startswith("avro.")}
        schema, records = json.loads(reader.metadata["avro.schema"]), list(reader)
    with open(path, "wb") as file:
        fastavro.writer(file, fastavro.parse_schema(schema), edit(records), codec="deflate", metadata=header)


def copy(source: str, name: str, edit: Edit = lambda _: None, extra: Edit | None = None) -> list[pathlib.Path]:
    """Copies a table, changes the entries of its delete files, and returns the paths of these files.

    `extra` changes copies of the entries, which are added.
    """
    shutil.copytree(TABLES / source, ROOT / name)
    old, new = f"{ROOT}/{source}/", f"{ROOT}/{name}/"
    metadata = metadata_file(name)
    content = renamed(json.loads(metadata.read_text()), old, new)
    content["location"] = content["location"].replace(f"{ROOT}/{source}", f"{ROOT}/{name}")
    metadata.write_text(json.dumps(content))
    found = []

    def entries(records: list[dict], deletes: bool) -> list[dict]:
        records = renamed(records, old, new)
        added = [renamed(record, "", "") for record in records] if deletes and extra else []
        for record in records if deletes else []:
            found.append(local(record["data_file"]["file_path"]))
            edit(record)
        for record in added:
            extra(record)
        return records + added

    def manifests(records: list[dict]) -> list[dict]:
        records = renamed(records, old, new)
        for manifest in records:
            path = local(manifest["manifest_path"])
            edit_avro(path, lambda records, deletes=manifest["content"] == 1: entries(records, deletes))
            manifest["manifest_length"] = os.path.getsize(path)
        return records

    current = content["current-snapshot-id"]
    snapshot = next(snapshot for snapshot in content["snapshots"] if snapshot["snapshot-id"] == current)
    edit_avro(local(snapshot["manifest-list"]), manifests)
    return found


def of_the_file(name: str) -> Edit:
    """Makes vectors name the table's only data file."""

    def edit(entry: dict) -> None:
        file = next((ROOT / name / "data").glob("*.parquet"))
        entry["data_file"]["referenced_data_file"] = f"file:{file}"

    return edit


def vector(name: str, change: Edit = lambda _: None, extra: Edit | None = None) -> list[pathlib.Path]:
    """A table of the ids 1, 2 and 3 with a vector of the second row."""
    names = of_the_file(name)

    def edit(entry: dict) -> None:
        names(entry)
        change(entry)

    def added(entry: dict) -> None:
        names(entry)
        extra(entry)

    return copy("c_foreign_vector", name, edit, added if extra else None)


@table
def d_whole(name):
    """Nothing is damaged."""
    vector(name)


@table
def d_two_vectors(name):
    vector(name, extra=lambda entry: entry["data_file"].update(file_path=entry["data_file"]["file_path"] + "2"))


@table
def d_older_vector(name):
    vector(name, lambda entry: entry.update(status=0, sequence_number=0, file_sequence_number=0))


@table
def d_wrong_cardinality(name):
    vector(name, lambda entry: entry["data_file"].update(record_count=2))


@table
def d_too_many_bits(name):
    vector(name, lambda entry: entry["data_file"].update(record_count=4))


@table
def d_vector_elsewhere(name):
    vector(name, lambda entry: entry["data_file"].update(content_offset=5))


@table
def d_vector_beyond(name):
    vector(name, lambda entry: entry["data_file"].update(content_offset=10_000))


@table
def d_flipped_vector(name):
    for file in vector(name):
        content = bytearray(file.read_bytes())
        content[30] ^= 1
        file.write_bytes(content)


@table
def d_vanished_vector(name):
    for file in vector(name):
        file.unlink()


@table
def d_cut_vector(name):
    for file in vector(name):
        file.write_bytes(file.read_bytes()[:-10])


@table
def d_encrypted_vector(name):
    vector(name, lambda entry: entry["data_file"].update(key_metadata=b"key"))


@table
def d_claims_all(name):
    """A manifest says that the vector deletes every row. It deletes one."""
    vector(name, lambda entry: entry["data_file"].update(record_count=3))


@table
def d_claims_all_vanished(name):
    d_claims_all(name)
    for file in (ROOT / name / "data").glob("*.puffin"):
        file.unlink()


@table
def d_cut_list(name):
    """The list of manifests lacks its last one, of the deletes, as if it had been cut between two blocks."""
    copy("v3_vectors", name)
    metadata = json.loads(metadata_file(name).read_text())
    lists = {snapshot["snapshot-id"]: snapshot["manifest-list"] for snapshot in metadata["snapshots"]}
    path = local(lists[metadata["current-snapshot-id"]])
    edit_avro(path, lambda manifests: [manifest for manifest in manifests if manifest["content"] == 0])


def lists_and_manifests(name: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """The list of a copy, and its manifests."""
    vector(name)
    [path] = (ROOT / name / "metadata").glob("snap-*.avro")
    with open(path, "rb") as file:
        return path, [local(manifest["manifest_path"]) for manifest in fastavro.reader(file)]


@table
def d_encrypted_table(name):
    vector(name)
    edit_metadata(name, lambda metadata: metadata["properties"].update({"encryption.key-id": "key"}))


@table
def d_encrypted_manifest(name):
    path, _ = lists_and_manifests(name)
    edit_avro(path, lambda manifests: [{**manifest, "key_metadata": b"key"} for manifest in manifests])


@table
def d_cut_manifest(name):
    _, manifests = lists_and_manifests(name)
    manifests[0].write_bytes(manifests[0].read_bytes()[:-30])


@table
def d_vanished_manifest(name):
    _, manifests = lists_and_manifests(name)
    manifests[1].unlink()


@table
def d_vanished_positions(name):
    for file in copy("c_no_path_bounds", name):
        file.unlink()


@table
def d_garbage_positions(name):
    for file in copy("c_no_path_bounds", name):
        file.write_bytes(bytes(len(file.read_bytes())))


@table
def d_vanished_keys(name):
    for file in copy("eq_null_key", name):
        file.unlink()


@table
def d_garbage_keys(name):
    for file in copy("eq_null_key", name):
        file.write_bytes(bytes(len(file.read_bytes())))


if __name__ == "__main__":
    ROOT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or WRITERS:
        shutil.rmtree(ROOT / name, ignore_errors=True)
        WRITERS[name]()
        common.prune(name)
        common.check_in(name)
        print(name, flush=True)
