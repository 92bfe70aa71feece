"""When Swarm has done what it was told, and when it never will."""

from dataclasses import replace

import pytest

from stack.engines import swarm_wait
from stack.engines.swarm_model import Cluster
from stack.errors import ReplicaFailed
from stack.model import STARTING, Service
from tests.unit.swarm_samples import (
    FAILED,
    cluster,
    replica,
)

WEB = Service("web", port=8000)


def settled(now: Cluster, before: Cluster, service: Service = WEB) -> bool:
    return swarm_wait.wait_for(before, service, 2).holds(now.snapshot)


BEFORE = cluster(replica(1), replica(2))


@pytest.mark.parametrize(
    "now",
    [
        cluster(replica(1), replica(2, state=STARTING)),
        cluster(replica(1), replica(2, config_hash="old")),
        cluster(replica(1), replica(2), state="updating"),
        cluster(replica(1), replica(2), replica(3, draining=True), wanted=2),
        # Swarm has not begun yet: there are more, or fewer, than it was told.
        cluster(replica(1), replica(2), replica(3), wanted=2),
        cluster(replica(1), replica(2), wanted=3),
    ],
)
def test_it_is_not_done_while_anything_is_to_come_or_to_go(now: Cluster) -> None:
    assert not settled(now, BEFORE)


def test_it_is_done_when_all_are_ready_and_of_the_goal() -> None:
    assert settled(cluster(replica(1), replica(2), state="completed"), BEFORE)


def test_what_fails_and_is_not_made_anew_is_said_at_once() -> None:
    with pytest.raises(ReplicaFailed, match=r"stack_web.9 on node2 failed: task: non-zero exit"):
        settled(cluster(replica(1), wanted=2, failures=(FAILED,)), BEFORE)


def test_what_fails_may_be_tried_again_once() -> None:
    again = replica(9, state=STARTING)
    assert not settled(cluster(replica(1), again, wanted=2, failures=(FAILED,)), BEFORE)
    twice = (replace(FAILED, id="t10"), FAILED)
    with pytest.raises(ReplicaFailed, match=r"stack_web\.9"):
        settled(cluster(replica(1), again, wanted=2, failures=twice), BEFORE)


def test_what_needs_another_service_may_fail_until_that_is_there() -> None:
    again = replica(9, state=STARTING)
    often = tuple(replace(FAILED, id=f"t{number}") for number in range(10, 15))
    now = cluster(replica(1), again, wanted=2, failures=often)
    assert not settled(now, BEFORE, replace(WEB, needs=("db",)))


def test_a_failure_that_swarm_has_made_good_is_none() -> None:
    now = cluster(replica(1), replica(2), state="completed", failures=(FAILED,))
    assert settled(now, BEFORE)


def test_going_back_is_a_failure_also_to_a_run_that_only_waits() -> None:
    before = cluster(replica(1), replica(2), state="updating", began="then")
    now = cluster(replica(1), replica(2), state="rollback_completed", began="then")
    with pytest.raises(ReplicaFailed, match="gone back"):
        settled(now, before)


def test_a_port_that_is_not_free_yet_is_waited_for() -> None:
    taken = replace(FAILED, reason="Bind for 0.0.0.0:8080 failed: port is already allocated")
    assert not settled(cluster(replica(1), wanted=2, failures=(taken,)), BEFORE)


def test_what_had_failed_before_is_not_held_against_a_change() -> None:
    before = cluster(replica(1), replica(2), failures=(FAILED,))
    assert settled(before, before)


def test_within_an_update_swarm_decides_what_a_failure_means() -> None:
    now = cluster(replica(1), replica(2), state="updating", failures=(FAILED,))
    assert not settled(now, BEFORE)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("rollback_completed", "Swarm has gone back to revision abc"),
        ("paused", "Go back: python -m stack rollback web"),
        ("rollback_paused", "so did going back"),
    ],
)
def test_a_change_that_swarm_gives_up_fails_with_the_reason(state: str, says: str) -> None:
    now = cluster(replica(1), replica(2), state=state, began="now", failures=(FAILED,))
    with pytest.raises(ReplicaFailed, match=says) as failed:
        settled(now, BEFORE)
    assert "task: non-zero exit (3)" in str(failed.value)
    assert failed.value.replicas == ("t9",)


def test_what_swarm_had_given_up_before_is_not_this_change() -> None:
    before = cluster(replica(1), replica(2), state="rollback_completed", began="earlier")
    assert settled(before, before)
