"""When has a new replica failed? Pure functions of what was observed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stack.model import EXITED, PAUSED, RESTARTING, UNHEALTHY, Replica, unix_seconds

# A single 5xx may be anything. Three, one in twenty, and more than twice the share of the old
# replicas, is not.
ERRORS_AT_LEAST = 3
ERRORS_SHARE = 0.05
ERRORS_TIMES = 2

# What nginx notes of a replica that ended in the middle: before its answer, and of a WebSocket.
CUT = ("502", "504", "101")

# Docker restarts what ends. Twice, while nobody has seen it ready, says that it will go on so.
RESTARTS_AT_START = 2


@dataclass(frozen=True)
class Answer:
    """A line of the proxy's log: when (Unix seconds), each replica's address and status that was
    tried for this request, and how long it took.
    """

    at: float
    tried: tuple[tuple[str, str], ...]
    seconds: float = 0


@dataclass(frozen=True)
class Known:
    """What is known of a replica from before: its restarts when it was first seen, and whether
    it has been ready since.
    """

    restarts: int
    was_ready: bool = False


def remember(replicas: Iterable[Replica], known: Mapping[str, Known]) -> dict[str, Known]:
    """What is known after `replicas` have been seen, by their id."""
    return {
        **known,
        **{
            replica.id: Known(
                known[replica.id].restarts if replica.id in known else replica.restarts,
                replica.is_ready or (replica.id in known and known[replica.id].was_ready),
            )
            for replica in replicas
        },
    }


def illness(replica: Replica, known: Known | None) -> str:
    """Why the replica is not well, in words; empty if it is well or may still get so. What it
    lived through before it was first seen does not count.
    """
    before = known or Known(replica.restarts)
    ended = replica.restarts - before.restarts
    if replica.state in (UNHEALTHY, PAUSED):
        return f"is {replica.state}"
    if replica.oom_killed and (replica.state in (EXITED, RESTARTING) or ended):
        return "was killed for using more memory than its limit"
    if replica.state == EXITED or ended >= RESTARTS_AT_START:
        return f"ends over and over ({_exit(replica)})" if ended else f"ended ({_exit(replica)})"
    if before.was_ready and (ended or replica.state == RESTARTING):
        return f"ended after it had been ready ({_exit(replica)})"
    return ""


def answers(log: str) -> list[Answer]:
    """The answers in the proxy's `docker logs --timestamps`; other lines are left out."""
    found = []
    for line in log.splitlines():
        stamp, _, text = line.partition(" ")
        try:
            entry = json.loads(text)
            # nginx separates the replicas that it tried by a comma, and groups by a colon.
            addresses = str(entry["upstream"]).replace(" : ", ", ").split(", ")
            statuses = str(entry["upstream_status"]).replace(" : ", ", ").split(", ")
            at, seconds = unix_seconds(stamp), float(entry["seconds"])
        except (ValueError, LookupError, TypeError):
            continue
        found.append(Answer(at, tuple(zip(addresses, statuses, strict=False)), seconds))
    return found


def errors(replicas: Sequence[Replica], seen: Sequence[Answer]) -> tuple[Replica | None, str]:
    """Which of these new replicas answers 5xx where the old ones did not, and a sentence on it.

    Old ones are those that answered before the first new one was made. Addresses are handed out
    again: of a new one only what is younger than itself counts.
    """
    first = min((replica.created_at for replica in replicas), default=0)
    old, old_total = _count([status for one in seen if one.at < first for _, status in one.tried])
    for replica in replicas:
        mine = {f"{address}:{replica.port}" for address in replica.addresses}
        statuses = [
            status
            for one in seen
            if one.at >= replica.started_at
            for address, status in one.tried
            if address in mine
        ]
        bad, total = _count(statuses)
        before_share = old / old_total if old_total else 0
        limit = max(ERRORS_SHARE, ERRORS_TIMES * before_share)
        if bad >= ERRORS_AT_LEAST and bad > limit * total:
            before = f", the ones before it to {old} of {old_total}" if old_total else ""
            return replica, f"answered 5xx to {bad} of {total} requests{before}"
    return None, ""


def cut(replicas: Sequence[Replica], seen: Sequence[Answer]) -> tuple[int, int]:
    """How many requests ended with these replicas, and how many of them another one answered."""
    addresses = {f"{address}:{r.port}" for r in replicas for address in r.addresses}
    ended = [
        one.tried
        for one in seen
        if any(address in addresses and status in CUT for address, status in one.tried)
    ]
    return len(ended), sum(tried[-1][0] not in addresses for tried in ended)


def _count(statuses: Sequence[str]) -> tuple[int, int]:
    return sum(status.startswith("5") for status in statuses), len(statuses)


def _exit(replica: Replica) -> str:
    return f"exit code {replica.exit_code}, {replica.restarts} restarts"
