"""What `top` shows: replicas, their traffic by the proxy's log, and what the manager is doing."""

import json
import tarfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stack import lock, show, verdict
from stack.engines import Engine
from stack.errors import StackError
from stack.model import HEALTHY, RUNNING, Replica, Snapshot, unix_seconds
from stack.verdict import Answer

# Traffic is that of the last seconds, and of the last minute below the table.
WINDOW_S = 5
PAST_S = 60
BAR = 10
BLOCKS = " ▁▂▃▄▅▆▇█"
# A revision's colour, in the order in which they appeared.
COLORS = ("blue", "yellow", "green", "magenta", "cyan")


@dataclass(frozen=True)
class Traffic:
    """Requests that a replica was sent in the last WINDOW_S seconds: how many, their share of
    all (0 to 1), how many it answered with 5xx or not at all, and half of them within `median_s`.
    """

    count: int = 0
    share: float = 0
    errors: int = 0
    median_s: float | None = None


class Watch:
    """Looks at a stack again and again, and remembers the last minute's answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._answers: list[Answer] = []
        self._revisions: list[str] = []
        # Logs go by the engine's clock.
        self._ahead_s = unix_seconds(engine.api.info()["SystemTime"]) - time.time()

    def look(self) -> RenderableType:
        """What there is now, as a picture."""
        engine, now = self._engine, time.time() + self._ahead_s
        snapshot = engine.observe()
        proxy = snapshot.proxy
        answers, said = None, None
        if proxy and proxy.is_live:
            # A proxy that is just being replaced has nothing to say.
            with suppress(StackError):
                answers = self._read_log(proxy, now)
            with suppress(StackError, ValueError, tarfile.TarError):
                said = json.loads(engine.published(proxy) or b"null")
        # A revision keeps its colour.
        by_age = sorted(snapshot.replicas, key=lambda replica: replica.created_at)
        found = [replica.revision for replica in by_age if replica.port is not None]
        self._revisions = list(dict.fromkeys((*self._revisions, *found)))
        return screen(
            snapshot,
            engine.memory_bytes(snapshot.replicas),
            answers,
            doing(said, lock.holder(lock.lock_path(engine.project, engine.id))),
            now,
            self._revisions,
        )

    def _read_log(self, proxy: Replica, now: float) -> list[Answer] | None:
        """The answers of the last minute; None where the log cannot be read."""
        last = self._answers[-1].at if self._answers else now - PAST_S
        log = self._engine.proxy_log(proxy, last)
        if log is None:
            return None
        # "Since" has the last one again.
        new = [one for one in verdict.answers(log) if one.at > last]
        self._answers = [one for one in (*self._answers, *new) if one.at > now - PAST_S - 1]
        return self._answers


def traffic(
    replicas: Sequence[Replica], answers: Sequence[Answer], now: float
) -> dict[str, Traffic]:
    """The traffic of each replica, by its name. Addresses are handed out again: of a replica only
    what is younger than itself counts.
    """
    recent = [one for one in answers if one.at > now - WINDOW_S]
    tried: dict[str, list[tuple[str, float]]] = {}
    for replica in replicas:
        mine = {f"{address}:{replica.port}" for address in replica.addresses}
        tried[replica.name] = [
            (status, one.seconds)
            for one in recent
            if one.at >= replica.started_at
            for address, status in one.tried
            if address in mine
        ]
    total = sum(map(len, tried.values()))
    return {
        name: Traffic(
            len(those),
            len(those) / total if total else 0,
            sum(status.startswith("5") for status, _ in those),
            median(seconds for _, seconds in those) if those else None,
        )
        for name, those in tried.items()
    }


def per_second(answers: Sequence[Answer], now: float) -> list[int]:
    """How many answers there were in each of the last PAST_S whole seconds, oldest first."""
    counts = [0] * PAST_S
    for one in answers:
        ago = int(now) - int(one.at)
        if 1 <= ago <= PAST_S:
            counts[-ago] += 1
    return counts


def doing(published: Mapping[str, Any] | None, holder: str) -> str:
    """What the manager is doing, in words: `published` is its JSON for the live view, `holder` who
    holds the lock.
    """
    if not holder:
        return "no change is under way"
    steps = (published or {}).get("steps") or [{}]
    step = steps[-1]
    theirs = str((published or {}).get("verb", "")) in holder
    if not theirs or "at" not in step or "ended_at" in step:
        return holder
    return f"{holder}: {step['number']} of {step['total']}, {step['why']}"


def screen(
    snapshot: Snapshot,
    memory: Mapping[str, int],
    answers: Sequence[Answer] | None,
    doing: str,
    now: float,
    revisions: Sequence[str],
) -> RenderableType:
    """One picture of all that. `answers` is None where the proxy's log cannot be read; `revisions`
    are all that were seen, in the order of their colours.
    """
    routed = [replica for replica in snapshot.replicas if replica.port is not None]
    seen = traffic(routed, answers, now) if answers is not None else {}
    nodes = any(replica.node for replica in snapshot.replicas)
    head = Text.assemble(
        (snapshot.project, "bold"),
        "  ",
        time.strftime("%H:%M:%S", time.localtime(now)),
        "  ",
        doing,
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("NAME", "REVISION", "STATE", "TRAFFIC", "REQ/S", "TAKES", "5XX", "MEMORY"):
        table.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=True)
    if nodes:
        table.add_column("NODE")
    for row in show.rows(snapshot, memory):
        known = row["routed"] is not None and row["revision"] in revisions
        color = COLORS[revisions.index(row["revision"]) % len(COLORS)] if known else ""
        cells = [
            Text(row["name"]),
            Text(row["revision"] or "-", color),
            _state(row),
            *_traffic(seen.get(row["name"]), color),
            "-" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:.0f} MiB",
        ]
        table.add_row(*cells, *([row["node"] or "-"] if nodes else []))
    parts: list[RenderableType] = [head, "", table]
    if answers is not None:
        parts += ["", _past(per_second(answers, now))]
    parts += [Text(f"drift: {line}", "red") for line in show.drift(snapshot)]
    return Group(*parts)


RIGHT = ("REQ/S", "TAKES", "5XX", "MEMORY")


def _state(row: Mapping[str, Any]) -> Text:
    well = row["state"] in (HEALTHY, RUNNING)
    waits = well and row["routed"] is False
    return Text(f"{row['state']}, no traffic" if waits else row["state"], "" if well else "bold")


def _traffic(mine: Traffic | None, color: str) -> list[Text | str]:
    if mine is None:
        return ["", "", "", ""]
    full = round(mine.share * BAR)
    return [
        Text("█" * full, color) + Text("░" * (BAR - full), "dim") + f" {mine.share:>4.0%}",
        f"{mine.count / WINDOW_S:.1f}",
        "-" if mine.median_s is None else f"{mine.median_s * 1000:.0f} ms",
        Text(str(mine.errors), "bold red" if mine.errors else ""),
    ]


def _past(counts: Sequence[int]) -> Text:
    most = max(counts)
    line = "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // most) if most else 0] for count in counts)
    return Text.assemble((line, "blue"), f"  requests per second, the last minute, at most {most}")
