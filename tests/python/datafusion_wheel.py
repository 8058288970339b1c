"""Runs SQL with DataFusion's published wheel, for its time beside ours.

    datafusion_wheel.py PARTITIONS

The first line of stdout is the wheel's version. Then each line of stdin is a JSON string with one statement, and each line
of stdout a JSON object with its seconds and its number of rows.
"""

import argparse
import json
import sys
import time

import datafusion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("partitions", type=int)
    config = datafusion.SessionConfig().with_target_partitions(parser.parse_args().partitions)
    context = datafusion.SessionContext(config)
    print(datafusion.__version__, flush=True)
    for line in sys.stdin:
        statement = json.loads(line)
        started = time.perf_counter()
        batches = context.sql(statement).collect()
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "rows": sum(batch.num_rows for batch in batches)}), flush=True)


if __name__ == "__main__":
    main()
