"""What there is on a Swarm beyond replicas: nodes, and services as they are deployed."""

from collections.abc import Mapping
from dataclasses import dataclass

from stack.model import Snapshot


@dataclass(frozen=True)
class Node:
    """A machine of the Swarm. `role` is manager or worker; `availability` is active, pause (what
    is there stays) or drain.
    """

    id: str
    name: str
    address: str
    role: str
    is_ready: bool
    availability: str = "active"
    has_proxy_label: bool = False

    @property
    def is_active(self) -> bool:
        return self.availability == "active"


@dataclass(frozen=True)
class Deployed:
    """A service as it is deployed. `replicas` is None where there is one on each node; `files` are
    the names of its secrets and configs.
    """

    name: str
    image: str
    revision: str
    digest: str
    previous: str
    replicas: int | None
    state: str
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Cluster:
    """Everything that is known of a project on a Swarm at one moment, services by their name in
    the Compose file. `secrets`, `configs` and `networks` are names of those that it has; `here` is
    the id of the node that is talked to.
    """

    snapshot: Snapshot
    services: Mapping[str, Deployed]
    nodes: tuple[Node, ...]
    secrets: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    here: str = ""
