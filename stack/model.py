"""What there is (replicas, proxy) and what is wanted (services of the Compose file), as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

# Compose's labels on everything that it makes.
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
# The same on what Swarm makes: the project.
NAMESPACE_LABEL = "com.docker.stack.namespace"

# On images: the Compose file that a revision was made with. And the tag of the revision before.
SETTINGS_LABEL = "stack.settings"
PREVIOUS = "previous"

# A replica's state, in Docker's words. "running" is a container without a health check.
STARTING, HEALTHY, UNHEALTHY, RUNNING = "starting", "healthy", "unhealthy", "running"
RESTARTING, PAUSED, EXITED, CREATED = "restarting", "paused", "exited", "created"


# What to do first with each replica that a rollout replaces, in the Compose file's words; and what
# when the new one fails.
START_FIRST, STOP_FIRST = "start-first", "stop-first"
ROLLBACK, PAUSE, CONTINUE = "rollback", "pause", "continue"


@dataclass(frozen=True)
class UpdateConfig:
    """`deploy.update_config` (or `rollback_config`) of a service: how replicas are replaced.

    `parallelism`: how many at a time, 0 for all. `delay_s`: between one and the next.
    `monitor_s`: how long the last ones are watched. `max_failure_ratio`: of the wanted number,
    how many new replicas may fail before `failure_action`. The defaults are Docker's but for
    `order` and `failure_action`, which are those that lose nothing.
    """

    parallelism: int = 1
    delay_s: float = 0
    order: str = START_FIRST
    monitor_s: float = 5
    failure_action: str = ROLLBACK
    max_failure_ratio: float = 0


@dataclass(frozen=True)
class Hook:
    """A `post_start` or `pre_stop` of the Compose file: a command, run inside the container."""

    command: tuple[str, ...]
    user: str = ""
    working_dir: str = ""
    privileged: bool = False
    environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Service:
    """A service of the Compose file, as `docker compose config` resolves it.

    `port` is where a routed service listens, None where nothing is routed. `settings` is a digest
    of what its containers are made with. `revision` and `image_id` are those that they should
    have, empty where it is not built here; then `config_hash`, Compose's own, takes their place.
    `published` are addresses and ports of the host. `conditions` says of each service in
    `depends_on` what has to hold of it; `needs` are all that it depends on, directly or not.
    `build_settings` is a digest of how it is built, beside its context and arguments. `is_tls`:
    it speaks HTTPS. `guards`: what guards the front door, where it is on (see stack/front_door.py).
    `secrets`: the names of those that it has.
    """

    name: str
    replicas: int = 1
    port: int | None = None
    is_proxy: bool = False
    is_tls: bool = False
    guards: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    image: str = ""
    build_context: str | None = None
    dockerfile: str = "Dockerfile"
    build_args: Mapping[str, str] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    build_settings: str = ""
    settings: str = ""
    revision: str = ""
    image_id: str = ""
    config_hash: str = ""
    has_health_check: bool = True
    stop_grace_s: int = 10
    start_timeout_s: int = 60
    published: tuple[tuple[str, int], ...] = ()
    container_name: str = ""
    update: UpdateConfig = UpdateConfig()
    rollback: UpdateConfig = UpdateConfig()
    post_start: tuple[Hook, ...] = ()
    pre_stop: tuple[Hook, ...] = ()

    @property
    def is_fixed(self) -> bool:
        """Whether there can be only one: two containers cannot share a port or a name."""
        return self.is_proxy or bool(self.published) or bool(self.container_name)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that it answers for; any if there are none."""
        return tuple(self.guards.get("ALLOWED_HOSTS", "").split())

    @property
    def target(self) -> str:
        """The name of its target list in the proxy: "web:8000"."""
        return f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Replica:
    """A container of a service. Times are Unix seconds; `exit_code` counts when it has exited.

    `draining`: the last change took it out of the proxy's target list, and it runs on. `node`: the
    machine that it is on, and `reason`: why it does not run, where an orchestrator says so.
    `guards`: as those of Service, with which it was made.
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
    oom_killed: bool = False
    port: int | None = None
    is_proxy: bool = False
    draining: bool = False
    node: str = ""
    reason: str = ""
    guards: Mapping[str, str] = field(default_factory=dict, hash=False)

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
class Revision:
    """An image of a service that the engine has, by its tag: what can run without a build.

    `created_at` in Unix seconds. `has_settings`: the image says with which settings of the Compose
    file it ran. `is_previous`: it ran before the last rollout.
    """

    name: str
    image_id: str
    created_at: float = 0
    has_settings: bool = False
    is_previous: bool = False


@dataclass(frozen=True)
class Target:
    """A line of a target list: where nginx sends requests, and the container's name."""

    address: str
    name: str = ""


