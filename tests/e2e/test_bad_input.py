"""Bad input gets one clear message, the right exit code and no traceback, and changes nothing."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import ROOT, Stack, engine, eventually
from tests.e2e.rig import Node
from tests.e2e.swarm import stack_on

BOMB = """name: bomb
x-a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]
""" + "".join(
    f"x-{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


def state(stack: Stack) -> Any:
    """All that there is of the project: containers as they were started, networks, volumes, images
    and the proxy's lists.
    """
    client = engine()
    mine: dict[str, str | list[str] | bool] = {
        "label": f"com.docker.compose.project={stack.project}"
    }
    containers = client.containers.list(all=True, filters=mine)
    proxy = next((one for one in containers if "-proxy-" in str(one.name)), None)
    lists = proxy.exec_run(["sh", "-c", "cat /var/lib/proxy/current/targets/*"]) if proxy else None
    return (
        sorted(
            (str(c.id), c.attrs["State"]["StartedAt"], c.attrs["RestartCount"]) for c in containers
        ),
        sorted(str(one.id) for one in client.networks.list(filters=mine)),
        sorted(str(one.id) for one in client.volumes.list(filters=mine)),
        sorted(t for i in client.images.list() for t in i.tags if t.startswith(stack.project)),
        lists.output if lists else None,
    )


@contextmanager
def unchanged(stack: Stack) -> Iterator[None]:
    before = state(stack)
    yield
    assert state(stack) == before


def complaint(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("stack: ") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    for text in says:
        assert text in done.stderr, done.stderr


# --- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nosuch",), "No such command"),
        (("scale",), "Missing argument"),
        (("--lock-wait", "nan", "scale", "web=2"), "no number of seconds"),
        (("scale", "web"), "is not SERVICE=N"),
        (("scale", "web="), "whole number"),
        (("scale", "web=-1"), "whole number"),
        (("scale", "web=1.5"), "whole number"),
        (("scale", "web=99999"), "at most 100"),
        (("scale", "wbe=2"), "Did you mean web?"),
        (("scale", "proxy=2"), "cannot be scaled"),
        (("scale", "web=0"), "--force"),
        (("scale", "wéb=2"), "there is no service"),
        (("scale", "web\n=2"), "there is no service"),
        (("scale", "web\x1b[31m=2"), "there is no service"),
        (("scale", "$(reboot)=2"), "there is no service"),
        (("scale", "../web=2"), "there is no service"),
        (("scale", "-web=2"), "No such option"),
        (("scale", f"{'w' * 200}=2"), "there is no service"),
        (("scale", "WEB=2"), "there is no service"),
        (("restart", "web;reboot"), "there is no service"),
        (("logs", "--tail", "-1"), "not in the range"),
        (("rollback", "web", "../../etc"), "no revision"),
        (("rollout", "web", "--image", "-x"), "is no name of an image"),
        (("rollout", "web", "--image", "a b;reboot"), "is no name of an image"),
        (("--project", "../x", "up"), "is no project name"),
        (("--project", "X", "up"), "is no project name"),
        (("--engine", "kubernetes", "up"), "is not one of"),
        (("--registry", "http://x", "push"), "is no registry"),
        (("--registry", "$(reboot):1", "push"), "is no registry"),
        (("cert", "a b"), "is no host name"),
    ],
)
def test_arguments(running: Stack, arguments: tuple[str, ...], says: str) -> None:
    with unchanged(running):
        done = running.try_run(*arguments)
    complaint(done, 2, says)
    # What was typed must not reach the terminal as a command to it.
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("HTTP_PORT", "abc", "Invalid hostPort"),
        ("HTTP_PORT", "99999999", "Invalid hostPort"),
        ("HTTP_PORT", "8080; reboot", "Invalid hostPort"),
        ("COMPOSE_PROJECT_NAME", "../x", "invalid project name"),
        ("COMPOSE_FILE", "/nowhere.yaml", "/nowhere.yaml"),
        ("STACK_ENGINE", "nomad", "is not one of"),
        ("DOCKER_HOST", "nonsense://", "nonsense"),
        ("STACK_TLS", "2", "must be 0 or 1"),
    ],
)
def test_variables(running: Stack, variable: str, value: str, says: str) -> None:
    with unchanged(running):
        done = running._run((sys.executable, "-m", "stack", "up"), {variable: value})
    assert done.returncode in (2, 69, 78)
    complaint(done, done.returncode, says)


# --- the Compose file ------------------------------------------------------------------------


CIRCLE = "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}"
NO_PORT = "services: {a: {image: x, labels: {stack.route.port: 'no'}}}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(None, "no configuration file", id="missing"),
        pytest.param("", "empty", id="empty"),
        pytest.param("services:\n  web: [1, 2\n", "line 1", id="not YAML"),
        pytest.param("services:\n\tweb: {}\n", "line 2", id="tabs"),
        pytest.param("- web\n", "", id="a list"),
        pytest.param("name: x\n", "no services", id="no services"),
        pytest.param(BOMB, "over and over", id="an alias bomb"),
        pytest.param("services: {web: {imagge: x}}\n", "imagge", id="an unknown key"),
        pytest.param("services: {a: {image: '${NONE:?say it}'}}", "say it", id="no variable"),
        pytest.param(CIRCLE, "", id="a circle"),
        pytest.param(NO_PORT, "stack.route.port", id="no port"),
    ],
)
def test_compose_files(running: Stack, tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "compose.yaml").write_text(text)
    with unchanged(running), in_directory(running, tmp_path):
        for verb in (("up",), ("scale", "web=3")):
            complaint(running.try_run(*verb, limit_s=120), 78, says)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["a directory", "a pipe"])
def test_a_compose_file_that_is_no_file(
    running: Stack, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "compose.yaml")
    with unchanged(running), in_directory(running, tmp_path):
        complaint(running.try_run("up", limit_s=20), 78, "compose.yaml is not a file")


@pytest.mark.parametrize("change", ["BOM", "CRLF"])
def test_compose_files_of_other_systems_are_understood(stack_copy: Stack, change: str) -> None:
    path = stack_copy.directory / "compose.yaml"
    data = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + data if change == "BOM" else data.replace(b"\n", b"\r\n"))
    assert "docker compose" in stack_copy.run("--explain", "up")


@contextmanager
def in_directory(stack: Stack, directory: Path) -> Iterator[None]:
    """The same project, but another Compose file."""
    shutil.copytree(ROOT / "stack", directory / "stack")
    before, stack.directory = stack.directory, directory
    try:
        yield
    finally:
        stack.directory = before


# --- the engine ------------------------------------------------------------------------------


def test_no_engine(running: Stack, tmp_path: Path) -> None:
    done = running.try_run("up", DOCKER_HOST=f"unix://{tmp_path}/no.sock")
    complaint(done, 69, "no.sock")


def test_an_engine_that_does_not_answer_is_not_waited_for_for_ever(
    running: Stack, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(f"{tmp_path}/docker.sock")
        hanging.listen()
        for verb in ("up", "ps", "down"):
            done = running.try_run(verb, limit_s=60, DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
            complaint(done, 69, "within")


def test_a_socket_that_one_may_not_use(running: Stack, tmp_path: Path) -> None:
    """It is somebody else's, and this process may not pass over that, as root may elsewhere."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        path.chmod(0o600)
        os.chown(path, 12345, 12345)
        without = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
        argv = (*without, sys.executable, "-m", "stack", "ps")
        done = running._run(argv, {"DOCKER_HOST": f"unix://{path}"})
    complaint(done, 77, "may not use the Docker engine")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            """case "$*" in 'compose version'*) echo 2.19.1; exit 0;; esac""",
            "Docker Compose 2.19 is too old",
        ),
        (
            'case $1 in compose) echo "compose is not a docker command" >&2; exit 1;; esac',
            "Docker Compose v2 is not installed",
        ),
    ],
    ids=["too old", "absent"],
)
def test_a_compose_that_will_not_do(running: Stack, tmp_path: Path, script: str, says: str) -> None:
    """A `docker` that says so, and is the real one otherwise."""
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\n{script}\nexec {shutil.which("docker")} "$@"\n')
    program.chmod(0o755)
    with unchanged(running):
        done = running.try_run("up", PATH=f"{tmp_path}:{os.environ['PATH']}")
    complaint(done, 69, says)


