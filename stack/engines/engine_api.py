"""What there is, read from the engine's API. Nothing in here changes anything.

`docker system dial-stdio` carries the API: it is how the Docker command line itself talks to an
engine behind ssh, and it follows DOCKER_HOST and Docker contexts just as the commands of a plan
do. The SDK could read the same, but importing it takes longer than all of `docker compose ps`.
"""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from stack import model, runner
from stack.composefile import PORT_LABEL, PROXY_LABEL, guards
from stack.errors import LEADERLESS, NO_LEADER, EngineUnavailable, NotPermitted, StackError
from stack.model import (
    PREVIOUS,
    PROJECT_LABEL,
    SERVICE_LABEL,
    SETTINGS_LABEL,
    Replica,
    Revision,
    Target,
    TargetList,
    unix_seconds,
)
from stack.revision import digest

TIMEOUT_S = 15
REVISION_LABEL = "org.opencontainers.image.revision"
PROXY_DIRECTORY = "/var/lib/proxy/current/."


class EngineApi:
    """The engine that DOCKER_HOST or the current Docker context names.

    Every read raises EngineUnavailable where none answers, NotPermitted where this user may not
    ask. `begun` is a connection that has been begun already.
    """

    def __init__(self, begun: runner.Pipe | None = None) -> None:
        self._connection = _DialStdio(begun)

    def replicas(self, project: str) -> tuple[Replica, ...]:
        """All containers of the project that Compose made as part of a service."""
        labels = [f"{PROJECT_LABEL}={project}", "com.docker.compose.oneoff=False"]
        listed = self.json("/containers/json", all="true", filters=json.dumps({"label": labels}))
        inspected = (self.json(f"/containers/{container['Id']}/json") for container in listed)
        # None: removed since it was listed.
        return tuple(replica_of(container) for container in inspected if container)

    def routing(self, proxy: Replica) -> tuple[dict[str, TargetList], str | None]:
        """The proxy's target lists, and the digest of the configuration that it runs."""
        data = self._get(f"/containers/{proxy.id}/archive", path=PROXY_DIRECTORY)
        if data is None:
            return {}, None
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = {
                member.name.removeprefix("./"): file.read()
                for member in archive
                # Not what links point to: that is elsewhere.
                if member.isfile() and (file := archive.extractfile(member))
            }
        lists = {
            name.removeprefix("targets/"): target_list(data.decode())
            for name, data in files.items()
            if name.startswith("targets/")
        }
        given = {name: data for name, data in files.items() if not name.startswith("targets/")}
        return lists, digest(given)

    def mounts_gone(self, container: str) -> list[str]:
        """Files of this machine that a container has mounted, and that are not there any more. It
        goes on with them, but the engine finds no other file in it either.
        """
        mounts = (self.json(f"/containers/{container}/json") or {}).get("Mounts") or ()
        sources = [str(one["Source"]) for one in mounts if one["Type"] == "bind"]
        return [path for path in sources if self.is_local and not Path(path).exists()]

    def memory_bytes(self, replicas: tuple[Replica, ...]) -> dict[str, int]:
        """Memory of each running replica by its id, page cache not counted, as `docker stats`."""
        one_shot = {"stream": "false", "one-shot": "true"}
        found = (
            (replica.id, self.json(f"/containers/{replica.id}/stats", **one_shot))
            for replica in replicas
            if replica.is_live
        )
        return {container_id: _memory_bytes(stats) for container_id, stats in found if stats}

    def published_ports(self) -> dict[int, str]:
        """Which container publishes which port of the host, over all projects."""
        return {
            port["PublicPort"]: container["Names"][0].removeprefix("/")
            for container in self.json("/containers/json")
            for port in container.get("Ports") or ()
            if "PublicPort" in port
        }

    def volumes(self, project: str) -> dict[str, Mapping[str, str]]:
        """The project's volumes and their labels."""
        found = self.json("/volumes", filters=_of(project))["Volumes"] or ()
        return {volume["Name"]: volume["Labels"] or {} for volume in found}

    def networks(self, project: str) -> tuple[str, ...]:
        """The names of the project's networks."""
        return tuple(network["Name"] for network in self.json("/networks", filters=_of(project)))

    def image_id(self, reference: str) -> str:
        """The id of an image; empty if the engine does not have it."""
        image = self.json(f"/images/{quote(reference)}/json")
        return str(image["Id"]) if image else ""

    def image_labels(self, reference: str) -> Mapping[str, str]:
        """The labels of an image; empty if the engine does not have it."""
        image = self.json(f"/images/{quote(reference)}/json")
        return (image["Config"].get("Labels") or {}) if image else {}

    def image_digests(self, reference: str) -> list[str]:
        """The names by digest under which registries have an image: HOST/NAME@sha256:..."""
        image = self.json(f"/images/{quote(reference)}/json")
        return list(image.get("RepoDigests") or ()) if image else []

    def revisions(self, repository: str) -> tuple[Revision, ...]:
        """The tags of an image repository, newest first."""
        of_repository = json.dumps({"reference": [repository]})
        images = self.json("/images/json", filters=of_repository) or ()
        found = []
        for image in images:
            tags = [tag.rpartition(":") for tag in image.get("RepoTags") or ()]
            names = [tag for name, _, tag in tags if name == repository]
            found += [
                Revision(
                    name,
                    str(image["Id"]),
                    float(image["Created"]),
                    has_settings=bool((image.get("Labels") or {}).get(SETTINGS_LABEL)),
                    is_previous=PREVIOUS in names,
                )
                for name in names
                if name != PREVIOUS
            ]
        return tuple(sorted(found, key=lambda one: one.created_at, reverse=True))

    def info(self) -> dict[str, Any]:
        """What `docker info` says."""
        return dict(self.json("/info"))

    @property
    def is_local(self) -> bool:
        """Whether the engine is on this machine."""
        return Path(self.info()["DockerRootDir"]).is_dir()

    def json(self, resource: str, **query: str) -> Any:
        """What the engine answers to GET; None for 404."""
        data = self._get(resource, **query)
        return None if data is None else json.loads(data)

    def put_archive(self, container: str, directory: str, data: bytes) -> None:
        """Put the files of a tar where `docker cp - CONTAINER:DIRECTORY` would."""
        path = f"/containers/{container}/archive"
        if self._ask("PUT", path, {"path": directory}, data) is None:
            raise StackError(f"the engine has no {directory} in {container[:12]}")

    def archive(self, container: str, path: str) -> bytes | None:
        """A tar with the file, as `docker cp CONTAINER:PATH -` writes it; None if there is none."""
        return self._get(f"/containers/{container}/archive", path=path)

    def _get(self, resource: str, **query: str) -> bytes | None:
        """The answer's body; None for 404."""
        return self._ask("GET", resource, query)

    def _ask(
        self, method: str, resource: str, query: Mapping[str, str], body: bytes | None = None
    ) -> bytes | None:
        try:
            path = resource + ("?" + urlencode(query) if query else "")
            self._connection.request(method, path, body)
            response = self._connection.getresponse()
            data = response.read()
        except TimeoutError:
            # The next question needs another connection: this one still waits for its answer.
            self._connection.close()
            raise EngineUnavailable(
                f"the Docker engine did not answer within {TIMEOUT_S} s"
            ) from None
        except (HTTPException, OSError):
            complaint = self._connection.complaint()
            self._connection.close()
            raise _unreachable(complaint) from None
        if response.status == HTTPStatus.NOT_FOUND:
            return None
        if response.status != HTTPStatus.OK:
            said = data[:300].decode(errors="replace")
            if any(text in said for text in LEADERLESS):
                raise EngineUnavailable(f"{NO_LEADER} ({said.strip()})")
            raise StackError(f"the engine refused {method} {resource}: {response.status} {said}")
        return data


