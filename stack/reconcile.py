"""How a service gets to N replicas without losing a request: pure functions of a snapshot.

The order is always the same. Make the new ones, wait until they are ready, give the proxy the new
list, and only then drain, stop and remove the ones that left it. Killed anywhere in between, the
proxy still sends traffic to replicas that serve, and the next plan starts from what is there.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from stack.model import PAUSED, RESTARTING, UNHEALTHY, Replica, Service, Snapshot
from stack.plan import Command, Route, Steps, WaitReady

DRAIN_TIMEOUT_S = 30

# A replica in one of these states is replaced: waiting for it would not help.
BROKEN = (UNHEALTHY, PAUSED, RESTARTING)


@dataclass(frozen=True)
class Choice:
    """Which replicas stay, which have to go, and how many are still to be made.

    `dead` have no process any more; `surplus` may still have requests in flight.
    """

    keep: tuple[Replica, ...]
    surplus: tuple[Replica, ...]
    dead: tuple[Replica, ...]
    missing: int

    @property
    def total(self) -> int:
        """How many there are for a while, between making the new and stopping the old."""
        return len(self.keep) + len(self.surplus) + self.missing

    def new_numbers(self) -> range:
        """The numbers that Compose gives the new ones: it counts on from the highest."""
        highest = max((replica.number for replica in (*self.keep, *self.surplus)), default=0)
        return range(highest + 1, highest + 1 + self.missing)


def choose(
    snapshot: Snapshot, service: Service, count: int, fits: Callable[[Replica], bool]
) -> Choice:
    """Choose `count` replicas to keep, of those that `fits` accepts and that are not broken.

    Those that serve stay before those that do not, and among equals the lowest numbers.
    """
    mine = snapshot.of(service.name)
    live = [replica for replica in mine if replica.is_live]
    fit = [replica for replica in live if replica.state not in BROKEN and fits(replica)]
    fit.sort(key=lambda replica: (not replica.is_ready, not snapshot.routes_to(replica)))
    keep = tuple(fit[:count])
    return Choice(
        keep=tuple(sorted(keep, key=lambda replica: replica.number)),
        surplus=tuple(replica for replica in live if replica not in keep),
        dead=tuple(replica for replica in mine if not replica.is_live),
        missing=count - len(keep),
    )


def wanted_count(snapshot: Snapshot, service: Service) -> int:
    """How many replicas the service has by its last finished change; what the Compose file says
    if it has none.

    As many as the target list names, whether they live or not. Without a list the biggest group
    of one revision: an interrupted change may have left old ones and new ones.
    """
    routes = snapshot.routing.get(service.target)
    if routes and routes.targets:
        return len(routes.targets)
    live = (replica for replica in snapshot.of(service.name) if replica.is_live)
    groups = Counter(replica.revision for replica in live)
    return max(groups.values(), default=service.replicas)


def running_revision(snapshot: Snapshot, service: str) -> str | None:
    """The revision that most of the replicas with traffic have; None if nothing runs."""
    live = [replica for replica in snapshot.of(service) if replica.is_live]
    routed = [replica for replica in live if snapshot.routes_to(replica)]
    votes = Counter(replica.revision for replica in routed or live)
    return votes.most_common(1)[0][0] if votes else None


def wait_ready(snapshot: Snapshot, service: Service, choice: Choice) -> WaitReady | None:
    """Wait until all that stay and all that are new are ready; None if they are."""
    if not choice.missing and all(replica.is_ready for replica in choice.keep):
        return None
    if service.port is None and not service.has_health_check:
        return None  # as ready as it will ever be; a one-shot service may have ended already
    return WaitReady(
        snapshot.project,
        service,
        len(choice.keep) + choice.missing,
        service.start_timeout_s,
        f"{service.name}: only replicas that are ready get traffic"
        if service.port
        else f"{service.name}: wait until it is healthy",
        without=tuple(replica.name for replica in choice.surplus),
        others_ready=sum(replica.is_ready for replica in choice.surplus),
    )


def shift(snapshot: Snapshot, service: Service, choice: Choice, proxy: str) -> Steps:
    """The steps from "the new replicas were made" to "only the chosen ones are left"."""
    leaving = tuple(replica.name for replica in choice.surplus)
    wait = wait_ready(snapshot, service, choice)
    steps: Steps = [wait] if wait else []
    if service.port is None:
        return steps + stop(service, choice.surplus)
    if choice.missing or not _lists_exactly(snapshot, service, choice.keep):
        steps.append(route(snapshot, service, choice, proxy))
    if leaving:
        steps.append(
            Command(
                ("docker", "exec", proxy, "proxy", "drain", str(DRAIN_TIMEOUT_S), *leaving),
                f"{service.name}: wait until nothing is in flight on {', '.join(leaving)}",
                timeout_s=DRAIN_TIMEOUT_S + 30,
                speaks=True,
            )
        )
    return steps + stop(service, choice.surplus)


def own_the_list(snapshot: Snapshot, service: Service, choice: Choice, proxy: str) -> Steps:
    """Before replicas are made: write down who gets traffic now, if that is still left to DNS,
    which knows a container long before it is ready.
    """
    routes = snapshot.routing.get(service.target)
    ready = tuple(replica.name for replica in snapshot.of(service.name) if replica.is_ready)
    if not (choice.missing and routes and routes.by_dns and ready):
        return []
    why = f"{service.name}: from here on a list says who gets traffic, no longer DNS"
    return [Route(proxy, service, ready, why)]


def route(snapshot: Snapshot, service: Service, choice: Choice, proxy: str) -> Route:
    """The step that gives the traffic to the chosen replicas and to those still to be made."""
    stem = f"{snapshot.project}-{service.name}"
    new = tuple(f"{stem}-{number}" for number in choice.new_numbers())
    expected = (*(replica.name for replica in choice.keep), *new)
    leaving = tuple(replica.name for replica in choice.surplus)
    why = f"{service.name}: traffic goes to {_replicas(len(expected))}"
    if leaving:
        why += f", and no longer to {', '.join(leaving)}"
    return Route(proxy, service, expected, why, leaving)


def stop(service: Service, replicas: tuple[Replica, ...]) -> Steps:
    """Stop and remove these replicas, and no others: they are named, not counted."""
    names = tuple(replica.name for replica in replicas)
    if not names:
        return []
    grace = str(service.stop_grace_s)
    return [
        Command(
            ("docker", "stop", "-t", grace, *names),
            f"{service.name}: SIGTERM, then up to {grace} s to end by itself",
            timeout_s=service.stop_grace_s + 60,
        ),
        Command(("docker", "rm", *names), f"{service.name}: {_replicas(len(names))} less"),
    ]


def remove_dead(service: Service, choice: Choice) -> list[Command]:
    """Remove containers that have ended, so that Compose does not start them again."""
    names = tuple(replica.name for replica in choice.dead)
    if not names:
        return []
    return [Command(("docker", "rm", *names), f"{service.name}: left over, not running")]


def _lists_exactly(snapshot: Snapshot, service: Service, replicas: tuple[Replica, ...]) -> bool:
    routes = snapshot.routing.get(service.target)
    if routes is None or routes.by_dns:
        return False
    listed = {target.address for target in routes.targets}
    return all(snapshot.routes_to(replica) for replica in replicas) and len(listed) == len(replicas)


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"
