"""The promise: nothing is lost while the stack changes. 48 keep-alive clients, half of them POST,
no retries, every answer checked. REQUESTS sets how many are sent at least.
"""

import os

import pytest

from tests.e2e.harness import Stack
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
def test_the_oracle_sees_what_a_bare_docker_stop_loses(running: Stack) -> None:
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
    clients = stack_copy.directory / "proxy" / "conf" / "clients.conf"
    with load(stack_copy.port) as result:
        wait_for(result, 1000, limit_s=60)
        for size in ("2m", "3m", "4m"):
            clients.write_text(clients.read_text() + f"\n# {size}\n")
            stack_copy.run("up")
        wait_for(result, result.sent + 1000, limit_s=60)
    assert_nothing_lost(result)
    proxy.reload()
    assert proxy.status == "running"
    assert proxy.attrs["RestartCount"] == 0


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
