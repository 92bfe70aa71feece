"""Machines of the test's own: network namespaces, each with a Docker engine in it, on one wire."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import APIError
from pyroute2 import IPRoute, netns

from tests.e2e.harness import engine, eventually

# Nodes have the addresses 10.77.0.1, 10.77.0.2 and so on. Nobody outside reaches them.
SUBNET = "10.77.0.{}"

# How long a namespace lives if nobody removes it.
LIFE_S = 3600
# Before a command that is to end when whoever has started it ends, however that comes about.
TOGETHER = ("setpriv", "--pdeathsig", "TERM")


def enter(namespace: Path) -> None:
    """Move this thread, and the threads that it starts, into a network namespace."""
    netns.setns(str(namespace))


@dataclass
class Namespace:
    """A network namespace with a host name, kept alive by a process of its own."""

    name: str
    holder: subprocess.Popen[bytes]

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.holder.pid}/ns/net")

    @property
    def inside(self) -> tuple[str, ...]:
        """What to put before a command that is to run in it."""
        return ("nsenter", f"--target={self.holder.pid}", "--net", "--uts")

    def remove(self) -> None:
        self.holder.kill()
        self.holder.wait()


def namespace(name: str) -> Namespace:
    """Make a namespace in which nothing is up but the loopback."""
    script = f'hostname "$1" && exec sleep {LIFE_S}'
    holder = subprocess.Popen(
        (*TOGETHER, "unshare", "--net", "--uts", "sh", "-c", script, "sh", name)
    )
    made = Namespace(name, holder)
    comm = Path(f"/proc/{holder.pid}/comm")
    eventually(lambda: comm.read_text() == "sleep\n", "the namespace is there")
    _in(made, lambda ip: ip.link("set", index=1, state="up"))
    return made


@dataclass
class Node:
    """An engine in a namespace; `start` makes both, `remove` leaves nothing of them. `options` and
    `env` are dockerd's.
    """

    name: str = "node1"
    address: str = ""
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="stack-node-")))
    process: subprocess.Popen[bytes] | None = None
    network: Namespace | None = None

    @property
    def namespace(self) -> Path:
        assert self.network
        return self.network.path

    @property
    def host(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    def start(self) -> None:
        """Start the engine, and the namespace with it if it is not there."""
        self.network = self.network or namespace(self.name)
        with (self.directory / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                (
                    *(*TOGETHER, *self.network.inside, "dockerd", *self.options),
                    *("--host", self.host, "--pidfile", f"{self.directory}/pid"),
                    *("--data-root", f"{self.directory}/data"),
                    *("--exec-root", f"{self.directory}/exec"),
                ),
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
                start_new_session=True,
            )
        eventually(self.answers, "the engine answers", within_s=60)

    def stop(self) -> None:
        """Stop the engine; with live-restore, containers go on."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
            self.process = None

    def kill(self) -> None:
        """What a power failure does: engine, containers and all are gone at once."""
        assert self.process
        client = engine(self.host)
        listed = client.containers.list(ignore_removed=True)
        containers = [one.attrs["State"]["Pid"] for one in listed]
        client.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        # Who looks after a container is in no group of the engine's.
        for pid in (*containers, *self._shims()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def _shims(self) -> list[int]:
        ours = f"{self.directory}/exec/containerd/containerd.sock".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"shim" in words[0] and ours in words:
                    found.append(int(path.parent.name))
        return found

    def docker(self, *arguments: str) -> str:
        """Run `docker` on this node, which has to succeed."""
        argv = ("docker", "--host", self.host, *arguments)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stderr}"
        return done.stdout.strip()

    def answers(self) -> bool:
        argv = ("docker", "--host", self.host, "info")
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def take_images(self, names: Sequence[str]) -> None:
        """Copy images from this machine's engine."""
        with subprocess.Popen(("docker", "save", *names), stdout=subprocess.PIPE) as source:
            subprocess.run(
                ("docker", "--host", self.host, "load", "--quiet"),
                stdin=source.stdout,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        assert source.returncode == 0

    def remove(self) -> None:
        if self.process:
            client = engine(self.host)
            for container in client.containers.list(all=True, ignore_removed=True):
                # Swarm may just be doing so, and what it makes anew ends with the engine.
                with contextlib.suppress(APIError):
                    container.remove(force=True)
            client.close()
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
        if self.network:
            self.network.remove()
        # Docker leaves some of its mounts: its data with live-restore, namespaces with Swarm.
        for line in Path("/proc/self/mounts").read_text().splitlines():
            point = line.split()[1]
            if point.startswith(f"{self.directory}/"):
                subprocess.run(("umount", "--lazy", point), check=False)
        # containerd lets go of its own mounts a moment later.
        deadline = time.monotonic() + 10
        while self.directory.exists() and time.monotonic() < deadline:
            shutil.rmtree(self.directory, ignore_errors=True)
            time.sleep(0.2)


@contextmanager
def nodes_on_a_wire(count: int, *options: str, **env: str) -> Iterator[list[Node]]:
    """`count` nodes with engines that run, and a network between them."""
    with ExitStack() as cleanup:
        switch = namespace("switch")
        cleanup.callback(switch.remove)
        _in(switch, _make_bridge)
        nodes = [
            Node(f"node{number}", SUBNET.format(number), options, env)
            for number in range(1, count + 1)
        ]
        for node in nodes:
            cleanup.callback(node.remove)
            node.network = namespace(node.name)
            _plug_in(switch, node)
            node.start()
        yield nodes


def _make_bridge(ip: IPRoute) -> None:
    ip.link("add", ifname="wire", kind="bridge")
    ip.link("set", ifname="wire", state="up")


def _plug_in(switch: Namespace, node: Node) -> None:
    """A cable between the switch and the node."""
    network = node.network
    assert network

    def at_switch(ip: IPRoute) -> None:
        peer = {"ifname": "eth0", "net_ns_pid": network.holder.pid}
        ip.link("add", ifname=node.name, kind="veth", peer=peer)
        (wire,) = ip.link_lookup(ifname="wire")
        ip.link("set", ifname=node.name, master=wire, state="up")

    def at_node(ip: IPRoute) -> None:
        (eth0,) = ip.link_lookup(ifname="eth0")
        ip.addr("add", index=eth0, address=node.address, prefixlen=24)
        ip.link("set", index=eth0, state="up")

    _in(switch, at_switch)
    _in(network, at_node)


def _in(network: Namespace, do: Callable[[IPRoute], object]) -> None:
    """Do something in a namespace, from a thread of its own: it never comes back."""

    def there() -> None:
        enter(network.path)
        with IPRoute() as ip:
            do(ip)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(there).result()
