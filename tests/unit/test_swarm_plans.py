"""Plans on Swarm: its native commands, and waits."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from stack.engines import swarm_plans
from stack.engines.swarm_file import DIGEST_LABEL, PREVIOUS_LABEL
from stack.engines.swarm_model import Cluster
from stack.errors import StackError, UsageError
from stack.model import STARTING
from stack.plan import Await, Command
from tests.unit.swarm_samples import (
    DIGESTS,
    FAILED,
    SERVICES,
    WEB,
    cluster,
    made,
    of_revision,
    replica,
)


def web_of(file: dict[str, Any]) -> dict[str, Any]:
    return {**file, "services": {"web": file["services"]["web"]}}


def deployed(now: Cluster, **changes: Any) -> tuple[Any, ...]:
    file = web_of(made(counts={"web": 2}, **changes))
    return swarm_plans.deploy(now, file, WEB, {}).steps


def test_what_is_deployed_and_runs_is_left_alone() -> None:
    assert deployed(cluster(replica(1), replica(2))) == ()


def test_what_is_deployed_but_not_there_yet_is_waited_for() -> None:
    (step,) = deployed(cluster(replica(1), replica(2, state=STARTING)))
    assert isinstance(step, Await)


def test_a_change_is_one_native_command_and_a_wait() -> None:
    deploy, wait = deployed(cluster(replica(1), replica(2), image="stack-web:older"))
    assert isinstance(deploy, Command)
    assert deploy.argv[:3] == ("docker", "stack", "deploy")
    assert "--with-registry-auth" in deploy.argv
    assert isinstance(wait, Await)


def test_the_service_remembers_the_revision_before() -> None:
    now = of_revision("older", replica(1, revision="older"), replica(2, revision="older"))
    labels = yaml.safe_load(deployed(now)[0].text_in)["services"]["web"]["deploy"]["labels"]
    assert labels[PREVIOUS_LABEL] == "older"
    assert labels[DIGEST_LABEL]


def test_an_unfinished_revision_is_not_what_a_rollback_goes_back_to() -> None:
    now = of_revision("half", replica(1, revision="older"), replica(2, revision="half"))
    labels = yaml.safe_load(deployed(now)[0].text_in)["services"]["web"]["deploy"]["labels"]
    assert labels[PREVIOUS_LABEL] == "old"


def test_going_back_twice_does_not_go_back_to_itself() -> None:
    now = of_revision("half", replica(1, revision="older"), replica(2, revision="half"))
    now = replace(now, services={"web": replace(now.services["web"], previous="abc")})
    labels = yaml.safe_load(deployed(now)[0].text_in)["services"]["web"]["deploy"]["labels"]
    assert PREVIOUS_LABEL not in labels


def test_the_same_revision_from_another_registry_keeps_what_was_before() -> None:
    now = cluster(replica(1), replica(2), image="elsewhere.local/stack-web:abc")
    labels = yaml.safe_load(deployed(now)[0].text_in)["services"]["web"]["deploy"]["labels"]
    assert labels[PREVIOUS_LABEL] == "old"


def test_a_service_that_only_fails_is_made_anew() -> None:
    ill = replica(1, state=STARTING)
    remove, deploy, _ = deployed(cluster(ill, image="stack-web:broken", failures=(FAILED,)))
    assert remove.argv == ("docker", "service", "rm", "stack_web")
    assert deploy.argv[:3] == ("docker", "stack", "deploy")


def test_a_service_that_is_starting_is_not_removed() -> None:
    steps = deployed(cluster(replica(1, state=STARTING), image="stack-web:older"))
    assert [step.argv[1] for step in steps if isinstance(step, Command)] == ["stack"]


def test_what_swarm_has_given_up_is_deployed_again() -> None:
    steps = deployed(cluster(replica(1), replica(2), state="paused"))
    assert steps[0].argv[:3] == ("docker", "stack", "deploy")


def test_what_has_failed_and_is_not_made_anew_is_made_anew_when_asked_for_again() -> None:
    now = cluster(failures=(FAILED,), wanted=2)
    now = replace(now, services={"web": replace(now.services["web"], replicas=2)})
    again, wait = deployed(now)
    assert again.text() == "docker service update --detach --force stack_web"
    assert isinstance(wait, Await)


def test_what_was_left_half_done_is_not_gone_on_with() -> None:
    now = cluster(replica(1), state="paused")
    (web,) = WEB
    with pytest.raises(StackError, match="left half done"):
        swarm_plans.scale(now, SERVICES, {"web": 4})
    with pytest.raises(StackError, match="left half done"):
        swarm_plans.restart(now, web)


def test_a_one_shot_that_is_done_is_not_done_again_because_its_node_is_down() -> None:
    now = cluster(wanted=2)
    (wait,) = deployed(replace(now, services={"web": replace(now.services["web"], replicas=2)}))
    assert isinstance(wait, Await), "nothing has failed, so nothing is made anew"


def test_a_number_of_a_global_service_is_refused() -> None:
    now = cluster(replica(1))
    now = replace(now, services={"web": replace(now.services["web"], replicas=None)})
    with pytest.raises(UsageError, match="one replica on each node"):
        swarm_plans.scale(now, SERVICES, {"web": 2})


def test_what_waits_in_vain_does_not_keep_others_from_being_deployed() -> None:
    nowhere = replica(1, state=STARTING, reason="no suitable node (1 node not available)")
    assert [type(step) for step in deployed(cluster(nowhere))] == [Command, Await]


def test_scaling_waits_for_a_change_that_is_under_way() -> None:
    steps = swarm_plans.scale(cluster(replica(1), state="updating"), SERVICES, {"web": 4}).steps
    assert [type(step) for step in steps] == [Await, Command, Await]


def test_a_number_of_replicas_is_not_part_of_what_a_service_is() -> None:
    assert swarm_plans.identity(made(counts={"web": 1}), "web") == swarm_plans.identity(
        made(counts={"web": 7}), "web"
    )


def test_a_secret_with_other_contents_is_another_deployment_and_the_old_one_goes() -> None:
    now = replace(cluster(replica(1), replica(2)), secrets=("stack_key_0a1b2c3", "stack_other_1"))
    steps = deployed(now, digests={**DIGESTS, "key.txt": "9999999"})
    assert steps[-1].argv == ("docker", "secret", "rm", "stack_key_0a1b2c3")


def test_a_secret_that_another_service_still_uses_stays() -> None:
    now = replace(cluster(replica(1), replica(2)), secrets=("stack_key_0a1b2c3",))
    other = replace(now.services["web"], name="worker", files=frozenset(["stack_key_0a1b2c3"]))
    now = replace(now, services={**now.services, "worker": other})
    steps = deployed(now, digests={**DIGESTS, "key.txt": "9999999"})
    assert [step.argv[1] for step in steps if isinstance(step, Command)] == ["stack"]


def test_scaling_is_one_native_command_for_all_services() -> None:
    steps = swarm_plans.scale(cluster(replica(1)), SERVICES, {"web": 4}).steps
    assert [step.text() for step in steps[:1]] == ["docker service scale --detach stack_web=4"]
    assert swarm_plans.scale(cluster(replica(1)), SERVICES, {"web": 1}).steps == ()