def test_a_project_that_another_tool_started_is_never_touched(running: Stack) -> None:
    """Containers with our names or labels, but not ours."""
    image = running.containers("web")[0].attrs["Config"]["Image"]
    foreign = engine().containers.run(
        image,
        ["sleep", "60"],
        name=f"{running.project}-web-7",
        labels={"com.docker.compose.project": "someone-else", "stack.route.port": "8000"},
        detach=True,
    )
    try:
        running.run("scale", "web=3")
        running.run("up", "web=2")
        foreign.reload()
        assert foreign.status == "running"
    finally:
        foreign.remove(force=True)


def test_a_container_that_is_removed_by_hand_in_the_middle_is_made_again(lab: Stack) -> None:
    over = threading.Event()

    def meddle() -> None:
        eventually(lambda: len(lab.containers("web")) > 2, "a new one is there")
        newest = max(lab.containers("web"), key=lambda one: str(one.attrs["Created"]))
        newest.remove(force=True)
        over.set()

    meddler = threading.Thread(target=meddle)
    meddler.start()
    done = lab.try_run("scale", "web=4")
    meddler.join()
    assert over.is_set()
    assert "Traceback" not in done.stderr
    # Whether it was noticed depends on when; running it again ends as wanted either way.
    lab.run("scale", "web=4")
    assert [row["state"] for row in lab.web()] == ["healthy"] * 4
    lab.run("scale", "web=2")


