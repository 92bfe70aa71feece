"""`make audit`: attack a stack of its own with slow clients, and see what ordinary ones notice.

AUDIT_SECONDS   how long each attack lasts (30)

Prints a row for each attack. Exit code 1 if an ordinary request was not answered, or if one in a
hundred took longer than a second.
"""

import contextlib
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.e2e.harness import Stack, copy_sources

SECONDS = int(os.environ.get("AUDIT_SECONDS", "30"))
CONNECTIONS = 1000
RATE = 40
LIMIT_MS = 1000

# What is asked for: it fits into nginx's buffers (128 KiB, proxy/conf/forwarding.conf).
ANSWER = "static/answer.txt"
ANSWER_BYTES = 100_000

# What slowhttptest does: its options beside number and rate of connections.
ATTACKS = {
    "none": "",
    "headers that never end": "-H -i 5",
    "bodies that never end": "-B -i 5 -s 8192 -x 10",
    "large bodies that never end": "-B -i 1 -s 1000000 -x 60000",
    "a thousand ranges each": "-R -a 1 -b 1000 -t GET",
    "answers that nobody reads": "-X -w 512 -y 1024 -n 5 -z 32",
}


@dataclass
class Seen:
    """What ordinary requests met: seconds of each that was answered, and how many were not."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def p(self, share: float) -> float:
        """The time that this share of the requests stayed below."""
        return statistics.quantiles(self.seconds, n=1000)[round(share * 1000) - 1]


def main() -> int:
    """Run all attacks; return the exit code."""
    stack = Stack()
    with tempfile.TemporaryDirectory() as directory:
        stack.directory = copy_sources(Path(directory) / "stack")
        (stack.directory / "web/app" / ANSWER).write_text("x" * ANSWER_BYTES)
        try:
            stack.run("up")
            harmless = [is_harmless(stack, name, options) for name, options in ATTACKS.items()]
            return int(not all(harmless))
        finally:
            stack.remove()


def is_harmless(stack: Stack, name: str, options: str) -> bool:
    """Attack, print the row, and say whether ordinary requests were answered in time."""
    with ordinary(stack) as seen:
        opened, ended = attack(f"{stack.url}/{ANSWER}", options)
    p50, p99 = seen.p(0.5) * 1000, seen.p(0.99) * 1000
    print(
        f"{name + ':':<28} {opened:>4} open, {ended:>5} ended; ordinary requests: "
        f"{len(seen.seconds)}, {seen.failed} failed, p50 {p50:.0f} ms, p99 {p99:.0f} ms",
        flush=True,
    )
    return not seen.failed and p99 <= LIMIT_MS


def attack(url: str, options: str) -> tuple[int, int]:
    """Attack for SECONDS: how many connections were open at most, and how many ended meanwhile.

    slowhttptest ends when it has no connection left, so it is started again until time is up.
    """
    until, opened, ended = time.monotonic() + SECONDS, 0, 0
    if not options:
        time.sleep(SECONDS)
        return 0, 0
    with tempfile.TemporaryDirectory() as directory:
        while (left := round(until - time.monotonic())) > 0:
            subprocess.run(
                (
                    *("slowhttptest", "-c", str(CONNECTIONS), "-r", "250", "-l", str(left)),
                    *("-p", "3", "-g", "-o", f"{directory}/attack", "-v", "0"),
                    *("-u", url, *options.split()),
                ),
                capture_output=True,
                check=True,
                timeout=left + 60,
            )
            with Path(directory, "attack.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            opened = max(opened, *(int(row["Connected"]) for row in rows))
            ended += max(int(row["Closed"]) for row in rows)
    if not opened + ended:
        sys.exit(f"slowhttptest {options}: no connection was made")
    return opened, ended


@contextmanager
def ordinary(stack: Stack) -> Iterator[Seen]:
    """Requests as they always come, at a constant rate, on fresh connections."""
    seen, over = Seen(), threading.Event()

    def ask(began: float) -> None:
        try:
            ok = requests.get(f"{stack.url}/api/replica", timeout=10).status_code == 200
        except requests.RequestException:
            ok = False
        if ok:
            seen.seconds.append(time.monotonic() - began)
        else:
            seen.failed += 1

    def send() -> None:
        with ThreadPoolExecutor(64) as pool:
            while not over.wait(1 / RATE):
                pool.submit(ask, time.monotonic())

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield seen
    finally:
        over.set()
        sender.join()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
