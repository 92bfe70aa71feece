"""A plan: the steps from what there is to what is wanted, as values that can be shown or run.

A step becomes native commands in the end. Some of them name containers that do not exist yet
when the plan is made: such a step is bound late, `commands(snapshot)`, from what is there when its
turn comes. `text()` is what a person would type.
"""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stack.errors import ReplicaFailed, StackError
from stack.model import PROJECT_LABEL, SERVICE_LABEL, Hook, Replica, Service, Snapshot

# How much of a log goes into a report.
LOG_LINES = 15

# Commands, each of which reads what the one before it prints.
Pipeline = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Output:
    """A value that is what these commands print: "$(one | two)"."""

    pipeline: Pipeline

    def text(self) -> str:
        return f'"$({_piped(self.pipeline)})"'


Env = tuple[tuple[str, str | Output], ...]


@dataclass(frozen=True)
class Command:
    """A native command. `env` is added to the environment, `feed` are commands whose output it
    reads, and `text_in` a text that it reads; `timeout_s` bounds it, `speaks` means that what it
    prints is for the user.

    `interruptible`: it can be stopped at any moment, and nothing is half done. `may_fail`: then
    that is said, and the run goes on.
    """

    argv: tuple[str, ...]
    why: str
    env: Env = ()
    feed: Pipeline = ()
    text_in: str = ""
    timeout_s: float = 600
    speaks: bool = False
    interruptible: bool = False
    may_fail: bool = False

    def text(self) -> str:
        words = [
            f"{name}={value.text() if isinstance(value, Output) else shlex.quote(value)}"
            for name, value in self.env
        ]
        words.append(shlex.join(self.argv))
        text = (f"{_piped(self.feed)} | " if self.feed else "") + " ".join(words)
        return f"{text} <<'EOF'\n{self.text_in}EOF" if self.text_in else text

    def commands(self, _snapshot: Snapshot) -> tuple["Command", ...]:
        return (self,)


@dataclass(frozen=True)
class Source:
    """Where Compose reads what new replicas are made of: the Compose file with the revisions in
    `env`; or, with `feed`, the settings that an older revision was recorded with.
    """

    compose: tuple[str, ...]
    env: Env = ()
    feed: Pipeline = ()

    def command(self, *words: str, why: str, timeout_s: float = 600) -> Command:
        return Command((*self.compose, *words), why, self.env, self.feed, timeout_s=timeout_s)


@dataclass(frozen=True)
class Make:
    """Make `count` more replicas of the service. `total` is how many there will be then; what
    runs is counted again, because Compose would remove what is too many. `others` are services
    that it needs, and how many replicas these have.
    """

    service: Service
    source: Source
    count: int
    total: int
    why: str
    others: tuple[tuple[str, int], ...] = ()

    def text(self) -> str:
        return self._command(self.total).text()

    def commands(self, snapshot: Snapshot) -> tuple[Command, ...]:
        return (self._command(len(snapshot.of(self.service.name)) + self.count),)

    def _command(self, total: int) -> Command:
        name = self.service.name
        # What it depends on is there. But Compose's own hash of a service, by which those that are
        # not built here are recognized, is another with --no-deps; then the numbers of the others
        # are named, or Compose would bring them back to deploy.replicas.
        alone = ("--no-deps",) if self.service.revision or not self.service.depends_on else ()
        others = () if alone else self.others
        numbers = ((other, count) for other, count in (*others, (name, total)))
        return self.source.command(
            *("up", "--detach", "--no-build", *alone, "--no-recreate"),
            *(word for other, count in numbers for word in ("--scale", f"{other}={count}")),
            name,
            why=self.why,
        )


@dataclass(frozen=True)
class Run:
    """Run a hook in the newest replicas of the service: as many as `expected`, which are shown."""

    service: Service
    hook: Hook
    expected: tuple[str, ...]
    why: str

    def text(self) -> str:
        return " && ".join(run_hook(self.hook, name, self.why).text() for name in self.expected)

    def commands(self, snapshot: Snapshot) -> tuple[Command, ...]:
        newest = self.replicas(snapshot)
        return tuple(run_hook(self.hook, replica.name, self.why) for replica in newest)

    def replicas(self, snapshot: Snapshot) -> tuple[Replica, ...]:
        """The replicas that it is about."""
        return snapshot.of(self.service.name)[-len(self.expected) :]


def run_hook(hook: Hook, name: str, why: str) -> Command:
    """The command that runs a hook in the container `name`."""
    options = (
        *(("--user", hook.user) if hook.user else ()),
        *(("--workdir", hook.working_dir) if hook.working_dir else ()),
        *(("--privileged",) if hook.privileged else ()),
        *(word for pair in hook.environment for word in ("--env", pair)),
    )
    return Command(("docker", "exec", *options, name, *hook.command), why)


