"""The steps from what a service has to its goal, in the order that loses nothing: pure functions.

Make new ones, wait until they are ready, give the proxy the new list, and only then drain, stop and
remove the ones that left it. Killed anywhere in between, the proxy still sends traffic to replicas
that serve, and the next plan starts from what is there.
"""

from stack.model import PAUSED, Replica, Snapshot
from stack.plan import (
    Command,
    Make,
    Route,
    Run,
    Steps,
    Stop,
    Those,
    WaitReady,
    Watch,
    run_hook,
)
from stack.reconcile import Batch, Choice, Goal, batches, choose


def reach(
    snapshot: Snapshot, goal: Goal, proxy: str, *, cleared: bool = False, made: bool = False
) -> Steps:
    """All the steps from what a service has to its goal. `cleared`, `made`: other steps have done
    what `clear` does, and have made what is missing. `proxy` is the name of its container.
    """
    service, choice = goal.service, choose(snapshot, goal)
    steps = [] if cleared else clear(snapshot, goal, choice, proxy)
    todo = list(batches(choice, goal)) or _only_the_list(snapshot, goal, choice)
    there = [*choice.keep, *choice.old, *choice.leaving]
    numbers = [replica.number for replica in there]
    new: list[str] = []
    for turn, batch in enumerate(todo):
        if batch.make:
            if new and choice.is_rollout:
                steps.append(_watch(snapshot, goal, choice, todo[turn - 1], proxy))
            first = max(numbers, default=0) + 1
            more = range(first, first + batch.make)
            numbers += more
            names = tuple(f"{snapshot.project}-{service.name}-{number}" for number in more)
            if not made:
                steps += _make(snapshot, goal, batch.make, len(numbers), names)
            new += names
        if batch.make or (turn == 0 and not all(replica.is_ready for replica in choice.keep)):
            steps += _wait_ready(snapshot, goal, choice, batch)
        if service.port is not None and (
            todo[1:] or not _is_in_place(snapshot, goal, choice, batch)
        ):
            steps.append(_route(goal, choice, batch, tuple(new), proxy))
        steps += end(goal, batch.leaving, proxy)
        numbers = [n for n in numbers if n not in {replica.number for replica in batch.leaving}]
    if choice.is_rollout and proxy:
        steps.append(_watch(snapshot, goal, choice, todo[-1], proxy, last=True))
    return steps


def clear(snapshot: Snapshot, goal: Goal, choice: Choice, proxy: str) -> Steps:
    """Remove what does not serve: the dead, so that Compose does not start them again, and what
    an interrupted change has left. `proxy` is empty where none serves.
    """
    steps: Steps = []
    frozen = [one.name for one in snapshot.of(goal.service.name) if one.state == PAUSED]
    if frozen:
        # Compose would try to start it, and fail; and what it has in flight can only end like this.
        why = f"{goal.service.name}: paused by hand; it goes on until another one is there"
        steps.append(Command(("docker", "unpause", *frozen), why))
    if proxy and any(snapshot.lists(replica) for replica in choice.dead):
        # A new one may get a dead one's name and address, and would have traffic at once.
        stay = [one for one in (*choice.keep, *choice.old) if snapshot.routes_to(one)]
        names, awaiting = _names(tuple(stay)), max(0, goal.count - len(stay))
        why = f"{goal.service.name}: what is dead leaves the list"
        kept = tuple(replica.id for replica in stay)
        everybody = tuple(replica.id for replica in snapshot.of(goal.service.name))
        steps.append(Route(proxy, goal.service, names, why, everybody, awaiting, kept))
    names = tuple(replica.name for replica in choice.dead)
    if names:
        why = f"{goal.service.name}: left over, not running"
        steps.append(Command(("docker", "rm", *names), why))
    return steps + end(goal, choice.idle, proxy)


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
    return [Route(proxy, service, ready, why, awaiting=max(0, goal.count - len(ready)))]


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


def _make(snapshot: Snapshot, goal: Goal, count: int, total: int, names: tuple[str, ...]) -> Steps:
    why = f"{goal.service.name}: make {count} more, and leave the rest alone"
    others = tuple((name, len(snapshot.of(name))) for name in goal.service.needs)
    there = tuple((name, number) for name, number in others if number)
    make = Make(goal.service, goal.source, count, total, why, there)
    return [make, *post_start(goal, names)]


def _route(goal: Goal, choice: Choice, batch: Batch, new: tuple[str, ...], proxy: str) -> Route:
    names = (*_names((*choice.keep, *batch.old)), *new)
    why = f"{goal.service.name}: traffic goes to {_replicas(len(names))}"
    if batch.leaving:
        why += f", and no longer to {', '.join(_names(batch.leaving))}"
    return Route(
        proxy,
        goal.service,
        names,
        why,
        without=tuple(replica.id for replica in (*choice.old, *choice.leaving)),
        awaiting=max(0, goal.count - len(names)),
        kept=tuple(replica.id for replica in batch.old),
    )


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
        known=tuple(replica.id for replica in snapshot.of(goal.service.name)),
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


def _names(replicas: tuple[Replica, ...]) -> tuple[str, ...]:
    in_order = sorted(replicas, key=lambda replica: (replica.number, replica.name))
    return tuple(replica.name for replica in in_order)


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"
