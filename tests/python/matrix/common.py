"""Places of the tables of the Iceberg matrix, for its writers and its judges, and the way in which a table is checked in.

Metadata names its files by absolute paths, so that every table is written and read below one fixed folder. Its number rises
when the checked-in tables are made anew with other contents, because a machine may still hold the older ones.
"""

import argparse
import functools
import gzip
import json
import pathlib
import re
import shutil
from collections.abc import Callable

import fastavro

ROOT = pathlib.Path("/tmp/gust-iceberg-fixtures-1")
# Tables whose older snapshots are kept, too. They can be read as of then.
WITH_HISTORY = {"rolled_back", "branched", "versions", "py_branched", "readded", "v2_positions", "v3_vectors", "d_cut_list"}
ICEBERG = pathlib.Path(__file__).resolve().parents[2] / "iceberg"
TABLES = ICEBERG / "tables"
TRUTH = ICEBERG / "truth"


class Writers(dict[str, Callable[[], None]]):
    """Writers of tables, by the names of the tables."""

    def table(self, write: Callable[[str], None]) -> Callable[[str], None]:
        """Registers a writer under its own name, which is its table's."""
        self[write.__name__] = functools.partial(write, write.__name__)
        return write


def metadata_file(name: str) -> pathlib.Path:
    """The current metadata file of a table."""
    folder = ROOT / name / "metadata"
    version = (folder / "version-hint.text").read_text().strip()
    plain, gzipped = folder / f"v{version}.metadata.json", folder / f"v{version}.gz.metadata.json"
    return plain if plain.exists() else gzipped


def keep(name: str) -> None:
    """Reduces a table below ROOT to its current metadata file under the name `vN`, and to what that file needs."""
    folder = ROOT / name / "metadata"
    versions = {}
    for file in folder.glob("*.metadata.json"):
        number = re.match(r"v?(\d+)", file.name).group(1)
        versions[int(number)] = file
    newest = max(versions)
    for version, file in versions.items():
        if version < newest:
            file.unlink()
    suffix = ".gz.metadata.json" if ".gz." in versions[newest].name else ".metadata.json"
    # A version begins with 1: to Java 0 means that there is no table.
    number = newest + (0 if versions[newest].name.startswith("v") else 1)
    versions[newest].rename(folder / f"v{number}{suffix}")
    (folder / "version-hint.text").write_text(str(number))
    for noise in (ROOT / name).rglob(".*.crc"):
        noise.unlink()
    for noise in (ROOT / name).rglob("_SUCCESS"):
        noise.unlink()


def local(location: str) -> pathlib.Path:
    """The path of a location in metadata."""
    return pathlib.Path(re.sub("^file:(//)?", "", location))


def prune(name: str) -> None:
    """Removes the metadata that only older snapshots need, which is most of a table's bytes."""
    if name in WITH_HISTORY:
        return
    data = metadata_file(name).read_bytes()
    metadata = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    needed = set()
    for snapshot in metadata.get("snapshots", []):
        if snapshot["snapshot-id"] != metadata.get("current-snapshot-id"):
            continue
        manifests = snapshot.get("manifests", [])
        if "manifest-list" in snapshot:
            path = local(snapshot["manifest-list"])
            needed.add(path)
            with open(path, "rb") as file:
                manifests = [manifest["manifest_path"] for manifest in fastavro.reader(file)]
        needed.update(map(local, manifests))
    for file in (ROOT / name / "metadata").glob("*.avro"):
        if file not in needed:
            file.unlink()


def edit_metadata(name: str, edit: Callable[[dict], None]) -> None:
    """Changes the current metadata file in place."""
    file = metadata_file(name)
    metadata = json.loads(file.read_text())
    edit(metadata)
    file.write_text(json.dumps(metadata))


def check_in(name: str) -> None:
    shutil.rmtree(TABLES / name, ignore_errors=True)
    shutil.copytree(ROOT / name, TABLES / name)


def main(document: str, writers: dict[str, Callable[[], None]]) -> None:
    """Runs the writers of the tables that the command line names, or all, and checks their tables in."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="tables to write; without any, all")
    only = parser.parse_args().only
    for name, write in writers.items():
        if only and name not in only:
            continue
        print(name, flush=True)
        shutil.rmtree(ROOT / name, ignore_errors=True)
        write()
        keep(name)
        prune(name)
        check_in(name)
