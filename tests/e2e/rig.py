"""A node of the test's own: a network namespace with a Docker engine of its own in it."""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.harness import engine, eventually

CLONE_NEWNET = 0x40000000


def enter(namespace: Path) -> None:
    """Move this thread, and the threads that it starts, into a network namespace."""
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(descriptor)


@dataclass
class Node:
    """An engine in a namespace; `start` makes both, `remove` leaves nothing of them."""

    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="stack-node-")))
    process: subprocess.Popen[bytes] | None = None
    # Whoever keeps the namespace alive while nothing else runs in it.
    holder: subprocess.Popen[bytes] | None = None

    @property
    def namespace(self) -> Path:
        assert self.holder
        return Path(f"/proc/{self.holder.pid}/ns/net")

    @property
    def host(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    def start(self) -> None:
        """Start the engine, and the namespace with it if it is not there."""
        if not self.holder:
            self.holder = subprocess.Popen(("unshare", "--net", "sleep", "600"))
            ours = Path("/proc/self/ns/net").readlink()
            eventually(lambda: self.namespace.readlink() != ours, "the namespace is there")
            with ThreadPoolExecutor(1) as pool:
                pool.submit(_loopback_up, self.namespace).result()
        with (self.directory / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                (
                    *("nsenter", f"--net={self.namespace}", "dockerd", "--live-restore"),
                    *("--host", self.host, "--pidfile", f"{self.directory}/pid"),
                    *("--data-root", f"{self.directory}/data"),
                    *("--exec-root", f"{self.directory}/exec"),
                ),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self.answers, "the engine answers", within_s=60)

    def stop(self) -> None:
        """Stop the engine; containers go on (live-restore)."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
            self.process = None

    def answers(self) -> bool:
        argv = ("docker", "--host", self.host, "info")
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def take_images(self, names: list[str]) -> None:
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
            for container in engine(self.host).containers.list(all=True):
                container.remove(force=True)
            engine(self.host).close()
        self.stop()
        if self.holder:
            self.holder.kill()
            self.holder.wait()
        # Docker mounts its data on itself, and with live-restore leaves it so.
        subprocess.run(("umount", "--lazy", self.directory / "data"), check=False)
        # containerd lets go of its own mounts a moment later.
        deadline = time.monotonic() + 10
        while self.directory.exists() and time.monotonic() < deadline:
            shutil.rmtree(self.directory, ignore_errors=True)
            time.sleep(0.2)


def _loopback_up(namespace: Path) -> None:
    enter(namespace)
    # As `ip link set lo up`, which not every machine has: netdevice(7).
    siocsifflags, iff_up, name = 0x8914, 1, b"lo"
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, siocsifflags, struct.pack("16sh", name, iff_up))
