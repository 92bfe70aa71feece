"""The engines: each reads and drives one orchestrator. Same verbs, same answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

# `ps` imports no more than it needs; the rest is for the type checker.
if TYPE_CHECKING:
    from stack import runner
    from stack.composefile import ComposeFile
    from stack.engines.engine_api import EngineApi
    from stack.model import Replica, Snapshot
    from stack.plan import Command, Plan

COMPOSE, SWARM = "compose", "swarm"
NAMES = (COMPOSE, SWARM)


@dataclass(frozen=True)
class Finding:
    """One check of `doctor`: `exit_code` 0 means it is well, otherwise `advice` says what to do."""

    check: str
    found: str
    exit_code: int = 0
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """What `doctor` looks at: by hand it would be `command`."""

    name: str
    run: Callable[[], Iterator[Finding]]
    command: "Command"


class Verbs(Protocol):
    """The verbs: each reads what it has to know, and returns a plan; nothing is changed yet.

    `drain_timeout_s` is None where none was given. Errors are raised as stack/errors.py says.
    """

    def up(
        self, counts: "Mapping[str, int]", drain_timeout_s: int | None, *, build: bool
    ) -> "Plan":
        """Everything as the Compose file says, with `counts` replicas where a number was given."""

    def scale(self, counts: "Mapping[str, int]", drain_timeout_s: int | None) -> "Plan":
        """Other numbers of replicas."""

    def rollout(
        self, names: "Sequence[str]", drain_timeout_s: int | None, *, again: bool
    ) -> "Plan":
        """Services as their sources are now; `again`: built even if they are already."""

    def rollout_image(self, service: str, image: str, drain_timeout_s: int | None) -> "Plan":
        """A service of this revision, or of any other image."""

    def rollback(self, service: str, name: str | None, drain_timeout_s: int | None) -> "Plan":
        """A service back at a revision; at the one before the last rollout if None."""

    def restart(self, service: str, drain_timeout_s: int | None) -> "Plan":
        """New replicas of the same revision."""

    def down(self, *, with_volumes: bool) -> "Plan":
        """Nothing left."""

    def push(self, names: "Sequence[str]") -> "Plan":
        """Images of services, as their sources are now, in the registry."""

    def revisions(self) -> "Snapshot":
        """What there is, with the revisions of every service."""

    def revisions_commands(self) -> "Plan":
        """The commands whose answers `revisions` puts together."""

    def ps_commands(self) -> "Plan":
        """The commands whose answers `ps` puts together."""

    def logs_command(self, service: str | None, options: "Sequence[str]") -> "Command":
        """The command that prints logs. `options` are those of `docker logs`."""


class Engine(Protocol):
    """One project on one orchestrator."""

    @property
    def project(self) -> str:
        """The project's name."""

    @property
    def file(self) -> "ComposeFile":
        """The Compose file."""

    @property
    def api(self) -> "EngineApi":
        """The Docker engine that is talked to."""

    @property
    def id(self) -> str:
        """What the project's name is unique on."""

    @property
    def verbs(self) -> Verbs:
        """What changes the project."""

    def observe(self) -> "Snapshot":
        """What runs."""

    def memory_bytes(self, replicas: "tuple[Replica, ...]") -> "Mapping[str, int]":
        """Memory of each replica of which it is known, by its id."""

    def stale_secrets(self, snapshot: "Snapshot") -> list[str]:
        """Secrets of which the running proxy sees another file than the one that is here."""

    # Whether it can be told what the live view shows.
    publishes: bool

    def publish(self, proxy: "Replica", data: bytes) -> None:
        """Give a proxy what the live view shows; see stack/topology.py."""

    def published(self, proxy: "Replica") -> bytes | None:
        """What it was given last, if anything."""

    def proxy_log(self, proxy: "Replica", since: float) -> str | None:
        """What the proxy has logged since then (Unix seconds), with Docker's time stamps; None
        where it cannot be read.
        """

    def urls(self) -> list[str]:
        """Where the proxy answers; nowhere if it publishes no fixed port."""

    def ports_in_use(self) -> list[str]:
        """Ports that the Compose file publishes and somebody else has, a sentence each."""

    def checks(self) -> "Sequence[Check]":
        """What `doctor` checks of this orchestrator alone."""


def make(
    name: str, project: str | None, begun: "runner.Pipe | None", registry: str | None
) -> Engine:
    """The engine of this name; `project` overrides the Compose file's, `begun` is a connection to
    Docker that has been begun already, `registry` is where images are pushed.
    """
    if name == SWARM:
        from stack.engines.swarm import SwarmEngine

        return SwarmEngine(project, begun, registry)
    from stack.engines.compose import ComposeEngine

    return ComposeEngine(project, begun, registry)
