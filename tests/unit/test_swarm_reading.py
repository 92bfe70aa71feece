"""What a Swarm says of a stack, read."""

from dataclasses import replace
from typing import Any

import pytest

from stack import show
from stack.engines import swarm_reads
from stack.engines.swarm_file import DIGEST_LABEL, PREVIOUS_LABEL
from stack.engines.swarm_model import Cluster, Node
from stack.model import HEALTHY
from tests.unit.swarm_samples import (
    NODES,
)

SPEC = {
    "ContainerSpec": {
        "Image": "stack-web:abc@sha256:01",
        "Labels": {"stack.route.port": "8000"},
        "Healthcheck": {"Test": ["CMD", "true"]},
    }
}


def api_service(**changes: Any) -> dict[str, Any]:
    return {
        "ID": "s1",
        "Spec": {
            "Name": "stack_web",
            "Labels": {DIGEST_LABEL: "d1", PREVIOUS_LABEL: "old"},
            "TaskTemplate": {**SPEC, "Runtime": "container"},
            "Mode": {"Replicated": {"Replicas": 2}},
        },
        **changes,
    }


def api_task(number: int, state: str = "running", wanted: str = "running", **changes: Any) -> Any:
    return {
        "ID": f"t{number}",
        "ServiceID": "s1",
        "Slot": number,
        "NodeID": "n1",
        "CreatedAt": f"2026-01-01T00:00:0{number}Z",
        "Status": {"State": state, "Timestamp": "2026-01-01T00:00:09Z"},
        "DesiredState": wanted,
        "Spec": SPEC,
        "NetworksAttachments": [{"Addresses": ["10.0.1.5/24"]}],
        **changes,
    }


PROXY_SPEC = {"ContainerSpec": {"Image": "stack-proxy:p", "Labels": {"stack.proxy": "true"}}}


def read(*tasks: Any, nodes: tuple[Node, ...] = NODES, proxy: bool = False) -> Cluster:
    spec = {**api_service()["Spec"], "Name": "stack_proxy", "TaskTemplate": PROXY_SPEC}
    services = [api_service(), *([{"ID": "s2", "Spec": spec}] if proxy else [])]
    more = [api_task(7, ServiceID="s2", Spec=PROXY_SPEC)] if proxy else []
    return swarm_reads.cluster_of("stack", services, [*tasks, *more], nodes)


def test_a_running_task_is_a_healthy_replica_with_traffic() -> None:
    cluster = read(api_task(1), proxy=True)
    (replica,) = cluster.snapshot.of("web")
    assert (replica.name, replica.state, replica.node) == ("stack_web.1", HEALTHY, "node1")
    assert (replica.revision, replica.addresses) == ("abc", ("10.0.1.5",))
    assert cluster.snapshot.routes_to(replica)
    assert cluster.services["web"].previous == "old"


def test_without_a_proxy_nobody_has_traffic_and_that_is_said() -> None:
    snapshot = read(api_task(1)).snapshot
    assert not snapshot.routes_to(snapshot.replicas[0])
    assert "no proxy runs, so nobody is served" in show.drift(snapshot)


@pytest.mark.parametrize("wanted", ["shutdown", "remove"])
def test_a_task_that_is_told_to_stop_has_no_traffic_any_more(wanted: str) -> None:
    cluster = read(api_task(1, wanted=wanted), proxy=True)
    (replica,) = cluster.snapshot.of("web")
    assert replica.draining
    assert not cluster.snapshot.routes_to(replica)


def test_a_task_on_a_node_that_is_down_is_not_there_once_it_is_given_up() -> None:
    lost = (NODES[0], replace(NODES[1], is_ready=False))
    assert read(api_task(1, wanted="shutdown", NodeID="n2"), nodes=lost).snapshot.replicas == ()


def test_what_has_failed_is_counted_with_its_slot_and_kept_with_its_reason() -> None:
    failed = {"State": "failed", "Timestamp": "2026-01-01T00:00:02Z", "Err": "task: exit (3)"}
    cluster = read(api_task(1, wanted="shutdown", Status=failed), api_task(2, Slot=1))
    (replica,) = cluster.snapshot.replicas
    assert (replica.id, replica.restarts) == ("t2", 1)
    assert [one.reason for one in cluster.snapshot.updates["web"].failures] == ["task: exit (3)"]


def test_a_replica_that_ends_well_has_failed_unless_it_is_to_end() -> None:
    ended = {"State": "complete", "Timestamp": "2026-01-01T00:00:02Z"}
    cluster = read(api_task(1, wanted="shutdown", Status=ended), api_task(2, Slot=1))
    assert "not healthy" in cluster.snapshot.updates["web"].failures[0].reason


def test_a_global_service_has_a_replica_on_each_node_that_may_have_it() -> None:
    managers = {"Placement": {"Constraints": ["node.role == manager"]}}
    elsewhere = {"Placement": {"Constraints": ["node.labels.disk == ssd"]}}
    for template, wanted in (({}, 2), (managers, 1), (elsewhere, None)):
        spec = {**api_service()["Spec"], "Mode": {"Global": {}}, "TaskTemplate": template}
        spec["TaskTemplate"] = {**SPEC, **template}
        cluster = swarm_reads.cluster_of("stack", [api_service(Spec=spec)], [], NODES)
        assert cluster.snapshot.updates["web"].wanted == wanted
