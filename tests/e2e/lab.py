"""A running stack whose sources tests change: new revisions, broken ones."""

import itertools
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from docker.models.containers import Container

from tests.e2e.harness import Stack, copy_sources, engine, eventually

# The fixture: see conftest.py.
Oracle = Callable[..., Any]

_numbers = itertools.count(1)

# Shorter than in compose.yaml, so that a broken revision shows within seconds.
HEALTH = "interval: 10s\n      timeout: 3s\n      retries: 3\n      start_period: 30s"
QUICK_HEALTH = "interval: 2s\n      timeout: 1s\n      retries: 2\n      start_period: 4s"

PAGE = "web/app/templates/index.html"


@dataclass(frozen=True)
class Broken:
    """A change of the sources that breaks the app. `says` is part of the message about it."""

    file: str
    old: str
    new: str
    says: str


HEALTHY = 'return Response("ok\\n", mimetype="text/plain")'
CREATE = "    app = Flask(__name__)\n"
FIRST_OF_ITS_REVISION = """
import json, socket, urllib.request
for *_, address in socket.getaddrinfo("web", 8000, type=socket.SOCK_STREAM):
    with __import__("contextlib").suppress(OSError):
        with urllib.request.urlopen(f"http://{address[0]}:8000/api/replica", timeout=2) as answer:
            if json.load(answer)["revision"] == os.environ["REVISION"]:
                raise SystemExit("one of this revision is enough")


def create_app("""

BROKEN = {
    "exits at once": Broken(
        "web/app/api.py", "import os\n", "import no_such_module\n", "No module named"
    ),
    "is never healthy": Broken(
        "web/app/pages.py", HEALTHY, "return Response(status=503)", "is unhealthy"
    ),
    "hangs": Broken(
        "web/app/pages.py", HEALTHY, "return __import__('time').sleep(8)", "is unhealthy"
    ),
    "dies once it has traffic": Broken(
        "web/app/__init__.py",
        CREATE,
        f"    import threading\n    threading.Timer(2.5, os._exit, [7]).start()\n{CREATE}",
        "ended",
    ),
    "needs more memory than it may have": Broken(
        "web/app/__init__.py",
        CREATE,
        f'    hog = b"x" * (400 << 20)\n{CREATE}',
        "more memory than its limit",
    ),
    "answers 5xx": Broken(
        "web/app/api.py",
        '    """Which replica answers',
        '    abort(500)\n    """Which replica answers',
        "answered 5xx to",
    ),
    "does not build": Broken("web/Dockerfile", "EXPOSE 8000", "RUN false", "step 1 of"),
}
FAILS_AS_SECOND = Broken(
    "web/app/__init__.py", "\n\ndef create_app(", FIRST_OF_ITS_REVISION, "one of this revision"
)


def make_lab(directory: Path, stack: Stack) -> Stack:
    """Give the stack sources of its own, and have it watched by the oracle."""
    stack.directory = copy_sources(directory)
    stack.watched = True
    stack.edit("compose.yaml", HEALTH, QUICK_HEALTH)
    return stack


def new_revision(stack: Stack) -> None:
    """Change the sources, so that there is something to roll out."""
    path = stack.directory / PAGE
    path.write_text(path.read_text() + f"<!-- {next(_numbers)} -->\n")


@contextmanager
def broken(stack: Stack, how: Broken) -> Iterator[None]:
    """Inside, the sources are broken."""
    path = stack.directory / how.file
    good = path.read_text()
    stack.edit(how.file, how.old, how.new)
    try:
        yield
    finally:
        path.write_text(good)


def assert_whole(stack: Stack, count: int, revision: str | None = None) -> None:
    """N healthy replicas of one revision, all with traffic; no leftovers, and nothing to do."""
    rows = stack.web()
    assert [(row["state"], row["routed"]) for row in rows] == [("healthy", True)] * count, rows
    assert {row["revision"] for row in rows} == {revision or rows[0]["revision"]}, rows
    assert "drift" not in stack.run("ps")


def wait_whole(stack: Stack, count: int) -> None:
    """Wait until what crashed has come back."""
    eventually(
        lambda: [(r["state"], r["routed"]) for r in stack.web()] == [("healthy", True)] * count,
        f"{count} replicas with traffic",
    )


def work(stack: Stack, ms: int, method: str = "GET") -> requests.Response:
    return requests.request(method, f"{stack.url}/api/work?ms={ms}", timeout=90)


