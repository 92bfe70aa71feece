"""What the live view shows: replicas, and what the manager does, as JSON beside the target lists.

The proxy serves it at /stack/topology.json. It is for looking at only: nothing is decided by it,
and where it cannot be written nothing else fails.
"""

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stack import show
from stack.errors import Interrupted, StackError
from stack.model import EXITED, Replica, Snapshot

NAME = "topology.json"
# Where the proxy keeps what it is told: a volume, so it can be written.
DIRECTORY = "/var/lib/proxy"
# How many of the last steps it tells.
STEPS = 40


def document(
    snapshot: Snapshot, verb: str, steps: list[dict[str, Any]], outcome: str = ""
) -> dict[str, Any]:
    """What there is, and the last steps of the verb that is at work, or was last.

    `at` and the steps' times are Unix seconds; a step without `ended_at` is under way. `outcome` is
    empty while the verb is at work; where it was killed, for ever.
    """
    return {
        "project": snapshot.project,
        "at": _now(),
        "verb": verb,
        "outcome": outcome,
        "steps": [dict(step) for step in steps[-STEPS:]],
        "replicas": [
            {key: row[key] for key in ("id", "name", "service", "revision", "state", "routed")}
            for row in show.rows(snapshot, {})
            if row["routed"] is not None and row["state"] != EXITED
        ],
    }


class Publisher:
    """Publishes whenever there is something new; `put` gives the JSON to a proxy, `observe` looks
    what there is. Whatever fails here, the verb goes on.
    """

    def __init__(
        self,
        verb: str,
        observe: Callable[[], Snapshot],
        put: Callable[[Replica, bytes], None],
    ) -> None:
        self._verb = verb
        self._observe = observe
        self._put = put
        self._steps: list[dict[str, Any]] = []
        self._outcome = ""
        self._last: tuple[str, dict[str, Any]] = ("", {})

    @contextmanager
    def step(self, number: int, total: int, why: str) -> Iterator[None]:
        """Around a step: it is published when it begins; that it has ended, with what follows."""
        self._steps.append({"number": number, "total": total, "why": why, "at": _now()})
        self._look()
        try:
            yield
        finally:
            self._steps[-1]["ended_at"] = _now()

    @contextmanager
    def verb(self) -> Iterator[None]:
        """Around a verb: what becomes of it is published."""
        outcome = "failed"
        try:
            yield
            outcome = "done"
        except (StackError, Interrupted) as error:
            # By a signal.
            outcome = "stopped" if error.exit_code > 128 else "failed"
            raise
        finally:
            self._outcome = outcome
            self._look()

    def saw(self, snapshot: Snapshot) -> None:
        """What there is now."""
        proxy = snapshot.proxy
        found = document(snapshot, self._verb, self._steps, self._outcome)
        this = (proxy.id if proxy else "", {**found, "at": 0})
        if proxy is None or this == self._last:
            return
        # A proxy that is just being made cannot be told; it will be told what comes next.
        with suppress(StackError):
            self._put(proxy, json.dumps(found).encode())
            self._last = this

    def _look(self) -> None:
        with suppress(StackError):
            self.saw(self._observe())


def archive(data: bytes) -> bytes:
    """The file as a tar, as `docker cp -` takes it; readable for everybody in the container."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo(NAME)
        info.size, info.mode, info.mtime = len(data), 0o644, int(time.time())
        tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def extracted(data: bytes) -> bytes:
    """The file in such a tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(NAME)
        return file.read() if file else b""


def _now() -> float:
    return round(time.time(), 3)