class _DialStdio(HTTPConnection):
    """HTTP over the standard input and output of `docker system dial-stdio`."""

    def __init__(self, begun: runner.Pipe | None) -> None:
        super().__init__("docker", timeout=TIMEOUT_S)
        self._begun = begun
        self._pipe: runner.Pipe | None = None

    def connect(self) -> None:
        # Only once: after a break, or where it could not be begun, another is needed.
        self._pipe, self._begun = self._begun or runner.dial_engine(), None
        self.sock = self._pipe.socket
        self.sock.settimeout(TIMEOUT_S)

    def complaint(self) -> str:
        """What the command said when it ended."""
        return self._pipe.complaint() if self._pipe else ""


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
        revision=_revision(labels, image),
        # As Compose saw it: image stores differ in what they call a container's image.
        image_id=labels.get("com.docker.compose.image", ""),
        config_hash=labels.get("com.docker.compose.config-hash", ""),
        addresses=tuple(n["IPAddress"] for n in networks.values() if n["IPAddress"]),
        restarts=inspected.get("RestartCount", 0),
        created_at=unix_seconds(inspected["Created"]),
        started_at=unix_seconds(inspected["State"]["StartedAt"]),
        exit_code=inspected["State"].get("ExitCode", 0),
        oom_killed=bool(inspected["State"].get("OOMKilled")),
        port=int(port) if port.isdecimal() else None,
        is_proxy=labels.get(PROXY_LABEL) == "true",
        guards=guards(_environment(inspected)) if labels.get(PROXY_LABEL) == "true" else {},
    )


