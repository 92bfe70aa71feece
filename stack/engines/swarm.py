"""The Swarm engine: one project, as it is on a cluster of Docker engines."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stack import bases, runner
from stack.composefile import ComposeFile
from stack.engines import Check, Finding, swarm_reads
from stack.engines.compose import ComposeEngine
from stack.engines.engine_api import EngineApi
from stack.engines.ports import conflicts
from stack.engines.swarm_model import Cluster
from stack.errors import EngineUnavailable
from stack.model import NAMESPACE_LABEL, Replica, Snapshot
from stack.plan import Command

if TYPE_CHECKING:
    from stack.engines.swarm_verbs import SwarmVerbs

# Where the kernel says that it has IPVS, and where one that can load it has the module.
IPVS = Path("/proc/net/ip_vs")
IPVS_MODULE = "/lib/modules/*/kernel/net/netfilter/ipvs/ip_vs.ko*"


class SwarmEngine:
    """One project on the Swarm whose manager DOCKER_HOST or the Docker context names.

    Arguments as for ComposeEngine; Compose reads the file and builds here, too.
    """

    def __init__(
        self,
        project: str | None = None,
        begun: runner.Pipe | None = None,
        registry: str | None = None,
    ) -> None:
        self.local = ComposeEngine(project, begun, registry)

    @property
    def api(self) -> EngineApi:
        return self.local.api

    @property
    def file(self) -> ComposeFile:
        return self.local.file

    @property
    def project(self) -> str:
        return self.local.project

    @cached_property
    def id(self) -> str:
        swarm_reads.require_manager(self.api)
        return str(self.api.info()["Swarm"]["Cluster"]["ID"])

    @cached_property
    def verbs(self) -> "SwarmVerbs":
        # `ps` does without.
        from stack.engines.swarm_verbs import SwarmVerbs

        return SwarmVerbs(self)

    def observe(self) -> Snapshot:
        """What runs. Knows nothing of the Compose file but the project's name."""
        # Once is enough to know that it can be asked.
        _ = self.id
        return swarm_reads.observe(self.api, self.project).snapshot

    def cluster(self) -> Cluster:
        """What runs, how it was deployed, and on which nodes."""
        return swarm_reads.read(self.api, self.project)

    def registry(self, cluster: Cluster) -> str | None:
        """Where images are pushed: as was asked for, or where those that run come from."""
        if self.local.registry:
            return self.local.registry
        for name, service in cluster.services.items():
            repository = service.image.partition("@")[0].rpartition(":")[0]
            host, _, ours = repository.rpartition("/")
            if host and ours == f"{self.project}-{name}":
                return host
        return None

    def memory_bytes(self, replicas: tuple[Replica, ...]) -> dict[str, int]:
        """Of replicas on the node that is talked to; of the others it cannot be known from here."""
        mine = json.dumps({"label": [f"{NAMESPACE_LABEL}={self.project}"]})
        here = {
            one["Labels"]["com.docker.swarm.task.id"]: one["Id"]
            for one in self.api.json("/containers/json", filters=mine)
        }
        found = self.api.memory_bytes(
            tuple(replace(one, id=here[one.id]) for one in replicas if one.id in here)
        )
        return {task: found[container] for task, container in here.items() if container in found}

    def ports_in_use(self) -> list[str]:
        names = "|".join(re.escape(one.name) for one in self.file.services)
        ours = re.compile(rf"{re.escape(self.project)}_({names})\.")
        return conflicts(self.api, self.file.services, lambda name: bool(ours.match(name)))

    def stale_secrets(self, snapshot: Snapshot) -> list[str]:  # noqa: ARG002 - as engines have it
        """None: those of a Swarm are copies, and cannot change."""
        return []

    def urls(self) -> list[str]:
        """Where each of the proxies answers."""
        proxies = [one for one in self.file.services if one.is_proxy]
        ports = [port for one in proxies for _, port in one.published]
        scheme = "https" if any(one.is_tls for one in proxies) else "http"
        cluster = self.cluster()
        addresses = {node.name: node.address for node in cluster.nodes}
        nodes = [one.node for one in cluster.snapshot.replicas if one.is_proxy and one.is_ready]
        return [
            f"{scheme}://{addresses[node]}:{port}/" for node in sorted(nodes) for port in ports[:1]
        ]

    # A proxy may be on a node that cannot be talked to.
    publishes = False

    def publish(self, proxy: Replica, data: bytes) -> None:
        """Nothing."""

    def published(self, proxy: Replica) -> bytes | None:  # noqa: ARG002 - as engines have it
        return None

    def proxy_log(self, proxy: Replica, since: float) -> str | None:  # noqa: ARG002 - likewise
        return None

    def checks(self) -> tuple[Check, ...]:
        return (
            Check("swarm", self._nodes, Command(("docker", "node", "ls"), "nodes and managers")),
            Check(
                "registry",
                self._registry,
                Command(("docker", "manifest", "inspect", "IMAGE"), "does the registry answer"),
            ),
            Check("ipvs", _ipvs, Command(("ls", str(IPVS)), "can every node publish the port")),
        )

    def _nodes(self) -> Iterator[Finding]:
        nodes = self.cluster().nodes
        managers = [node for node in nodes if node.role == "manager"]
        for node in nodes:
            if not node.is_ready:
                advice = f"start its engine, or, if it is gone: docker node rm --force {node.name}"
                yield Finding("swarm", f"node {node.name} ({node.role}) is down", 1, advice)
            elif not node.is_active:
                advice = f"to use it again: docker node update --availability active {node.name}"
                yield Finding("swarm", f"node {node.name} takes no replicas", 0, advice)
        down = sum(not node.is_ready for node in managers)
        spare = max(0, (len(managers) - 1) // 2 - down)
        found = f"nodes: {len(nodes)}; managers: {len(managers)}, of which {spare} can still fail"
        yield Finding("swarm", found)

    def _asked(self, registry: str) -> Finding:
        # Whether it has this image does not matter: it answers.
        answer = bases.ask_registry(f"{registry}/{self.project}-web:dev")
        if answer.verdict == bases.NO_REGISTRY:
            advice = "start it, or name another: --registry HOST:PORT"
            return Finding("registry", f"{registry} does not answer: {answer.detail}", 1, advice)
        if answer.verdict == bases.NOT_ALLOWED:
            advice = f"docker login {registry.partition('/')[0]}"
            return Finding("registry", f"{registry}: {answer.detail}", 77, advice)
        return Finding("registry", f"{registry} answers")

    def _registry(self) -> Iterator[Finding]:
        try:
            cluster = self.cluster()
        except EngineUnavailable:
            # The check before has said so.
            return
        registry = self.registry(cluster)
        if registry:
            yield self._asked(registry)
        elif len(cluster.nodes) > 1:
            advice = "the other nodes need one to get images from: --registry HOST:PORT"
            yield Finding("registry", "none", 1, advice)
        else:
            yield Finding("registry", "none; a single node needs none")


def has_ipvs() -> bool:
    """Whether this machine's kernel has it, or can load it."""
    return IPVS.exists() or any(Path("/").glob(IPVS_MODULE[1:]))


def _ipvs() -> Iterator[Finding]:
    # Of the kernels of other nodes nothing can be seen from here.
    if has_ipvs():
        yield Finding("ipvs", "this machine's kernel has it: stack.publish: ingress can be had")
    else:
        yield Finding("ipvs", "not in this machine's kernel: the proxy's nodes publish its port")
