"""Answers, errors and ends of a function, as its caller sees them."""

import json
import platform
import re

import pytest
from harness import OFTEN, Cloud, Function, function_zip, is_alive, wait_until

REQUEST_ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def test_an_answer_and_the_environment_of_aws(function: Function) -> None:
    answer = function.invoke(text="grüße")
    assert (answer.status, answer.error) == (200, None)
    assert answer.payload["event"] == {"text": "grüße"}
    headers = answer.payload["headers"]
    assert re.fullmatch(REQUEST_ID, headers["Lambda-Runtime-Aws-Request-Id"])
    assert headers["Lambda-Runtime-Invoked-Function-Arn"].endswith(f":function:{function.name}")
    assert int(headers["Lambda-Runtime-Deadline-Ms"]) > 1_700_000_000_000
    assert "Root=" in headers["Lambda-Runtime-Trace-Id"]
    variables = answer.payload["variables"]
    expected = {
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": function.cloud.url,
        "_HANDLER": "bootstrap",
        "OWN": "own value",
    }
    assert expected.items() <= variables.items()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "LAMBDA_TASK_ROOT", "PATH"):
        assert variables[name], name
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", variables["AWS_LAMBDA_LOG_STREAM_NAME"])
    assert variables["TMPDIR"] == variables["HOME"]
    assert not [name for name in variables if name.startswith("LOCALSTACK_RUNTIME")]


def test_a_second_invocation_is_warm(cloud: Cloud) -> None:
    function = cloud.deploy()
    cold, warm = function.invoke(), function.invoke()
    assert cold.payload["boot"] == warm.payload["boot"]
    assert (cold.payload["handled"], warm.payload["handled"]) == (1, 2)
    assert "Init Duration" in cold.report()
    assert "Init Duration" not in warm.report()


def test_a_published_version_runs_behind_its_alias(cloud: Cloud) -> None:
    function = cloud.deploy()
    version = cloud.awslambda.publish_version(FunctionName=function.name)["Version"]
    cloud.awslambda.create_alias(FunctionName=function.name, Name="live", FunctionVersion=version)
    cloud.awslambda.get_waiter("published_version_active").wait(
        FunctionName=function.name, Qualifier=version, WaiterConfig=OFTEN
    )
    answer = cloud.awslambda.invoke(FunctionName=function.name, Qualifier="live", Payload=b"{}")
    assert answer["ExecutedVersion"] == version
    assert json.loads(answer["Payload"].read())["variables"]["AWS_LAMBDA_FUNCTION_VERSION"] == version


def test_an_error_that_the_function_posts_is_passed_on_and_keeps_it_warm(function: Function) -> None:
    before = function.invoke().payload["boot"]
    answer = function.invoke(do="raise")
    assert answer.error == "Unhandled"
    assert answer.payload == {"errorType": "Boom", "errorMessage": "as asked", "stackTrace": []}
    assert function.invoke().payload["boot"] == before


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"do": "exit", "code": 101}, "Runtime exited with error: exit status 101"),
        ({"do": "exit", "code": 0}, "Runtime exited without providing a reason"),
        ({"do": "signal", "name": "SIGKILL"}, "Runtime exited with error: signal: killed"),
        ({"do": "signal", "name": "SIGABRT"}, "Runtime exited with error: signal: aborted"),
        ({"do": "signal", "name": "SIGSEGV"}, "Runtime exited with error: signal: segmentation fault"),
    ],
)
def test_an_end_of_the_process_is_an_exit_error_and_the_next_invocation_starts_anew(
    function: Function, event: dict[str, object], reason: str
) -> None:
    before = function.invoke().payload["boot"]
    answer = function.invoke(**event)
    assert answer.error == "Unhandled"
    assert answer.payload["errorType"] == "Runtime.ExitError"
    assert re.fullmatch(f"RequestId: {REQUEST_ID} Error: {reason}", answer.payload["errorMessage"])
    assert re.search(f"RequestId: {REQUEST_ID} Error: {reason}\nRuntime.ExitError\nEND RequestId", answer.log)
    assert answer.report()["Error Type"] == "Runtime.ExitError"
    after = function.invoke()
    assert after.payload["boot"] != before
    assert "Init Duration" not in after.report(), "AWS reports the init of a reset environment nowhere"


