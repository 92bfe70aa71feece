"""What the verbs on Compose have in common: their goals, and plans that know how to go back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from stack.arguments import MAX_DRAIN_S
from stack.engines.compose_proxy import (
    proxy_name,
    proxy_serves,
    wait_for_proxy,
)
from stack.engines.compose_steps import old_revision, source_of
from stack.engines.images import Wanted, forget, keep_previous, prune, restore_previous
from stack.errors import StackError
from stack.model import Service, Snapshot
from stack.plan import Plan, Source, Step, Steps, Stop
from stack.reconcile import (
    Goal,
    choose,
    wanted_count,
)
from stack.recovery import Recovery
from stack.transition import own_the_list, reach


def goal_for(snapshot: Snapshot, service: Service, wanted: Wanted, source: Source) -> Goal:
    """The goal to have a service as the Compose file, and the user, want it."""
    return Goal(
        service,
        wanted.counts.get(service.name, wanted_count(snapshot, service)),
        # What is not routed has no requests to lose: Compose renews it in place.
        (lambda replica: service.port is None or replica.is_current(service)),
        source,
        service.update,
        drain_timeout_s=drain_timeout_s(service, wanted),
        runs_post_start=wanted.runs_post_start,
    )


def as_it_is(snapshot: Snapshot, goal: Goal, compose: Sequence[str]) -> Goal:
    """The goal to have the service as it is now, by what most of those that serve are of."""
    choice = choose(snapshot, goal)
    if not choice.old:
        return goal
    revision = old_revision(snapshot, goal.service.name, choice)
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


def recoverable(
    snapshot: Snapshot,
    goals: Mapping[str, Goal],
    back: Mapping[str, Goal],
    steps: Callable[[Snapshot, Mapping[str, Goal]], Steps],
    *,
    outcome: str,
    first: Sequence[Step] = (),
    notes: tuple[str, ...] = (),
    wanted: Wanted | None = None,
) -> Plan:
    """A plan that knows what to do when a new replica fails. `steps` makes its steps for goals,
    from a snapshot; `first` come before them, once, and provide the images of `wanted`.
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
            {
                name: [
                    *restore_previous(snapshot, name),
                    *forget(snapshot, goals[name].service, wanted),
                ]
                for name in serving
            },
            frozenset(
                name for name, goal in serving.items() if _is_another(snapshot, goal.service)
            ),
        ),
    )


def _is_another(snapshot: Snapshot, service: Service) -> bool:
    """Whether the image of a revision is not the one that its replicas are of any more: somebody
    has built another under its name.
    """
    known = {one.name: one.image_id for one in snapshot.revisions.get(service.name, ())}
    return known.get(service.revision, service.image_id) != service.image_id


def roll(snapshot: Snapshot, goals: Sequence[Goal]) -> Steps:
    """The steps to reach these goals, one after the other."""
    return [
        step
        for goal in goals
        for step in with_previous(snapshot, goal, reach(snapshot, goal, proxy_name(snapshot)))
    ]


def with_previous(snapshot: Snapshot, goal: Goal, steps: Steps) -> Steps:
    """Around a rollout: what it replaces can be gone back to, and what is older than that goes."""
    choice = choose(snapshot, goal)
    if not choice.is_rollout:
        return steps
    old = old_revision(snapshot, goal.service.name, choice)
    # Not before the first old one goes: until then there is nothing to go back from.
    first = next((n for n, step in enumerate(steps) if isinstance(step, Stop)), len(steps))
    return [
        *steps[:first],
        *keep_previous(snapshot, goal.service, old),
        *steps[first:],
        *prune(snapshot, goal.service, old),
    ]


def own_the_lists(snapshot: Snapshot, goals: Sequence[Goal]) -> Steps:
    """Lists for the services that are still routed by DNS, from a proxy that answers."""
    if not proxy_serves(snapshot):
        return []
    name = proxy_name(snapshot)
    lists = [step for goal in goals for step in own_the_list(snapshot, goal, name)]
    return [*wait_for_proxy(snapshot), *lists] if lists else []


def scalable(snapshot: Snapshot) -> list[Service]:
    """All services but the proxy, of which there is one."""
    return [service for service in snapshot.services if not service.is_proxy]


def is_known_to_proxy(snapshot: Snapshot, service: Service) -> bool:
    """Whether the running proxy has a list for it, if it needs one."""
    if service.port is None:
        return True
    return proxy_serves(snapshot) and service.target in snapshot.routing


def refuse_if_not_up(snapshot: Snapshot, service: Service, what_to_type: str) -> None:
    """Raise StackError where nobody sends it anything that could be lost."""
    if not is_known_to_proxy(snapshot, service):
        raise StackError(f"{service.name} is not up. Start it: {what_to_type}")


def drain_timeout_s(service: Service, wanted: Wanted) -> int:
    """How long a replica that goes is waited for: as asked, or as long as its grace."""
    if wanted.drain_timeout_s is not None:
        return wanted.drain_timeout_s
    return min(service.stop_grace_s, MAX_DRAIN_S)
