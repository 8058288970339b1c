"""Functions that fail before their first invocation. AWS tries twice: ahead of the invocation, and within it."""

import re

from harness import Cloud

INIT_REPORT = r"INIT_REPORT Init Duration: \d+\.\d\d ms\tPhase: {phase}\tStatus: {status}\n"


def test_an_init_error_is_the_callers_answer(cloud: Cloud) -> None:
    answer = cloud.deploy(init="error").invoke()
    assert answer.error == "Unhandled"
    assert answer.payload == {"errorType": "Config.Missing", "errorMessage": "no bucket is configured"}
    once = "init: error\n" + INIT_REPORT
    status = "error\tError Type: Config.Missing"
    expected = once.format(phase="init", status=status) + once.format(phase="invoke", status=status)
    assert re.match(f"{expected}START RequestId", answer.log), answer.log
    assert answer.report()["Status"] == "error"


def test_an_exit_before_the_first_next_is_an_exit_error(cloud: Cloud) -> None:
    function = cloud.deploy(init="exit")
    for tries in (2, 1):  # a reset environment starts within the invocation only
        answer = function.invoke()
        assert answer.payload["errorType"] == "Runtime.ExitError"
        assert answer.payload["errorMessage"].endswith("Error: Runtime exited with error: exit status 7")
        assert answer.log.count("INIT_REPORT") == tries
        assert "Init Duration" not in answer.report()


def test_an_init_that_hangs_ends_with_the_functions_time_out(cloud: Cloud) -> None:
    answer = cloud.deploy(init="hang", Timeout=1).invoke()
    assert answer.payload["errorType"] == "Sandbox.Timedout"
    assert answer.payload["errorMessage"].endswith("Task timed out after 1.00 seconds")
    durations = [float(text) for text in re.findall(r"INIT_REPORT Init Duration: (\S+) ms\tPhase: \w+\tStatus: timeout", answer.log)]
    assert len(durations) == 2
    assert 10_000 <= durations[0] < 20_000, "AWS's limit"
    assert 1_000 <= durations[1] < 10_000, "the function's time-out"


def test_an_init_that_recovers_is_forgiven_and_its_temp_folder_survives(cloud: Cloud) -> None:
    answer = cloud.deploy(init="slow-once").invoke()
    assert answer.error is None
    assert answer.log.count("INIT_REPORT") == 1
    assert float(answer.report()["Duration"].split()[0]) < 5_000, "the lost 10 s are not the invocation's"