def test_a_process_that_ends_after_its_answer_is_replaced(function: Function) -> None:
    answer = function.invoke(then="exit")
    assert answer.error is None
    assert wait_until(lambda: not is_alive(answer.payload["pid"]))
    after = function.invoke()
    assert (after.error, after.payload["handled"]) == (None, 1)


def test_a_time_out_kills_the_process_and_what_it_started(cloud: Cloud) -> None:
    # Its first invocations, and its start within the last one, end in time on a busy machine.
    function = cloud.deploy(Timeout=3)
    pid, child = function.invoke().payload["pid"], function.invoke(do="child").payload["child"]
    answer = function.invoke(do="sleep", s=600)
    assert answer.error == "Unhandled"
    assert answer.payload["errorType"] == "Sandbox.Timedout"
    message = f"RequestId: {REQUEST_ID} Error: Task timed out after 3.00 seconds"
    assert re.fullmatch(message, answer.payload["errorMessage"])
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.search(f"^{stamp} {REQUEST_ID} Task timed out after 3.00 seconds\n\nEND ", answer.log, re.MULTILINE)
    report = answer.report()
    assert (report["Duration"], report["Billed Duration"]) == ("3000.00 ms", "3000 ms")
    assert report["Status"] == "timeout"
    assert wait_until(lambda: not is_alive(pid) and not is_alive(child))
    assert function.invoke().error is None


def test_the_largest_answer_passes_and_one_byte_more_does_not(cloud: Cloud) -> None:
    function = cloud.deploy(MemorySize=512)
    allowed = 6 * 1024 * 1024 + 100
    assert len(function.invoke(do="large", bytes=allowed).payload) == allowed - 2
    answer = function.invoke(do="large", bytes=allowed + 1)
    assert answer.error == "Unhandled"
    message = f"Response payload size exceeded maximum allowed payload size ({allowed} bytes)."
    assert answer.payload == {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message}
    assert "answered: 413" in answer.log, "the function was told"
    assert function.invoke().payload["handled"] == 3, "it stays warm"


def test_an_answer_to_another_request_is_refused(function: Function) -> None:
    assert function.invoke(do="wrong-id").payload == {"status": 400}


def test_a_package_without_bootstrap_is_an_invalid_entrypoint(cloud: Cloud) -> None:
    answer = cloud.deploy(function_zip("main.py")).invoke()
    assert answer.payload["errorType"] == "Runtime.InvalidEntrypoint"
    assert answer.payload["errorMessage"].endswith("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]")


def test_a_file_that_is_no_program_is_an_invalid_entrypoint(cloud: Cloud) -> None:
    answer = cloud.deploy(function_zip(script="\x7fELF is not enough")).invoke()
    assert answer.payload["errorType"] == "Runtime.InvalidEntrypoint"
    assert answer.payload["errorMessage"].endswith("Error: fork/exec /var/task/bootstrap: exec format error")


def test_a_function_for_another_processor_is_not_deployed(cloud: Cloud) -> None:
    other = {"x86_64": "arm64", "aarch64": "x86_64"}[platform.machine()]
    with pytest.raises(Exception, match="Failed"):
        cloud.deploy(Architectures=[other])
    name = f"function-{cloud._named}"
    reason = cloud.awslambda.get_function_configuration(FunctionName=name)["StateReason"]
    assert f"the function is built for {other}, and this machine is" in reason


def test_the_log_reaches_cloudwatch(function: Function) -> None:
    function.invoke(do="print", text="a line for the log")
    logs = function.cloud.client("logs")
    group = f"/aws/lambda/{function.name}"

    def is_there() -> bool:
        events = logs.filter_log_events(logGroupName=group)["events"]
        messages = [event["message"] for event in events]
        return any("a line for the log" in text for text in messages) and any("REPORT " in text for text in messages)

    assert wait_until(is_there)
