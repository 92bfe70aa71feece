"""From what a verb wants deployed to its plan on Swarm, and what is refused: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from stack.engines import swarm_plans
from stack.engines.compose_proxy import try_image
from stack.engines.images import Wanted, build, forget, prune, push
from stack.engines.sources import not_by_revision
from stack.engines.swarm_file import Deployment, notes, publish_mode, stack_file
from stack.engines.swarm_model import Cluster
from stack.engines.swarm_reads import NODE_LABEL
from stack.engines.swarm_wait import BACK, wait_for_earlier
from stack.errors import ConfigurationError, ReplicaFailed, StackError
from stack.model import Service, Snapshot, Update
from stack.plan import Plan, Steps

DRAIN_NOTE = (
    "Swarm knows no drain timeout: a replica is out of DNS 2 s before SIGTERM, and then has its "
    "stop_grace_period"
)


@dataclass(frozen=True)
class Wish:
    """What a verb wants deployed: `services` of `document`, which is the Compose file as `docker
    compose config` says it, with what is `wanted` of them.

    `registry` is where images are pushed, `pushed` are the digests of revisions that it has, by
    service; `digests` are those of the files behind secrets and configs, by path. `at_once`: do not
    wait for a change that is under way.
    """

    services: tuple[Service, ...]
    wanted: Wanted
    document: Mapping[str, Any]
    registry: str | None = None
    pushed: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    at_once: bool = False

    @property
    def revised(self) -> tuple[Service, ...]:
        """Those whose image is a revision of this project's."""
        return tuple(one for one in self.services if one.name in self.wanted.revisions)


def plan_for(cluster: Cluster, wish: Wish, compose: Sequence[str]) -> Plan:
    """The plan to deploy what is wished for; `compose` is the command that builds.

    Raises StackError or ConfigurationError for what would not run.
    """
    if wish.revised and not wish.registry:
        refuse_unreachable_images(cluster)
    _refuse_one_name_for_all(cluster.snapshot.project, wish.revised)
    for name in wish.wanted.counts:
        mode = (wish.document["services"][name].get("deploy") or {}).get("mode")
        swarm_plans.refuse_global(name, is_global=mode == "global")
    deployment = _deployment(cluster, wish)
    file = stack_file(wish.document, wish.services, deployment)
    plan = swarm_plans.deploy(cluster, file, wish.services, wish.pushed if wish.registry else None)
    changed = swarm_plans.changed(cluster, file, wish.services)
    if changed:
        plan = replace(
            plan,
            steps=(
                *([] if wish.at_once else wait_for_earlier(cluster, changed)),
                *_images(cluster, wish, changed, compose),
                *plan.steps,
                *_cleaning(cluster, wish, changed),
            ),
            notes=(
                *notes(wish.document, wish.services, deployment),
                *_notes(cluster, wish, changed),
            ),
        )
    plan = replace(plan, recover=partial(_forget, wish))
    return with_note(plan, wish.wanted.drain_timeout_s)


def with_note(plan: Plan, drain_timeout_s: int | None) -> Plan:
    """The plan, and that a drain timeout, where one was asked for, does nothing."""
    return plan if drain_timeout_s is None else replace(plan, notes=(*plan.notes, DRAIN_NOTE))


def refuse_unreachable_images(cluster: Cluster) -> None:
    """Raise StackError where other nodes are to run what only this one has."""
    others = [
        node.name
        for node in cluster.nodes
        if node.is_active and node.is_ready and node.id != cluster.here
    ]
    if others:
        raise StackError(
            f"other nodes ({', '.join(others)}) cannot get images that only this one has. Name "
            "a registry that all can reach: --registry HOST:PORT (docs/swarm.md)"
        )


def _refuse_one_name_for_all(project: str, revised: Sequence[Service]) -> None:
    for one in revised:
        if one.image != f"{project}-{one.name}:{one.revision}":
            raise ConfigurationError(not_by_revision(one.name, one.image))


def _deployment(cluster: Cluster, wish: Wish) -> Deployment:
    there = {name: one.replicas for name, one in cluster.services.items()}
    images = {one.name: one.image for one in wish.services}
    if wish.registry:
        images |= {one.name: f"{wish.registry}/{one.image}" for one in wish.revised}
    return Deployment(
        images=images,
        counts={
            **{name: count for name, count in there.items() if count is not None},
            **wish.wanted.counts,
        },
        proxy_on=_nodes_of_the_proxy(cluster),
        publish=publish_mode(wish.document, wish.services),
        digests=wish.digests,
    )


def _nodes_of_the_proxy(cluster: Cluster) -> str:
    """The constraint that says where the proxy goes; raises StackError where nobody meets it."""
    labelled = [node for node in cluster.nodes if node.has_proxy_label]
    managers = [node for node in cluster.nodes if node.role == "manager"]
    if not any(node.is_ready and node.is_active for node in labelled or managers):
        which = f"with the label {NODE_LABEL}=true" if labelled else "that is a manager"
        raise StackError(
            f"no node {which} is up and active, so nobody can be the proxy: docker node ls"
        )
    return f"node.labels.{NODE_LABEL} == true" if labelled else "node.role == manager"


def _images(
    cluster: Cluster, wish: Wish, changed: Sequence[Service], compose: Sequence[str]
) -> Steps:
    """Make the images of what changes, and put them where the nodes get them."""
    revised = [one for one in changed if one in wish.revised]
    snapshot = replace(cluster.snapshot, services=wish.services)
    steps = build(snapshot, wish.wanted, compose)
    steps += [step for one in revised if one.is_proxy for step in try_image(one)]
    if wish.registry:
        missing = [one for one in revised if one.name not in wish.pushed]
        steps += push(cluster.snapshot.project, missing, wish.registry)
    return steps


def _cleaning(cluster: Cluster, wish: Wish, changed: Sequence[Service]) -> Steps:
    return [
        step
        for one in changed
        if one in wish.revised and one.name in cluster.services
        for step in prune(cluster.snapshot, one, cluster.services[one.name].revision, wish.registry)
    ]


def _notes(cluster: Cluster, wish: Wish, changed: Sequence[Service]) -> tuple[str, ...]:
    found = [
        f"{one.name}: it is made anew, and while it is, its node's port does not answer"
        for one in changed
        if one.is_proxy and one.name in cluster.services
    ]
    if orphans := sorted(cluster.services.keys() - wish.document["services"].keys()):
        full = " ".join(f"{cluster.snapshot.project}_{name}" for name in orphans)
        found.append(f"the Compose file does not have these. Remove: docker service rm {full}")
    return tuple(found)


def _forget(wish: Wish, failed: ReplicaFailed, now: Snapshot) -> Plan | None:
    """Once Swarm has gone back: nobody is to want an image that was made for what has failed."""
    if now.updates.get(failed.service, Update()).state != BACK:
        return None
    service = next(one for one in wish.services if one.name == failed.service)
    return Plan(tuple(forget(now, service, wish.wanted, wish.registry, force=True)), failure=failed)
