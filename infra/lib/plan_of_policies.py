"""Reads `terraform test -json -verbose` and writes the rights that a run has planned, as a plan that checkov can read.

A scan of the source text cannot see into policies that are made of variables. A plan would need an account; a test's does not.

    terraform test -json -verbose | plan_of_policies.py RUN > plan.json
"""

import json
import sys


def main(run: str) -> None:
    messages = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    plans = [m["test_plan"] for m in messages if m["type"] == "test_plan" and m["@testrun"] == run]
    changes = [
        change
        for plan in plans
        for change in plan["resource_changes"]
        if change["type"].startswith("aws_iam_") and change["change"]["after"]
    ]
    if not any("policy" in change["change"]["after"] for change in changes):
        sys.exit(f"error: no policy is planned in the run {run!r}")
    kept = ["address", "mode", "type", "name", "provider_name"]
    resources = [{key: change[key] for key in kept} | {"values": change["change"]["after"]} for change in changes]
    plan = {"format_version": "1.2", "terraform_version": "1.9.0", "configuration": {"root_module": {}}}
    plan |= {"planned_values": {"root_module": {"resources": resources}}, "resource_changes": changes}
    json.dump(plan, sys.stdout)


main(sys.argv[1])
