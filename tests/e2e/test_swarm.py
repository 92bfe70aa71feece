"""The same verbs on a Swarm of two nodes, under load. Each test's name is its promise."""

import time
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Stack, eventually
from tests.e2e.lab import BROKEN, Oracle, assert_whole, broken, new_revision
from tests.e2e.rig import Node
from tests.e2e.swarm import answers, registry_image, stack_on, start_registry, swarm, wait_for_nodes

pytestmark = [pytest.mark.scenario, pytest.mark.swarm]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with swarm(2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def _swarm_lab(nodes: list[Node], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack()
    directory = tmp_path_factory.mktemp("swarm")
    try:
        stack_on(nodes, directory / "stack", stack)
        stack.registry = start_registry(nodes[0], registry_image(directory))
        yield stack
        stack.run("down")
    finally:
        stack.docker_host = ""
        stack.remove()


@pytest.fixture
def lab(_swarm_lab: Stack) -> Stack:
    """A stack on the Swarm, with two replicas; each test leaves the sources as they run."""
    _swarm_lab.run("up", "web=2")
    return _swarm_lab


def on_node(stack: Stack, name: str) -> list[str]:
    return [row["name"] for row in stack.web() if row["node"] == name]


def test_a_rollout_on_two_nodes_loses_nothing(lab: Stack, oracle: Oracle) -> None:
    lab.run("scale", "web=3")
    before = lab.web()[0]["revision"]
    new_revision(lab)
    with oracle(lab) as result:
        lab.run("rollout")
    assert lab.web()[0]["revision"] != before
    assert_whole(lab, 3)
    result.assert_nothing_lost()


@pytest.mark.counted
def test_control_replicas_on_swarm_that_are_killed_lose_requests(
    lab: Stack, nodes: list[Node], oracle: Oracle
) -> None:
    """The oracle sees on a Swarm what is lost."""
    with oracle(lab) as result:
        for node in nodes:
            for name in node.docker("ps", "--quiet", "--filter", f"name={lab.project}_web").split():
                node.docker("kill", name)
        eventually(lambda: len(lab.web()) == 2, "they are made anew")
    assert result.lost, "the oracle is blind"
    eventually(lambda: all(row["state"] == "healthy" for row in lab.web()), "all are well")
    eventually(lambda: answers(nodes[0], lab, 20), "the proxy knows them")


@pytest.mark.parametrize(("work_ms", "rate"), [(0, 120), (200, 15)])
def test_scaling_2_to_6_to_2_on_two_nodes_loses_nothing(
    lab: Stack, oracle: Oracle, work_ms: int, rate: int
) -> None:
    with oracle(lab, rate=rate, work_ms=work_ms) as result:
        for count in (6, 2):
            lab.run("scale", f"web={count}")
    assert_whole(lab, 2)
    result.assert_nothing_lost()


@pytest.mark.parametrize("how", ["exits at once", "is never healthy"])
def test_a_broken_revision_on_swarm_is_taken_back_and_loses_nothing(
    lab: Stack, oracle: Oracle, how: str
) -> None:
    before = lab.web()[0]["revision"]
    known = {one["revision"] for one in lab.revisions()}
    with broken(lab, BROKEN[how]), oracle(lab) as result:
        done = lab.try_run("rollout")
    assert done.returncode == 1, done.stderr
    assert f"Swarm has gone back to revision {before}" in done.stderr
    assert "Traceback" not in done.stderr.partition("The last that it wrote")[0]
    assert_whole(lab, 2, before)
    assert {one["revision"] for one in lab.revisions()} == known
    result.assert_nothing_lost()


def test_a_rollout_back_and_a_restart_on_swarm_lose_nothing(lab: Stack, oracle: Oracle) -> None:
    before = lab.web()[0]["revision"]
    new_revision(lab)
    lab.run("rollout")
    lab.run("scale", "web=3")
    with oracle(lab) as result:
        # To the revision, not to the number.
        lab.run("rollback")
        lab.run("restart", "web")
    assert_whole(lab, 3, before)
    result.assert_nothing_lost()
    lab.run("rollback")
    lab.run("scale", "web=2")


def test_a_node_that_is_drained_loses_nothing(
    lab: Stack, nodes: list[Node], oracle: Oracle
) -> None:
    lab.run("scale", "web=4")
    assert on_node(lab, "node1"), "without a replica elsewhere a drain leaves nobody"
    assert on_node(lab, "node2")
    with oracle(lab) as result:
        nodes[0].docker("node", "update", "--availability", "drain", "node2")
        eventually(
            lambda: len(on_node(lab, "node1")) == 4 and not on_node(lab, "node2"),
            "all are on the other node",
            within_s=60,
        )
    nodes[0].docker("node", "update", "--availability", "active", "node2")
    assert_whole(lab, 4)
    result.assert_nothing_lost()
    # Swarm moves nothing back by itself.
    lab.run("restart", "web")


@pytest.mark.counted
def test_a_node_that_is_killed_costs_what_was_on_it_until_swarm_notices(
    lab: Stack, nodes: list[Node], oracle: Oracle
) -> None:
    lab.run("scale", "web=4")
    assert on_node(lab, "node1"), "all replicas are on the node that is killed"
    assert on_node(lab, "node2")
    with oracle(lab) as result:
        killed_s = time.time() - result.began_at
        nodes[1].kill()
        wait_for_nodes(nodes[0], node2="down")
        detected_s = time.time() - result.began_at
        eventually(lambda: len(on_node(lab, "node1")) == 4, "all are on the other node")
        time.sleep(5)
    nodes[1].start()
    wait_for_nodes(nodes[0], node2="ready")
    lab.run("restart", "web")
    # nginx goes by an answer of DNS for 2 s.
    late = [one for one in result.lost_by("GET") if one.due_s > detected_s + 3]
    assert late == [], result.explain(late)
    # Not `assert_nothing_twice`: the last that the node wrote went with it.
    assert result.duplicated == [], result.explain(result.duplicated)
    print(f"killed {killed_s:.1f} s, noticed {detected_s:.1f} s, lost {len(result.lost)}")
