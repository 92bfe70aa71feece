"""Requests that two programs might read in two ways: nginx and gunicorn must not.

Each is sent as bytes. What is malformed gets 400 or is closed; and of no request the app ever sees
two, whatever is hidden in it.
"""

import secrets
import socket

import pytest

from tests.e2e.harness import Stack, eventually

HOST = "Host: localhost"
HIDDEN = "GET /hidden-{id} HTTP/1.1\r\nHost: localhost\r\n\r\n"
ID_CHARS = 16
HIDDEN_SIZE = len(HIDDEN) - len("{id}") + ID_CHARS


def request(*headers: str, line: str = "POST /seen-{id} HTTP/1.1", body: str = "") -> str:
    return "\r\n".join([line, *headers, "", body])


# What it is: the request, and whether it is answered as any other.
REFUSED = {
    "length and chunks": request(
        HOST, "Content-Length: 4", "Transfer-Encoding: chunked", body="0\r\n\r\n" + HIDDEN
    ),
    "chunks and length": request(
        HOST, "Transfer-Encoding: chunked", "Content-Length: 4", body="0\r\n\r\n" + HIDDEN
    ),
    "two lengths": request(HOST, "Content-Length: 0", "Content-Length: 60", body=HIDDEN),
    "the same length twice": request(HOST, "Content-Length: 3", "Content-Length: 3", body="abc"),
    "a list of lengths": request(HOST, "Content-Length: 3, 3", body="abc"),
    "a length with a sign": request(HOST, "Content-Length: +3", body="abc"),
    "a length below zero": request(HOST, "Content-Length: -1", body=HIDDEN),
    "a length in hexadecimal": request(HOST, "Content-Length: 0x3", body="abc"),
    "a length beyond 64 bits": request(HOST, "Content-Length: 99999999999999999999", body="abc"),
    "no chunks but so called": request(HOST, "Transfer-Encoding: xchunked", body=HIDDEN),
    "chunks and something else": request(
        HOST, "Transfer-Encoding: chunked, identity", body="0\r\n\r\n" + HIDDEN
    ),
    "chunks twice": request(
        HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: identity", body="0\r\n\r\n" + HIDDEN
    ),
    "chunks after a vertical tab": request(
        HOST, "Transfer-Encoding:\x0bchunked", body="0\r\n\r\n" + HIDDEN
    ),
    "a chunk without a size": request(HOST, "Transfer-Encoding: chunked", body="\r\nabc\r\n"),
    "a chunk of a size below zero": request(
        HOST, "Transfer-Encoding: chunked", body="-1\r\nabc\r\n0\r\n\r\n"
    ),
    "a chunk beyond 64 bits": request(
        HOST, "Transfer-Encoding: chunked", body="fffffffffffffffff\r\nabc\r\n0\r\n\r\n"
    ),
    "chunks in HTTP/1.0": request(
        HOST,
        "Transfer-Encoding: chunked",
        line="POST /seen-{id} HTTP/1.0",
        body="0\r\n\r\n" + HIDDEN,
    ),
    "two hosts": request(HOST, "Host: evil.example"),
    "no host": request("Content-Length: 0"),
    "a host with a slash": request("Host: localhost/evil"),
    "a zero in a header": request(HOST, "X-A: a\0b", "Content-Length: 0"),
    "a zero in the path": request(HOST, line="GET /seen-{id}\0 HTTP/1.1"),
    "a control character in the path": request(HOST, line="GET /seen-{id}\x01 HTTP/1.1"),
    "a space in the path": request(HOST, line="GET /seen-{id} x HTTP/1.1"),
    "a path out of the root": request(HOST, line="GET /../seen-{id} HTTP/1.1"),
    "a version of tomorrow": request(HOST, line="GET /seen-{id} HTTP/3.0"),
    "no version at all": request(HOST, line="GET /seen-{id} HTTP/"),
    "a method in small letters": request(HOST, line="get /seen-{id} HTTP/1.1"),
    "a tunnel": request(HOST, line="CONNECT localhost:22 HTTP/1.1"),
    "a trace": request(HOST, line="TRACE /seen-{id} HTTP/1.1"),
    "a line that is too long": request(HOST, line=f"GET /seen-{{id}}{'x' * 9000} HTTP/1.1"),
    "a header that is too long": request(HOST, f"X-A: {'x' * 9000}"),
    "too many headers": request(HOST, *[f"X-{number}: {'x' * 500}" for number in range(100)]),
    "a folded header": request(HOST, "X-A: a", " Content-Length: 60", "Content-Length: 0"),
    "a space before the colon": request(HOST, "Content-Length : 60", "Content-Length: 0"),
    "a return without a new line": request(HOST, "X-A: a\rX-B: b", "Content-Length: 0"),
}