def answers(stack: Stack) -> bool:
    try:
        return stack.get("/api/replica").status_code == 200
    except requests.ConnectionError:
        return False


def row(stack: Stack, name: str | None) -> dict[str, Any]:
    return next(row for row in stack.ps() if row["name"] == name)


def on_every_replica(
    stack: Stack, pool: ThreadPoolExecutor, ms: int, method: str = "GET"
) -> list[Future[requests.Response]]:
    """Send slow requests, one by one, until every replica is at work on one. Nothing else is
    under way.
    """
    slow: list[Future[requests.Response]] = []
    while not all(in_flight(stack)):
        slow.append(pool.submit(work, stack, ms, method))
        assert len(slow) <= 20
        eventually(lambda: sum(in_flight(stack)) >= len(slow), "it has arrived")
    return slow


def in_flight(stack: Stack) -> list[int]:
    """How many requests each replica is at work on, by its own account."""
    url = "http://127.0.0.1:8000/metrics"
    ask = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"
    found = []
    for container in stack.containers("web"):
        output = container.exec_run(["python3", "-c", ask]).output
        assert isinstance(output, bytes)
        number = re.search(rb"^http_requests_in_progress (\d+)", output, re.MULTILINE)
        assert number, output
        # One is this question itself.
        found.append(int(number[1]) - 1)
    return found


@contextmanager
def short_grace(stack: Stack) -> Iterator[None]:
    """Inside, what does not end by itself within 3 s of SIGTERM is killed."""
    grace = "stop_grace_period: {}\n    health"
    stack.edit("compose.yaml", grace.format("30s"), grace.format("3s"))
    try:
        yield
    finally:
        stack.edit("compose.yaml", grace.format("3s"), grace.format("30s"))


def old_workers(stack: Stack) -> int:
    proxy = stack.containers("proxy")[0]
    # The brackets: or the command would find itself.
    title = "nginx: worker process is shutting dow[n]"
    script = f"cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -cx '{title}'"
    output = proxy.exec_run(["sh", "-c", script]).output
    assert isinstance(output, bytes)
    return int(output)


def wait_for_step(lines: Any, number: int) -> int:
    """Read a run's output until this step begins; return how many there are in all."""
    for line in lines:
        found = re.match(r"\[(\d+)/(\d+)\]", line)
        if found and int(found[1]) == number:
            return int(found[2])
    raise AssertionError(f"it ended before step {number}")


@contextmanager
def counted(stack: Stack) -> Iterator[list[tuple[int, int]]]:
    """Count replicas while the block runs: how many are healthy, and how many there are."""
    counts: list[tuple[int, int]] = []
    stop = threading.Event()

    def count() -> None:
        label = f"com.docker.compose.project={stack.project}"
        filters = {"label": [label, "com.docker.compose.service=web"]}
        client = engine()
        while not stop.wait(0.1):
            found = client.api.containers(all=True, filters=filters)
            healthy = sum("(healthy)" in one["Status"] for one in found)
            counts.append((healthy, len(found)))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def wait_for_check(container: Container) -> None:
    """Wait until a health check of the container has just ended."""

    def last() -> str:
        container.reload()
        return str(container.attrs["State"]["Health"]["Log"][-1]["End"])

    before = last()
    eventually(lambda: last() != before, "another health check")


def follow_guide(directory: Path) -> None:
    """Do what docs/second-service.md says, with the lines that stand there."""
    guide = (directory / "docs" / "second-service.md").read_text()
    service, network, proxy = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (routes,) = re.findall(r"```nginx\n(.*?)```", guide, re.DOTALL)
    shutil.copytree(directory / "web", directory / "shop")
    compose = directory / "compose.yaml"
    text = compose.read_text()
    text = text.replace("\nservices:\n", f"\nservices:\n{service}\n", 1)
    text = text.replace("\nnetworks:\n", f"\nnetworks:\n{network}", 1)
    assert "    networks: [edge, web]\n" in text
    compose.write_text(text.replace("    networks: [edge, web]\n", proxy))
    conf = directory / "proxy" / "conf" / "services.conf"
    old = conf.read_text()
    conf.write_text(
        re.sub(r"\nmap .*?\n}\n", lambda _: f"\n{routes}", old, count=1, flags=re.DOTALL)
    )
