"""The Compose engine: one project, as it is. `ps` needs no more than this, and imports no more."""

import socket
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from stack import composefile, runner
from stack.composefile import ComposeFile
from stack.engines.engine_api import EngineApi
from stack.model import Snapshot


class ComposeEngine:
    """One project on the engine that DOCKER_HOST or the Docker context names.

    `project` overrides the name that Compose would take; `begun` is a connection to the engine
    that has been begun already.
    """

    def __init__(self, project: str | None = None, begun: runner.Pipe | None = None) -> None:
        self._begun = begun
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

    def observe(self) -> Snapshot:
        """What runs. Knows nothing of the Compose file but the project's name."""
        return _observe(self.api, self.project)

    def ports_in_use(self) -> list[str]:
        """Ports that the Compose file publishes and somebody else has, a sentence each."""
        users = self.api.published_ports()
        ours = {replica.name for replica in self.observe().replicas}
        # Of another machine's ports only the engine knows.
        local = Path(self.api.info()["DockerRootDir"]).is_dir()
        found = []
        for host, port in (pair for one in self.file.services for pair in one.published):
            user = users.get(port)
            if user in ours:
                continue
            if user or (local and _answers(host, port)):
                by = f"container {user}" if user else "a process that is not a container"
                found.append(
                    f"port {port} of {host} is in use by {by}. Choose another: "
                    "HTTP_PORT=8081 python -m stack up"
                )
        return found

    def url(self) -> str | None:
        """Where the proxy answers; None if it publishes no fixed port."""
        services = sorted(self.file.services, key=lambda service: not service.is_proxy)
        published = [port for service in services for port in service.published]
        if not published:
            return None
        host, port = published[0]
        # Listening on every address is reached on this one.
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}/"  # noqa: S104


def _observe(api: EngineApi, project: str) -> Snapshot:
    snapshot = Snapshot(project, replicas=api.replicas(project))
    if snapshot.proxy is None:
        return snapshot
    routing, proxy_config = api.routing(snapshot.proxy)
    draining = {name for routes in routing.values() for name in routes.draining}
    replicas = tuple(
        replace(replica, draining=replica.is_live and replica.name in draining)
        for replica in snapshot.replicas
    )
    return replace(snapshot, routing=routing, proxy_config=proxy_config, replicas=replicas)


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
