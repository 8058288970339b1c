"""Writes the tables of the matrix that Spark writes, and those of Java's generic writers, which it only starts.

    write_spark.py [TABLE ...]

Truth is in tests/iceberg/truth, written by hand: change both together.
"""

import common
import java_generic
import spark
import spark_equality
import spark_partitions
import spark_positions
import spark_schemas
import spark_versions

MODULES = (spark_versions, spark_positions, spark_equality, spark_partitions, spark_schemas, java_generic)

if __name__ == "__main__":
    spark.start()
    common.main(__doc__, {name: write for module in MODULES for name, write in module.WRITERS.items()})
