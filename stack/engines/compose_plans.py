"""The plan for each verb on Compose: pure functions from a snapshot to native commands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stack.bases import Base
from stack.engines.compose_proxy import (
    proxy_is_renewed,
    proxy_name,
    proxy_serves,
    renew_proxy,
    wait_for_proxy,
)
from stack.errors import StackError
from stack.model import Replica, Service, Snapshot
from stack.plan import Command, Plan, Steps, WaitReady
from stack.reconcile import (
    Choice,
    choose,
    own_the_list,
    remove_dead,
    route,
    shift,
    wait_ready,
    wanted_count,
)

Env = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wanted:
    """What `up` is to bring about, beside what the Compose file says.

    `counts`: replicas that were asked for, by service. `revisions`: of each service that is
    built. `to_build`: those whose image is not there yet. `build_env`: the environment of the
    build alone. `proxy_config`: digest of the proxy's configuration on disk.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    to_build: tuple[str, ...] = ()
    bases: tuple[Base, ...] = ()
    build_env: Env = ()
    proxy_config: str | None = None


def revision_env(revisions: Mapping[str, str]) -> Env:
    """The variables that compose.yaml takes revisions from: WEB_REVISION for the service web."""
    return tuple(
        (f"{name.upper().replace('-', '_').replace('.', '_')}_REVISION", revision)
        for name, revision in sorted(revisions.items())
    )


def up(snapshot: Snapshot, wanted: Wanted, compose: Sequence[str]) -> Plan:
    """Bring everything that the Compose file describes about, and nothing that is there down."""
    env = revision_env(wanted.revisions)
    counts = {
        service.name: wanted.counts.get(service.name, wanted_count(snapshot, service))
        for service in _scalable(snapshot)
    }
    choices = {
        service.name: _choose_for_up(snapshot, service, counts[service.name])
        for service in _scalable(snapshot)
    }
    goals = [Goal(s, choices[s.name]) for s in _scalable(snapshot)]
    # What the running proxy already routes to is changed while it runs; what only its new
    # configuration or its new container knows comes after that.
    before = [goal for goal in goals if _is_known_to_proxy(snapshot, goal.service)]
    after = [goal for goal in goals if goal not in before]
    steps = _build(wanted, compose, env)
    steps += _own_the_lists(snapshot, goals)
    steps += _renew_plain(snapshot, counts, compose, env)
    steps += _make(snapshot, choices, compose, env)
    steps += _shift_all(snapshot, before)
    steps += [wait for goal in after if (wait := wait_ready(snapshot, goal.service, goal.choice))]
    steps += renew_proxy(snapshot, wanted.proxy_config, compose, env)
    if proxy_is_renewed(snapshot):
        steps += [
            replace(
                route(snapshot, goal.service, goal.choice, proxy_name(snapshot)),
                why=f"{goal.service.name}: a new proxy starts without a list",
                without=(),
            )
            for goal in before
            if goal.service.port
        ]
        snapshot = replace(snapshot, routing={})
    steps += [step for step in _shift_all(snapshot, after) if not isinstance(step, WaitReady)]
    return Plan(
        tuple(steps), "everything is up and as the Compose file says", _note_orphans(snapshot)
    )


def scale(
    snapshot: Snapshot,
    counts: Mapping[str, int],
    revisions: Mapping[str, str],
    compose: Sequence[str],
) -> Plan:
    """Change numbers of replicas. `revisions` are those that new ones will be of: the running
    ones. Replicas of other revisions, which an interrupted change has left, have to go.
    """
    steps: Steps = []
    notes = []
    for service in _scalable(snapshot):
        if service.name not in counts:
            continue
        if service.port is not None and not proxy_serves(snapshot):
            raise StackError(
                "the stack is not up. Start it: "
                f"python -m stack up {service.name}={counts[service.name]}"
            )
        fits = _of_revision(revisions.get(service.name))
        goal = Goal(service, choose(snapshot, service, counts[service.name], fits))
        steps += _own_the_lists(snapshot, [goal])
        steps += remove_dead(service, goal.choice)
        if goal.choice.missing:
            steps.append(_make_more(goal, compose, revision_env(revisions)))
            notes += _note_changed_settings(goal)
        steps += _shift_all(snapshot, [goal])
    outcome = ", ".join(f"{name} has {n}" for name, n in counts.items())
    return Plan(tuple(steps), outcome, tuple(notes))


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
                (*compose, "down", "--remove-orphans"),
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


@dataclass(frozen=True)
class Goal:
    """A service, which of its replicas stay, and how many are to be made."""

    service: Service
    choice: Choice


def _of_revision(revision: str | None) -> Callable[[Replica], bool]:
    return lambda replica: revision in (None, replica.revision)


def _make_more(goal: Goal, compose: Sequence[str], env: Env) -> Command:
    name = goal.service.name
    return Command(
        (
            *(*compose, "up", "--detach", "--no-build", "--no-deps", "--no-recreate"),
            *("--scale", f"{name}={goal.choice.total}", name),
        ),
        f"{name}: make {goal.choice.missing} more, and leave the rest alone",
        env,
    )


