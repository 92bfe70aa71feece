"""The promise, under load: nothing is lost, whatever happens to the stack. See oracle.py.

`make proof` repeats these and writes docs/proof.md. A test that is marked "counted" may lose
requests, and says which and how many at most.
"""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.e2e.harness import Stack, background, copy_sources, crash, engine, eventually
from tests.e2e.lab import (
    BROKEN,
    FAILS_AS_SECOND,
    Oracle,
    answers,
    assert_whole,
    broken,
    counted,
    follow_guide,
    make_lab,
    new_revision,
    old_workers,
    on_every_replica,
    row,
    short_grace,
    wait_for_check,
    wait_whole,
)
from tests.e2e.oracle import FRESH
from tests.e2e.rig import Node

pytestmark = pytest.mark.scenario

CYCLES = int(os.environ.get("CYCLES", "5"))
REQUESTS = int(os.environ.get("REQUESTS", "30000"))


# --- the oracle itself -----------------------------------------------------------------------


@pytest.mark.counted
def test_control_a_replica_that_is_stopped_while_it_has_traffic_loses_requests(
    lab: Stack, oracle: Oracle
) -> None:
    victim = lab.containers("web")[0]
    with oracle(lab, rate=15, work_ms=200) as result:
        victim.stop(timeout=0)
    assert result.lost, "the oracle is blind"
    victim.start()
    wait_whole(lab, 2)


# --- scale -----------------------------------------------------------------------------------


# The work is what one replica with its four threads can do in the end.
@pytest.mark.parametrize(("work_ms", "rate"), [(0, 120), (200, 15)])
def test_scaling_2_to_5_to_2_to_1_loses_nothing(
    lab: Stack, oracle: Oracle, work_ms: int, rate: int
) -> None:
    with oracle(lab, rate=rate, work_ms=work_ms) as result:
        for count in (5, 2, 1):
            lab.run("scale", f"web={count}")
    result.assert_nothing_lost()
    assert_whole(lab, 1)


def test_scaling_at_a_high_rate_loses_nothing(lab: Stack, oracle: Oracle) -> None:
    """REQUESTS sets how many are sent at least."""
    with oracle(lab, rate=450) as result:
        while len(result.sent) < REQUESTS:
            for count in (6, 1, 3):
                lab.run("scale", f"web={count}")
    result.assert_nothing_lost()


def test_a_request_of_20_s_in_flight_at_a_scale_down_comes_back_whole(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=3")
    with ThreadPoolExecutor() as pool:
        slow = on_every_replica(lab, pool, 20_000)
        with oracle(lab) as result:
            lab.run("scale", "web=1")
            answers = [future.result() for future in slow]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["replica"] for answer in answers}) == 3
    result.assert_nothing_lost()


