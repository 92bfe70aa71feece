"""How a service gets to N replicas of one revision without losing a request: pure functions.

The order is always the same. Make new ones, wait until they are ready, give the proxy the new
list, and only then drain, stop and remove the ones that left it. Killed anywhere in between, the
proxy still sends traffic to replicas that serve, and the next plan starts from what is there.
"""

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
    Command,
    Make,
    Route,
    Run,
    Source,
    Steps,
    Stop,
    Those,
    WaitReady,
    Watch,
    run_hook,
)

# A replica in one of these states is replaced: waiting for it would not help.
BROKEN = (UNHEALTHY, PAUSED, RESTARTING)


@dataclass(frozen=True)
class Goal:
    """What a service is to become: `count` replicas that `fits` accepts, made from `source`.

    `config` is how others are replaced. `held` of them stay. A replica that goes is waited for
    `drain_timeout_s`. `runs_post_start`: Compose is too old to run that hook itself.
    """

    service: Service
    count: int
    fits: Callable[[Replica], bool]
    source: Source
    config: UpdateConfig = field(default_factory=UpdateConfig)
    held: int = 0
    drain_timeout_s: int = 30
    runs_post_start: bool = False


@dataclass(frozen=True)
class Choice:
    """What a service has, by what becomes of it.

    `keep` fit, and stay. `old` do not fit, but serve until new ones do. `leaving` have traffic
    and lose it with the first change. `idle` have none, though requests may still be in flight
    on them. `dead` have no process any more. `missing` are to be made.
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
    fit = [replica for replica in live if replica.state not in BROKEN and goal.fits(replica)]
    fit.sort(key=lambda replica: (not replica.is_ready, not snapshot.routes_to(replica)))
    keep = fit[: goal.count - goal.held]
    rest = [replica for replica in live if replica not in keep]
    routed = [replica for replica in rest if snapshot.routes_to(replica)]
    old = [replica for replica in routed if replica.is_ready and not goal.fits(replica)]
    # What is not routed at all cannot be without traffic.
    idle = [r for r in rest if r not in routed] if goal.service.port is not None else rest
    return Choice(
        keep=tuple(sorted(keep, key=lambda replica: replica.number)),
        old=tuple(old),
        leaving=tuple(replica for replica in routed if replica not in old),
        idle=tuple(idle),
        dead=tuple(replica for replica in mine if not replica.is_live),
        missing=goal.count - goal.held - len(keep),
    )


def batches(choice: Choice, goal: Goal) -> Iterator[Batch]:
    """The turns in which `choice` becomes the goal. Start-first, there are never fewer ready ones
    than before or than wanted, and never more in all than wanted and `parallelism`.
    """
    limit = goal.config.parallelism or goal.count
    wanted = goal.count - goal.held
    ready, old, leaving = len(choice.keep), choice.old, choice.leaving
    if not (choice.missing or len(old) > goal.held or leaving):
        return
    while True:
        room = goal.count + limit - ready - len(old)
        if goal.config.order == STOP_FIRST and old and ready < wanted:
            gone, old = _split(old, min(limit, wanted - ready))
            yield Batch(0, ready, old, (*gone, *leaving))
            leaving = ()
            room = goal.count - ready - len(old)
        make = max(0, min(wanted - ready, room))
        ready += make
        gone, old = _split(old, len(old) - (goal.count - ready))
        yield Batch(make, ready, old, (*gone, *leaving))
        leaving = ()
        if ready == wanted:
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


def reach(snapshot: Snapshot, goal: Goal, proxy: str, *, made: bool = False) -> Steps:
    """All the steps from what a service has to its goal. `made`: what is missing has been made by
    other steps already, and what `clear` removes is gone. `proxy` is the name of its container,
    empty if none serves.
    """
    service, choice = goal.service, choose(snapshot, goal)
    steps = [] if made else clear(goal, choice, proxy)
    todo = list(batches(choice, goal)) or _only_the_list(snapshot, goal, choice)
    there = [*choice.keep, *choice.old, *choice.leaving]
    numbers = [replica.number for replica in there]
    new: list[str] = []
    for turn, batch in enumerate(todo):
        if batch.make:
            if new and choice.is_rollout:
                steps.append(_watch(snapshot, goal, choice, todo[turn - 1], proxy))
            more = range(max(numbers, default=0) + 1, max(numbers, default=0) + 1 + batch.make)
            numbers += more
            names = tuple(f"{snapshot.project}-{service.name}-{number}" for number in more)
            if not made:
                steps += _make(goal, batch.make, len(numbers), names)
            new += names
        if batch.make or (turn == 0 and not all(replica.is_ready for replica in choice.keep)):
            steps += _wait_ready(snapshot, goal, choice, batch)
        if service.port is not None and (
            todo[1:] or not _is_in_place(snapshot, goal, choice, batch)
        ):
            names = _names((*choice.keep, *batch.old))
            steps.append(route(goal, (*names, *new), batch.leaving, proxy))
        steps += end(goal, batch.leaving, proxy)
        numbers = [n for n in numbers if n not in {replica.number for replica in batch.leaving}]
    if choice.is_rollout and proxy:
        steps.append(_watch(snapshot, goal, choice, todo[-1], proxy, last=True))
    return steps


def clear(goal: Goal, choice: Choice, proxy: str) -> Steps:
    """Remove what does not serve: the dead, so that Compose does not start them again, and what
    an interrupted change has left.
    """
    names = tuple(replica.name for replica in choice.dead)
    why = f"{goal.service.name}: left over, not running"
    dead: Steps = [Command(("docker", "rm", *names), why)] if names else []
    return dead + end(goal, choice.idle, proxy)


def post_start(goal: Goal, names: tuple[str, ...]) -> Steps:
    """The hooks of new replicas, which will have these names, where Compose does not run them
    itself.
    """
    return [
        Run(goal.service, hook, names, f"{goal.service.name}: post_start")
        for hook in goal.service.post_start
        if goal.runs_post_start
    ]


def own_the_list(snapshot: Snapshot, goal: Goal, proxy: str) -> Steps:
    """Before replicas are made: write down who gets traffic now, if that is still left to DNS,
    which knows a container long before it is ready.
    """
    service = goal.service
    routes = snapshot.routing.get(service.target)
    ready = tuple(replica.name for replica in snapshot.of(service.name) if replica.is_ready)
    if not (choose(snapshot, goal).missing and routes and routes.by_dns and ready):
        return []
    why = f"{service.name}: from here on a list says who gets traffic, no longer DNS"
    return [Route(proxy, service, ready, why)]


def route(goal: Goal, names: tuple[str, ...], leaving: tuple[Replica, ...], proxy: str) -> Route:
    """The step that gives the traffic to the replicas `names`, and no longer to `leaving`."""
    why = f"{goal.service.name}: traffic goes to {_replicas(len(names))}"
    if leaving:
        why += f", and no longer to {', '.join(_names(leaving))}"
    without = tuple(replica.id for replica in leaving)
    return Route(proxy, goal.service, names, why, without, max(0, goal.count - len(names)))


def end(goal: Goal, replicas: tuple[Replica, ...], proxy: str) -> Steps:
    """Drain, stop and remove these replicas, and no others: they are named, not counted."""
    service = goal.service
    names = tuple(replica.name for replica in replicas)
    if not names:
        return []
    steps: Steps = []
    if service.port is not None and proxy:
        seconds = goal.drain_timeout_s
        steps.append(
            Command(
                ("docker", "exec", proxy, "proxy", "drain", str(seconds), *names),
                f"{service.name}: wait until nothing is in flight on {', '.join(names)}",
                timeout_s=seconds + 30,
                speaks=True,
                interruptible=True,
            )
        )
    steps += [
        run_hook(hook, replica.name, f"{service.name}: pre_stop")
        for replica in replicas
        for hook in service.pre_stop
        if replica.is_ready
    ]
    return [
        *steps,
        Stop(
            replicas,
            service.stop_grace_s,
            proxy,
            f"{service.name}: SIGTERM, then up to {service.stop_grace_s} s to end by itself",
        ),
        Command(("docker", "rm", *names), f"{service.name}: {_replicas(len(names))} less"),
    ]


def _make(goal: Goal, count: int, total: int, names: tuple[str, ...]) -> Steps:
    why = f"{goal.service.name}: make {count} more, and leave the rest alone"
    return [Make(goal.service, goal.source, count, total, why), *post_start(goal, names)]


def _wait_ready(snapshot: Snapshot, goal: Goal, choice: Choice, batch: Batch) -> Steps:
    service = goal.service
    if service.port is None and not service.has_health_check:
        return []  # as ready as it will ever be; a one-shot service may have ended already
    return [
        WaitReady(
            _those(snapshot, goal, choice, batch.ready, (*batch.old, *batch.leaving)),
            service.start_timeout_s,
            f"{service.name}: only replicas that are ready get traffic"
            if service.port
            else f"{service.name}: wait until it is healthy",
        )
    ]


def _watch(
    snapshot: Snapshot, goal: Goal, choice: Choice, batch: Batch, proxy: str, *, last: bool = False
) -> Watch:
    seconds = goal.config.monitor_s if last else goal.config.delay_s
    why = "do the new ones stay well, and answer no 5xx where the old ones did not"
    return Watch(
        _those(snapshot, goal, choice, batch.ready, batch.old),
        seconds,
        proxy,
        f"{goal.service.name}: {why}",
    )


def _those(
    snapshot: Snapshot, goal: Goal, choice: Choice, count: int, others: tuple[Replica, ...]
) -> Those:
    return Those(
        snapshot.project,
        goal.service,
        count,
        without=tuple(replica.id for replica in (*choice.old, *choice.leaving)),
        others_ready=sum(replica.is_ready for replica in others),
    )


def _only_the_list(snapshot: Snapshot, goal: Goal, choice: Choice) -> list[Batch]:
    """The turn that makes and ends nobody."""
    turn = Batch(0, len(choice.keep), choice.old, ())
    return [] if _is_in_place(snapshot, goal, choice, turn) else [turn]


def _is_in_place(snapshot: Snapshot, goal: Goal, choice: Choice, batch: Batch) -> bool:
    """Whether all that is to have traffic after `batch` is ready and has it, and nothing else."""
    if goal.service.port is None:
        return all(replica.is_ready for replica in choice.keep) and not batch.make
    routes = snapshot.routing.get(goal.service.target)
    if batch.make or routes is None or routes.by_dns or routes.awaiting:
        return False
    listed = {target.address for target in routes.targets}
    chosen = (*choice.keep, *batch.old)
    return all(replica.is_ready and snapshot.routes_to(replica) for replica in chosen) and len(
        listed
    ) == len(chosen)


def _split(
    replicas: tuple[Replica, ...], count: int
) -> tuple[tuple[Replica, ...], tuple[Replica, ...]]:
    """The first `count` and the others. The lowest numbers are the first to go."""
    count = max(0, count)
    return replicas[:count], replicas[count:]


def _names(replicas: tuple[Replica, ...]) -> tuple[str, ...]:
    in_order = sorted(replicas, key=lambda replica: (replica.number, replica.name))
    return tuple(replica.name for replica in in_order)


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"