def _note_changed_settings(goal: Goal) -> list[str]:
    service = goal.service
    # --no-deps changes the hash of a service that depends on others: nothing can be told of those.
    if service.depends_on or all(
        service.config_hash in ("", r.config_hash) for r in goal.choice.keep
    ):
        return []
    return [
        f"{service.name}: its settings in the Compose file have changed; new replicas get them, "
        "the others keep theirs until: python -m stack up"
    ]


def _scalable(snapshot: Snapshot) -> list[Service]:
    return [service for service in snapshot.services if not service.is_proxy]


def _is_known_to_proxy(snapshot: Snapshot, service: Service) -> bool:
    if service.port is None:
        return True
    return proxy_serves(snapshot) and service.target in snapshot.routing


def _choose_for_up(snapshot: Snapshot, service: Service, count: int) -> Choice:
    mine = snapshot.of(service.name)
    if service.port is not None:
        return choose(snapshot, service, count, lambda replica: replica.is_current(service))
    if mine and all(replica.is_done for replica in mine):
        return Choice(keep=(), surplus=(), dead=(), missing=0)
    # What is not routed has no requests to lose: Compose renews it in place.
    return choose(snapshot, service, count, lambda _: True)


def _build(wanted: Wanted, compose: Sequence[str], env: Env) -> Steps:
    if not wanted.to_build:
        return []
    names = ", ".join(f"{name} {wanted.revisions.get(name, '')}" for name in wanted.to_build)
    build = Command(
        (*compose, "build", *wanted.to_build),
        f"build {names}",
        (*env, *wanted.build_env),
        timeout_s=3600,
    )
    return [*(base.step for base in wanted.bases if base.step), build]


def _own_the_lists(snapshot: Snapshot, goals: Sequence[Goal]) -> Steps:
    if not proxy_serves(snapshot):
        return []
    lists = [
        step
        for goal in goals
        for step in own_the_list(snapshot, goal.service, goal.choice, proxy_name(snapshot))
    ]
    return [*wait_for_proxy(snapshot), *lists] if lists else []


def _renew_plain(
    snapshot: Snapshot, counts: Mapping[str, int], compose: Sequence[str], env: Env
) -> Steps:
    """Let Compose make anew what is outdated and not routed: databases and migrations come
    before the replicas that need them.
    """
    steps: Steps = []
    for service in _scalable(snapshot):
        mine = snapshot.of(service.name)
        if service.port is None and any(not replica.is_current(service) for replica in mine):
            # Compose would also renew routed replicas that it depends on, without draining them.
            alone = ("--no-deps",) if _needs_routed(snapshot, service) else ()
            number = ("--scale", f"{service.name}={max(len(mine), counts[service.name])}")
            steps.append(
                Command(
                    (
                        *(*compose, "up", "--detach", "--no-build", *alone),
                        *(number if len(mine) != service.replicas else ()),
                        service.name,
                    ),
                    f"{service.name}: image or settings have changed",
                    env,
                )
            )
    return steps


def _needs_routed(snapshot: Snapshot, service: Service) -> bool:
    services = {one.name: one for one in snapshot.services}
    todo, seen = list(service.depends_on), set()
    while todo:
        name = todo.pop()
        if name in services and name not in seen:
            seen.add(name)
            todo += services[name].depends_on
    return any(services[name].port is not None or services[name].is_proxy for name in seen)


def _make(
    snapshot: Snapshot, choices: Mapping[str, Choice], compose: Sequence[str], env: Env
) -> Steps:
    """Let Compose make what is missing, in the order of depends_on, and leave the rest alone. All
    but the proxy: it has nobody to send to before the others are ready.
    """
    steps: Steps = []
    for service in _scalable(snapshot):
        steps += remove_dead(service, choices[service.name])
    missing = {name for name, choice in choices.items() if choice.missing}
    if not missing:
        return steps
    # Compose would bring what it touches back to deploy.replicas, and choose itself whom to stop:
    # whatever differs from that is named, with its number.
    totals = {
        service.name: choices[service.name].total
        for service in _scalable(snapshot)
        if service.name in missing or choices[service.name].total not in (0, service.replicas)
    }
    numbers = [word for name, n in totals.items() for word in ("--scale", f"{name}={n}")]
    named = sorted(missing | totals.keys())
    steps.append(
        Command(
            (
                *(*compose, "up", "--detach", "--no-build", "--no-recreate", *numbers),
                *named,
            ),
            f"make what is missing of {', '.join(sorted(missing))}, and leave the rest alone",
            env,
        )
    )
    return steps


def _note_orphans(snapshot: Snapshot) -> tuple[str, ...]:
    known = {service.name for service in snapshot.services}
    orphans = [replica.name for replica in snapshot.replicas if replica.service not in known]
    if not orphans:
        return ()
    names = " ".join(sorted(orphans))
    return (f"of services that the Compose file does not have. Remove: docker rm -f {names}",)


def _shift_all(snapshot: Snapshot, goals: Sequence[Goal]) -> Steps:
    return [
        step
        for goal in goals
        for step in shift(snapshot, goal.service, goal.choice, proxy_name(snapshot))
    ]
