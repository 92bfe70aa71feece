"""What the live view is told, and when."""

import io
import json
import tarfile
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from stack import topology
from stack.errors import EngineUnavailable, Interrupted, StackError
from stack.execute import execute
from stack.model import EXITED, STARTING, Replica, Snapshot
from stack.plan import Command, Plan
from stack.progress import Progress
from stack.topology import Publisher
from tests.unit.simulation import replica, snapshot_of


def told(*snapshots: Snapshot, command: str = "true") -> list[dict[str, Any]]:
    """What a proxy is given, while a plan of one step runs and this is seen one after the other."""
    given: list[dict[str, Any]] = []
    seen = iter(snapshots)
    publisher = Publisher(
        "`scale web=2`", lambda: next(seen), lambda _, data: given.append(json.loads(data))
    )
    plan = Plan((Command((command,), "make one more"),))
    with suppress(StackError), publisher.verb():
        execute(plan, lambda: next(seen), Progress(debug=False), publisher)
    return given


def test_replicas_are_told_with_their_state_and_whether_they_have_traffic() -> None:
    new = replica(2, state=STARTING)
    leaving = replace(replica(3), draining=True)
    gone = replace(replica(4), state=EXITED)
    found = topology.document(snapshot_of([replica(1), new, leaving, gone], [1]), "`up`", [])
    assert [(one["name"], one["state"], one["routed"]) for one in found["replicas"]] == [
        ("p-web-1", "healthy", True),
        ("p-web-2", "starting", False),
        ("p-web-3", "draining", False),
    ]


def test_each_step_is_told_when_it_begins_and_when_it_has_ended() -> None:
    one, two = snapshot_of([replica(1)], [1]), snapshot_of([replica(1), replica(2)], [1])
    before, after = told(one, two)
    assert (before["outcome"], after["outcome"]) == ("", "done")
    assert [step["why"] for step in before["steps"]] == ["make one more"]
    assert "ended_at" not in before["steps"][0]
    assert after["steps"][0]["ended_at"] >= after["steps"][0]["at"]
    assert (len(before["replicas"]), len(after["replicas"])) == (1, 2)


def test_the_end_of_a_step_that_changes_nothing_is_told_too() -> None:
    same = snapshot_of([replica(1)], [1])
    before, after = told(same, same)
    assert "ended_at" not in before["steps"][0]
    assert "ended_at" in after["steps"][0]


def test_a_verb_that_fails_is_told_to_have_failed() -> None:
    same = snapshot_of([replica(1)], [1])
    before, after = told(same, same, command="false")
    assert (before["outcome"], after["outcome"]) == ("", "failed")
    assert "ended_at" in after["steps"][0]


def test_nothing_new_is_not_told_again_but_to_another_proxy() -> None:
    given: list[str] = []
    snapshot = snapshot_of([replica(1)], [1])
    publisher = Publisher("`up`", lambda: snapshot, lambda proxy, _: given.append(proxy.id))
    for _ in range(3):
        publisher.saw(snapshot)
    assert snapshot.proxy
    another = replace(snapshot.proxy, id="another")
    others = tuple(one for one in snapshot.replicas if not one.is_proxy)
    publisher.saw(replace(snapshot, replicas=(*others, another)))
    assert given == [snapshot.proxy.id, "another"]


def test_a_proxy_that_cannot_be_told_holds_up_nothing() -> None:
    def fail(proxy: Replica, data: bytes) -> None:
        raise EngineUnavailable(f"{proxy.name} is just being made: {len(data)} bytes")

    def away() -> Snapshot:
        raise EngineUnavailable("a new leader is chosen")

    publisher = Publisher("`up`", away, fail)
    publisher.saw(snapshot_of([replica(1)], [1]))
    publisher.saw(Snapshot("p"))
    with publisher.verb(), publisher.step(1, 1, "look"):
        pass


def test_whoever_presses_ctrl_c_is_heard_also_while_it_is_told() -> None:
    def press(*_: object) -> None:
        raise Interrupted(2)

    publisher = Publisher("`up`", lambda: Snapshot("p"), press)
    with pytest.raises(Interrupted):
        publisher.saw(snapshot_of([replica(1)], [1]))


def test_it_arrives_as_one_file_that_the_proxy_can_read() -> None:
    with tarfile.open(fileobj=io.BytesIO(topology.archive(b"{}"))) as tar:
        (member,) = tar.getmembers()
    assert (member.name, member.mode, member.size) == ("topology.json", 0o644, 2)
