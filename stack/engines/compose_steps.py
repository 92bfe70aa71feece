"""The steps on Compose that do not route anything: services without a port, hooks, settings."""

from collections.abc import Iterable, Mapping, Sequence

from stack.composefile import COMPLETED
from stack.engines.images import revision_env
from stack.model import SETTINGS_LABEL, Service, Snapshot
from stack.plan import Source, Steps
from stack.reconcile import Choice, Goal
from stack.transition import post_start

A_DAY_S = 86_400


def source_of(snapshot: Snapshot, service: Service, compose: Sequence[str]) -> Source:
    """How more replicas of `service.revision` are made: with the settings that its image
    carries, if it does.
    """
    env = revision_env({service.name: service.revision}) if service.revision else ()
    known = {revision.name: revision for revision in snapshot.revisions.get(service.name, ())}
    if service.revision not in known or not known[service.revision].has_settings:
        return Source(tuple(compose), env)
    image = f"{snapshot.project}-{service.name}:{service.revision}"
    label = f'{{{{index .Config.Labels "{SETTINGS_LABEL}"}}}}'
    look = ("docker", "image", "inspect", "--format", label, image)
    return Source((*compose, "--file", "-"), env, (look, ("base64", "-d")))


def old_revision(snapshot: Snapshot, service: str, choice: Choice) -> str:
    """The revision to go back to: what most of those have that a rollout replaces. Where an
    earlier one has not finished, what that was replacing.
    """
    names = [replica.revision for replica in choice.old]
    previous = {one.name for one in snapshot.revisions.get(service, ()) if one.is_previous}
    if len(set(names)) > 1 and previous & set(names):
        return (previous & set(names)).pop()
    return max(names, key=names.count)


def renew_plain(
    snapshot: Snapshot,
    names: Iterable[str],
    counts: Mapping[str, int],
    source: Source,
) -> Steps:
    """Let Compose make anew what is outdated and not routed, of `names`: databases and migrations
    come before the replicas that need them.
    """
    steps: Steps = []
    wanted = set(names)
    for service in in_order(snapshot.services):
        mine = snapshot.of(service.name)
        if service.name not in wanted or not is_renewed(snapshot, service):
            continue
        why = f"{service.name}: image or settings have changed"
        if _is_awaited_to_end(snapshot, service):
            # In the foreground: who needs it waits, however long its work takes.
            run = ("up", "--no-build", "--no-deps", "--exit-code-from", service.name, service.name)
            why = f"{service.name}: has to do its work first"
            steps.append(source.command(*run, why=why, timeout_s=A_DAY_S))
            continue
        # Compose would also renew routed replicas that it depends on, without draining them.
        alone = ("--no-deps",) if _needs_routed(snapshot, service) else ()
        totals = {service.name: max(len(mine), counts[service.name])}
        if not alone:
            totals = {**{name: len(snapshot.of(name)) for name in service.needs}, **totals}
        replicas = {one.name: one.replicas for one in snapshot.services}
        numbers = [
            word
            for name, total in totals.items()
            for word in ("--scale", f"{name}={total}")
            if total and total != replicas.get(name)
        ]
        up = ("up", "--detach", "--no-build", *alone, *numbers, service.name)
        steps.append(source.command(*up, why=why))
    return steps


def is_renewed(snapshot: Snapshot, service: Service) -> bool:
    """Whether `renew_plain` makes it anew."""
    mine = snapshot.of(service.name)
    if service.port is not None or service.is_proxy or not mine:
        return False
    if _is_awaited_to_end(snapshot, service):
        return not any(replica.is_done and replica.is_current(service) for replica in mine)
    return any(not replica.is_current(service) for replica in mine)


def make_missing(
    snapshot: Snapshot, goals: Sequence[Goal], choices: Mapping[str, Choice], source: Source
) -> Steps:
    """Let Compose make what is missing of services that have nothing to be replaced, in the order
    of depends_on, and leave the rest alone. All but the proxy: it has nobody to send to yet.
    """
    missing = {goal.service.name for goal in goals if choices[goal.service.name].missing}
    if not missing:
        return []
    # Compose would bring what it touches back to deploy.replicas, and choose itself whom to stop:
    # whatever differs from that is named, with its number.
    totals = {}
    for service in snapshot.services:
        if service.is_proxy or service.name not in choices:
            continue
        choice = choices[service.name]
        there = len((*choice.keep, *choice.old, *choice.leaving))
        total = there + (choice.missing if service.name in missing else 0)
        if service.name in missing or total not in (0, service.replicas):
            totals[service.name] = total
    numbers = [word for name, n in totals.items() for word in ("--scale", f"{name}={n}")]
    steps: Steps = [
        source.command(
            *("up", "--detach", "--no-build", "--no-recreate", *numbers),
            *sorted(missing | totals.keys()),
            why=f"make what is missing of {', '.join(sorted(missing))}, and leave the rest alone",
        )
    ]
    for goal in goals:
        name, choice = goal.service.name, choices[goal.service.name]
        if name in missing:
            others = (*choice.keep, *choice.old, *choice.leaving)
            first = max((replica.number for replica in others), default=0) + 1
            new = range(first, first + choice.missing)
            names = tuple(f"{snapshot.project}-{name}-{number}" for number in new)
            steps += post_start(goal, names)
    return steps


def in_order(services: Iterable[Service]) -> list[Service]:
    """Whoever is depended on comes first."""
    todo = sorted(services, key=lambda service: service.name)
    done: list[Service] = []
    while todo:
        waiting = {service.name for service in todo}
        ready = [one for one in todo if not waiting & set(one.depends_on)]
        # Compose refuses circles itself.
        done += ready or todo
        todo = [service for service in todo if service not in done]
    return done


def _is_awaited_to_end(snapshot: Snapshot, service: Service) -> bool:
    return any(one.conditions.get(service.name) == COMPLETED for one in snapshot.services)


def _needs_routed(snapshot: Snapshot, service: Service) -> bool:
    services = {one.name: one for one in snapshot.services}
    needed = (services[name] for name in service.needs if name in services)
    return any(one.port is not None or one.is_proxy for one in needed)