# What the standard lets pass (RFC 9112), and what is passed over: one request it is.
ANSWERED = {
    "new lines without returns": request(HOST, "Content-Length: 0").replace("\r\n", "\n"),
    "chunks with extensions": request(
        HOST, "Transfer-Encoding: chunked", body='3;a="b;c"\r\nabc\r\n0;x\r\n\r\n'
    ),
    "chunks with trailers": request(
        HOST, "Transfer-Encoding: chunked", body="3\r\nabc\r\n0\r\nContent-Length: 60\r\n\r\n"
    ),
    "a request in a body": request(HOST, f"Content-Length: {HIDDEN_SIZE}", body=HIDDEN),
    "a request in a chunk": request(
        HOST, "Transfer-Encoding: chunked", body=f"{HIDDEN_SIZE:x}\r\n{HIDDEN}\r\n0\r\n\r\n"
    ),
    "a request in a trailer": request(
        HOST, "Transfer-Encoding: chunked", body=f"0\r\nX-A: {HIDDEN}"
    ),
    "a header with an underscore": request(HOST, "Content_Length: 60", "Content-Length: 0"),
    "a whole address": request(
        "Host: evil.example", line="GET http://localhost/seen-{id} HTTP/1.1"
    ),
    "a change of protocol": request(
        HOST,
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Connection: Upgrade, HTTP2-Settings",
        line="GET /seen-{id} HTTP/1.1",
    ),
    "headers that name no hop": request(
        HOST, "Connection: close, X-Request-ID, Host", "Content-Length: 0"
    ),
}


def send(stack: Stack, text: str) -> bytes:
    """The first bytes that come back; none if the connection is closed without any."""
    with socket.create_connection(("127.0.0.1", stack.port), 5) as connection:
        connection.sendall(text.encode("latin-1"))
        try:
            return connection.recv(4096)
        except ConnectionResetError:
            return b""


def seen(stack: Stack, id_: str) -> list[str]:
    """What the app has logged of it."""
    marker = secrets.token_hex(8)
    replicas = stack.containers("web")
    # What came before this has been logged once this has, by each replica.
    for _ in range(2 * len(replicas)):
        stack.get(f"/marker-{marker}")

    def logs() -> list[str]:
        return [one.logs(tail=50).decode() for one in replicas]

    eventually(lambda: all(marker in log for log in logs()), "the app's line")
    return [line for log in logs() for line in log.splitlines() if id_ in line]


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_malformed_is_refused_and_the_app_does_not_see_it(
    running: Stack, what: str
) -> None:
    id_ = secrets.token_hex(ID_CHARS // 2)
    answer = send(running, REFUSED[what].replace("{id}", id_))
    status = int(answer.split()[1]) if answer else 0
    assert status in (0, 400, 405, 414, 501, 505), answer
    assert seen(running, id_) == []


@pytest.mark.parametrize("what", ANSWERED)
def test_what_may_pass_is_one_request_to_the_app(running: Stack, what: str) -> None:
    id_ = secrets.token_hex(ID_CHARS // 2)
    text = ANSWERED[what].replace("{id}", id_)
    answer = send(running, text)
    assert answer.split()[1] in (b"404", b"400"), answer
    lines = seen(running, id_)
    assert len(lines) == (1 if answer.split()[1] == b"404" else 0)
    assert "hidden" not in "".join(lines)
    assert "evil" not in "".join(lines)
