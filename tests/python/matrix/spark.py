"""Spark 3.5 with the Java reference implementation of Iceberg, in one local process, and what writers do with the two.

Position deletes and vectors come from SQL with merge-on-read. Spark's SQL writes no equality deletes; these come from the Java
library, called through py4j.
"""

import glob
import os
import site
import uuid

from common import ROOT
from pyspark.sql import SparkSession

SPARK = None


def session() -> SparkSession:
    """Opens a session whose catalog `m` has its tables in folders below ROOT."""
    os.environ["TZ"] = "UTC"
    jars = [jar for folder in site.getsitepackages() for jar in glob.glob(f"{folder}/**/iceberg-spark-runtime-3.5_2.12*.jar", recursive=True)]
    settings = {
        "spark.driver.extraClassPath": jars[0],
        "spark.driver.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.m": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.m.type": "hadoop",
        "spark.sql.catalog.m.warehouse": f"file://{ROOT}",
        "spark.sql.catalog.m.cache-enabled": "false",
        "spark.sql.parquet.int96RebaseModeInWrite": "CORRECTED",
        "spark.sql.catalogImplementation": "in-memory",
    }
    builder = SparkSession.builder.master("local[1]").appName("matrix")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def start() -> None:
    """Opens the session of the functions below."""
    global SPARK
    SPARK = session()


MERGE_ON_READ = {f"write.{kind}.mode": "merge-on-read" for kind in ("delete", "update", "merge")}


def sql(text: str) -> list:
    return SPARK.sql(text).collect()


def create(name: str, columns: str, partitions: str = "", version: int = 2, **properties: str) -> None:
    partitioned = f"PARTITIONED BY ({partitions})" if partitions else ""
    properties = {"format-version": str(version), **properties}
    listed = ", ".join(f"'{key}'='{value}'" for key, value in properties.items())
    sql(f"CREATE TABLE m.{name} ({columns}) USING iceberg {partitioned} TBLPROPERTIES ({listed})")


def create_merging(name: str, columns: str, partitions: str = "", version: int = 2, **properties: str) -> None:
    create(name, columns, partitions, version, **MERGE_ON_READ, **properties)


def insert(name: str, values: str) -> None:
    sql(f"INSERT INTO m.{name} VALUES {values}")


def alter(name: str, change: str) -> None:
    sql(f"ALTER TABLE m.{name} {change}")


def call(procedure: str) -> None:
    sql(f"CALL m.system.{procedure}")


# The Java library.


def iceberg():
    return SPARK._jvm.org.apache.iceberg


def load(name: str):
    return iceberg().spark.Spark3Util.loadIcebergTable(SPARK._jsparkSession, f"m.{name}")


def record(struct, values: dict):
    row = iceberg().data.GenericRecord.create(struct)
    for key, value in values.items():
        row.setField(key, value)
    return row


def partition_of(spec, values: dict | None):
    return None if values is None else record(spec.partitionType(), values)


def output(java_table, suffix: str = "parquet"):
    file = java_table.io().newOutputFile(f"{java_table.location()}/data/{uuid.uuid4()}.{suffix}")
    return iceberg().encryption.EncryptedFiles.encryptedOutput(file, SPARK._jvm.java.nio.ByteBuffer.allocate(0))


def integers(values: list[int]):
    array = SPARK.sparkContext._gateway.new_array(SPARK._jvm.int, len(values))
    for position, value in enumerate(values):
        array[position] = value
    return array


def keys_file(java_table, rows: list[dict], spec=None, partition: dict | None = None):
    """Writes an equality delete file whose columns are those of the first row."""
    spec = spec or java_table.spec()
    names = SPARK._jvm.java.util.ArrayList()
    for name in rows[0]:
        names.add(name)
    schema = java_table.schema().select(names)
    ids = integers([java_table.schema().findField(name).fieldId() for name in rows[0]])
    factory = iceberg().data.GenericAppenderFactory(java_table.schema(), spec, ids, schema, None)
    writer = factory.newEqDeleteWriter(output(java_table), iceberg().FileFormat.PARQUET, partition_of(spec, partition))
    for row in rows:
        writer.write(record(schema, row))
    writer.close()
    return writer.toDeleteFile()


def positions_file(java_table, positions: list[tuple[str, int]], spec=None, partition: dict | None = None, rows: list[dict] | None = None):
    """Writes a position delete file, with the deleted rows if they are given."""
    spec = spec or java_table.spec()
    factory = iceberg().data.GenericAppenderFactory(java_table.schema(), spec, None, None, java_table.schema() if rows else None)
    writer = factory.newPosDeleteWriter(output(java_table), iceberg().FileFormat.PARQUET, partition_of(spec, partition))
    for number, (path, position) in enumerate(positions):
        delete = iceberg().deletes.PositionDelete.create()
        delete.set(path, position, record(java_table.schema(), rows[number]) if rows else None)
        writer.write(delete)
    writer.close()
    return writer.toDeleteFile()


def rows_file(java_table, rows: list[dict], spec=None, partition: dict | None = None):
    spec = spec or java_table.spec()
    factory = iceberg().data.GenericAppenderFactory(java_table.schema(), spec)
    writer = factory.newDataWriter(output(java_table), iceberg().FileFormat.PARQUET, partition_of(spec, partition))
    for row in rows:
        writer.write(record(java_table.schema(), row))
    writer.close()
    return writer.toDataFile()


def delete_keys(name: str, rows: list[dict], spec=None, partition: dict | None = None) -> None:
    """Commits one equality delete file."""
    java_table = load(name)
    java_table.newRowDelta().addDeletes(keys_file(java_table, rows, spec, partition)).commit()


def delete_positions(name: str, positions: list[tuple[str, int]], spec=None, partition: dict | None = None) -> None:
    java_table = load(name)
    java_table.newRowDelta().addDeletes(positions_file(java_table, positions, spec, partition)).commit()


def data_files(name: str) -> list[str]:
    """The paths of the data files, in the order in which they were added."""
    rows = sql(f"SELECT data_file.file_path AS path FROM m.{name}.entries WHERE status < 2 AND data_file.content = 0 ORDER BY sequence_number, path")
    return [row.path for row in rows]


def add_column(name: str, column: str, kind, default=None, parent: str | None = None) -> None:
    names = [column] if parent is None else [parent, column]
    default = None if default is None else iceberg().expressions.Expressions.lit(default)
    update = load(name).updateSchema()
    arguments = [*names, kind] if default is None else [*names, kind, default]
    update.addColumn(*arguments).commit()


def imported(name: str, select: str, partition_by: str | None = None) -> str:
    """Writes Parquet files without field ids, and returns their folder."""
    folder = f"{ROOT}/{name}/import"
    writer = SPARK.sql(select).coalesce(1).write
    if partition_by:
        writer = writer.partitionBy(partition_by)
    writer.parquet(folder)
    return folder
