"""The plan for each verb on Swarm: its native command, and a wait until it is done.

Pure: what there is and what is wanted in, a plan out.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stack.engines.swarm_file import DIGEST_LABEL, PREVIOUS_LABEL
from stack.engines.swarm_model import Cluster
from stack.engines.swarm_reads import digest
from stack.engines.swarm_wait import is_as_told, wait_for, wait_for_earlier
from stack.errors import StackError, UsageError
from stack.model import NAMESPACE_LABEL, Service
from stack.plan import Command, Plan, Steps


def deploy(
    cluster: Cluster,
    file: Mapping[str, Any],
    services: Sequence[Service],
    digests: Mapping[str, str] | None,
) -> Plan:
    """Bring the services of `file` about as it says. `digests`: of images, by service, where the
    registry has them already; None if nodes get no images from a registry.
    """
    new = changed(cluster, file, services)
    waited = [one for one in services if one in new or not is_as_told(cluster, one)]
    steps: Steps = []
    if new:
        names = [service.name for service in new]
        steps += [*_remove(cluster, file, names), _deploy(cluster, file, new, digests)]
    steps += [
        _again(cluster, one) for one in waited if one not in new and _has_ended(cluster, one.name)
    ]
    steps += [wait_for(cluster, one, _count(cluster, file, one.name)) for one in waited]
    if new:
        steps += _remove_old_files(cluster, file)
    state = ", ".join(f"{one.name} {one.revision}".strip() for one in services)
    return Plan(tuple(steps), f"everything runs as wanted: {state}")


def changed(
    cluster: Cluster, file: Mapping[str, Any], services: Sequence[Service]
) -> list[Service]:
    """Those that have to be deployed."""
    return [one for one in services if not _is_deployed(cluster, file, one.name)]


def _deploy(
    cluster: Cluster,
    file: Mapping[str, Any],
    services: Sequence[Service],
    digests: Mapping[str, str] | None,
) -> Command:
    names = [service.name for service in services]
    part = _labelled(cluster, _part(file, names), services)
    for name, digest_ in (digests or {}).items():
        if name in part["services"]:
            # Then nodes that have it need no registry.
            part["services"][name]["image"] += f"@{digest_}"
    return Command(
        (
            *("docker", "stack", "deploy", "--compose-file", "-", "--with-registry-auth"),
            *("--resolve-image", "never" if digests is None else "changed"),
            cluster.snapshot.project,
        ),
        f"{', '.join(names)}: deploy what the Compose file says",
        # JSON is YAML in which a string stays one: an unquoted 7131e85 would be a number.
        text_in=json.dumps(part, indent=2, ensure_ascii=False) + "\n",
    )


def scale(cluster: Cluster, services: Sequence[Service], counts: Mapping[str, int]) -> Plan:
    """Other numbers of replicas."""
    project = cluster.snapshot.project
    mine = [service for service in services if service.name in counts]
    for one in mine:
        refuse_global(one.name, is_global=cluster.services[one.name].replicas is None)
        _refuse_given_up(cluster, one.name)
    changed = [s for s in mine if cluster.services[s.name].replicas != counts[s.name]]
    waited = [s for s in mine if s in changed or not is_as_told(cluster, s)]
    steps = wait_for_earlier(cluster, changed)
    if changed:
        words = [f"{project}_{service.name}={counts[service.name]}" for service in changed]
        steps.append(
            Command(
                ("docker", "service", "scale", "--detach", *words),
                "tell Swarm how many there should be",
            )
        )
    steps += [wait_for(cluster, service, counts[service.name]) for service in waited]
    text = ", ".join(f"{name}={count}" for name, count in counts.items())
    return Plan(tuple(steps), outcome=f"{text} already")


def restart(cluster: Cluster, service: Service) -> Plan:
    """New replicas of the same revision."""
    _refuse_given_up(cluster, service.name)
    count = _wanted(cluster, service.name)
    steps = [
        *wait_for_earlier(cluster, [service]),
        _again(cluster, service),
        wait_for(cluster, service, count),
    ]
    return Plan(tuple(steps))


def _again(cluster: Cluster, service: Service) -> Command:
    return Command(
        (
            *("docker", "service", "update", "--detach", "--force"),
            f"{cluster.snapshot.project}_{service.name}",
        ),
        f"{service.name}: make all replicas anew, although nothing has changed",
    )


def down(cluster: Cluster, services: Sequence[Service]) -> Plan:
    """Nothing left but volumes, which are on each node."""
    project = cluster.snapshot.project
    if not (cluster.services or cluster.networks or cluster.secrets or cluster.configs):
        return Plan((), outcome=f"nothing of project {project} is there")
    label = f"label={NAMESPACE_LABEL}={project}"
    gone = (
        f'until [ -z "$(docker ps --all --quiet --filter {label})" ] && '
        f'[ -z "$(docker network ls --quiet --filter {label})" ]; do sleep 0.5; done'
    )
    return Plan(
        (
            Command(
                ("docker", "stack", "rm", project), "remove services, networks, secrets, configs"
            ),
            Command(
                ("sh", "-c", gone),
                "wait until they are gone here, so that the next `up` can make them anew",
                timeout_s=60 + max((one.stop_grace_s for one in services), default=10),
                interruptible=True,
            ),
        )
    )


def refuse_global(name: str, *, is_global: bool) -> None:
    """Raise UsageError: how many there are, the nodes say."""
    if is_global:
        raise UsageError(f"{name} has one replica on each node (deploy.mode: global)")


def _refuse_given_up(cluster: Cluster, name: str) -> None:
    """Any change would have Swarm go on with what has failed."""
    state = cluster.services[name].state
    if state in ("paused", "rollback_paused"):
        raise StackError(
            f"{name}: its last change has failed and was left half done ({state}). Bring it to a "
            f"revision first: python -m stack rollback {name}, or python -m stack rollout {name}"
        )


def _has_ended(cluster: Cluster, name: str) -> bool:
    """Whether what it was to be has failed, and Swarm makes it no more."""
    update, there = cluster.snapshot.updates[name], cluster.services[name]
    failed = any(one.config_hash == update.config_hash for one in update.failures)
    return failed and bool(there.replicas) and not cluster.snapshot.of(name)


def _is_deployed(cluster: Cluster, file: Mapping[str, Any], name: str) -> bool:
    """Whether the service was deployed just like this."""
    there = cluster.services.get(name)
    if there is None:
        return False
    body = file["services"][name]
    return (
        # What Swarm has given up it takes up again when it is told so again.
        there.state not in ("paused", "rollback_paused")
        and there.digest == identity(file, name)
        and there.image.partition("@")[0] == body["image"]
        and (there.replicas is None or there.replicas == body["deploy"].get("replicas"))
    )


def identity(file: Mapping[str, Any], name: str) -> str:
    """A digest of what the service is deployed from, but for the number of replicas."""
    part = _part(file, [name])
    body = dict(part["services"][name])
    body["deploy"] = {key: value for key, value in body["deploy"].items() if key != "replicas"}
    return digest({**part, "services": body})


def _remove(cluster: Cluster, file: Mapping[str, Any], names: Sequence[str]) -> Steps:
    """What Swarm cannot change: a service on each node into one with a number of replicas, or back;
    and one of which nothing runs, since it counts the old replicas that fail against the new ones.
    """
    project, there = cluster.snapshot.project, cluster.services
    dead = [name for name in names if name in there and _only_fails(cluster, name)]
    other = [
        name
        for name in names
        if name in there and name not in dead
        if (there[name].replicas is None)
        != (file["services"][name]["deploy"].get("mode") == "global")
    ]
    steps: Steps = []
    for some, why in (
        (dead, "it only fails, so nothing is lost by making it anew"),
        (other, "one on each node, or a number of them: there is no answer until it is made anew"),
    ):
        if some:
            full = [f"{project}_{name}" for name in some]
            steps.append(Command(("docker", "service", "rm", *full), f"{', '.join(some)}: {why}"))
    return steps


def _only_fails(cluster: Cluster, name: str) -> bool:
    update = cluster.snapshot.updates[name]
    failing = [one for one in update.failures if one.config_hash == update.config_hash]
    return bool(failing) and not any(
        one.is_ready or one.is_done for one in cluster.snapshot.of(name)
    )


def _labelled(cluster: Cluster, file: dict[str, Any], wanted: Sequence[Service]) -> dict[str, Any]:
    """The file with what the manager wants to know of each service again."""
    revisions = {service.name: service.revision for service in wanted}
    services = {}
    for name, body in file["services"].items():
        labels = {**body["deploy"].get("labels", {}), DIGEST_LABEL: identity(file, name)}
        if before := _previous(cluster, name, revisions[name]):
            labels[PREVIOUS_LABEL] = before
        services[name] = {**body, "deploy": {**body["deploy"], "labels": labels}}
    return {**file, "services": services}


def _previous(cluster: Cluster, name: str, revision: str) -> str:
    """The revision that `rollback` goes back to: the last one that was there in full."""
    there = cluster.services.get(name)
    if there is None:
        return ""
    live = {one.revision for one in cluster.snapshot.of(name) if one.is_live}
    whole = live <= {there.revision} and not _only_fails(cluster, name)
    before = there.revision if whole and revision != there.revision else there.previous
    # Back at what was to be gone back to: then there is nothing before it that is known.
    return "" if before == revision else before


def _part(file: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The part of the file that these services need."""
    services = {name: file["services"][name] for name in names}
    part: dict[str, Any] = {"services": services}
    for kind in ("networks", "volumes", "secrets", "configs"):
        used = {
            one["source"] if isinstance(one, Mapping) else one
            for body in services.values()
            for one in body.get(kind) or ()
            if not isinstance(one, Mapping) or "source" in one
        }
        if found := {name: body for name, body in file.get(kind, {}).items() if name in used}:
            part[kind] = found
    return part


def _remove_old_files(cluster: Cluster, file: Mapping[str, Any]) -> Steps:
    """Secrets and configs whose contents have changed, and that nobody else uses."""
    steps: Steps = []
    others = {
        used
        for name, service in cluster.services.items()
        if name not in file["services"]
        for used in service.files
    }
    for kind, names in (("secret", cluster.secrets), ("config", cluster.configs)):
        wanted = {body["name"] for body in file.get(f"{kind}s", {}).values() if "name" in body}
        stems = {name.rpartition("_")[0] for name in wanted}
        gone = set(names) - wanted - others
        old = sorted(name for name in gone if name.rpartition("_")[0] in stems)
        if old:
            why = f"{kind}s whose contents have changed"
            steps.append(Command(("docker", kind, "rm", *old), why, may_fail=True))
    return steps


def _count(cluster: Cluster, file: Mapping[str, Any], name: str) -> int:
    """How many replicas there will be: of a global service, one on each node at most."""
    deploy = file["services"][name]["deploy"]
    return int(deploy.get("replicas", len(cluster.nodes)))


def _wanted(cluster: Cluster, name: str) -> int:
    return cluster.snapshot.updates[name].wanted or len(cluster.nodes)
