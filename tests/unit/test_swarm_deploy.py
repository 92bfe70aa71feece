"""From what a verb wants deployed to its plan on Swarm, and what is refused."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from stack.engines.images import Wanted
from stack.engines.swarm_deploy import Wish, plan_for
from stack.engines.swarm_model import Cluster, Node
from stack.errors import ConfigurationError, ReplicaFailed, StackError, UsageError
from stack.model import Revision, Snapshot, Update
from stack.plan import Await, Command, Plan
from tests.unit.swarm_samples import DIGESTS, DOCUMENT, NODES, WEB, cluster, replica

REGISTRY = "registry.local:5000"
COMPOSE = ("docker", "compose")
EMPTY = Cluster(Snapshot("stack"), {}, NODES[:1], here="n1")


def wish(**changes: Any) -> Wish:
    wanted = Wanted(revisions={"web": "abc"}, to_build=("web",))
    given = {"services": WEB, "wanted": wanted, "document": DOCUMENT, "digests": DIGESTS}
    return Wish(**{**given, **changes})


def commands(plan: Plan) -> list[str]:
    """The first words of each step."""
    return [
        " ".join(one.argv[:3]) if isinstance(one, Command) else type(one).__name__
        for one in plan.steps
    ]


def deployed_images(plan: Plan) -> list[str]:
    (deploy,) = [one for one in plan.steps if isinstance(one, Command) and one.text_in]
    return [line.strip() for line in deploy.text_in.splitlines() if '"image"' in line]


def test_a_single_node_builds_and_deploys_and_needs_no_registry() -> None:
    plan = plan_for(EMPTY, wish(), COMPOSE)
    assert commands(plan) == ["docker compose build", "docker stack deploy", "Await"]
    assert deployed_images(plan) == ['"image": "stack-web:abc",']


def test_other_nodes_get_images_from_the_registry() -> None:
    plan = plan_for(replace(EMPTY, nodes=NODES), wish(registry=REGISTRY), COMPOSE)
    assert commands(plan) == [
        "docker compose build",
        *("docker tag stack-web:abc", f"docker push {REGISTRY}/stack-web:abc"),
        *("docker stack deploy", "Await"),
    ]
    assert deployed_images(plan) == [f'"image": "{REGISTRY}/stack-web:abc",']


def test_what_the_registry_has_is_not_pushed_again() -> None:
    there = wish(registry=REGISTRY, pushed={"web": "sha256:01"}, wanted=Wanted({}, {"web": "abc"}))
    plan = plan_for(EMPTY, there, COMPOSE)
    assert commands(plan) == ["docker stack deploy", "Await"]
    # By digest: nodes that have it do not ask the registry.
    assert deployed_images(plan) == [f'"image": "{REGISTRY}/stack-web:abc@sha256:01",']
    (deploy, _) = plan.steps
    assert isinstance(deploy, Command)
    assert "changed" in deploy.argv


def test_without_a_registry_other_nodes_could_not_run_it() -> None:
    with pytest.raises(StackError, match=r"node2.*--registry HOST:PORT"):
        plan_for(replace(EMPTY, nodes=NODES), wish(), COMPOSE)


def test_a_node_that_takes_no_replicas_needs_no_images() -> None:
    drained = replace(NODES[1], availability="drain")
    plan = plan_for(replace(EMPTY, nodes=(NODES[0], drained)), wish(), COMPOSE)
    assert "docker stack deploy" in commands(plan)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (replace(NODES[0], is_ready=False), "that is a manager"),
        (
            replace(NODES[0], has_proxy_label=True, availability="drain"),
            "with the label stack.proxy",
        ),
    ],
)
def test_a_stack_that_would_have_no_proxy_is_refused(node: Node, says: str) -> None:
    with pytest.raises(StackError, match=says):
        plan_for(replace(EMPTY, nodes=(node,)), wish(registry=REGISTRY), COMPOSE)


def test_a_node_that_is_down_needs_no_images() -> None:
    down = replace(NODES[1], is_ready=False)
    plan = plan_for(replace(EMPTY, nodes=(NODES[0], down)), wish(), COMPOSE)
    assert "docker stack deploy" in commands(plan)


def test_a_change_that_is_under_way_is_waited_for_but_by_a_rollback() -> None:
    now = cluster(replica(1), image=f"{REGISTRY}/stack-web:older", state="updating")
    now = replace(now, here="n1")
    assert commands(plan_for(now, wish(registry=REGISTRY), COMPOSE))[0] == "Await"
    at_once = wish(registry=REGISTRY, at_once=True)
    assert commands(plan_for(now, at_once, COMPOSE))[0] == "docker compose build"


def test_a_number_for_a_service_of_which_each_node_has_one_is_refused() -> None:
    document = deepcopy(DOCUMENT)
    document["services"]["web"]["deploy"]["mode"] = "global"
    wanted = Wanted({"web": 2}, {"web": "abc"})
    with pytest.raises(UsageError, match="one replica on each node"):
        plan_for(EMPTY, wish(document=document, wanted=wanted), COMPOSE)


def test_a_kind_of_service_that_is_not_known_is_refused() -> None:
    document = deepcopy(DOCUMENT)
    document["services"]["web"]["deploy"]["mode"] = "replicated-job"
    with pytest.raises(ConfigurationError, match="replicated-job"):
        plan_for(EMPTY, wish(document=document), COMPOSE)


def test_a_port_of_one_address_is_refused_whatever_its_number() -> None:
    document = deepcopy(DOCUMENT)
    document["services"]["web"]["ports"] = [{"host_ip": "127.0.0.1", "target": 5432}]
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1"):
        plan_for(EMPTY, wish(document=document), COMPOSE)


def test_an_image_of_the_same_name_whatever_the_revision_is_refused() -> None:
    (web,) = WEB
    with pytest.raises(ConfigurationError, match="whatever the revision"):
        plan_for(EMPTY, wish(services=(replace(web, image="shop/web:latest"),)), COMPOSE)


def test_the_number_that_runs_stays_unless_another_is_asked_for() -> None:
    now = replace(cluster(*(replica(number) for number in range(1, 5))), here="n1")
    for counts, replicas in (({}, 4), ({"web": 1}, 1)):
        wanted = Wanted(counts, {"web": "abc"}, ("web",))
        plan = plan_for(now, wish(wanted=wanted, registry="other.local"), COMPOSE)
        (text,) = [one.text_in for one in plan.steps if isinstance(one, Command) and one.text_in]
        assert f'"replicas": {replicas}' in text


def test_what_runs_as_it_is_wanted_is_left_alone() -> None:
    now = replace(cluster(replica(1), replica(2)), here="n1")
    wanted = Wanted(revisions={"web": "abc"})
    assert plan_for(now, wish(registry=REGISTRY, wanted=wanted), COMPOSE).steps == ()


def test_a_drain_timeout_is_noted_since_swarm_has_none() -> None:
    wanted = Wanted(revisions={"web": "abc"}, drain_timeout_s=5)
    assert "no drain timeout" in plan_for(EMPTY, wish(wanted=wanted), COMPOSE).notes[-1]


def test_a_service_that_the_compose_file_no_longer_has_is_named() -> None:
    now = cluster(replica(1), image="stack-web:older")
    now = replace(now, services={**now.services, "gone": now.services["web"]}, here="n1")
    notes = plan_for(now, wish(registry=REGISTRY), COMPOSE).notes
    assert any("docker service rm stack_gone" in note for note in notes)


def test_revisions_beyond_the_last_five_go_also_by_the_names_that_were_pushed() -> None:
    now = cluster(replica(1), image="stack-web:older")
    revisions = tuple(Revision(f"r{number}", "") for number in range(6))
    now = replace(now, snapshot=replace(now.snapshot, revisions={"web": revisions}), here="n1")
    last = plan_for(now, wish(registry=REGISTRY), COMPOSE).steps[-1]
    assert isinstance(last, Command)
    assert last.argv[:2] == ("docker", "rmi")
    assert {"stack-web:r5", f"{REGISTRY}/stack-web:r5"} <= set(last.argv)


def recovery(state: str) -> Plan | None:
    plan = plan_for(EMPTY, wish(), COMPOSE)
    assert isinstance(plan.steps[-1], Await)
    assert plan.recover
    now = Snapshot("stack", updates={"web": Update(state=state)})
    return plan.recover(ReplicaFailed("web", "it fails"), now)


def test_a_revision_that_swarm_has_taken_back_is_no_longer_listed() -> None:
    after = recovery("rollback_completed")
    assert after
    assert [one.text() for one in after.steps] == ["docker rmi --force stack-web:abc"]
    assert after.failure, "it has failed all the same"


def test_a_revision_that_swarm_has_left_half_deployed_is_kept() -> None:
    assert recovery("paused") is None