@dataclass(frozen=True)
class Those:
    """`count` replicas of the service: those that are not in `without` (ids). Of the latter,
    `others_ready` are ready as well: whoever counts by hand counts them too.
    """

    project: str
    service: Service
    count: int
    without: tuple[str, ...] = ()
    others_ready: int = 0

    def of(self, snapshot: Snapshot) -> tuple[Replica, ...]:
        """The replicas themselves, as many as there are of them."""
        return tuple(r for r in snapshot.of(self.service.name) if r.id not in self.without)

    def are_ready(self) -> str:
        """A shell condition."""
        condition = "health=healthy" if self.service.has_health_check else "status=running"
        listing = shlex.join(
            (
                *("docker", "ps", "-q", "--filter", f"label={PROJECT_LABEL}={self.project}"),
                *("--filter", f"label={SERVICE_LABEL}={self.service.name}"),
                *("--filter", condition),
            )
        )
        return f'[ "$({listing} | wc -l)" -ge {self.count + self.others_ready} ]'


@dataclass(frozen=True)
class WaitReady:
    """Wait until all of `those` are ready."""

    those: Those
    timeout_s: float
    why: str

    def text(self) -> str:
        return f"until {self.those.are_ready()}; do sleep 0.5; done"


@dataclass(frozen=True)
class Watch:
    """See for `seconds` that all of `those` stay well: none ends, gets ill, or, if it is not one of
    `known` (ids), answers 5xx (by the log of `proxy`) where the ones before it did not.
    """

    those: Those
    seconds: float
    proxy: str
    why: str
    known: tuple[str, ...] = ()

    def text(self) -> str:
        pause = f"sleep {self.seconds:g}; " if self.seconds else ""
        return pause + self.those.are_ready()


@dataclass(frozen=True)
class Route:
    """Send the service's traffic to all of its ready replicas but `without` (ids), and to `kept`
    (ids), which have it already, however they are.

    `expected` are the names that the plan counts on. They are shown; what runs are the names of
    the replicas that are ready when the step's turn comes. `awaiting`: how many more are to come.
    """

    proxy: str
    service: Service
    expected: tuple[str, ...]
    why: str
    without: tuple[str, ...] = ()
    awaiting: int = 0
    kept: tuple[str, ...] = ()

    def text(self) -> str:
        return self._command(self.expected).text()

    def commands(self, snapshot: Snapshot) -> tuple[Command, ...]:
        names = tuple(
            replica.name
            for replica in snapshot.of(self.service.name)
            if (replica.is_ready and replica.id not in self.without) or replica.id in self.kept
        )
        if len(names) < len(self.expected):
            raise ReplicaFailed(
                self.service.name,
                f"only {len(names)} of {len(self.expected)} replicas are still ready",
            )
        return (self._command(names),)

    def _command(self, names: tuple[str, ...]) -> Command:
        later = ("--awaiting", str(self.awaiting)) if self.awaiting else ()
        return Command(
            ("docker", "exec", self.proxy, "proxy", "targets", *later, self.service.target, *names),
            self.why,
            timeout_s=60,
        )


@dataclass(frozen=True)
class Stop:
    """Stop replicas: SIGTERM, then up to `grace_s` seconds to end by themselves. What had not
    ended when their drain was over is looked for in the log of `proxy` then.
    """

    replicas: tuple[Replica, ...]
    grace_s: int
    proxy: str
    why: str

    def text(self) -> str:
        return self._command().text()

    def commands(self, _snapshot: Snapshot) -> tuple[Command, ...]:
        return (self._command(),)

    def _command(self) -> Command:
        names = (replica.name for replica in self.replicas)
        return Command(
            ("docker", "stop", "-t", str(self.grace_s), *names),
            self.why,
            timeout_s=self.grace_s + 60,
        )


@dataclass(frozen=True)
class Await:
    """Wait until the orchestrator has done what it was told.

    `holds` says whether it has, and raises ReplicaFailed once it never will. `late` says how far it
    is. It has to hold for `steady_s`: right after a command all may still be as it was before.
    `shell` waits for the same by hand; `log` prints the last lines of a replica, by its id.
    """

    service: str
    holds: Callable[[Snapshot], bool]
    late: Callable[[Snapshot], ReplicaFailed]
    shell: str
    timeout_s: float
    why: str
    log: Callable[[str], tuple[str, ...]]
    steady_s: float = 1.0

    def text(self) -> str:
        return self.shell


Step = Command | Make | Run | WaitReady | Watch | Route | Stop | Await
Steps = list[Step]


@dataclass(frozen=True)
class Plan:
    """Steps in their order, and what holds once they are done. No steps: it holds already.

    `recover` gives the plan to go on with when a new replica fails, None where there is none.
    `failure` is what ends the run once the steps are done: they undo, or leave out, what failed.
    """

    steps: tuple[Step, ...]
    outcome: str = ""
    notes: tuple[str, ...] = ()
    recover: Callable[[ReplicaFailed, Snapshot], "Plan | None"] | None = field(
        default=None, compare=False
    )
    failure: StackError | None = None

    def lines(self) -> Iterator[str]:
        """The plan as a shell script that does the same by hand."""
        for note in self.notes:
            yield f"# {note}"
        for step in self.steps:
            yield f"# {step.why}"
            yield step.text()
        if not self.steps:
            yield f"# Nothing to do: {self.outcome}" if self.outcome else "# Nothing to do."


def _piped(pipeline: Pipeline) -> str:
    return " | ".join(shlex.join(argv) for argv in pipeline)
