"""A Swarm of the test's own nodes, a registry on the first, and a stack on it."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.e2e.harness import ROOT, Stack, eventually
from tests.e2e.lab import make_lab
from tests.e2e.rig import SUBNET, Node, enter, nodes_on_a_wire

REGISTRY, REGISTRY_PORT = "registry", 5000
# Nodes have no way out to the world: what is built there starts from an image that has all
# packages. The old bytecode has to go, or it would be run.
DOCKERFILE = """FROM {base}
USER 0:0
COPY . /srv
RUN python3 -m compileall -q -f --invalidation-mode unchecked-hash app
USER 10001:10001
EXPOSE 8000
ARG REVISION=dev
ENV REVISION=${{REVISION}}
"""


@contextmanager
def swarm(count: int, managers: int = 1, ca: Path | None = None) -> Iterator[list[Node]]:
    """`count` nodes, the first `managers` of which are managers. `ca`: whom they trust to sign a
    registry's certificate; without, they ask for none.
    """
    options = () if ca else ("--insecure-registry", SUBNET.format("0/24"))
    env = {"SSL_CERT_FILE": str(ca)} if ca else {}
    with nodes_on_a_wire(count, *options, **env) as nodes:
        first = nodes[0]
        first.docker("swarm", "init", "--advertise-addr", first.address)
        for number, node in enumerate(nodes[1:], start=2):
            role = "manager" if number <= managers else "worker"
            token = first.docker("swarm", "join-token", "--quiet", role)
            join = ("swarm", "join", "--advertise-addr", node.address, "--token", token)
            node.docker(*join, f"{first.address}:2377")
        yield nodes


def registry_image(directory: Path) -> str:
    """The official registry server if it is here; else from Debian's package, or pulled where that
    cannot be made.
    """
    found = ("docker", "image", "inspect", "registry:2")
    if subprocess.run(found, capture_output=True, check=False).returncode == 0:
        return "registry:2"
    # It notes its choice in the .env of where it runs.
    script = (str(ROOT / "scripts" / "debian-base.sh"), "registry")
    if subprocess.run(script, cwd=directory, check=False).returncode == 0:
        return "stack-base/registry:2"
    subprocess.run(("docker", "pull", "registry:2"), check=True)
    return "registry:2"


def start_registry(node: Node, image: str, *options: str, port: int = REGISTRY_PORT) -> str:
    """Start a registry on the node; return its name: HOST:PORT."""
    node.take_images([image])
    address = f"REGISTRY_HTTP_ADDR={node.address}:{port}"
    run = ("run", "--detach", "--name", REGISTRY, "--network", "host", "--env", address)
    node.docker(*run, *options, image)
    return f"{node.address}:{port}"


def stack_on(nodes: Sequence[Node], directory: Path, stack: Stack) -> Stack:
    """Let the stack, with sources of its own, run on the Swarm of these nodes, watched by the
    oracle. Its images are built on the first node.
    """
    make_lab(directory, stack)
    settings = json.loads(stack.compose("config", "--format", "json"))
    nginx = settings["services"]["proxy"]["build"]["args"].get("NGINX_IMAGE", "nginx:1.30")
    stack.compose("build")
    base = f"{stack.project}-web:dev"
    first = nodes[0]
    first.take_images([base, nginx])
    (stack.directory / "web" / "Dockerfile").write_text(DOCKERFILE.format(base=base))
    stack.docker_host = first.host
    stack.engine = "swarm"
    stack.namespace = first.namespace
    stack.host = first.address
    return stack


def wait_for_nodes(manager: Node, **states: str) -> None:
    """Wait until nodes are in these states: node2="ready"."""

    def are() -> bool:
        lines = manager.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
        found = dict(line.lower().split() for line in lines.splitlines())
        return all(found.get(name) == state for name, state in states.items())

    eventually(are, f"{states}", within_s=60)


def answers(node: Node, stack: Stack, times: int = 1) -> bool:
    """Whether the proxy on this node answers, so often in a row."""

    def ask() -> list[int]:
        enter(node.namespace)
        url = f"http://{node.address}:{stack.port}/"
        return [requests.get(url, timeout=10).status_code for _ in range(times)]

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result() == [200] * times
