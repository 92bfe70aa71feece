"""What there is (replicas, proxy) and what is wanted (services of the Compose file), as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Compose's labels on everything that it makes.
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"

# A replica's state, in Docker's words. "running" is a container without a health check.
STARTING, HEALTHY, UNHEALTHY, RUNNING = "starting", "healthy", "unhealthy", "running"
RESTARTING, PAUSED, EXITED, CREATED = "restarting", "paused", "exited", "created"


@dataclass(frozen=True)
class Service:
    """A service of the Compose file, as `docker compose config` resolves it.

    `port` is where a routed service listens, None where nothing is routed. `settings` is a digest
    of what its containers are made with. `revision` and `image_id` are those that they should
    have, empty where it is not built here; then `config_hash`, Compose's own, takes their place.
    `published` are addresses and ports of the host.
    """

    name: str
    replicas: int = 1
    port: int | None = None
    is_proxy: bool = False
    image: str = ""
    build_context: str | None = None
    dockerfile: str = "Dockerfile"
    build_args: Mapping[str, str] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    settings: str = ""
    revision: str = ""
    image_id: str = ""
    config_hash: str = ""
    has_health_check: bool = True
    stop_grace_s: int = 10
    start_timeout_s: int = 60
    published: tuple[tuple[str, int], ...] = ()
    container_name: str = ""

    @property
    def is_fixed(self) -> bool:
        """Whether there can be only one: two containers cannot share a port or a name."""
        return self.is_proxy or bool(self.published) or bool(self.container_name)

    @property
    def target(self) -> str:
        """The name of its target list in the proxy: "web:8000"."""
        return f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Replica:
    """A container of a service. Times are Unix seconds; `exit_code` counts when it has exited.

    `draining`: the last change took it out of the proxy's target list, and it runs on.
    """

    id: str
    name: str
    service: str
    number: int
    state: str
    revision: str = ""
    image_id: str = ""
    config_hash: str = ""
    addresses: tuple[str, ...] = ()
    restarts: int = 0
    created_at: float = 0
    started_at: float = 0
    exit_code: int = 0
    port: int | None = None
    is_proxy: bool = False
    draining: bool = False

    @property
    def is_ready(self) -> bool:
        return self.state in (HEALTHY, RUNNING)

    @property
    def is_live(self) -> bool:
        """Whether its process runs or will run again without anybody's help."""
        return self.state not in (EXITED, CREATED)

    @property
    def is_done(self) -> bool:
        """Whether it has ended well, as one-shot services do."""
        return not self.is_live and self.exit_code == 0 and self.started_at > 0

    def is_current(self, service: Service) -> bool:
        """Whether it is of the image and the settings that `service` should have."""
        if service.revision:
            same_image = service.image_id == self.image_id or not (
                service.image_id and self.image_id
            )
            return self.revision == service.revision and same_image
        return service.config_hash in ("", self.config_hash)


@dataclass(frozen=True)
class Target:
    """A line of a target list: where nginx sends requests, and the container's name."""

    address: str
    name: str = ""


@dataclass(frozen=True)
class TargetList:
    """The proxy's list for one service. `by_dns`: none was written yet, every replica that
    Docker's DNS knows gets traffic. `draining`: names that the last change took out.
    """

    targets: tuple[Target, ...] = ()
    by_dns: bool = False
    draining: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """Everything that is known of a project at one moment.

    `services` is empty where only what runs was asked for. `routing` maps "service:port" to its
    list; `proxy_config` is the digest of the configuration that the proxy runs.
    """

    project: str
    services: tuple[Service, ...] = ()
    replicas: tuple[Replica, ...] = ()
    routing: Mapping[str, TargetList] = field(default_factory=dict)
    proxy_config: str | None = None

    def of(self, service: str) -> tuple[Replica, ...]:
        """The replicas of `service`, lowest number first."""
        mine = (replica for replica in self.replicas if replica.service == service)
        return tuple(sorted(mine, key=lambda replica: (replica.number, replica.name)))

    @property
    def proxy(self) -> Replica | None:
        """The proxy's container; a running one where there are several."""
        proxies = [replica for replica in self.replicas if replica.is_proxy]
        return max(proxies, key=lambda replica: replica.is_live, default=None)

    def routes_to(self, replica: Replica) -> bool:
        """Whether the proxy sends requests to this replica."""
        if replica.port is None:
            return False
        routes = self.routing.get(f"{replica.service}:{replica.port}")
        if routes is None:
            return False
        if routes.by_dns:
            return replica.is_live and replica.state not in (RESTARTING, STARTING)
        return any(
            target.address == f"{address}:{replica.port}"
            for target in routes.targets
            for address in replica.addresses
        )
