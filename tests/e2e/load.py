"""Load with a memory: every request has an id, every answer is checked, nothing is sent twice.

Only to 127.0.0.1, bounded in number and time.
"""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

# As in production clients: whoever has waited this long has gone.
TIMEOUT_S = 10


@dataclass
class Result:
    """What came of a load. `failures`: method and reason, a sentence each."""

    answered: Counter[str] = field(default_factory=Counter)
    replicas: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0

    @property
    def sent(self) -> int:
        return self.answered.total() + len(self.failures)

    def __str__(self) -> str:
        return (
            f"{self.sent} sent ({dict(self.answered)} answered), {len(self.failures)} lost, "
            f"slowest {self.slowest_s:.2f} s, {len(self.replicas)} replicas"
        )


@contextmanager
def load(
    port: int, *, clients: int = 48, work_ms: int = 0, limit_s: float = 600
) -> Iterator[Result]:
    """Send from keep-alive clients while the block runs: GET and POST in turn, no retries.

    With `work_ms` each request takes that long in the application. Stops by itself after
    `limit_s` seconds.
    """
    result, stop, lock = Result(), threading.Event(), threading.Lock()
    deadline = time.monotonic() + limit_s
    threads = [
        threading.Thread(
            target=_client, args=(port, f"c{number}", work_ms, deadline, stop, result, lock)
        )
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for(result: Result, requests: int, *, limit_s: float) -> None:
    """Wait until that many requests have been sent; fail if it takes too long."""
    deadline = time.monotonic() + limit_s
    while result.sent < requests:
        assert time.monotonic() < deadline, f"only {result.sent} of {requests} after {limit_s} s"
        time.sleep(0.05)


def _client(
    port: int,
    name: str,
    work_ms: int,
    deadline: float,
    stop: threading.Event,
    result: Result,
    lock: threading.Lock,
) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    for number in itertools.count():
        if stop.is_set() or time.monotonic() > deadline:
            break
        method = ("GET", "POST")[number % 2]
        started = time.monotonic()
        try:
            replica, failure = _request(connection, method, f"{name}-{number}", work_ms), ""
        except (HTTPException, OSError, ValueError) as error:
            connection.close()
            replica, failure = "", f"{method} {name}-{number}: {type(error).__name__}: {error}"
        took_s = time.monotonic() - started
        with lock:
            result.slowest_s = max(result.slowest_s, took_s)
            if failure:
                result.failures.append(f"{failure} (after {took_s:.3f} s)")
            else:
                result.answered[method] += 1
                result.replicas[replica] += 1
    connection.close()


def _request(connection: HTTPConnection, method: str, id_: str, work_ms: int) -> str:
    """Send one request and return the replica that answered; raises for any wrong answer."""
    if work_ms:
        connection.request(method, f"/api/work?ms={work_ms}", headers={"X-Request-ID": id_})
    elif method == "GET":
        connection.request("GET", "/api/replica", headers={"X-Request-ID": id_})
    else:
        headers = {"X-Request-ID": id_, "Content-Type": "application/json"}
        connection.request("POST", "/api/echo", json.dumps({"id": id_}), headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {body[:200]!r}")
    if response.headers["X-Request-ID"] != id_:
        raise ValueError(f"answer to another request: {response.headers['X-Request-ID']}")
    answer = json.loads(body)
    if method == "POST" and not work_ms and answer["id"] != id_:
        raise ValueError(f"answer to another request: {answer}")
    return str(answer["replica"])
