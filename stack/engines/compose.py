"""The Compose engine: one project, as it is. `ps` needs no more than this, and imports no more."""

import json
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from stack import composefile, runner, topology
from stack.composefile import ComposeFile
from stack.engines import Check
from stack.engines.engine_api import EngineApi
from stack.engines.ports import conflicts
from stack.model import NAMESPACE_LABEL, Replica, Snapshot

if TYPE_CHECKING:
    from stack.engines.compose_verbs import ComposeVerbs


class ComposeEngine:
    """One project on the engine that DOCKER_HOST or the Docker context names.

    `project` overrides the name that Compose would take; `begun` is a connection to the engine
    that has been begun already; `registry` is where images are pushed.
    """

    def __init__(
        self,
        project: str | None = None,
        begun: runner.Pipe | None = None,
        registry: str | None = None,
    ) -> None:
        self._begun = begun
        self.registry = registry
        self.compose = ("docker", "compose", *(("--project-name", project) if project else ()))
        self._given = project

    @cached_property
    def api(self) -> EngineApi:
        return EngineApi(self._begun)

    @cached_property
    def file(self) -> ComposeFile:
        return composefile.load(self.compose, {})

    @cached_property
    def project(self) -> str:
        return self._given or composefile.project_name(self.compose)

    @cached_property
    def id(self) -> str:
        return str(self.api.info()["ID"])

    @cached_property
    def verbs(self) -> "ComposeVerbs":
        # `ps` does without.
        from stack.engines.compose_verbs import ComposeVerbs

        return ComposeVerbs(self)

    def memory_bytes(self, replicas: tuple[Replica, ...]) -> dict[str, int]:
        return self.api.memory_bytes(replicas)

    publishes = True

    def publish(self, proxy: Replica, data: bytes) -> None:
        self.api.put_archive(proxy.id, topology.DIRECTORY, topology.archive(data))

    def published(self, proxy: Replica) -> bytes | None:
        data = self.api.archive(proxy.id, f"{topology.DIRECTORY}/{topology.NAME}")
        return topology.extracted(data) if data else None

    def proxy_log(self, proxy: Replica, since: float) -> str | None:
        argv = ("docker", "logs", "--timestamps", "--since", f"{since:.6f}", proxy.id)
        return runner.read(argv)

    def checks(self) -> tuple[Check, ...]:
        return ()

    def observe(self) -> Snapshot:
        """What runs. Knows nothing of the Compose file but the project's name."""
        return _observe(self.api, self.project)

    def stale_secrets(self, snapshot: Snapshot) -> list[str]:
        """Secrets of which the running proxy sees another file than the one that is here: an
        editor has put a new file into the old one's place, and a mount follows the old one.
        """
        proxy, service = snapshot.proxy, next((s for s in self.file.services if s.is_proxy), None)
        names = [name for name in service.secrets if name in self.file.secrets] if service else []
        if not (proxy and proxy.is_ready and names and self.api.is_local):
            return []
        said = runner.read(("docker", "exec", proxy.name, "sha256sum", *map(_inside, names)))
        seen = {line.split()[1]: line.split()[0] for line in said.splitlines()}
        return [
            name
            for name in names
            if seen.get(_inside(name))
            != sha256(Path(self.file.secrets[name]).read_bytes()).hexdigest()
        ]

    def runs_on_swarm(self) -> bool:
        """Whether a stack of this name runs here that is Swarm's."""
        label = f"{NAMESPACE_LABEL}={self.project}"
        return bool(self.api.json("/containers/json", filters=json.dumps({"label": [label]})))

    def ports_in_use(self) -> list[str]:
        """Ports that the Compose file publishes and somebody else has, a sentence each."""
        ours = {replica.name for replica in self.observe().replicas}
        return conflicts(self.api, self.file.services, lambda name: name in ours)

    def urls(self) -> list[str]:
        """Where the proxy answers; nowhere if it publishes no fixed port."""
        services = sorted(self.file.services, key=lambda service: not service.is_proxy)
        published = [(one, port) for one in services for port in one.published]
        if not published:
            return []
        service, (host, port) = published[0]
        scheme = "https" if service.is_tls else "http"
        # Listening on every address is reached on this one.
        local = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
        named = [one for one in service.hosts if "*" not in one]
        name = local if local in named or not named else named[0]
        return [f"{scheme}://{name}:{port}/"]


def _inside(secret: str) -> str:
    return f"/run/secrets/{secret}"


def _observe(api: EngineApi, project: str) -> Snapshot:
    snapshot = Snapshot(project, replicas=api.replicas(project))
    if snapshot.proxy is None:
        return snapshot
    routing, proxy_config = api.routing(snapshot.proxy)
    if not routing and (gone := api.mounts_gone(snapshot.proxy.id)):
        return replace(snapshot, mounts_gone=tuple(gone))
    draining = {name for routes in routing.values() for name in routes.draining}
    replicas = tuple(
        replace(replica, draining=replica.is_live and replica.name in draining)
        for replica in snapshot.replicas
    )
    return replace(snapshot, routing=routing, proxy_config=proxy_config, replicas=replicas)
