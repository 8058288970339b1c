"""The log's lines: of real invocations, and the format against lines that AWS wrote."""

import re
from datetime import UTC, datetime

from harness import Function
from process_executor import report
from process_executor.process import exit_reason
from process_executor.report import Invoked, Phase

REQUEST_ID = "3604209a-e9a3-11e6-939a-754dd98c7be3"
NOW = datetime(2026, 3, 4, 5, 6, 7, 890_123, tzinfo=UTC)


def invoked(**changes: object) -> Invoked:
    values = {"request_id": REQUEST_ID, "version": "7", "duration_s": 0.01234, "memory_mb": 512, "memory_used_mb": 43}
    return Invoked(**{**values, **changes})  # type: ignore[arg-type]


def test_lines_of_a_warm_invocation(function: Function) -> None:
    function.invoke()
    answer = function.invoke(do="print", text="one line")
    id_ = answer.payload["headers"]["Lambda-Runtime-Aws-Request-Id"]
    number = r"\d+\.\d\d"
    assert re.fullmatch(
        f"START RequestId: {id_} Version: \\$LATEST\none line\nanswered: 202\nEND RequestId: {id_}\n"
        f"REPORT RequestId: {id_}\tDuration: {number} ms\tBilled Duration: \\d+ ms\tMemory Size: 128 MB\t"
        f"Max Memory Used: \\d+ MB\t\n",
        answer.log,
    ), answer.log


def test_the_tail_is_four_kilobytes(function: Function) -> None:
    log = function.invoke(do="print", text="0123456789\n", times=1000).log
    assert len(log) == 4096
    assert log.startswith("0123456789\n"[-(len(log.split("\n")[0]) + 1) :])
    assert "END RequestId" in log and log.endswith("\t\n")


def test_lines_belong_to_their_invocation(function: Function) -> None:
    for number in range(20):
        log = function.invoke(do="print", text=f"line {number}").log
        assert re.findall(r"line \d+|answered: \d+", log) == [f"line {number}", "answered: 202"]


def test_report_line_of_a_warm_start() -> None:
    assert report.log(invoked(), "", "", NOW) == (
        f"START RequestId: {REQUEST_ID} Version: 7\n"
        f"END RequestId: {REQUEST_ID}\n"
        f"REPORT RequestId: {REQUEST_ID}\tDuration: 12.34 ms\tBilled Duration: 13 ms\tMemory Size: 512 MB\tMax Memory Used: 43 MB\t\n"
    )


def test_the_init_is_billed() -> None:
    line = report.log(invoked(duration_s=0.00237, init_s=0.42398), "", "", NOW).splitlines()[-1]
    assert line.endswith("\tBilled Duration: 427 ms\tMemory Size: 512 MB\tMax Memory Used: 43 MB\tInit Duration: 423.98 ms\t")


def test_whole_milliseconds_are_billed_as_they_are() -> None:
    line = report.log(invoked(duration_s=0.013), "", "", NOW).splitlines()[-1]
    assert "\tDuration: 13.00 ms\tBilled Duration: 13 ms\t" in line


def test_report_line_of_a_memory_kill() -> None:
    line = report.log(invoked(failure=report.out_of_memory()), "", "", NOW).splitlines()[-1]
    assert line.endswith("\tMax Memory Used: 43 MB\tStatus: error\tError Type: Runtime.OutOfMemory")


def test_report_line_of_a_time_out() -> None:
    log = report.log(invoked(failure=report.timed_out(3)), "", "half a line", NOW)
    assert "half a line\n2026-03-04T05:06:07.890Z 3604209a-e9a3-11e6-939a-754dd98c7be3 Task timed out after 3.00 seconds\n\nEND " in log
    assert log.endswith("\tStatus: timeout\n")


def test_init_report_line() -> None:
    failure = report.exited(exit_reason(-11))
    assert report.init_report(0.15403, Phase.INIT, failure) == (
        "INIT_REPORT Init Duration: 154.03 ms\tPhase: init\tStatus: error\tError Type: Runtime.ExitError\n"
    )


def test_a_long_log_keeps_its_end() -> None:
    log = report.log(invoked(), "", "x" * report.LOG_BYTES_MAX + "the end", NOW)
    assert "[7 characters of the log were dropped]" in log
    assert "the end\nEND RequestId" in log


def test_reasons_of_an_exit() -> None:
    reasons = {status: exit_reason(status).removeprefix("Runtime exited ") for status in (0, 1, -6, -9, -11, -15)}
    assert reasons == {
        0: "without providing a reason",
        1: "with error: exit status 1",
        -6: "with error: signal: aborted",
        -9: "with error: signal: killed",
        -11: "with error: signal: segmentation fault",
        -15: "with error: signal: terminated",
    }
