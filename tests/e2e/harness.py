"""A stack of a test's own: project name, port, clean-up, and what is kept when a test fails."""

import contextlib
import functools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import requests
from docker.models.containers import Container

ROOT = Path(__file__).parent.parent.parent
ARTIFACTS = ROOT / "test-artifacts"


@dataclass
class Stack:
    """A project on the real engine, driven as a user would: by `python -m stack`."""

    project: str = field(default_factory=lambda: f"stack-test-{secrets.token_hex(3)}")
    port: int = field(default_factory=lambda: free_port())
    oracle_port: int = field(default_factory=lambda: free_port())
    directory: Path = ROOT
    # Whether its replicas log to the oracle.
    watched: bool = False
    # The Docker engine that it runs on, if it is another than this machine's.
    docker_host: str = ""
    # What runs it there: Compose, or Swarm; and where images are pushed.
    engine: str = "compose"
    registry: str = ""
    # From where it is reached, and by which address.
    namespace: Path | None = None
    host: str = "127.0.0.1"
    # Where `docker login` keeps passwords.
    docker_config: Path | None = None
    # Variables of the Compose file beside name and port: STACK_TLS and the like.
    settings: dict[str, str] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.project,
            "HTTP_PORT": str(self.port),
            # The test's Python and packages, the copy's code where there is one.
            "PYTHONPATH": str(self.directory),
            "STACK_ENGINE": self.engine,
            **self.settings,
            **({"STACK_REGISTRY": self.registry} if self.registry else {}),
            **({"DOCKER_CONFIG": str(self.docker_config)} if self.docker_config else {}),
            **({"DOCKER_HOST": self.docker_host} if self.docker_host else {}),
            **(
                {
                    "COMPOSE_FILE": "compose.yaml:tests/e2e/oracle.yaml",
                    "ORACLE_HOST": self.host,
                    "ORACLE_PORT": str(self.oracle_port),
                }
                if self.watched
                else {}
            ),
        }

    def try_run(
        self, *arguments: str, limit_s: float = 900, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m stack` with these arguments, whatever comes of it."""
        return self._run((sys.executable, "-m", "stack", *arguments), env, limit_s=limit_s)

    def run(self, *arguments: str) -> str:
        """Run `python -m stack`, which has to succeed; return its standard output."""
        done = self.try_run(*arguments)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stderr}"
        return done.stdout

    def compose(self, *arguments: str, **env: str) -> str:
        """Run `docker compose` on the project, which has to succeed."""
        done = self._run(("docker", "compose", *arguments), env)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stderr}"
        return done.stdout

    def ps(self) -> list[dict[str, Any]]:
        return list(json.loads(self.run("ps", "--json")))

    def revisions(self) -> list[dict[str, Any]]:
        """The revisions of the service web, newest first."""
        return list(json.loads(self.run("revisions", "web", "--json")))

    def docker(self, *arguments: str, feed: str | None = None, **env: str) -> str:
        """Run `docker`, which has to succeed."""
        done = self._run(("docker", *arguments), env, feed)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stderr}"
        return done.stdout

    def shell(self, script: str) -> str:
        """Run a script as a person would type it, up to the first command that fails."""
        done = self._run(("sh", "-euc", script), {})
        assert done.returncode == 0, f"exit {done.returncode}\n{script}\n{done.stderr}"
        return done.stdout

    def containers(self, service: str | None = None) -> list[Container]:
        """What the engine says, through the SDK; of a Swarm, only what is on the first node."""
        if self.engine == "swarm":
            labels = [f"com.docker.stack.namespace={self.project}"]
            if service:
                labels.append(f"com.docker.swarm.service.name={self.project}_{service}")
        else:
            labels = [f"com.docker.compose.project={self.project}"]
            if service:
                labels.append(f"com.docker.compose.service={service}")
        client = engine(self.docker_host)
        return list(client.containers.list(all=True, filters={"label": labels}))

    def web(self) -> list[dict[str, Any]]:
        """The rows of `ps` for the service web."""
        return [row for row in self.ps() if row["service"] == "web"]

    def edit(self, file: str, old: str, new: str) -> None:
        """Change a file of the stack's own copy of the sources."""
        assert self.directory != ROOT
        path = self.directory / file
        text = path.read_text()
        assert old in text, f"{file}: {old!r} is not there"
        path.write_text(text.replace(old, new))

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=10, **options)

    def remove(self) -> None:
        """Leave nothing of the project: containers, networks, volumes, images."""
        down = ("down", "--volumes", "--remove-orphans", "--timeout", "2")
        self._run(("docker", "compose", "--profile", "*", *down), {})
        for image in engine().images.list():
            for tag in image.tags:
                if tag.startswith(f"{self.project}-"):
                    engine().images.remove(tag, force=True)

    def keep_evidence(self, name: str) -> None:
        """Write what explains a failure into test-artifacts/."""
        directory = ARTIFACTS / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "history.txt").write_text("\n".join(self.history))
        for file, arguments in {
            "ps.txt": ("ps",),
            "plan.txt": ("--explain", "up"),
            "logs.txt": ("logs",),
        }.items():
            # Swarm's logs can hang where a log driver cannot be read.
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = self.try_run(*arguments, limit_s=60)
                (directory / file).write_text(done.stdout + done.stderr)

    def _run(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        feed: str | None = None,
        limit_s: float = 900,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv,
            input=feed,
            cwd=self.directory,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )
        self.history.append(f"$ {' '.join(argv)}\n{done.stdout}{done.stderr}[{done.returncode}]")
        return done


def copy_sources(directory: Path) -> Path:
    """Copy what a clone would have, and .env."""
    listed = subprocess.run(
        ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    for name in (*names, ".env"):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    return directory


def crash(container: Container) -> None:
    """SIGKILL to the container's main process, as the kernel would do it. (`docker kill` counts as
    wanted, and nothing is started again.)
    """
    engine().containers.run(
        container.attrs["Config"]["Image"],
        ["sh", "-c", f"kill -9 {container.attrs['State']['Pid']}"],
        entrypoint="",
        user="0",
        pid_mode="host",
        # A network that comes up would make browsers break off what they have in flight.
        network_mode="none",
        cap_add=["KILL"],
        remove=True,
    )


@functools.cache
def engine(host: str = "") -> docker.DockerClient:
    """The SDK's view of the engine: a second opinion on what the manager says."""
    return docker.DockerClient(host) if host else docker.from_env()


def eventually(condition: Callable[[], bool], what: str, *, within_s: float = 30) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(requests.ConnectionError):
            if condition():
                return
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.1)


@contextmanager
def background(stack: Stack, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m stack` in the background; ended with the block if it has not ended itself."""
    process = subprocess.Popen(
        (sys.executable, "-m", "stack", *arguments),
        cwd=stack.directory,
        env=stack.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
