"""The plans of the verbs on Compose, but for `up`: pure functions to native commands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from stack.engines.compose_goals import (
    as_it_is,
    drain_timeout_s,
    goal_for,
    own_the_lists,
    recoverable,
    refuse_if_not_up,
    roll,
    scalable,
)
from stack.engines.compose_proxy import (
    proxy_name,
    restart_proxy,
)
from stack.engines.compose_steps import in_order, old_revision, renew_plain, source_of
from stack.engines.images import Wanted, build, keep_previous, revision_env
from stack.model import Replica, Service, Snapshot
from stack.plan import Command, Plan, Source, Steps
from stack.reconcile import (
    Goal,
    choose,
    wanted_count,
)
from stack.transition import reach


def rollout(
    snapshot: Snapshot, names: Sequence[str], wanted: Wanted, compose: Sequence[str]
) -> Plan:
    """Bring these services, and what they depend on and is not routed, to the revisions that
    are wanted.
    """
    source = Source(tuple(compose), revision_env(wanted.revisions))
    chosen = [service for service in in_order(snapshot.services) if service.name in names]
    for service in chosen:
        refuse_if_not_up(snapshot, service, "python -m stack up")
    goals = {
        service.name: goal_for(snapshot, service, wanted, source)
        for service in chosen
        if service.port is not None
    }
    plain = {*names, *(other for service in chosen for other in service.needs)}
    counts = {service.name: wanted_count(snapshot, service) for service in snapshot.services}
    return recoverable(
        snapshot,
        goals,
        {name: as_it_is(snapshot, goal, compose) for name, goal in goals.items()},
        lambda now, goals: [
            *own_the_lists(now, list(goals.values())),
            *renew_plain(now, plain, counts, source),
            *roll(now, list(goals.values())),
        ],
        first=build(snapshot, wanted, compose),
        wanted=wanted,
        outcome=", ".join(f"{one.name} is of {_revision_in_words(one)}" for one in chosen),
    )


def rollback(
    snapshot: Snapshot, service: Service, wanted: Wanted, compose: Sequence[str], sources: str
) -> Plan:
    """Bring a service back to `service.revision`, of which there is an image. `sources` is the
    revision that its sources have now.
    """
    refuse_if_not_up(snapshot, service, "python -m stack up")
    source = source_of(snapshot, service, compose)
    goal = replace(goal_for(snapshot, service, wanted, source), config=service.rollback)
    note = (
        f"{service.name}: the sources are of revision {sources}; `python -m stack rollout "
        f"{service.name}` and `python -m stack up` go there again"
    )
    # Noted last: until then the tag says where an interrupted rollback was going.
    choice = choose(snapshot, goal)
    note_left: Steps = []
    if choice.old:
        old = old_revision(snapshot, service.name, choice)
        note_left = keep_previous(snapshot, service, old)
    return recoverable(
        snapshot,
        {service.name: goal},
        {service.name: as_it_is(snapshot, goal, compose)},
        lambda now, goals: [
            *own_the_lists(now, list(goals.values())),
            *reach(now, goals[service.name], proxy_name(now)),
            *note_left,
        ],
        outcome=f"{service.name} is of {_revision_in_words(service)}",
        notes=(note,) if sources not in ("", service.revision) else (),
    )


def restart(snapshot: Snapshot, service: Service, wanted: Wanted, compose: Sequence[str]) -> Plan:
    """Replace every replica of a service by a new one of the same revision. What is not routed is
    restarted where it is, one after the other.
    """
    refuse_if_not_up(snapshot, service, "python -m stack up")
    if service.is_proxy:
        return Plan(tuple(restart_proxy(snapshot)))
    mine = snapshot.of(service.name)
    nothing = f"nothing of {service.name} is there"
    routes = snapshot.routing.get(service.target)
    if service.port is None or not (mine or (routes and routes.awaiting)):
        steps = [
            Command(
                ("docker", "restart", "-t", str(service.stop_grace_s), replica.name),
                f"{service.name}: restart {replica.name}",
            )
            for replica in mine
        ]
        return Plan(tuple(steps), nothing)
    now = {replica.id for replica in mine}
    goal = replace(
        goal_for(snapshot, service, wanted, source_of(snapshot, service, compose)),
        fits=lambda replica: replica.id not in now,
    )
    # They are all of one revision: whoever is well can stay.
    well = replace(goal, fits=lambda replica: replica.is_ready)
    return recoverable(
        snapshot,
        {service.name: goal},
        {service.name: well},
        lambda now, goals: [
            *own_the_lists(now, list(goals.values())),
            *reach(now, goals[service.name], proxy_name(now)),
        ],
        outcome=nothing,
    )


def scale(
    snapshot: Snapshot,
    counts: Mapping[str, int],
    wanted: Wanted,
    compose: Sequence[str],
    at_home: Mapping[str, str],
) -> Plan:
    """Change numbers of replicas. `wanted.revisions` are those that new ones will be of: the
    running ones; `at_home` those that the sources have now. Replicas of other revisions, which an
    interrupted change has left, have to go.
    """
    steps: Steps = []
    for service in in_order(scalable(snapshot)):
        if service.name not in counts:
            continue
        count = counts[service.name]
        refuse_if_not_up(snapshot, service, f"python -m stack up {service.name}={count}")
        revision = wanted.revisions.get(service.name)
        source = Source(tuple(compose), revision_env(wanted.revisions))
        if revision != at_home.get(service.name):
            source = source_of(snapshot, replace(service, revision=revision or ""), compose)
        goal = Goal(
            service,
            count,
            _of_revision(revision),
            source,
            service.update,
            drain_timeout_s=drain_timeout_s(service, wanted),
            runs_post_start=wanted.runs_post_start,
        )
        steps += own_the_lists(snapshot, [goal])
        steps += reach(snapshot, goal, proxy_name(snapshot))
    return Plan(tuple(steps), ", ".join(f"{name} has {n}" for name, n in counts.items()))


def down(
    snapshot: Snapshot,
    networks: Mapping[str, bool],
    volumes: Mapping[str, bool],
    compose: Sequence[str],
    *,
    with_volumes: bool,
) -> Plan:
    """Stop and remove everything of the project. `volumes`: of each, whether it holds nothing of
    value; those go always, the others only `with_volumes`. `networks`: of each, whether the Compose
    file still has it; Compose removes only those.
    """
    steps: Steps = []
    doomed = [name for name, disposable in volumes.items() if disposable or with_volumes]
    if snapshot.replicas or networks:
        steps.append(
            Command(
                # Those of profiles that are not active now were started all the same.
                (*compose, "--profile", "*", "down", "--remove-orphans"),
                "stop the proxy, then what is behind it, then remove containers and networks",
            )
        )
    leftover = [name for name, in_file in networks.items() if not in_file]
    if leftover:
        why = "networks of services that the Compose file does not have any more"
        steps.append(Command(("docker", "network", "rm", *leftover), why))
    if doomed:
        steps.append(
            Command(
                ("docker", "volume", "rm", *doomed),
                "remove the volumes" if with_volumes else "holds only what the next `up` writes",
            )
        )
    kept = [name for name in volumes if name not in doomed]
    notes = (f"kept: volume {', '.join(kept)} (remove with --volumes)",) if kept else ()
    return Plan(tuple(steps), "nothing of the project is there", notes)


def _revision_in_words(service: Service) -> str:
    return f"revision {service.revision}" if service.revision else "the image in the Compose file"


def _of_revision(revision: str | None) -> Callable[[Replica], bool]:
    return lambda replica: revision in (None, replica.revision)
