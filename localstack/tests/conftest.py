from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Cloud, Function, Started


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def started(state: Path) -> Iterator[Started]:
    started = Started("--port", "0", "--state", str(state))
    if not started.first_line:
        pytest.exit(f"LocalStack does not start: {started.stop()[2]}", returncode=1)
    yield started
    code, stdout, stderr = started.stop()
    assert (code, stdout, stderr) == (0, "", "")
    assert [path.name for path in state.iterdir()] == ["localstack.log"]


@pytest.fixture(scope="session")
def cloud(started: Started) -> Cloud:
    return Cloud(started.url)


@pytest.fixture(scope="module")
def function(cloud: Cloud) -> Function:
    """A LocalStack for tests that leave it as they find it."""
    return cloud.deploy()
