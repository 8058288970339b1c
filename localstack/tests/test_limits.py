"""Memory, temp folder, concurrency."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import Answer, Cloud


def assert_memory_kill(answer: Answer) -> None:
    assert answer.error == "Unhandled"
    assert answer.payload["errorType"] == "Runtime.ExitError"
    assert answer.payload["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    report = answer.report()
    assert report["Max Memory Used"] == report["Memory Size"] == "128 MB"
    assert (report["Status"], report["Error Type"]) == ("error", "Runtime.OutOfMemory")


def test_memory_above_the_functions_size_is_a_kill(cloud: Cloud) -> None:
    function = cloud.deploy()
    assert function.invoke(do="hold", mb=64).error is None
    assert_memory_kill(function.invoke(do="hold", mb=160, s=600))
    assert function.invoke().error is None


def test_a_short_peak_is_a_kill_too(cloud: Cloud) -> None:
    assert_memory_kill(cloud.deploy().invoke(do="hold", mb=160, keep=False))


def test_reported_memory_is_that_of_the_process(cloud: Cloud) -> None:
    used = cloud.deploy(MemorySize=512).invoke(do="hold", mb=200).report()["Max Memory Used"]
    assert 200 <= int(used.split()[0]) < 300


def test_a_temp_folder_above_its_size_is_a_kill_that_names_it(cloud: Cloud) -> None:
    function = cloud.deploy(EphemeralStorage={"Size": 512})
    assert function.invoke(do="fill", mb=500).error is None
    answer = function.invoke(do="fill", mb=600, s=600)
    assert answer.payload["errorType"] == "Sandbox.TempFull"
    assert re.search("its temp folder holds 60[01] MB of 512 MB", answer.payload["errorMessage"])


def test_fifty_at_once_are_fifty_environments(cloud: Cloud, tmp_path: Path) -> None:
    function = cloud.deploy(Timeout=60)

    def invoke(number: int) -> Answer:
        return function.invoke(do="meet", folder=str(tmp_path), count=50, number=number)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(invoke, range(50)))
        assert [answer.error for answer in answers] == [None] * 50
        assert [answer.payload["event"]["number"] for answer in answers] == list(range(50))
        boots = {answer.payload["boot"] for answer in answers}
        assert len(boots) == 50
        again = list(pool.map(lambda _: function.invoke(do="sleep", s=0.2), range(50)))
    assert {answer.payload["boot"] for answer in again} <= boots, "they are kept warm"


def test_reserved_concurrency_throttles(cloud: Cloud, tmp_path: Path) -> None:
    function = cloud.deploy()
    cloud.awslambda.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=3)

    def invoke(number: int) -> str:
        try:
            # Those who run wait for those who are throttled.
            return str(function.invoke(do="meet", folder=str(tmp_path), count=6).error)
        except cloud.awslambda.exceptions.TooManyRequestsException as error:
            (tmp_path / f"throttled-{number}").touch()
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 429
            return str(error.response["Error"]["Code"])

    with ThreadPoolExecutor(6) as pool:
        outcomes = Counter(pool.map(invoke, range(6)))
    assert outcomes == {"None": 3, "TooManyRequestsException": 3}
    assert function.invoke().error is None


@pytest.mark.parametrize("size", [1_000_000, 6_000_000])
def test_large_requests_arrive_whole(cloud: Cloud, size: int) -> None:
    answer = cloud.deploy(MemorySize=512).invoke(filler="x" * size)
    assert answer.error is None
    assert len(answer.payload["event"]["filler"]) == size
