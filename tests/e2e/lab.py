"""A running stack whose sources tests change: new revisions, broken ones."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.harness import Stack, copy_sources, eventually

_numbers = itertools.count(1)

# Shorter than in compose.yaml, so that a broken revision shows within seconds.
QUICK = (
    ("interval: 10s\n      timeout: 3s\n      retries: 3\n      start_period: 30s", None),
    ("monitor: 3s", "monitor: 2s"),
)
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
        "web/app/pages.py", HEALTHY, "return __import__('time').sleep(99)", "is unhealthy"
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
    for old, new in QUICK:
        stack.edit("compose.yaml", old, new or QUICK_HEALTH)
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