def _environment(inspected: dict[str, Any]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in inspected["Config"].get("Env") or ())
    return {name: value for name, _, value in pairs}


def _revision(labels: Mapping[str, str], image: str) -> str:
    """The tag, if the image is one of the project's own; whatever else it says of itself."""
    repository, _, tag = image.rpartition(":")
    project, service = labels.get(PROJECT_LABEL, ""), labels.get(SERVICE_LABEL, "")
    if repository == f"{project}-{service}":
        return tag
    return labels.get(REVISION_LABEL) or tag


def target_list(text: str) -> TargetList:
    """A target list from the file that nginx includes.

    >>> target_list("server 10.0.0.2:80 max_fails=0; # a-1").targets
    (Target(address='10.0.0.2:80', name='a-1'),)
    """
    targets, draining, by_dns, awaiting = [], [], False, 0
    for line in text.splitlines():
        statement, _, comment = line.partition("#")
        words = statement.rstrip(" ;").split()
        if words and "resolve" in words:
            by_dns = True
        elif words and words[0] == "server" and "down" not in words:
            targets.append(Target(words[1], comment.strip()))
        elif comment.startswith(" draining "):
            draining.append(comment.split()[1])
        elif comment.startswith(" awaiting "):
            awaiting = int(comment.split()[1])
    return TargetList(tuple(targets), by_dns, tuple(draining), awaiting)


def _state(state: dict[str, Any]) -> str:
    status = state["Status"]
    if status in ("dead", "removing"):
        return model.EXITED
    if status != model.RUNNING:
        return str(status)
    health = (state.get("Health") or {}).get("Status", "none")
    return model.RUNNING if health == "none" else str(health)


def _memory_bytes(stats: dict[str, Any]) -> int:
    memory = stats.get("memory_stats", {})
    details = memory.get("stats", {})
    # cgroup v1 has the first, v2 the second.
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return int(max(0, memory.get("usage", 0) - cache))


def _of(project: str) -> str:
    return json.dumps({"label": [f"{PROJECT_LABEL}={project}"]})


def _unreachable(complaint: str) -> StackError:
    if "permission denied" in complaint.lower():
        return NotPermitted(
            "this user may not use the Docker engine. Add it to the group: "
            "sudo usermod -aG docker $USER, then log in again"
        )
    said = complaint.strip() or "it closed the connection"
    elsewhere = os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT")
    what_next = (
        f"Start it there ({elsewhere}), or choose another by DOCKER_HOST or DOCKER_CONTEXT"
        if elsewhere
        else "Start it: make engine"
    )
    return EngineUnavailable(f"the Docker engine does not answer ({said}). {what_next}")
