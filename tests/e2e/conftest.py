"""Stacks for tests. Without an engine these tests fail: they are never skipped."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Stack


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Stack):
                value.keep_evidence(item.name)
    return report


def _stack() -> Iterator[Stack]:
    stack = Stack()
    try:
        yield stack
    finally:
        stack.remove()


@pytest.fixture(scope="session", autouse=True)
def _bases() -> None:
    """Have the base images, and where they are made from packages, have them recorded in .env:
    on a new machine, the first `up` of a clone does both. Tests use Compose alone, too.
    """
    for stack in _stack():
        stack.run("up")


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A project of the test's own; nothing runs yet."""
    yield from _stack()


@pytest.fixture
def stack_copy(tmp_path: Path) -> Iterator[Stack]:
    """A project with sources of its own, for tests that change them."""
    directory = tmp_path / "stack"
    listed = subprocess.run(
        ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    if (ROOT / ".env").exists():
        shutil.copy(ROOT / ".env", directory / ".env")
    for stack in _stack():
        stack.directory = directory
        yield stack


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """A stack that is up, shared by a module's tests; each leaves it with two replicas or says
    itself how many it needs.
    """
    for stack in _stack():
        stack.run("up")
        yield stack