@dataclass(frozen=True)
class TargetList:
    """The proxy's list for one service. `by_dns`: none was written yet, every replica that
    Docker's DNS knows gets traffic. `draining`: names that the last change took out. `awaiting`:
    how many are still to come, where a rollout stops old ones first.
    """

    targets: tuple[Target, ...] = ()
    by_dns: bool = False
    draining: tuple[str, ...] = ()
    awaiting: int = 0


@dataclass(frozen=True)
class Update:
    """What an orchestrator that changes a service by itself says of it.

    `state` and `message` are about its last change of replicas, in its own words, and `began` when
    that was; all are empty where it made none. `wanted` replicas of `config_hash` are its goal, or
    as many as it thinks fit where that is None. `failures`: those that have failed, newest first.
    """

    state: str = ""
    message: str = ""
    began: str = ""
    wanted: int | None = None
    config_hash: str = ""
    failures: tuple[Replica, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """Everything that is known of a project at one moment.

    `services` and `revisions` (by service, newest first) are empty where only what runs was asked
    for. `routing` maps "service:port" to its list; `proxy_config` is the digest of the
    configuration that the proxy runs. `updates` is by service, empty under Compose. `mounts_gone`:
    files that the proxy has mounted and that are gone, since when nobody can look into it.
    """

    project: str
    services: tuple[Service, ...] = ()
    replicas: tuple[Replica, ...] = ()
    routing: Mapping[str, TargetList] = field(default_factory=dict)
    proxy_config: str | None = None
    revisions: Mapping[str, tuple[Revision, ...]] = field(default_factory=dict)
    updates: Mapping[str, Update] = field(default_factory=dict)
    mounts_gone: tuple[str, ...] = ()

    def of(self, service: str) -> tuple[Replica, ...]:
        """The replicas of `service`, lowest number first."""
        mine = (replica for replica in self.replicas if replica.service == service)
        return tuple(sorted(mine, key=lambda replica: (replica.number, replica.name)))

    @property
    def proxy(self) -> Replica | None:
        """The proxy's container; a running one where there are several."""
        proxies = [replica for replica in self.replicas if replica.is_proxy]
        return max(proxies, key=lambda replica: replica.is_live, default=None)

    def lists(self, replica: Replica) -> bool:
        """Whether the proxy's list names this replica, wherever it is now: one that Docker is
        starting again has no address for a moment, and gets traffic in the next.
        """
        routes = self.routing.get(f"{replica.service}:{replica.port}")
        named = {target.name for target in routes.targets} if routes else set()
        return replica.name in named or self.routes_to(replica)

    def routes_to(self, replica: Replica) -> bool:
        """Whether the proxy sends requests to this replica."""
        if replica.port is None:
            return False
        routes = self.routing.get(f"{replica.service}:{replica.port}")
        if routes is None:
            return False
        if routes.by_dns:
            return replica.is_live and not (
                replica.draining or replica.state in (RESTARTING, STARTING)
            )
        return any(
            target.address == f"{address}:{replica.port}"
            for target in routes.targets
            for address in replica.addresses
        )


def unix_seconds(text: str) -> float:
    """Docker's time, with up to nine decimals, of which Python's parser takes six.

    >>> unix_seconds("1970-01-01T00:00:01.5Z"), unix_seconds("0001-01-01T00:00:00Z")
    (1.5, 0)
    """
    if text.startswith("0001-"):
        return 0
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")
