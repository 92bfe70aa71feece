"""Whom a change keeps, whom it replaces, and in how many turns: pure functions of a snapshot."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stack.model import (
    PAUSED,
    RESTARTING,
    STOP_FIRST,
    UNHEALTHY,
    Replica,
    Service,
    Snapshot,
    UpdateConfig,
)
from stack.plan import (
    Source,
)

# A replica in one of these states is replaced: waiting for it would not help.
BROKEN = (UNHEALTHY, PAUSED, RESTARTING)


@dataclass(frozen=True)
class Goal:
    """What a service is to become: `count` replicas that `fits` accepts, made from `source`.

    `config` is how others are replaced. `held` of them stay. Those in `bad` (ids) have failed, and
    lose their traffic first. A replica that goes is waited for `drain_timeout_s`.
    `runs_post_start`: Compose is too old to run that hook itself.
    """

    service: Service
    count: int
    fits: Callable[[Replica], bool]
    source: Source
    config: UpdateConfig = field(default_factory=UpdateConfig)
    held: int = 0
    bad: frozenset[str] = frozenset()
    drain_timeout_s: int = 30
    runs_post_start: bool = False


@dataclass(frozen=True)
class Choice:
    """What a service has, by what becomes of it.

    `keep` fit, and stay. `old` do not fit, but have traffic until new ones take it; those that are
    ill are the first to go. `leaving` lose theirs with the first change. `idle` have none, though
    requests may still be in flight on them. `dead` have no process any more. `missing` are to be
    made.
    """

    keep: tuple[Replica, ...]
    old: tuple[Replica, ...]
    leaving: tuple[Replica, ...]
    idle: tuple[Replica, ...]
    dead: tuple[Replica, ...]
    missing: int

    @property
    def is_rollout(self) -> bool:
        """Whether new replicas take the place of old ones that serve."""
        return bool(self.old) and self.missing > 0


@dataclass(frozen=True)
class Batch:
    """One turn of a rollout: `make` this many, then `ready` new ones and `old` have the traffic,
    then `leaving` go.
    """

    make: int
    ready: int
    old: tuple[Replica, ...]
    leaving: tuple[Replica, ...]


def choose(snapshot: Snapshot, goal: Goal) -> Choice:
    """Sort the replicas of a service. Of those that fit, those that serve stay before those that
    do not, and among equals the lowest numbers.
    """
    mine = snapshot.of(goal.service.name)
    live = [replica for replica in mine if replica.is_live]
    fit = [replica for replica in live if _fits(snapshot, goal, replica)]
    fit.sort(key=lambda replica: (not replica.is_ready, not snapshot.routes_to(replica)))
    keep = fit[: max(0, goal.count - goal.held)]
    rest = [replica for replica in live if replica not in keep]
    listed = [replica for replica in rest if snapshot.lists(replica)]
    old = [
        replica
        for replica in listed
        if snapshot.routes_to(replica) and replica.id not in goal.bad and replica not in fit
    ]
    old.sort(key=lambda replica: replica.is_ready)
    return Choice(
        keep=tuple(sorted(keep, key=lambda replica: replica.number)),
        old=tuple(old),
        leaving=tuple(replica for replica in listed if replica not in old),
        idle=tuple(replica for replica in rest if replica not in listed),
        dead=tuple(replica for replica in mine if not replica.is_live),
        missing=max(0, goal.count - goal.held) - len(keep),
    )


def _fits(snapshot: Snapshot, goal: Goal, replica: Replica) -> bool:
    if replica.state in BROKEN or replica.id in goal.bad or not goal.fits(replica):
        return False
    # Whether the hooks of one without traffic have run nobody knows.
    hooked = goal.runs_post_start and goal.service.post_start and goal.service.port is not None
    return not hooked or snapshot.lists(replica)


def batches(choice: Choice, goal: Goal) -> Iterator[Batch]:
    """The turns in which `choice` becomes the goal. Start-first, there are never fewer ready ones
    than before or than wanted, and never more in all than wanted and `parallelism`.
    """
    limit = goal.config.parallelism or goal.count
    wanted = max(0, goal.count - goal.held)
    ready, old, leaving = len(choice.keep), choice.old, choice.leaving
    if not (choice.missing or len(old) > goal.held or leaving):
        return
    while True:
        room = goal.count + limit - ready - len(old) - len(leaving)
        if goal.config.order == STOP_FIRST and len(old) > goal.held and ready < wanted:
            gone, old = _split(old, min(limit, wanted - ready, len(old) - goal.held))
            yield Batch(0, ready, old, (*gone, *leaving))
            leaving = ()
            room = goal.count - ready - len(old)
        make = max(0, min(wanted - ready, room))
        ready += make
        gone, old = _split(old, len(old) - (goal.count - ready))
        yield Batch(make, ready, old, (*gone, *leaving))
        leaving = ()
        if ready >= wanted:
            return


def wanted_count(snapshot: Snapshot, service: Service) -> int:
    """How many replicas the service has by its last finished change; what the Compose file says
    if it has none.

    As many as the target list names, whether they live or not. Without a list the biggest group
    of one revision: an interrupted change may have left old ones and new ones.
    """
    routes = snapshot.routing.get(service.target)
    if routes and (routes.targets or routes.awaiting):
        return len(routes.targets) + routes.awaiting
    live = (replica for replica in snapshot.of(service.name) if replica.is_live)
    groups = Counter(replica.revision for replica in live)
    return max(groups.values(), default=service.replicas)


def running_revision(snapshot: Snapshot, service: str, *, but: str = "") -> str | None:
    """The revision that most of the replicas with traffic have, other than `but`; None if
    nothing of that kind runs.
    """
    live = [r for r in snapshot.of(service) if r.is_live and r.revision != but]
    routed = [replica for replica in live if snapshot.routes_to(replica)]
    votes = Counter(replica.revision for replica in routed or live)
    return votes.most_common(1)[0][0] if votes else None


def _split(
    replicas: tuple[Replica, ...], count: int
) -> tuple[tuple[Replica, ...], tuple[Replica, ...]]:
    """The first `count` and the others. The lowest numbers are the first to go."""
    count = max(0, count)
    return replicas[:count], replicas[count:]
