"""The oracle: what became of every request that was sent while the stack changed.

Open loop: requests are sent at a constant rate, whether the ones before are answered or not, so
that a stall shows. Each has an id of its own, and the application says which ids it has executed.

LOST: refused, reset, cut, a status that is not 200, a wrong body, or no answer within 10 s of when
it was due. DUP: a POST that was executed twice, or that the proxy sent to a second replica after
the first may have had it. Three clients are told apart: one that opens a connection for each
request, one that keeps them for GET, one that keeps them for POST. None of them tries again. What
is kept is not used after it has been idle for a second: every HTTP server closes idle connections,
and a request may be on its way just then. The proxy promises not to before 2 s.

Only to 127.0.0.1, bounded in number and time.
"""

import contextlib
import itertools
import json
import queue
import re
import secrets
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.e2e.harness import Stack
from tests.e2e.rig import enter

# Whoever has waited this long has gone.
TIMEOUT_S = 10.0

# Requests per second of all clients together.
RATE = 120

FRESH, KEPT_GET, KEPT_POST = "new connection", "keep-alive GET", "keep-alive POST"
CLIENTS = (FRESH, KEPT_GET, KEPT_POST)

# A kept connection is not used any more once it has been idle this long: half of the proxy's
# keepalive_min_timeout.
REUSE_S = 1.0

# Connections of each client: enough for every request that can be waiting at the rate above.
CONNECTIONS = 24


@dataclass(frozen=True)
class Sent:
    """A request and what became of it. `due_s` since the load began; `failure` is empty if it was
    answered as it should be.
    """

    id: str
    client: str
    method: str
    due_s: float
    took_s: float
    replica: str = ""
    revision: str = ""
    failure: str = ""


