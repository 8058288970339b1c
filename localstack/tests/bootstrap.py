"""A function for the tests, in a few lines of the Runtime API; the tests deploy it as `bootstrap`.

The variable INIT and each event's `do` say what it does.
"""

import http.client
import json
import os
import signal
import sys
import time

API = os.environ["AWS_LAMBDA_RUNTIME_API"]
BOOT = f"{os.getpid()}-{time.time_ns()}"
held = []
handled = 0


def call(method, path, body=None, headers=None):
    """Sends one request of the Runtime API, on a connection of its own."""
    connection = http.client.HTTPConnection(API)
    connection.request(method, f"/2018-06-01/runtime/{path}", body, headers or {})
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def fail_init(how):
    print(f"init: {how}", flush=True)
    if how == "error":
        body = json.dumps({"errorType": "Config.Missing", "errorMessage": "no bucket is configured"})
        call("POST", "init/error", body, {"Lambda-Runtime-Function-Error-Type": "Config.Missing"})
        sys.exit(1)
    elif how == "exit":
        sys.exit(7)
    elif how == "hang":
        time.sleep(600)
    elif how == "slow-once":
        # /tmp survives the restart that follows.
        marker = os.path.join(os.environ["TMPDIR"], "tried")
        if not os.path.exists(marker):
            open(marker, "w").close()
            time.sleep(600)


def handle(event, headers):
    """Does the event's work and returns the answer, unless the process ends."""
    do = event.get("do", "echo")
    if do == "sleep":
        time.sleep(event["s"])
    elif do == "meet":  # others, of whom each makes a file in a folder
        open(os.path.join(event["folder"], request), "w").close()
        while len(os.listdir(event["folder"])) < event["count"]:
            time.sleep(0.02)
    elif do == "exit":
        print("about to exit", flush=True)
        sys.exit(event["code"])
    elif do == "signal":
        os.kill(os.getpid(), getattr(signal, event["name"]))
        time.sleep(600)
    elif do == "hold":  # memory
        for _ in range(event["mb"] // 8):
            held.append(b"x" * (8 << 20))
        if not event.get("keep", True):
            held.clear()
        time.sleep(event.get("s", 0))
    elif do == "fill":  # the temp folder
        with open(os.path.join(os.environ["TMPDIR"], "filled"), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, event["mb"] << 20)
        time.sleep(event.get("s", 0))
    elif do == "large":
        return "x" * (event["bytes"] - 2)  # its JSON has two quotes
    elif do == "print":
        print(event["text"] * event.get("times", 1), flush=True)
    elif do == "child":
        child = os.fork()
        if child == 0:
            time.sleep(600)
        return {"child": child}
    return {
        "event": event,
        "boot": BOOT,
        "pid": os.getpid(),
        "handled": handled,
        "headers": headers,
        "variables": dict(os.environ),
    }


fail_init(os.environ.get("INIT", ""))
while True:
    _, headers, payload = call("GET", "invocation/next")
    request = headers["Lambda-Runtime-Aws-Request-Id"]
    event = json.loads(payload)
    handled += 1
    if event.get("do") == "raise":
        body = json.dumps({"errorType": "Boom", "errorMessage": "as asked", "stackTrace": []})
        call("POST", f"invocation/{request}/error", body, {"Lambda-Runtime-Function-Error-Type": "Boom"})
        continue
    if event.get("do") == "wrong-id":
        status, _, _ = call("POST", "invocation/somebody-else/response", b"{}")
        call("POST", f"invocation/{request}/response", json.dumps({"status": status}))
        continue
    status, _, _ = call("POST", f"invocation/{request}/response", json.dumps(handle(event, headers)))
    print(f"answered: {status}", flush=True)
    if event.get("then") == "exit":
        sys.exit(3)
