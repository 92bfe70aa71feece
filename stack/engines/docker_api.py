"""What Docker knows, read through its SDK. Nothing in here changes anything."""

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound

from stack import model
from stack.composefile import PORT_LABEL, PROXY_LABEL
from stack.errors import EngineUnavailable, NotPermitted, StackError
from stack.model import Replica, Target, TargetList
from stack.plan import PROJECT_LABEL, SERVICE_LABEL
from stack.revision import digest

TIMEOUT_S = 15
REVISION_LABEL = "org.opencontainers.image.revision"
DISPOSABLE_LABEL = "stack.disposable"
PROXY_DIRECTORY = "/var/lib/proxy/current/."


class DockerApi:
    """A connection to the engine that DOCKER_HOST or the current Docker context names.

    Raises EngineUnavailable where none answers, NotPermitted where this user may not ask.
    """

    def __init__(self) -> None:
        with _translated():
            self.api = docker.from_env(timeout=TIMEOUT_S).api

    @property
    def address(self) -> str:
        return str(self.api.base_url)

    def replicas(self, project: str) -> tuple[Replica, ...]:
        """All containers of the project that Compose made as part of a service."""
        filters = {"label": [f"{PROJECT_LABEL}={project}", "com.docker.compose.oneoff=False"]}
        with _translated():
            listed = self.api.containers(all=True, filters=filters)
            return tuple(
                replica for container in listed if (replica := self._replica(container["Id"]))
            )

    def _replica(self, container_id: str) -> Replica | None:
        try:
            return replica_of(self.api.inspect_container(container_id))
        except NotFound:
            return None  # removed since it was listed

    def routing(self, proxy: Replica) -> tuple[dict[str, TargetList], str | None]:
        """The proxy's target lists, and the digest of the configuration that it runs."""
        try:
            with _translated():
                chunks, _ = self.api.get_archive(proxy.id, PROXY_DIRECTORY)
                archive = tarfile.open(fileobj=io.BytesIO(b"".join(chunks)))
        except NotFound:
            return {}, None
        files = {
            member.name.removeprefix("./"): file.read()
            for member in archive
            if (file := archive.extractfile(member))
        }
        lists = {
            name.removeprefix("targets/"): target_list(data.decode())
            for name, data in files.items()
            if name.startswith("targets/")
        }
        settings = {name: data for name, data in files.items() if not name.startswith("targets/")}
        return lists, digest(settings)

    def memory_bytes(self, replicas: tuple[Replica, ...]) -> dict[str, int]:
        """Memory of each running replica by its id, page cache not counted, as `docker stats`."""
        running = [replica.id for replica in replicas if replica.is_live]
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(running, pool.map(self._memory_bytes, running), strict=True))

    def _memory_bytes(self, container_id: str) -> int:
        try:
            with _translated():
                stats = self.api.stats(container_id, stream=False, one_shot=True)
        except NotFound:
            return 0
        memory = stats.get("memory_stats", {})
        details = memory.get("stats", {})
        # cgroup v1 has the first, v2 the second.
        cache = details.get("total_inactive_file", details.get("inactive_file", 0))
        return max(0, memory.get("usage", 0) - cache)

    def networks(self, project: str) -> tuple[str, ...]:
        with _translated():
            found = self.api.networks(filters={"label": f"{PROJECT_LABEL}={project}"})
        return tuple(sorted(network["Name"] for network in found))

    def volumes(self, project: str) -> dict[str, bool]:
        """The project's volumes, and of each whether nothing is lost with it."""
        with _translated():
            found = self.api.volumes(filters={"label": f"{PROJECT_LABEL}={project}"})
        return {
            volume["Name"]: (volume.get("Labels") or {}).get(DISPOSABLE_LABEL) == "true"
            for volume in found.get("Volumes") or []
        }

    def has_image(self, reference: str) -> bool:
        try:
            with _translated():
                self.api.inspect_image(reference)
        except NotFound:
            return False
        return True

    def ask_registry(self, reference: str) -> None:
        """Return if the image's registry has it and would let us pull it.

        Raises docker.errors.APIError with the registry's status otherwise.
        """
        self.api.inspect_distribution(reference)

    def info(self) -> dict[str, Any]:
        with _translated():
            return dict(self.api.info())


def replica_of(inspected: dict[str, Any]) -> Replica:
    """A replica from what `docker inspect` says of its container."""
    labels = inspected["Config"]["Labels"] or {}
    networks = inspected["NetworkSettings"]["Networks"] or {}
    image = inspected["Config"]["Image"]
    port = labels.get(PORT_LABEL, "")
    return Replica(
        id=inspected["Id"],
        name=inspected["Name"].removeprefix("/"),
        service=labels.get(SERVICE_LABEL, ""),
        number=int(labels.get("com.docker.compose.container-number", 0)),
        state=_state(inspected["State"]),
        revision=labels.get(REVISION_LABEL) or image.rpartition(":")[2],
        config_hash=labels.get("com.docker.compose.config-hash", ""),
        addresses=tuple(n["IPAddress"] for n in networks.values() if n["IPAddress"]),
        restarts=inspected.get("RestartCount", 0),
        created_at=_unix_seconds(inspected["Created"]),
        started_at=_unix_seconds(inspected["State"]["StartedAt"]),
        exit_code=inspected["State"].get("ExitCode", 0),
        port=int(port) if port.isdecimal() else None,
        is_proxy=labels.get(PROXY_LABEL) == "true",
    )


def target_list(text: str) -> TargetList:
    """A target list from the file that nginx includes.

    >>> target_list("server 10.0.0.2:80 max_fails=0; # a-1").targets
    (Target(address='10.0.0.2:80', name='a-1'),)
    """
    targets, draining, by_dns = [], [], False
    for line in text.splitlines():
        statement, _, comment = line.partition("#")
        words = statement.rstrip(" ;").split()
        if words and "resolve" in words:
            by_dns = True
        elif words and words[0] == "server" and "down" not in words:
            targets.append(Target(words[1], comment.strip()))
        elif comment.startswith(" draining "):
            draining.append(comment.split()[1])
    return TargetList(tuple(targets), by_dns, tuple(draining))


def _state(state: dict[str, Any]) -> str:
    status = state["Status"]
    if status in ("dead", "removing"):
        return model.EXITED
    if status != model.RUNNING:
        return str(status)
    health = (state.get("Health") or {}).get("Status", "none")
    return model.RUNNING if health == "none" else str(health)


def _unix_seconds(text: str) -> float:
    """Docker's times have nanoseconds, which Python's parser does not take."""
    if text.startswith("0001-"):
        return 0
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the SDK raises into our errors, but for NotFound, which callers expect."""
    try:
        yield
    except NotFound:
        raise
    except APIError as error:
        raise StackError(f"the engine refused: {error.explanation or error}") from error
    except (DockerException, OSError) as error:
        raise unreachable(error) from error


def unreachable(error: BaseException) -> StackError:
    """The error to show when the engine could not be asked."""
    text = str(error)
    if "PermissionError" in text or "Permission denied" in text:
        return NotPermitted(
            "this user may not use the Docker engine. Add it to the group: "
            "sudo usermod -aG docker $USER, then log in again"
        )
    if "timed out" in text.lower():
        return EngineUnavailable(f"the Docker engine did not answer within {TIMEOUT_S} s")
    return EngineUnavailable("the Docker engine does not answer. Start it: make engine")
