"""A plan: the steps from what there is to what is wanted, as values that can be shown or run.

A step becomes native commands in the end. Some of them name containers that do not exist yet
when the plan is made: such a step is bound late, `command(snapshot)`, from what is there when its
turn comes. `text()` is what a person would type.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from stack.errors import StackError
from stack.model import PROJECT_LABEL, SERVICE_LABEL, Replica, Service, Snapshot


@dataclass(frozen=True)
class Command:
    """A native command. `env` is added to the environment, `feed` is a command whose output it
    reads, `timeout_s` bounds it, `speaks` means that what it prints is for the user.
    """

    argv: tuple[str, ...]
    why: str
    env: tuple[tuple[str, str], ...] = ()
    feed: tuple[str, ...] = ()
    timeout_s: float = 600
    speaks: bool = False

    def text(self) -> str:
        words = [f"{name}={shlex.quote(value)}" for name, value in self.env]
        words.append(shlex.join(self.argv))
        return (f"{shlex.join(self.feed)} | " if self.feed else "") + " ".join(words)

    def command(self, _snapshot: Snapshot) -> "Command":
        return self


@dataclass(frozen=True)
class WaitReady:
    """Wait until `count` replicas of the service are ready, not counting `without` (names), of
    which `others_ready` are.
    """

    project: str
    service: Service
    count: int
    timeout_s: float
    why: str
    without: tuple[str, ...] = ()
    others_ready: int = 0

    def text(self) -> str:
        condition = "health=healthy" if self.service.has_health_check else "status=running"
        total = self.count + self.others_ready
        listing = shlex.join(
            (
                *("docker", "ps", "-q", "--filter", f"label={PROJECT_LABEL}={self.project}"),
                *("--filter", f"label={SERVICE_LABEL}={self.service.name}"),
                *("--filter", condition),
            )
        )
        return f'until [ "$({listing} | wc -l)" -ge {total} ]; do sleep 0.5; done'

    def ready(self, snapshot: Snapshot) -> tuple[Replica, ...]:
        """The replicas that count as ready in `snapshot`."""
        return tuple(
            replica
            for replica in snapshot.of(self.service.name)
            if replica.is_ready and replica.name not in self.without
        )


@dataclass(frozen=True)
class Route:
    """Send the service's traffic to all of its ready replicas but `without` (names).

    `expected` are the names that the plan counts on. They are shown; what runs are the names of
    the replicas that are ready when the step's turn comes.
    """

    proxy: str
    service: Service
    expected: tuple[str, ...]
    why: str
    without: tuple[str, ...] = ()

    def text(self) -> str:
        return self._command(self.expected).text()

    def command(self, snapshot: Snapshot) -> Command:
        names = tuple(
            replica.name
            for replica in snapshot.of(self.service.name)
            if replica.is_ready and replica.name not in self.without
        )
        if self.expected and not names:
            raise StackError(
                f"{self.service.name}: no replica is ready any more, so the target list stays as "
                f"it is. See: python -m stack logs {self.service.name}"
            )
        return self._command(names)

    def _command(self, names: tuple[str, ...]) -> Command:
        return Command(
            ("docker", "exec", self.proxy, "proxy", "targets", self.service.target, *names),
            self.why,
            timeout_s=60,
        )


Step = Command | WaitReady | Route
Steps = list[Step]


@dataclass(frozen=True)
class Plan:
    """Steps in their order, and what holds once they are done. No steps: it holds already."""

    steps: tuple[Step, ...]
    outcome: str = ""
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> Iterator[str]:
        """The plan as a shell script that does the same by hand."""
        for note in self.notes:
            yield f"# {note}"
        for step in self.steps:
            yield f"# {step.why}"
            yield step.text()
        if not self.steps:
            yield f"# Nothing to do: {self.outcome}" if self.outcome else "# Nothing to do."
