"""Lists what exists in a LocalStack: inventory.py ENDPOINT REGION. One JSON object: kind to sorted names. Standard library only.

LocalStack tells services apart by the request's credential scope and checks no signature, so none is computed here.
"""

import json
import re
import sys
import urllib.request

endpoint, region = sys.argv[1:]


def call(service: str, path: str = "/", body: str | None = None, **headers: str) -> str:
    scope = f"test/20260101/{region}/{service}/aws4_request"
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(endpoint + path, None if body is None else body.encode(), names)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def query(service: str, version: str, action: str, name: str) -> list[str]:
    form = f"Action={action}&Version={version}&MaxItems=1000"
    answer = call(service, body=form, content_type="application/x-www-form-urlencoded")
    return re.findall(rf"<{name}>([^<]+)</{name}>", answer)


functions = json.loads(call("lambda", "/2015-03-31/functions/?MaxItems=1000"))["Functions"]
groups = call("logs", body="{}", content_type="application/x-amz-json-1.1", x_amz_target="Logs_20140328.DescribeLogGroups")
found = {
    "functions": [function["FunctionName"] for function in functions],
    "buckets": re.findall(r"<Name>([^<]+)</Name>", call("s3")),
    "roles": query("iam", "2010-05-08", "ListRoles", "RoleName"),
    "policies": query("iam", "2010-05-08", "ListPolicies&Scope=Local", "PolicyName"),
    "log groups": [group["logGroupName"] for group in json.loads(groups)["logGroups"]],
    "alarms": query("cloudwatch", "2010-08-01", "DescribeAlarms", "AlarmName"),
}
print(json.dumps({kind: sorted(names) for kind, names in found.items()}))
