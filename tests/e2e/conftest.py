"""Stacks for tests. Without an engine these tests fail: they are never skipped."""

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Stack


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


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A project of the test's own; nothing runs yet."""
    yield from _stack()


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """A stack that is up, shared by a module's tests; each leaves it with two replicas or says
    itself how many it needs.
    """
    for stack in _stack():
        stack.run("up")
        yield stack
