"""The promise: nothing is lost while the stack changes. 48 keep-alive clients, half of them POST,
no retries, every answer checked. REQUESTS sets how many are sent at least.
"""

import os
import socket
import time

import pytest

from tests.e2e.harness import Stack, background, eventually
from tests.e2e.load import Result, load, wait_for

REQUESTS = int(os.environ.get("REQUESTS", "30000"))
LIMIT_S = 600


def assert_nothing_lost(result: Result) -> None:
    print(result)
    assert result.failures == [], "\n".join([str(result), *result.failures[:20]])


@pytest.mark.load
def test_scaling_2_6_1_3_loses_no_quick_request(running: Stack) -> None:
    running.run("scale", "web=2")
    with load(running.port) as result:
        for count in (6, 1, 3):
            running.run("scale", f"web={count}")
        wait_for(result, REQUESTS, limit_s=LIMIT_S)
    assert_nothing_lost(result)


@pytest.mark.load
def test_scaling_2_6_1_3_loses_no_request_of_200_ms(running: Stack) -> None:
    running.run("scale", "web=2")
    with load(running.port, work_ms=200) as result:
        for count in (6, 1, 3, 6):
            running.run("scale", f"web={count}")
        # These are slow by nature: 24 threads answer 120 of them in a second.
        wait_for(result, REQUESTS // 10, limit_s=LIMIT_S)
    assert_nothing_lost(result)


@pytest.mark.load
def test_the_oracle_sees_what_a_bare_docker_kill_loses(running: Stack) -> None:
    running.run("scale", "web=3")
    with load(running.port, work_ms=50) as result:
        wait_for(result, 500, limit_s=60)
        running.containers("web")[0].kill()
        wait_for(result, 1500, limit_s=60)
    assert result.failures, "the control lost nothing: the oracle is blind"
    running.run("up", "web=3")


@pytest.mark.load
def test_a_changed_proxy_configuration_is_taken_over_without_loss(stack_copy: Stack) -> None:
    stack_copy.run("up")
    proxy = stack_copy.containers("proxy")[0]
    server = stack_copy.directory / "proxy" / "conf" / "server.conf"
    text = server.read_text()
    with load(stack_copy.port) as result:
        wait_for(result, 1000, limit_s=60)
        for number in ("1", "2", "3"):
            header = f'add_header X-Test "{number}" always;\n'
            server.write_text(text.replace("    location / {", f"    {header}    location / {{", 1))
            stack_copy.run("up")
            assert stack_copy.get("/api/replica").headers["X-Test"] == number
        wait_for(result, result.sent + 1000, limit_s=60)
    assert_nothing_lost(result)
    proxy.reload()
    assert proxy.status == "running"
    assert proxy.attrs["RestartCount"] == 0


@pytest.mark.load
def test_a_manager_that_takes_over_from_a_plain_compose_up_loses_nothing(stack: Stack) -> None:
    stack.compose("up", "--detach")
    eventually(lambda: stack.get("/api/replica").status_code == 200, "it answers")
    with load(stack.port) as result:
        wait_for(result, 1000, limit_s=60)
        stack.run("scale", "web=4")
        wait_for(result, result.sent + 1000, limit_s=60)
    assert_nothing_lost(result)


@pytest.mark.load
def test_an_upload_that_outlasts_a_change_of_all_replicas_is_answered(stack_copy: Stack) -> None:
    stack_copy.run("up")
    old = {container.id for container in stack_copy.containers("web")}
    page = stack_copy.directory / "web" / "app" / "templates" / "index.html"
    page.write_text(page.read_text().replace("The stack runs", "Another revision runs"))
    body = b'{"id": "slow-upload"}'
    with socket.create_connection(("127.0.0.1", stack_copy.port), timeout=30) as connection:
        connection.sendall(
            b"POST /api/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        with background(stack_copy, "up") as process:
            # nginx has the request, and no replica has it before its last byte.
            for byte in body:
                time.sleep(0.7)
                connection.sendall(bytes([byte]))
            answer = connection.makefile("rb").read()
            assert process.wait(60) == 0
    assert old.isdisjoint(container.id for container in stack_copy.containers("web"))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert b'"slow-upload"' in answer


@pytest.mark.load
def test_a_new_revision_of_the_app_is_taken_over_without_loss(stack_copy: Stack) -> None:
    stack_copy.run("up")
    page = stack_copy.directory / "web" / "app" / "templates" / "index.html"
    page.write_text(page.read_text().replace("The stack runs", "A new revision runs"))
    before = {row["revision"] for row in stack_copy.ps() if row["service"] == "web"}
    with load(stack_copy.port) as result:
        wait_for(result, 1000, limit_s=60)
        stack_copy.run("up")
        wait_for(result, result.sent + 1000, limit_s=60)
    assert_nothing_lost(result)
    assert "A new revision runs" in stack_copy.get("/").text
    rows = [row for row in stack_copy.ps() if row["service"] == "web"]
    assert len(rows) == 2
    assert len({row["revision"] for row in rows}) == 1
    assert {row["revision"] for row in rows} != before
