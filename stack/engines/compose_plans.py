"""The plan for each verb on Compose: pure functions from a snapshot to native commands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from stack.engines.compose_proxy import (
    proxy_is_renewed,
    proxy_name,
    proxy_serves,
    renew_proxy,
    restart_proxy,
    wait_for_proxy,
)
from stack.engines.compose_steps import (
    Wanted,
    build,
    in_order,
    is_renewed,
    keep_previous,
    make_missing,
    needed_by,
    old_revision,
    prune,
    renew_plain,
    restore_previous,
    revision_env,
    source_of,
)
from stack.errors import StackError
from stack.model import Replica, Service, Snapshot, UpdateConfig
from stack.plan import Command, Plan, Route, Source, Step, Steps, WaitReady
from stack.reconcile import (
    Choice,
    Goal,
    choose,
    clear,
    own_the_list,
    reach,
    wanted_count,
)
from stack.recovery import Recovery


def up(snapshot: Snapshot, wanted: Wanted, compose: Sequence[str]) -> Plan:
    """Bring everything that the Compose file describes about, and nothing that is there down."""
    source = Source(tuple(compose), revision_env(wanted.revisions))
    goals = {
        service.name: _goal(snapshot, service, wanted, source)
        for service in in_order(_scalable(snapshot))
        if not _has_done_its_work(snapshot, service)
    }
    return _recoverable(
        snapshot,
        goals,
        {name: _as_it_is(snapshot, goal, compose) for name, goal in goals.items()},
        lambda now, goals: _bring_up(now, goals, wanted, source),
        first=build(snapshot, wanted, compose),
        outcome="everything is up and as the Compose file says",
        notes=_note_orphans(snapshot),
    )


def rollout(
    snapshot: Snapshot, names: Sequence[str], wanted: Wanted, compose: Sequence[str]
) -> Plan:
    """Bring these services, and what they depend on and is not routed, to the revisions that
    are wanted.
    """
    source = Source(tuple(compose), revision_env(wanted.revisions))
    chosen = [service for service in in_order(snapshot.services) if service.name in names]
    for service in chosen:
        _refuse_if_not_up(snapshot, service, "python -m stack up")
    goals = {
        service.name: _goal(snapshot, service, wanted, source)
        for service in chosen
        if service.port is not None
    }
    plain = {*names, *needed_by(snapshot, names)}
    counts = {service.name: wanted_count(snapshot, service) for service in snapshot.services}
    return _recoverable(
        snapshot,
        goals,
        {name: _as_it_is(snapshot, goal, compose) for name, goal in goals.items()},
        lambda now, goals: [
            *_own_the_lists(now, list(goals.values())),
            *renew_plain(now, plain, counts, source),
            *_roll(now, list(goals.values())),
        ],
        first=build(snapshot, wanted, compose),
        outcome=", ".join(f"{one.name} is of {_revision_in_words(one)}" for one in chosen),
    )


def rollback(
    snapshot: Snapshot, service: Service, wanted: Wanted, compose: Sequence[str], sources: str
) -> Plan:
    """Bring a service back to `service.revision`, of which there is an image. `sources` is the
    revision that its sources have now.
    """
    _refuse_if_not_up(snapshot, service, "python -m stack up")
    source = source_of(snapshot, service, compose)
    goal = replace(_goal(snapshot, service, wanted, source), config=service.rollback)
    note = (
        f"{service.name}: the sources are of revision {sources}; `python -m stack rollout "
        f"{service.name}` and `python -m stack up` go there again"
    )
    return _recoverable(
        snapshot,
        {service.name: goal},
        {service.name: _as_it_is(snapshot, goal, compose)},
        lambda now, goals: [
            *_own_the_lists(now, list(goals.values())),
            *_roll(now, list(goals.values())),
        ],
        outcome=f"{service.name} is of {_revision_in_words(service)}",
        notes=(note,) if sources not in ("", service.revision) else (),
    )


def restart(snapshot: Snapshot, service: Service, wanted: Wanted, compose: Sequence[str]) -> Plan:
    """Replace every replica of a service by a new one of the same revision. What is not routed is
    restarted where it is, one after the other.
    """
    _refuse_if_not_up(snapshot, service, "python -m stack up")
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
        _goal(snapshot, service, wanted, source_of(snapshot, service, compose)),
        fits=lambda replica: replica.id not in now,
    )
    # They are all of one revision: whoever is well can stay.
    well = replace(goal, fits=lambda replica: replica.is_ready)
    return _recoverable(
        snapshot,
        {service.name: goal},
        {service.name: well},
        lambda now, goals: [
            *_own_the_lists(now, list(goals.values())),
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
    for service in in_order(_scalable(snapshot)):
        if service.name not in counts:
            continue
        count = counts[service.name]
        _refuse_if_not_up(snapshot, service, f"python -m stack up {service.name}={count}")
        revision = wanted.revisions.get(service.name)
        source = Source(tuple(compose), revision_env(wanted.revisions))
        if revision != at_home.get(service.name):
            source = source_of(snapshot, replace(service, revision=revision or ""), compose)
        goal = Goal(
            service,
            count,
            _of_revision(revision),
            source,
            replace(service.update, parallelism=0),
            drain_timeout_s=_drain_timeout_s(service, wanted),
            runs_post_start=wanted.runs_post_start,
        )
        steps += _own_the_lists(snapshot, [goal])
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


def _recoverable(
    snapshot: Snapshot,
    goals: Mapping[str, Goal],
    back: Mapping[str, Goal],
    steps: Callable[[Snapshot, Mapping[str, Goal]], Steps],
    *,
    outcome: str,
    first: Sequence[Step] = (),
    notes: tuple[str, ...] = (),
) -> Plan:
    """A plan that knows what to do when a new replica fails. `steps` makes its steps for goals,
    from a snapshot; `first` come before them, once.
    """
    serving = {
        name: goal for name, goal in back.items() if choose(snapshot, goals[name]).is_rollout
    }

    def again(now: Snapshot, changed: Mapping[str, Goal]) -> Plan:
        now = replace(now, services=snapshot.services, revisions=snapshot.revisions)
        return Plan(tuple(steps(now, changed)), outcome)

    return Plan(
        (*first, *steps(snapshot, goals)),
        outcome,
        notes,
        Recovery(
            goals,
            serving,
            again,
            proxy_name(snapshot),
            {name: restore_previous(snapshot, name) for name in serving},
        ),
    )


def _bring_up(
    snapshot: Snapshot, goals: Mapping[str, Goal], wanted: Wanted, source: Source
) -> Steps:
    choices = {name: choose(snapshot, goal) for name, goal in goals.items()}
    # What the running proxy already routes to is changed while it runs; what only its new
    # configuration or its new container knows comes after that.
    before = [goal for goal in goals.values() if _is_known_to_proxy(snapshot, goal.service)]
    after = [
        # Nobody sends to the new ones yet: there is no reason for batches.
        replace(goal, config=UpdateConfig(parallelism=0))
        for goal in goals.values()
        if goal not in before
    ]
    rolled = [goal for goal in before if choices[goal.service.name].is_rollout]
    missing = [
        goal
        for goal in (*before, *after)
        if goal not in rolled and not is_renewed(snapshot, goal.service)
    ]
    proxy = proxy_name(snapshot)
    serving = proxy if proxy_serves(snapshot) else ""
    counts = {name: goal.count for name, goal in goals.items()}
    steps = _own_the_lists(snapshot, before)
    steps += renew_plain(snapshot, goals, counts, source)
    for goal in missing:
        steps += clear(goal, choices[goal.service.name], serving)
    steps += make_missing(snapshot, missing, choices, source)
    shifted = {
        goal.service.name: reach(snapshot, goal, proxy, made=goal not in rolled)
        for goal in (*before, *after)
    }
    for goal in before:
        steps += _with_previous(snapshot, goal, shifted[goal.service.name])
    late = [step for goal in after for step in shifted[goal.service.name]]
    steps += [step for step in late if isinstance(step, WaitReady)]
    steps += renew_proxy(snapshot, wanted.proxy_config, source.compose, source.env)
    steps += [step for step in late if not isinstance(step, WaitReady)]
    if proxy_is_renewed(snapshot):
        steps += _lists_again(goals, choices, shifted, late, proxy)
    return steps


def _roll(snapshot: Snapshot, goals: Sequence[Goal]) -> Steps:
    return [
        step
        for goal in goals
        for step in _with_previous(snapshot, goal, reach(snapshot, goal, proxy_name(snapshot)))
    ]


def _with_previous(snapshot: Snapshot, goal: Goal, steps: Steps) -> Steps:
    """Around a rollout: what it replaces can be gone back to, and what is older than that goes."""
    choice = choose(snapshot, goal)
    if not choice.is_rollout:
        return steps
    old = old_revision(choice)
    return [
        *keep_previous(snapshot, goal.service, old),
        *steps,
        *prune(snapshot, goal.service, old),
    ]


def _lists_again(
    goals: Mapping[str, Goal],
    choices: Mapping[str, Choice],
    shifted: Mapping[str, Steps],
    late: Steps,
    proxy: str,
) -> Steps:
    """A new proxy starts without lists: those that it did not get yet."""
    steps: Steps = []
    for name, goal in goals.items():
        lists = [step for step in shifted[name] if isinstance(step, Route)]
        if goal.service.port is None or (lists and lists[-1] in late):
            continue
        keep = tuple(replica.name for replica in choices[name].keep)
        names = lists[-1].expected if lists else keep
        steps.append(
            Route(proxy, goal.service, names, f"{name}: a new proxy starts without a list")
        )
    return steps


def _goal(snapshot: Snapshot, service: Service, wanted: Wanted, source: Source) -> Goal:
    return Goal(
        service,
        wanted.counts.get(service.name, wanted_count(snapshot, service)),
        # What is not routed has no requests to lose: Compose renews it in place.
        (lambda replica: service.port is None or replica.is_current(service)),
        source,
        service.update,
        drain_timeout_s=_drain_timeout_s(service, wanted),
        runs_post_start=wanted.runs_post_start,
    )


def _as_it_is(snapshot: Snapshot, goal: Goal, compose: Sequence[str]) -> Goal:
    """The goal to have the service as it is now, by what most of those that serve are of."""
    choice = choose(snapshot, goal)
    if not choice.old:
        return goal
    revision = old_revision(choice)
    one = next(replica for replica in choice.old if replica.revision == revision)
    service = replace(
        goal.service,
        revision=revision if goal.service.revision else "",
        image_id=one.image_id,
        config_hash=one.config_hash,
    )
    return replace(
        goal,
        service=service,
        fits=lambda replica: replica.is_current(service),
        source=source_of(snapshot, service, compose),
        config=service.rollback,
    )


def _revision_in_words(service: Service) -> str:
    return f"revision {service.revision}" if service.revision else "the image in the Compose file"


def _drain_timeout_s(service: Service, wanted: Wanted) -> int:
    return service.stop_grace_s if wanted.drain_timeout_s is None else wanted.drain_timeout_s


def _has_done_its_work(snapshot: Snapshot, service: Service) -> bool:
    mine = snapshot.of(service.name)
    return service.port is None and bool(mine) and all(replica.is_done for replica in mine)


def _of_revision(revision: str | None) -> Callable[[Replica], bool]:
    return lambda replica: revision in (None, replica.revision)


def _refuse_if_not_up(snapshot: Snapshot, service: Service, what_to_type: str) -> None:
    if service.port is not None and not (
        proxy_serves(snapshot) and service.target in snapshot.routing
    ):
        raise StackError(f"{service.name} is not up. Start it: {what_to_type}")


def _scalable(snapshot: Snapshot) -> list[Service]:
    return [service for service in snapshot.services if not service.is_proxy]


def _is_known_to_proxy(snapshot: Snapshot, service: Service) -> bool:
    if service.port is None:
        return True
    return proxy_serves(snapshot) and service.target in snapshot.routing


def _own_the_lists(snapshot: Snapshot, goals: Sequence[Goal]) -> Steps:
    if not proxy_serves(snapshot):
        return []
    name = proxy_name(snapshot)
    lists = [step for goal in goals for step in own_the_list(snapshot, goal, name)]
    return [*wait_for_proxy(snapshot), *lists] if lists else []


def _note_orphans(snapshot: Snapshot) -> tuple[str, ...]:
    known = {service.name for service in snapshot.services}
    orphans = [replica.name for replica in snapshot.replicas if replica.service not in known]
    if not orphans:
        return ()
    names = " ".join(sorted(orphans))
    return (f"of services that the Compose file does not have. Remove: docker rm -f {names}",)
