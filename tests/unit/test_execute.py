"""Waiting for replicas: what ends it, and what does not."""

from dataclasses import replace

import pytest

from stack.errors import StackError
from stack.execute import execute
from stack.model import RESTARTING, STARTING, Snapshot
from stack.plan import Plan, Those, WaitReady
from stack.progress import Progress
from tests.unit.simulation import WEB, replica, snapshot_of


def wait_through(*snapshots: Snapshot) -> None:
    """Wait for two ready replicas, while the engine goes through these states."""
    states = iter(snapshots)
    wait = WaitReady(Those("p", WEB, 2), timeout_s=5, why="test")
    execute(Plan((wait,)), lambda: next(states), Progress(debug=False))


def test_crashes_of_long_ago_do_not_end_a_wait() -> None:
    survivor = replace(replica(1), restarts=2)
    ill_before = replace(replica(2, state=STARTING), restarts=3)
    wait_through(
        snapshot_of([survivor, ill_before], [1]),
        snapshot_of([survivor, replace(ill_before, state="healthy")], [1]),
    )


def test_a_replica_that_ends_over_and_over_ends_a_wait_and_is_named() -> None:
    with pytest.raises(StackError, match=r"p-web-2 ends over and over .*2 restarts"):
        wait_through(
            snapshot_of([replica(1), replica(2, state=STARTING)], [1]),
            snapshot_of([replica(1), replace(replica(2, state=RESTARTING), restarts=2)], [1]),
        )
