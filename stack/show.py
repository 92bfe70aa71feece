"""What `ps` prints: a row for each replica, and where proxy and containers disagree."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stack.model import Replica, Snapshot

REVISION_COLUMNS = ("SERVICE", "REVISION", "REPLICAS", "AGE", "PREVIOUS")
COLUMNS = ("NAME", "REVISION", "STATE", "ROUTED", "RESTARTS", "AGE", "MEMORY", "ADDRESS", "NODE")


def rows(snapshot: Snapshot, memory: Mapping[str, int]) -> list[dict[str, Any]]:
    """One dictionary a replica, as `ps --json` prints it. Sizes in bytes, times in seconds;
    `routed` is null for services that the proxy does not route to, and where nobody knows; `node`
    where there is only one.
    """
    now = time.time()
    return [
        {
            "id": replica.id[:12],
            "name": replica.name,
            "service": replica.service,
            "revision": replica.revision,
            "state": _state(snapshot, replica),
            "routed": None
            if replica.port is None or snapshot.mounts_gone
            else snapshot.routes_to(replica),
            "restarts": replica.restarts,
            "age_s": round(now - replica.created_at),
            "memory_bytes": memory.get(replica.id),
            "address": _address(replica),
            "node": replica.node or None,
        }
        for replica in sorted(snapshot.replicas, key=lambda r: (r.is_proxy, r.service, r.number))
    ]


def drift(snapshot: Snapshot) -> list[str]:
    """Where the target lists and the replicas disagree, a sentence each."""
    if snapshot.mounts_gone:
        return [unknown(snapshot)]
    targets = {f"{r.service}:{r.port}" for r in snapshot.replicas if r.port and r.is_live}
    found = [
        f"{r.name} does not run: {r.reason}" for r in snapshot.replicas if r.reason and r.is_live
    ]
    if targets and not any(replica.is_proxy for replica in snapshot.replicas):
        found.append("no proxy runs, so nobody is served")
    found += [
        f"{target}: no upstream of the proxy includes targets/{target}"
        for target in sorted(targets - snapshot.routing.keys())
        if snapshot.proxy and snapshot.proxy.is_live
    ]
    for name, routes in snapshot.routing.items():
        service, _, port = name.rpartition(":")
        live = [replica for replica in snapshot.of(service) if replica.is_live]
        addresses = {f"{address}:{port}" for replica in live for address in replica.addresses}
        found += [
            f"{service}: {target.address} ({target.name or 'unnamed'}) gets traffic, "
            "but no such replica runs"
            for target in routes.targets
            if target.address not in addresses
        ]
        found += [
            f"{service}: {replica.name} is ready, but gets no traffic"
            for replica in live
            if replica.is_ready and not replica.draining and not snapshot.routes_to(replica)
        ]
    for service in sorted({replica.service for replica in snapshot.replicas if replica.port}):
        counts = Counter(r.revision for r in snapshot.of(service) if r.is_live)
        if len(counts) > 1:
            parts = " and ".join(f"{number} of revision {name}" for name, number in counts.items())
            found.append(
                f"{service}: an unfinished change, {parts} "
                f"(python -m stack rollout {service}, or rollback {service})"
            )
    return found


def unknown(snapshot: Snapshot) -> str:
    """Why nobody knows what the proxy routes to."""
    paths = ", ".join(snapshot.mounts_gone)
    return f"nobody can look into the proxy: {paths}, which it has mounted, is gone"


def revisions(snapshot: Snapshot, service: str | None) -> list[dict[str, Any]]:
    """One dictionary a revision, as `revisions --json` prints it; times in seconds. `previous`:
    what `rollback` goes back to.
    """
    now = time.time()
    return [
        {
            "service": name,
            "revision": one.name,
            "replicas": sum(r.is_live and r.revision == one.name for r in snapshot.of(name)),
            "previous": one.is_previous,
            "age_s": round(now - one.created_at),
            "image_id": one.image_id,
        }
        for name, known in sorted(snapshot.revisions.items())
        for one in known
        if service in (None, name)
    ]


def revisions_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The revisions for people."""
    return _table(
        [
            REVISION_COLUMNS,
            *(
                (
                    record["service"],
                    record["revision"],
                    str(record["replicas"] or "-"),
                    _age(record["age_s"]),
                    "yes" if record["previous"] else "-",
                )
                for record in records
            ),
        ]
    )


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The rows for people."""
    several = any(record["node"] for record in records)
    lines = [COLUMNS, *(_cells(record) for record in records)]
    return _table(lines if several else [line[:-1] for line in lines])


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    memory = record["memory_bytes"]
    return (
        record["name"],
        record["revision"] or "-",
        record["state"],
        {True: "yes", False: "no", None: "-"}[record["routed"]],
        str(record["restarts"]),
        _age(record["age_s"]),
        "-" if memory is None else f"{memory / 2**20:.1f} MiB",
        record["address"] or "-",
        record["node"] or "-",
    )


def _state(snapshot: Snapshot, replica: Replica) -> str:
    if replica.draining and not snapshot.routes_to(replica):
        return "draining"
    return replica.state


def _address(replica: Replica) -> str:
    if not replica.addresses:
        return ""
    return replica.addresses[0] + (f":{replica.port}" if replica.port else "")


def _age(seconds: int) -> str:
    """The age as people say it: one unit.

    >>> _age(59), _age(3599), _age(200_000)
    ('59s', '59m', '2d')
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