# --- the machine -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"},
        {"NO_COLOR": "1"},
        {"COLUMNS": "40"},
        {"TERM": "dumb"},
        {"HOME": "/nonexistent"},
    ],
    ids=lambda env: next(iter(env)),
)
def test_terminals_of_all_kinds(running: Stack, env: dict[str, str]) -> None:
    for arguments in (("ps",), ("--help",), ("revisions",), ("--explain", "scale", "web=3")):
        done = running._run((sys.executable, "-m", "stack", *arguments), env)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "Traceback" not in done.stderr


def test_a_clock_that_is_an_hour_ahead_changes_nothing(lab: Stack, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nreal = time.time\ntime.time = lambda: real() + 3600\n"
    )
    path = f"{tmp_path}:{lab.directory}"
    for count in (3, 2):
        done = lab.try_run("scale", f"web={count}", PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
    done = lab.try_run("restart", "web", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in lab.web()] == ["healthy"] * 2


def test_a_list_that_cannot_be_written_leaves_the_one_that_is_there(lab: Stack) -> None:
    """The disk under the proxy's state is full."""
    lab.edit(
        "compose.yaml",
        "    labels:\n      stack.disposable",
        "    driver_opts: {type: tmpfs, device: tmpfs, o: 'size=400k,uid=101,gid=101'}\n"
        "    labels:\n      stack.disposable",
    )
    lab.run("down")
    lab.run("up", "web=2")
    proxy = lab.containers("proxy")[0]
    lists = ["sh", "-c", "cat /var/lib/proxy/current/targets/*"]
    before = proxy.exec_run(lists).output
    fill = "cat /dev/zero > /var/lib/proxy/fill 2>/dev/null; true"
    assert proxy.exec_run(["sh", "-c", fill]).exit_code == 0
    done = lab.try_run("scale", "web=1")
    complaint(done, 1, "No space left on device")
    assert proxy.exec_run(lists).output == before
    assert lab.get("/api/replica").status_code == 200
    proxy.exec_run(["rm", "/var/lib/proxy/fill"])
    lab.run("scale", "web=1")
    assert lab.get("/api/replica").status_code == 200
    left = proxy.exec_run(["sh", "-c", "ls -d /var/lib/proxy/conf.* | wc -l"]).output
    assert left == b"1\n", "no half-written copy is left"


def test_no_address_is_left_for_a_network(stack: Stack, tmp_path: Path) -> None:
    """On an engine of its own, which has addresses for its own bridge and one network."""
    node = Node(options=("--default-address-pool", "base=10.66.0.0/23,size=24"))
    try:
        node.start()
        stack_on([node], tmp_path / "stack", stack)
        stack.engine, stack.watched = "compose", False
        complaint(stack.try_run("up"), 1, "address pool", "docker network prune")
    finally:
        node.remove()
        stack.docker_host = ""


def test_a_build_on_a_full_disk_changes_nothing(stack: Stack, tmp_path: Path) -> None:
    """On an engine of its own, whose disk is a small piece of memory."""
    node = Node()
    data = node.directory / "data"
    data.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", f"{data}"), check=True)
    try:
        node.start()
        stack_on([node], tmp_path / "stack", stack)
        stack.engine, stack.watched = "compose", False
        stack.run("up")
        before = [row["revision"] for row in stack.web()]
        free = shutil.disk_usage(data).free - (20 << 20)
        with (data / "fill").open("wb") as file:
            file.write(bytes(free))
        stack.edit(
            "web/Dockerfile", "USER 10001", "RUN head -c 100m /dev/zero > /srv/big\nUSER 10001"
        )
        complaint(stack.try_run("rollout"), 1, "The disk is full", "docker image prune")
        assert [row["revision"] for row in stack.web()] == before
        (data / "fill").unlink()
        stack.run("rollout")
    finally:
        node.remove()
        stack.docker_host = ""
