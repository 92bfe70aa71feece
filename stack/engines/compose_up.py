"""The plan of `up`: everything that the Compose file describes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stack.engines.compose_goals import (
    as_it_is,
    goal_for,
    is_known_to_proxy,
    own_the_lists,
    recoverable,
    scalable,
    with_previous,
)
from stack.engines.compose_proxy import (
    proxy_is_renewed,
    proxy_name,
    proxy_serves,
    renew_proxy,
)
from stack.engines.compose_steps import in_order, is_renewed, make_missing, renew_plain
from stack.engines.images import Wanted, build, revision_env
from stack.model import Service, Snapshot, UpdateConfig
from stack.plan import Plan, Route, Source, Steps, WaitReady
from stack.reconcile import (
    Choice,
    Goal,
    choose,
)
from stack.transition import clear, reach


def up(snapshot: Snapshot, wanted: Wanted, compose: Sequence[str]) -> Plan:
    """Bring everything that the Compose file describes about, and nothing that is there down."""
    source = Source(tuple(compose), revision_env(wanted.revisions))
    goals = {
        service.name: goal_for(snapshot, service, wanted, source)
        for service in in_order(scalable(snapshot))
        if not _has_done_its_work(snapshot, service)
    }
    return recoverable(
        snapshot,
        goals,
        {name: as_it_is(snapshot, goal, compose) for name, goal in goals.items()},
        lambda now, goals: _bring_up(now, goals, wanted, source),
        first=build(snapshot, wanted, compose),
        wanted=wanted,
        outcome="everything is up and as the Compose file says",
        notes=_note_orphans(snapshot),
    )


def _bring_up(
    snapshot: Snapshot, goals: Mapping[str, Goal], wanted: Wanted, source: Source
) -> Steps:
    choices = {name: choose(snapshot, goal) for name, goal in goals.items()}
    # What the running proxy already routes to is changed while it runs; what only its new
    # configuration or its new container knows comes after that.
    before = [goal for goal in goals.values() if is_known_to_proxy(snapshot, goal.service)]
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
    steps = own_the_lists(snapshot, before)
    steps += renew_plain(snapshot, goals, counts, source)
    for name, goal in goals.items():
        if not is_renewed(snapshot, goal.service):
            steps += clear(snapshot, goal, choices[name], serving)
    steps += make_missing(snapshot, missing, choices, source)
    shifted = {
        goal.service.name: reach(snapshot, goal, proxy, cleared=True, made=goal not in rolled)
        for goal in (*before, *after)
    }
    for goal in before:
        steps += with_previous(snapshot, goal, shifted[goal.service.name])
    late = [step for goal in after for step in shifted[goal.service.name]]
    steps += [step for step in late if isinstance(step, WaitReady)]
    steps += renew_proxy(snapshot, wanted.proxy_config, source.compose, source.env)
    steps += [step for step in late if not isinstance(step, WaitReady)]
    if proxy_is_renewed(snapshot):
        steps += _lists_again(goals, choices, shifted, late, proxy)
    return steps


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


def _has_done_its_work(snapshot: Snapshot, service: Service) -> bool:
    mine = snapshot.of(service.name)
    return (
        service.port is None
        and bool(mine)
        and all(replica.is_done and replica.is_current(service) for replica in mine)
    )


def _note_orphans(snapshot: Snapshot) -> tuple[str, ...]:
    known = {service.name for service in snapshot.services}
    orphans = [replica.name for replica in snapshot.replicas if replica.service not in known]
    if not orphans:
        return ()
    names = " ".join(sorted(orphans))
    return (f"of services that the Compose file does not have. Remove: docker rm -f {names}",)
