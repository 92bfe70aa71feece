"""How a service gets to N replicas without losing a request: pure functions of a snapshot.

The order is always the same. Make the new ones, wait until they are ready, give the proxy the new
list, and only then drain, stop and remove the ones that left it. Killed anywhere in between, the
proxy still sends traffic to replicas that serve, and the next plan starts from what is there.
"""

from collections import Counter
from dataclasses import dataclass

from stack.model import Replica, Service, Snapshot
from stack.plan import Command, Route, Steps, WaitReady

DRAIN_TIMEOUT_S = 30


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


def choose(snapshot: Snapshot, service: Service, count: int, *, config_hash: str | None) -> Choice:
    """Choose `count` replicas to keep. With `config_hash`, only ones that were made from it.

    Those that serve stay before those that do not, and among equals the lowest numbers.
    """
    mine = snapshot.of(service.name)
    live = [replica for replica in mine if replica.is_live]
    fit = [replica for replica in live if config_hash in (None, replica.config_hash)]
    fit.sort(key=lambda replica: (not snapshot.routes_to(replica), not replica.is_ready))
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

    Those that the target list names. Without a list the biggest group of one revision: an
    interrupted change may have left old ones and new ones.
    """
    live = [replica for replica in snapshot.of(service.name) if replica.is_live]
    routes = snapshot.routing.get(service.target)
    if routes and routes.targets:
        live = [replica for replica in live if snapshot.routes_to(replica)] or live
    groups = Counter(replica.revision for replica in live)
    return max(groups.values(), default=service.replicas)


def running_revision(snapshot: Snapshot, service: str) -> str | None:
    """The revision that most of the replicas with traffic have; None if nothing runs."""
    live = [replica for replica in snapshot.of(service) if replica.is_live]
    routed = [replica for replica in live if snapshot.routes_to(replica)]
    votes = Counter(replica.revision for replica in routed or live)
    return votes.most_common(1)[0][0] if votes else None


def shift(snapshot: Snapshot, service: Service, choice: Choice, proxy: str, count: int) -> Steps:
    """The steps from "the new replicas were made" to "only the chosen ones are left"."""
    leaving = tuple(replica.name for replica in choice.surplus)
    serving = tuple(replica.name for replica in choice.surplus if replica.is_ready)
    steps: Steps = []
    all_ready = all(replica.is_ready for replica in choice.keep)
    if choice.missing or not all_ready:
        steps.append(
            WaitReady(
                snapshot.project,
                service,
                count,
                service.start_timeout_s,
                f"{service.name}: only replicas that are ready get traffic",
                without=leaving,
                others_ready=len(serving),
            )
        )
    if service.port is None:
        return steps + stop(service, choice.surplus)
    if choice.missing or not _lists_exactly(snapshot, service, choice.keep):
        steps.append(route(snapshot, service, choice, proxy))
    if serving:
        steps.append(
            Command(
                ("docker", "exec", proxy, "proxy", "drain", str(DRAIN_TIMEOUT_S), *serving),
                f"{service.name}: wait until nothing is in flight on {', '.join(serving)}",
                timeout_s=DRAIN_TIMEOUT_S + 30,
            )
        )
    return steps + stop(service, choice.surplus)


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