@dataclass
class Result:
    """What came of a load; complete once the load has ended. `began_at` in Unix seconds."""

    began_at: float = field(default_factory=time.time)
    sent: list[Sent] = field(default_factory=list)
    executed: Counter[str] = field(default_factory=Counter)
    resent: set[str] = field(default_factory=set)

    @property
    def lost(self) -> list[Sent]:
        return [one for one in self.sent if one.failure]

    @property
    def duplicated(self) -> list[Sent]:
        return [
            one
            for one in self.sent
            if one.method == "POST" and (self.executed[one.id] > 1 or one.id in self.resent)
        ]

    def lost_by(self, method: str) -> list[Sent]:
        return [one for one in self.lost if one.method == method]

    def counts(self) -> dict[str, dict[str, int]]:
        """For each client: sent, lost, dup."""
        return {
            client: {
                "sent": sum(one.client == client for one in self.sent),
                "lost": sum(one.client == client for one in self.lost),
                "dup": sum(one.client == client for one in self.duplicated),
            }
            for client in CLIENTS
        }

    def assert_nothing_lost(self) -> None:
        assert len(self.sent) > 0
        assert self.lost == [], self.explain(self.lost)
        self.assert_nothing_twice()

    def assert_nothing_twice(self) -> None:
        """No POST was executed twice; and the oracle has seen what was executed at all."""
        assert self.duplicated == [], self.explain(self.duplicated)
        unseen = [one for one in self.sent if not one.failure and not self.executed[one.id]]
        assert unseen == [], f"answered, but not in the log: {self.explain(unseen)}"

    def explain(self, some: list[Sent]) -> str:
        lines = [f"{len(some)} of {len(self.sent)}"]
        lines += [
            f"{one.due_s:8.3f} s {one.client} {one.method} {one.id}: {one.failure} "
            f"(after {one.took_s:.3f} s, executed {self.executed[one.id]} times)"
            for one in some[:20]
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Way:
    """How requests are sent: to which address, how many per second, with how much work in the
    application, from which network namespace, on connections that were idle for how long at most,
    for how long at most.
    """

    address: tuple[str, int]
    rate: float
    work_ms: int
    namespace: Path | None
    reuse_s: float = REUSE_S
    limit_s: float = 1800


@contextmanager
def load(
    stack: Stack,
    *,
    rate: float = RATE,
    work_ms: int = 0,
    reuse_s: float = REUSE_S,
    address: tuple[str, int] | None = None,
) -> Iterator[Result]:
    """Send while the block runs, and a second before and after it."""
    result = Result()
    stop = threading.Event()
    way = Way(address or (stack.host, stack.port), rate, work_ms, stack.namespace, reuse_s)
    with _executed_ids(stack, result):
        sender = threading.Thread(target=_send, args=(way, stop, result))
        sender.start()
        try:
            time.sleep(1)
            yield result
            time.sleep(1)
        finally:
            stop.set()
            sender.join()
        # The last lines are on their way.
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and not all(
            result.executed[one.id] for one in result.sent if not one.failure
        ):
            time.sleep(0.05)
        result.resent = _sent_to_two(stack)


def _send(way: Way, stop: threading.Event, result: Result) -> None:
    """Put each request in its client's queue at the moment when it is due."""
    if way.namespace:
        # The threads that this one starts are there, too.
        enter(way.namespace)
    run = secrets.token_hex(3)
    began = time.monotonic()
    queues: dict[str, queue.SimpleQueue[tuple[str, str, float] | None]] = {
        client: queue.SimpleQueue() for client in CLIENTS
    }
    workers = [
        threading.Thread(target=_work, args=(way, client, queues[client], began, result.sent))
        for client in CLIENTS
        for _ in range(CONNECTIONS)
    ]
    for worker in workers:
        worker.start()
    for number in itertools.count():
        due_s = number / way.rate
        if stop.wait(max(0.0, began + due_s - time.monotonic())) or due_s > way.limit_s:
            break
        client = CLIENTS[number % len(CLIENTS)]
        method = {KEPT_GET: "GET", KEPT_POST: "POST"}.get(client)
        # The third client takes turns.
        method = method or ("GET", "POST")[number // len(CLIENTS) % 2]
        queues[client].put((f"{run}-{number}", method, due_s))
    for client in CLIENTS:
        for _ in range(CONNECTIONS):
            queues[client].put(None)
    for worker in workers:
        worker.join()


def _work(
    way: Way,
    client: str,
    todo: "queue.SimpleQueue[tuple[str, str, float] | None]",
    began: float,
    sent: list[Sent],
) -> None:
    connection = HTTPConnection(*way.address, timeout=TIMEOUT_S)
    used_at = 0.0
    while (item := todo.get()) is not None:
        id_, method, due_s = item
        replica = revision = failure = ""
        # As every client with a pool does: a connection that the server has closed is not used.
        closed = connection.sock and select.select([connection.sock], [], [], 0)[0]
        if closed or time.monotonic() - used_at > way.reuse_s:
            connection.close()
        try:
            replica, revision = _request(
                connection, method, id_, way.work_ms, close=client == FRESH
            )
        except (HTTPException, OSError, ValueError) as error:
            connection.close()
            failure = f"{type(error).__name__}: {error}"
        used_at = time.monotonic()
        took_s = used_at - began - due_s
        if not failure and took_s > TIMEOUT_S:
            failure = "too late"
        # Appending is atomic.
        sent.append(Sent(id_, client, method, due_s, took_s, replica, revision, failure))
    connection.close()


def _request(
    connection: HTTPConnection, method: str, id_: str, work_ms: int, *, close: bool
) -> tuple[str, str]:
    """Send one request; return replica and revision that answered. Raises for a wrong answer."""
    headers = {"X-Request-ID": id_, **({"Connection": "close"} if close else {})}
    if work_ms:
        connection.request(method, f"/api/work?ms={work_ms}", headers=headers)
    elif method == "GET":
        connection.request("GET", "/api/replica", headers=headers)
    else:
        headers["Content-Type"] = "application/json"
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
    return str(answer["replica"]), str(answer["revision"])


@contextmanager
def _executed_ids(stack: Stack, result: Result) -> Iterator[None]:
    """Listen to what the replicas log (see oracle.yaml): a replica's own log goes with it."""
    stop = threading.Event()

    def listen(listener: socket.socket) -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                data = listener.recv(65536)
                found = re.search(rb'"request_id": "([^"]+)"', data)
                if found:
                    result.executed[found[1].decode()] += 1

    with _udp_socket(stack.namespace) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        listener.bind((stack.host, stack.oracle_port))
        listener.settimeout(0.2)
        thread = threading.Thread(target=listen, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _udp_socket(namespace: Path | None) -> socket.socket:
    """A socket belongs to the namespace of the thread that made it."""

    def make() -> socket.socket:
        if namespace:
            enter(namespace)
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


def _sent_to_two(stack: Stack) -> set[str]:
    """Ids of POST requests that the proxy sent to a second replica, though the first had been
    connected to.
    """
    found = set()
    for proxy in stack.containers("proxy"):
        for line in proxy.logs(stdout=True, stderr=False).splitlines():
            if b'"method":"POST"' not in line or b'"upstream":"' not in line:
                continue
            entry = json.loads(line)
            connected = entry["connect_seconds"].split(", ")
            if len(connected) > 1 and any(one != "-" for one in connected[:-1]):
                found.add(entry["request_id"])
    return found