def test_a_request_longer_than_the_drain_timeout_is_cut_once_and_others_are_not(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=2")
    with ThreadPoolExecutor() as pool:
        slow = on_every_replica(lab, pool, 15_000, "POST")
        with oracle(lab) as result, short_grace(lab):
            done = lab.try_run("scale", "web=1", "--drain-timeout", "2")
            codes = [future.result().status_code for future in slow]
    assert done.returncode == 0
    cut = codes.count(502)
    assert 1 <= cut < len(codes)
    assert codes.count(200) == len(codes) - cut
    assert f"{cut} request(s) still in flight" in done.stderr
    assert f"{cut} request(s) ended with it, of which 0 another" in done.stderr
    result.assert_nothing_lost()


def test_a_scale_down_with_nothing_in_flight_takes_under_5_s(lab: Stack) -> None:
    lab.run("scale", "web=3")
    began = time.monotonic()
    lab.run("scale", "web=1")
    # Without the list gunicorn waits for nginx' idle connections: 25 s.
    assert time.monotonic() - began < 5


def test_many_scale_cycles_leave_nothing_behind(lab: Stack, oracle: Oracle) -> None:
    """CYCLES sets how many."""

    def there() -> dict[str, int]:
        project = {"label": f"com.docker.compose.project={lab.project}"}
        proxy = lab.containers("proxy")[0]
        nginx = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^nginx: worker'"
        count = f"{nginx}; ls /proc/1/fd | wc -l; ls /var/lib/proxy | wc -l"
        output = proxy.exec_run(["sh", "-c", count]).output
        assert isinstance(output, bytes)
        workers, files, configurations = map(int, output.split())
        return {
            "containers": len(lab.containers()),
            "networks": len(engine().networks.list(filters=project)),
            "volumes": len(engine().volumes.list(filters=project)),
            "images": len(engine().images.list(name=f"{lab.project}-web")),
            "workers": workers,
            "files that nginx has open": files,
            "configurations": configurations,
        }

    def cycle() -> None:
        for count in (3, 1):
            lab.run("scale", f"web={count}")

    with oracle(lab, rate=60) as result:
        cycle()
        eventually(lambda: old_workers(lab) == 0, "old workers have gone")
        before = there()
        for _ in range(CYCLES):
            cycle()
        eventually(lambda: old_workers(lab) == 0, "old workers have gone")
        assert there() == before
    result.assert_nothing_lost()


# --- rollouts --------------------------------------------------------------------------------


def test_three_rollouts_in_a_row_lose_nothing_and_keep_to_the_limits(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=3")
    with oracle(lab) as result, counted(lab) as counts:
        for verb in ("rollout", "rollout", "up"):
            before = lab.web()[0]["revision"]
            new_revision(lab)
            # `up` does it, too.
            lab.run(verb)
            assert_whole(lab, 3)
            assert lab.web()[0]["revision"] != before
    result.assert_nothing_lost()
    assert min(ready for ready, _ in counts) >= 3
    assert max(total for _, total in counts) <= 3 + 1


def test_a_rollout_back_and_a_restart_lose_nothing(lab: Stack, oracle: Oracle) -> None:
    new_revision(lab)
    lab.run("rollout")
    (old,) = (one["revision"] for one in lab.revisions() if one["previous"])
    new = lab.web()[0]["revision"]
    with oracle(lab) as result:
        lab.run("rollback")
        assert_whole(lab, 2, old)
        lab.run("rollback", new)
        assert_whole(lab, 2, new)
        ids = {container.id for container in lab.containers("web")}
        lab.run("restart", "web")
        assert_whole(lab, 2, new)
    assert ids.isdisjoint(container.id for container in lab.containers("web"))
    result.assert_nothing_lost()


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(
            name, marks=[pytest.mark.counted] if name == "dies once it has traffic" else []
        )
        for name in BROKEN
        if name != "answers 5xx"
    ],
)
def test_a_revision_that(lab: Stack, oracle: Oracle, how: str) -> None:
    """...is taken back: all replicas are of the old one, and nothing is lost on the way."""
    old = lab.web()[0]["revision"]
    with oracle(lab) as result:
        with broken(lab, BROKEN[how]):
            done = lab.try_run("rollout")
        assert done.returncode == 1, done.stderr
        assert BROKEN[how].says in done.stderr
        assert_whole(lab, 2, old)
    assert len(lab.containers("web")) == 2
    result.assert_nothing_twice()
    if how == "dies once it has traffic":
        # What was in flight on it when it died: a POST must not be sent again.
        assert result.lost_by("GET") == []
        assert len(result.lost) <= 5, result.explain(result.lost)
    else:
        result.assert_nothing_lost()
    assert "Nothing to do" in lab.try_run("up").stderr


@pytest.mark.counted
def test_a_revision_that_answers_5xx_is_taken_back_and_costs_only_what_it_answered(
    lab: Stack, oracle: Oracle
) -> None:
    old = lab.web()[0]["revision"]
    with oracle(lab) as result:
        with broken(lab, BROKEN["answers 5xx"]):
            done = lab.try_run("rollout")
        assert done.returncode == 1
        assert BROKEN["answers 5xx"].says in done.stderr
        assert_whole(lab, 2, old)
        recovered_s = time.time() - result.began_at
    result.assert_nothing_twice()
    assert {one.failure[:23] for one in result.lost} <= {"ValueError: status 500:"}
    assert max(one.due_s for one in result.lost) < recovered_s


def test_an_image_that_is_missing_changes_nothing(lab: Stack, oracle: Oracle) -> None:
    before = {container.id for container in lab.containers()}
    with oracle(lab) as result:
        done = lab.try_run("rollout", "--image", "no-such-image:1")
    assert done.returncode == 1
    assert "there is no image no-such-image:1" in done.stderr
    assert {container.id for container in lab.containers()} == before
    result.assert_nothing_lost()


