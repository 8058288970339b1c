"""Writes tables through an Iceberg REST catalog with PyIceberg, and answers statements over what it reads of them.

    rest_catalog.py URI ANSWERS

Each line of the file ANSWERS is a statement, a tab, and its rows: columns parted by `|`, rows by `;`. Behind `!` stand words of
the refusal of a statement.
"""

import argparse
import datetime
import pathlib
import time

import pyarrow
from pyiceberg.catalog import load_catalog
from pyiceberg.schema import Schema
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

ROWS = 50


def rows_of(table: pyarrow.Table) -> str:
    return ";".join("|".join("" if v is None else str(v) for v in row.values()) for row in table.to_pylist())


def versions(catalog, answers: list[tuple[str, str]]) -> None:
    """Writes a table with versions: columns come and go, a snapshot is rolled back, one expires."""
    name = "lake.top.versions"
    schema = Schema(NestedField(1, "id", LongType()), NestedField(2, "kind", StringType()))
    table = catalog.create_table(("top", "versions"), schema)
    snapshots = []

    def append(rows: dict) -> None:
        time.sleep(0.02)
        table.append(pyarrow.table(rows))
        snapshots.append(table.current_snapshot())

    append({"id": [0], "kind": ["gone"]})
    append({"id": [1, 2], "kind": ["a", "b"]})
    table.manage_snapshots().create_tag(snapshots[1].snapshot_id, "v1").commit()
    with table.update_schema() as update:
        update.add_column("more", LongType())
    append({"id": [3], "kind": ["c"], "more": pyarrow.array([30], pyarrow.int64())})
    table.manage_snapshots().create_branch(snapshots[2].snapshot_id, "dev").commit()
    with table.update_schema() as update:
        update.delete_column("kind")
    append({"id": [4], "more": pyarrow.array([40], pyarrow.int64())})
    time.sleep(0.02)
    table.manage_snapshots().rollback_to_snapshot(snapshots[2].snapshot_id).commit()
    table.maintenance.expire_snapshots().by_id(snapshots[0].snapshot_id).commit()

    def scanned(snapshot_id: int) -> str:
        return rows_of(table.scan(snapshot_id=snapshot_id).to_arrow().sort_by([("id", "ascending")]))

    for form in ["FOR VERSION AS OF {}", "FOR SYSTEM_VERSION AS OF {}", "VERSION AS OF {}", "AT (VERSION => {})"]:
        for snapshot in snapshots[1:]:
            version = form.format(snapshot.snapshot_id)
            answers.append((f"SELECT * FROM {name} {version} ORDER BY id", scanned(snapshot.snapshot_id)))
        answers.append((f"SELECT * FROM {name} {form.format(chr(39) + 'v1' + chr(39))} ORDER BY id", scanned(snapshots[1].snapshot_id)))
    # A branch has the table's columns of today. PyIceberg gives it those of its snapshot, so that the rows are written here.
    answers.append((f"SELECT * FROM {name} FOR VERSION AS OF 'dev' ORDER BY id", "0|;1|;2|;3|30"))
    answers.append((f"SELECT * FROM {name} ORDER BY id", "0|;1|;2|;3|30"))
    forms = ["FOR TIMESTAMP AS OF {}", "FOR SYSTEM_TIME AS OF {}", "TIMESTAMP AS OF {}", "AT (TIMESTAMP => {})"]
    for form, entry in zip(forms, table.history()[1:]):
        time_of = datetime.datetime.fromtimestamp(entry.timestamp_ms / 1000, datetime.timezone.utc)
        literal = f"TIMESTAMP '{time_of:%Y-%m-%d %H:%M:%S}.{entry.timestamp_ms % 1000:03} UTC'"
        expected = table.snapshot_as_of_timestamp(entry.timestamp_ms)
        answers.append((f"SELECT * FROM {name} {form.format(literal)} ORDER BY id", scanned(expected.snapshot_id)))
    first, second = snapshots[1].snapshot_id, snapshots[3].snapshot_id
    answers.append((
        f"SELECT a.id, b.more FROM {name} FOR VERSION AS OF {second} b LEFT JOIN {name} FOR VERSION AS OF {first} AS a ON a.id = b.id ORDER BY b.id",
        "0|;1|;2|;|30;|40",
    ))
    answers.append((f"WITH old AS (SELECT * FROM {name} FOR VERSION AS OF {first}) SELECT count(*), max(versions.id) FROM old, {name} FOR VERSION AS OF {second}", "15|4"))
    answers.append((f"SELECT count(*) FROM {name} FOR TIMESTAMP AS OF (current_timestamp - interval '0' day)", "4"))
    metadata = f'lake.top."versions${{}}"'
    inspected = table.inspect.snapshots().sort_by([("committed_at", "ascending")]).select(["snapshot_id", "parent_id", "operation"])
    answers.append((f"SELECT snapshot_id, parent_id, operation FROM {metadata.format('snapshots')} ORDER BY committed_at", rows_of(inspected)))
    answers.append((f"SELECT snapshot_id, parent_id, operation FROM lake.top.versions.snapshots ORDER BY committed_at", rows_of(inspected)))
    inspected = table.inspect.history().select(["snapshot_id", "is_current_ancestor"])
    expected = ";".join(f"{row['snapshot_id']}|{str(row['is_current_ancestor']).lower()}" for row in inspected.to_pylist())
    answers.append((f"SELECT snapshot_id, is_current_ancestor FROM {metadata.format('history')} ORDER BY made_current_at", expected))
    inspected = table.inspect.refs().sort_by([("name", "ascending")]).select(["name", "type", "snapshot_id"])
    answers.append((f"SELECT name, type, snapshot_id FROM {metadata.format('refs')} ORDER BY name", rows_of(inspected)))
    columns = ["content", "file_path", "record_count", "file_size_in_bytes"]
    inspected = table.inspect.files().sort_by([("file_path", "ascending")]).select(columns)
    answers.append((f"SELECT {', '.join(columns)} FROM {metadata.format('files')} ORDER BY file_path", rows_of(inspected)))
    inspected = table.inspect.manifests().sort_by([("path", "ascending")]).select(["content", "path", "length"])
    answers.append((f"SELECT content, path, length FROM {metadata.format('manifests')} ORDER BY path", rows_of(inspected)))
    answers.append((f"SELECT count(*) FROM {metadata.format('files')} FOR VERSION AS OF {first}", "2"))
    properties = sorted(table.properties.items())
    answers.append((f"SELECT key, value FROM {metadata.format('properties')} ORDER BY key", ";".join("|".join(pair) for pair in properties)))
    partitioned = catalog.load_table(("top", "below", "t")).inspect.partitions()
    expected = str(sum(row["record_count"] for row in partitioned.to_pylist())), str(partitioned.num_rows)
    answers.append(('SELECT sum(record_count), count(*) FROM lake.top.below."t$partitions"', "|".join(expected)))
    refused = [
        (f"FOR VERSION AS OF {snapshots[0].snapshot_id}", f"has no snapshot {snapshots[0].snapshot_id}"),
        ("FOR VERSION AS OF 'nothing'", "has no tag or branch `nothing`"),
        ("FOR TIMESTAMP AS OF TIMESTAMP '2001-01-01 00:00:00'", "has no snapshot at or before 2001-01-01T00:00:00.000Z"),
        ("FOR VERSION AS OF id", "version `id`: it is not understood, or names a column"),
        ("FOR VERSION AS OF 1.5", "version `1.5`: it is neither a number nor a text"),
        ("FOR TIMESTAMP AS OF 'never'", "version `'never'`: it is no time"),
    ]
    for version, message in refused:
        answers.append((f"SELECT * FROM {name} {version}", f"!{message}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("uri")
    parser.add_argument("answers", type=pathlib.Path)
    arguments = parser.parse_args()
    catalog = load_catalog(
        "rest",
        type="rest",
        uri=arguments.uri,
        credential="gust:client-secret",
        warehouse="w",
        **{"oauth2-server-uri": f"{arguments.uri}/v1/oauth/tokens"},
    )
    answers = []
    schema = Schema(
        NestedField(1, "id", LongType(), required=False),
        NestedField(2, "kind", StringType(), required=False),
    )
    spec = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "kind"))
    for number, (namespace, spec) in enumerate([(("top",), PartitionSpec()), (("top", "below"), spec)]):
        catalog.create_namespace(namespace)
        table = catalog.create_table((*namespace, "t"), schema, partition_spec=spec)
        for append in range(2):
            first = number * 1000 + append * ROWS
            ids = list(range(first, first + ROWS))
            kinds = [None if i % 7 == 0 else f"k{i % 3}" for i in ids]
            table.append(pyarrow.table({"id": pyarrow.array(ids, pyarrow.int64()), "kind": kinds}))
        table.overwrite(
            pyarrow.table({"id": pyarrow.array([9000 + number], pyarrow.int64()), "kind": ["new"]}), overwrite_filter="kind = 'k1'"
        )
        with table.update_schema() as update:
            update.rename_column("kind", "label")
        name = ".".join(("lake", *namespace, "t"))
        read = catalog.load_table((*namespace, "t")).scan().to_arrow().sort_by([("id", "ascending")])
        answers.append((f"SELECT id, label FROM {name} ORDER BY id", rows_of(read)))
        kinds = read.group_by("label").aggregate([("id", "sum")]).sort_by([("label", "ascending")])
        kinds = kinds.filter(pyarrow.compute.is_valid(kinds["label"])).select(["label", "id_sum"])
        answers.append((f"SELECT label, sum(id) FROM {name} WHERE label <> 'x' GROUP BY label ORDER BY label", rows_of(kinds)))
        answers.append((f"SELECT count(*) FROM {name}", str(read.num_rows)))
    catalog.create_table(("top", "empty"), schema)
    answers.append(("SELECT count(*) FROM lake.top.empty", "0"))
    versions(catalog, answers)
    arguments.answers.write_text("".join(f"{sql}\t{rows}\n" for sql, rows in answers))


if __name__ == "__main__":
    main()
