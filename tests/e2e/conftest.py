"""Stacks for tests. Without an engine these tests fail: they are never skipped."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Stack, copy_sources
from tests.e2e.lab import make_lab
from tests.e2e.oracle import Result, load


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
    for stack in _stack():
        stack.directory = copy_sources(tmp_path / "stack")
        yield stack


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """A stack that is up, shared by a module's tests; each leaves it with two replicas or says
    itself how many it needs.
    """
    for stack in _stack():
        stack.run("up")
        yield stack


@pytest.fixture(scope="module")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    for stack in _stack():
        yield make_lab(tmp_path_factory.mktemp("lab") / "stack", stack)


@pytest.fixture
def lab(_lab: Stack) -> Stack:
    """A stack with sources of its own, up with two replicas, watched by the oracle; shared by a
    module's tests, each of which leaves the sources as they run.
    """
    _lab.run("up", "web=2")
    return _lab


@pytest.fixture
def oracle(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Loads of this test (see oracle.load); what came of them goes into the proof's report."""
    results: list[Result] = []

    @contextmanager
    def watched(stack: Stack, **options: Any) -> Iterator[Result]:
        with load(stack, **options) as result:
            results.append(result)
            yield result

    yield watched
    if os.environ.get("PROOF_RESULTS"):
        line = {
            "scenario": request.node.name,
            "says": request.node.function.__doc__ or "",
            "counted": request.node.get_closest_marker("counted") is not None,
            "loads": [result.counts() for result in results],
        }
        with Path(os.environ["PROOF_RESULTS"]).open("a") as file:
            file.write(json.dumps(line) + "\n")