def test_a_failure_at_replica_2_of_4_takes_the_whole_service_back(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=4")
    old = lab.web()[0]["revision"]
    with oracle(lab) as result:
        with broken(lab, FAILS_AS_SECOND):
            done = lab.try_run("rollout")
        assert done.returncode == 1
        assert FAILS_AS_SECOND.says in done.stderr
        assert f"all 4 are of revision {old} again" in done.stderr
        assert_whole(lab, 4, old)
    result.assert_nothing_lost()


def test_a_rollback_that_fails_stops_and_what_serves_goes_on(lab: Stack, oracle: Oracle) -> None:
    lab.run("scale", "web=4")
    old = lab.web()[0]["revision"]
    image = engine().images.get(f"{lab.project}-web:{old}")
    # Whoever wants another replica of the old revision gets none.
    engine().images.remove(f"{lab.project}-web:{old}", force=True)
    with oracle(lab) as result:
        with broken(lab, FAILS_AS_SECOND):
            done = lab.try_run("rollout")
        assert done.returncode == 1
        assert "going back failed, too, and stops here" in done.stderr
        routed = [row for row in lab.web() if row["routed"]]
        assert [row["state"] for row in routed] == ["healthy"] * 4
    result.assert_nothing_lost()
    image.tag(f"{lab.project}-web", tag=old)
    lab.run("up")
    assert_whole(lab, 4, old)


def test_two_rollouts_at_once_do_not_mix(lab: Stack, oracle: Oracle) -> None:
    new_revision(lab)
    with oracle(lab) as result, background(lab, "rollout") as first:
        assert first.stderr
        first.stderr.readline()
        second = lab.try_run("rollout")
        assert second.returncode == 75
        assert "`rollout`" in second.stderr
        _, said = first.communicate(timeout=120)
        assert first.returncode == 0, said
    result.assert_nothing_lost()
    assert_whole(lab, 2)


# --- crashes ---------------------------------------------------------------------------------


@pytest.mark.counted
def test_a_replica_killed_with_9_costs_the_posts_in_flight_on_it_and_no_get(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=3")
    victim = lab.containers("web")[0]
    with oracle(lab, rate=40, work_ms=100) as result:
        crash(victim)
        killed_s = time.time() - result.began_at
        eventually(lambda: row(lab, victim.name)["state"] == "healthy", "it is healthy again")
        eventually(lambda: row(lab, victim.name)["routed"], "it is listed", within_s=10)
        assert_whole(lab, 3)
    assert result.lost_by("GET") == []
    # Each of them was under way when it died, and was not sent again.
    assert all(one.due_s <= killed_s <= one.due_s + one.took_s + 1 for one in result.lost)
    assert len(result.lost) <= 20, result.explain(result.lost)
    result.assert_nothing_twice()


@pytest.mark.counted
def test_after_all_replicas_are_killed_the_same_list_serves_again(
    lab: Stack, oracle: Oracle
) -> None:
    with oracle(lab) as result:
        for container in lab.containers("web"):
            crash(container)
        wait_whole(lab, 2)
        # The proxy's health check has followed them to their addresses.
        eventually(lambda: all(answers(lab) for _ in range(20)), "every request is answered")
        recovered_s = time.time() - result.began_at
        time.sleep(2)
    result.assert_nothing_twice()
    assert all(one.due_s <= recovered_s for one in result.lost)


def test_a_replica_that_is_paused_for_3_s_delays_requests_and_loses_none(
    lab: Stack, oracle: Oracle
) -> None:
    victim = lab.containers("web")[0]
    with oracle(lab) as result:
        # A command that Docker starts in a container at the moment at which it is paused hangs, and
        # the engine with it: just after a health check there is none for two seconds.
        wait_for_check(victim)
        victim.pause()
        time.sleep(3)
        victim.unpause()
        wait_whole(lab, 2)
    result.assert_nothing_lost()


@pytest.mark.parametrize("verb", [("up",), ("scale", "web=3"), ("restart", "web")], ids=" ".join)
def test_a_replica_that_is_paused_is_replaced_and_what_it_had_in_flight_is_answered(
    lab: Stack, oracle: Oracle, verb: tuple[str, ...]
) -> None:
    victim = lab.containers("web")[0]
    with oracle(lab) as result:
        wait_for_check(victim)
        victim.pause()
        lab.run(*verb)
    result.assert_nothing_lost()
    assert victim.name not in {row["name"] for row in lab.web()}
    assert_whole(lab, 3 if verb[0] == "scale" else 2)


@pytest.mark.counted
def test_a_proxy_that_is_killed_is_back_within_3_s_with_the_same_list(
    lab: Stack, oracle: Oracle
) -> None:
    proxy = lab.containers("proxy")[0]
    show = ["cat", "/var/lib/proxy/current/targets/web:8000"]
    before = proxy.exec_run(show).output
    with oracle(lab) as result:
        began = time.time()
        crash(proxy)
        eventually(lambda: answers(lab), "it answers", within_s=10)
        back_s = time.time() - result.began_at
        # Starting the container that kills takes its part of this time.
        assert time.time() - began < 3
        time.sleep(1)
    assert proxy.exec_run(show).output == before
    assert all(one.due_s <= back_s for one in result.lost)
    result.assert_nothing_twice()


# --- the proxy -------------------------------------------------------------------------------


def test_100_reloads_in_10_s_lose_nothing(lab: Stack, oracle: Oracle) -> None:
    proxy = lab.containers("proxy")[0]
    reload = "i=0; while [ $i -lt 100 ]; do kill -HUP 1; sleep 0.1; i=$((i+1)); done"
    with oracle(lab) as result:
        assert proxy.exec_run(["sh", "-c", reload]).exit_code == 0
    result.assert_nothing_lost()


@pytest.mark.counted
def test_a_request_on_a_connection_that_was_idle_for_long_may_be_lost_but_is_then_not_executed(
    lab: Stack, oracle: Oracle
) -> None:
    """It meets the closing of its connection, as with every HTTP server."""
    proxy = lab.containers("proxy")[0]
    reload = "i=0; while [ $i -lt 40 ]; do kill -HUP 1; sleep 0.3; i=$((i+1)); done"
    with oracle(lab, rate=15, reuse_s=60) as result:
        assert proxy.exec_run(["sh", "-c", reload]).exit_code == 0
    assert [one for one in result.lost if one.client == FRESH] == []
    assert [one for one in result.lost if result.executed[one.id]] == []
    # Chance decides how many; more than these would be another fault.
    assert len(result.lost) <= 5, result.explain(result.lost)
    result.assert_nothing_twice()


def test_a_configuration_that_nginx_refuses_loses_nothing(lab: Stack, oracle: Oracle) -> None:
    with oracle(lab) as result:
        path = lab.directory / "proxy" / "conf" / "log.conf"
        good = path.read_text()
        path.write_text(good + "nonsense;\n")
        done = lab.try_run("up")
        path.write_text(good)
        assert done.returncode == 78
        lab.run("up")
    result.assert_nothing_lost()


def test_posts_spaced_at_the_keep_alive_limit_are_not_lost(lab: Stack) -> None:
    # A replica keeps idle connections for 75 s and the proxy for 60: here 4 and 2.
    lab.edit("proxy/conf/replicas.conf", "keepalive_timeout  60s", "keepalive_timeout  2s")
    lab.edit("web/gunicorn.conf.py", "keepalive = 75", "keepalive = 4")
    lab.run("up")
    failures: list[str] = []

    def post(delay_s: float) -> None:
        for number in range(5):
            time.sleep(delay_s)
            answer = requests.post(
                f"{lab.url}/api/echo", json={"id": f"spaced-{number}"}, timeout=10
            )
            if answer.status_code != 200:
                failures.append(f"after {delay_s} s: {answer.status_code}")

    # From well before to well after the moment at which the proxy closes.
    threads = [threading.Thread(target=post, args=(1.9 + 0.01 * n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lab.edit("proxy/conf/replicas.conf", "keepalive_timeout  2s", "keepalive_timeout  60s")
    lab.edit("web/gunicorn.conf.py", "keepalive = 4", "keepalive = 75")
    lab.run("up")
    assert failures == []


def test_a_manager_that_takes_over_from_a_plain_compose_up_loses_nothing(
    tmp_path: Path, stack: Stack, oracle: Oracle
) -> None:
    make_lab(tmp_path / "stack", stack)
    stack.compose("up", "--detach")
    eventually(lambda: answers(stack), "it answers")
    with oracle(stack) as result:
        stack.run("scale", "web=4")
    result.assert_nothing_lost()


def test_a_changed_configuration_of_the_proxy_loses_nothing(lab: Stack, oracle: Oracle) -> None:
    proxy = lab.containers("proxy")[0]
    before = proxy.attrs["RestartCount"]
    server = lab.directory / "proxy" / "conf" / "server.conf"
    text = server.read_text()
    with oracle(lab) as result:
        for number in ("1", "2"):
            header = f'add_header X-Test "{number}" always;\n'
            server.write_text(text.replace("    location / {", f"    {header}    location / {{", 1))
            lab.run("up")
            assert lab.get("/api/replica").headers["X-Test"] == number
        server.write_text(text)
        lab.run("up")
    result.assert_nothing_lost()
    proxy.reload()
    assert proxy.status == "running"
    assert proxy.attrs["RestartCount"] == before


def test_two_services_whose_replicas_crash_and_move_never_answer_for_each_other(
    tmp_path: Path, stack: Stack
) -> None:
    stack.directory = copy_sources(tmp_path / "stack")
    follow_guide(stack.directory)
    stack.run("up", "web=2", "shop=2")
    names = {
        container.id[:12]: service
        for service in ("web", "shop")
        for container in stack.containers(service)
        if container.id
    }
    wrong, right = [], 0
    # A hole, so that what starts again gets another address; then all of both at once.
    stack.run("scale", "web=1", "shop=1")
    stack.run("scale", "web=2", "shop=2")
    for service in ("web", "shop"):
        for container in stack.containers(service):
            crash(container)
            names[str(container.id)[:12]] = service
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        for service, host in (("web", "localhost"), ("shop", "shop.localhost")):
            answer = stack.get("/api/replica", headers={"Host": host})
            if answer.status_code == 200:
                right += names[answer.json()["replica"]] == service
                if names[answer.json()["replica"]] != service:
                    wrong.append(answer.text)
    assert wrong == []
    assert right > 100
    rows = [row for row in stack.ps() if row["service"] in ("web", "shop")]
    assert [row["routed"] for row in rows] == [True] * 4


def test_an_upload_that_outlasts_a_change_of_all_replicas_is_answered(lab: Stack) -> None:
    old = {container.id for container in lab.containers("web")}
    new_revision(lab)
    body = b'{"id": "slow-upload"}'
    with socket.create_connection(("127.0.0.1", lab.port), timeout=30) as connection:
        connection.sendall(
            b"POST /api/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        with background(lab, "rollout") as process:
            # nginx has the request, and no replica has it before its last byte.
            for byte in body:
                time.sleep(0.5)
                connection.sendall(bytes([byte]))
            answer = connection.makefile("rb").read()
            assert process.wait(90) == 0
    assert old.isdisjoint(container.id for container in lab.containers("web"))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert b'"slow-upload"' in answer


# --- the daemon ------------------------------------------------------------------------------


def test_a_daemon_that_is_restarted_with_live_restore_loses_nothing(
    tmp_path: Path, stack: Stack, oracle: Oracle
) -> None:
    """On an engine of its own: the one of this machine is not ours to restart."""
    make_lab(tmp_path / "stack", stack)
    stack.run("up")
    images = [str(container.attrs["Config"]["Image"]) for container in stack.containers()]
    node = Node(options=("--live-restore",))
    try:
        node.start()
        node.take_images(images)
        # Images stay, the port gets free.
        stack.run("down")
        stack.docker_host = node.host
        stack.run("up", "--no-build")
        # The port of 127.0.0.1 is served by a process of the daemon's own, which goes with it.
        edge = stack.containers("proxy")[0].attrs["NetworkSettings"]["Networks"]
        stack.namespace = node.namespace
        with oracle(stack, address=(edge[f"{stack.project}_edge"]["IPAddress"], 8080)) as result:
            node.stop()
            time.sleep(2)
            node.start()
            wait_whole(stack, 2)
            stack.run("scale", "web=3")
            stack.run("restart", "web")
        assert_whole(stack, 3)
        result.assert_nothing_lost()
    finally:
        stack.docker_host = ""
        node.remove()
