"""The promise, under load: nothing is lost, whatever happens to the stack. See oracle.py.

`make proof` repeats these and writes docs/proof.md. A test that is marked "counted" may lose
requests, and says which and how many at most.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from tests.e2e.harness import Stack, background, crash, engine, eventually
from tests.e2e.lab import (
    BROKEN,
    FAILS_AS_SECOND,
    assert_whole,
    broken,
    new_revision,
    wait_whole,
)

pytestmark = pytest.mark.scenario
Oracle = Callable[..., Any]

CYCLES = int(os.environ.get("CYCLES", "5"))


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
    with oracle(lab, rate=450) as result:
        for count in (6, 1, 3):
            lab.run("scale", f"web={count}")
    result.assert_nothing_lost()


def test_a_request_of_20_s_in_flight_at_a_scale_down_comes_back_whole(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=3")
    with ThreadPoolExecutor() as pool:
        slow = _on_every_replica(lab, pool, 20_000)
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
        slow = _on_every_replica(lab, pool, 15_000, "POST")
        with oracle(lab) as result, _short_grace(lab):
            done = lab.try_run("scale", "web=1", "--drain-timeout", "2")
            codes = [future.result().status_code for future in slow]
    assert done.returncode == 0
    cut = codes.count(502)
    assert 1 <= cut < len(codes)
    assert codes.count(200) == len(codes) - cut
    assert f"{cut} request(s) still in flight" in done.stderr
    assert f"{cut} request(s) ended with it, of which 0 another" in done.stderr
    result.assert_nothing_lost()


def test_a_long_poll_or_a_websocket_does_not_hold_a_scale_down_for_ever(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=2")
    with ThreadPoolExecutor() as pool:
        polls = _on_every_replica(lab, pool, 25_000, "POST")
        with oracle(lab) as result, _short_grace(lab):
            began = time.monotonic()
            lab.run("scale", "web=1", "--drain-timeout", "2")
            took_s = time.monotonic() - began
        # The drain, the grace, and what the steps take; the polls take 25 s.
        assert took_s < 15
        assert_whole(lab, 1)
        result.assert_nothing_lost()
        assert {future.result().status_code for future in polls} == {200, 502}


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
        count = "ls -d /proc/[0-9]* | wc -l; ls /proc/1/fd | wc -l; ls /var/lib/proxy | wc -l"
        output = proxy.exec_run(["sh", "-c", count]).output
        assert isinstance(output, bytes)
        processes, files, configurations = map(int, output.split())
        return {
            "containers": len(lab.containers()),
            "networks": len(engine().networks.list(filters=project)),
            "volumes": len(engine().volumes.list(filters=project)),
            "images": len(engine().images.list(name=f"{lab.project}-web")),
            "processes in the proxy": processes,
            "files that nginx has open": files,
            "configurations": configurations,
        }

    def cycle() -> None:
        for count in (3, 1):
            lab.run("scale", f"web={count}")

    with oracle(lab, rate=60) as result:
        cycle()
        eventually(lambda: _old_workers(lab) == 0, "old workers have gone")
        before = there()
        for _ in range(CYCLES):
            cycle()
        eventually(lambda: _old_workers(lab) == 0, "old workers have gone")
        assert there() == before
    result.assert_nothing_lost()


# --- rollouts --------------------------------------------------------------------------------


def test_three_rollouts_in_a_row_lose_nothing_and_keep_to_the_limits(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=3")
    with oracle(lab) as result, _counted(lab) as counts:
        for _ in range(3):
            before = lab.web()[0]["revision"]
            new_revision(lab)
            lab.run("rollout")
            assert_whole(lab, 3)
            assert lab.web()[0]["revision"] != before
    result.assert_nothing_lost()
    assert min(ready for ready, _ in counts) >= 3
    assert max(total for _, total in counts) <= 3 + 1


def test_a_rollout_back_and_a_restart_lose_nothing(lab: Stack, oracle: Oracle) -> None:
    new_revision(lab)
    lab.run("rollout")
    new, old = (one["revision"] for one in lab.revisions()[:2])
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


@pytest.mark.parametrize("how", [name for name in BROKEN if name != "answers 5xx"])
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
    assert image.id
    # Whoever wants another replica of the old revision gets one that does not start.
    lab.docker(
        "build",
        "--tag",
        f"{lab.project}-web:{old}",
        "-",
        feed=f'FROM {image.tags[0]}\nCMD ["false"]',
    )
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


def test_a_rollout_killed_after_any_step_is_finished_by_running_it_again(
    lab: Stack, oracle: Oracle
) -> None:
    with oracle(lab, rate=90) as result:
        step, total = 0, 1
        while step < total:
            step += 1
            new_revision(lab)
            with background(lab, "rollout") as process:
                assert process.stderr
                total = _wait_for_step(process.stderr, step)
                process.send_signal(signal.SIGKILL)
                process.wait()
            lab.run("--lock-wait", "60", "rollout")
            assert_whole(lab, 2)
            assert len(lab.containers("web")) == 2
    assert total > 10
    result.assert_nothing_lost()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_rollout_between_two_steps(
    lab: Stack, oracle: Oracle, number: signal.Signals, code: int
) -> None:
    new_revision(lab)
    with oracle(lab) as result:
        with background(lab, "rollout") as process:
            assert process.stderr
            _wait_for_step(process.stderr, 3)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
            assert process.returncode == code
            assert "stopping after this step" in said
            assert re.search(r"web: [12] of revision \w+", said), said
            assert "run the same command again" in said
        lab.run("rollout")
        assert_whole(lab, 2)
    result.assert_nothing_lost()


def test_a_second_signal_stops_at_once(lab: Stack, oracle: Oracle) -> None:
    new_revision(lab)
    with oracle(lab) as result:
        with ThreadPoolExecutor(2) as pool, background(lab, "rollout") as process:
            slow = [pool.submit(_work, lab, 8_000) for _ in range(2)]
            assert process.stderr
            # The drain: it waits for the slow requests.
            while "proxy drain" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            process.wait(30)
            assert time.monotonic() - began < 2
            assert [future.result().status_code for future in slow] == [200, 200]
        lab.run("rollout")
        assert_whole(lab, 2)
    result.assert_nothing_lost()


def test_what_explain_prints_of_a_rollout_can_be_typed(lab: Stack, oracle: Oracle) -> None:
    new_revision(lab)
    with oracle(lab) as result:
        script = lab.run("--explain", "rollout")
        lab.shell(script)
        assert_whole(lab, 2)
        assert "Nothing to do" in lab.try_run("rollout").stderr
    result.assert_nothing_lost()


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
        eventually(lambda: _row(lab, victim.name)["state"] == "healthy", "it is healthy again")
        eventually(lambda: _row(lab, victim.name)["routed"], "it is listed", within_s=10)
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
        eventually(lambda: all(_answers(lab) for _ in range(20)), "every request is answered")
        recovered_s = time.time() - result.began_at
        time.sleep(2)
    result.assert_nothing_twice()
    assert all(one.due_s <= recovered_s for one in result.lost)


def test_a_replica_that_is_paused_for_3_s_delays_requests_and_loses_none(
    lab: Stack, oracle: Oracle
) -> None:
    victim = lab.containers("web")[0]
    with oracle(lab) as result:
        victim.pause()
        time.sleep(3)
        victim.unpause()
        wait_whole(lab, 2)
    result.assert_nothing_lost()


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
        eventually(lambda: _answers(lab), "it answers", within_s=10)
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
        for number in range(10):
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


# --- helpers ---------------------------------------------------------------------------------


def _work(stack: Stack, ms: int, method: str = "GET") -> requests.Response:
    return requests.request(method, f"{stack.url}/api/work?ms={ms}", timeout=90)


def _answers(stack: Stack) -> bool:
    try:
        return stack.get("/api/replica").status_code == 200
    except requests.ConnectionError:
        return False


def _row(stack: Stack, name: str | None) -> dict[str, Any]:
    return next(row for row in stack.ps() if row["name"] == name)


def _on_every_replica(
    stack: Stack, pool: ThreadPoolExecutor, ms: int, method: str = "GET"
) -> list[Future[requests.Response]]:
    """Send slow requests, one by one, until every replica is at work on one. Nothing else is
    under way.
    """
    slow: list[Future[requests.Response]] = []
    while not all(_in_flight(stack)):
        slow.append(pool.submit(_work, stack, ms, method))
        assert len(slow) <= 20
        eventually(lambda: sum(_in_flight(stack)) >= len(slow), "it has arrived")
    return slow


def _in_flight(stack: Stack) -> list[int]:
    """How many requests each replica is at work on, by its own account."""
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
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
def _short_grace(stack: Stack) -> Iterator[None]:
    """Inside, what does not end by itself within 3 s of SIGTERM is killed."""
    grace = "stop_grace_period: {}\n    health"
    stack.edit("compose.yaml", grace.format("30s"), grace.format("3s"))
    try:
        yield
    finally:
        stack.edit("compose.yaml", grace.format("3s"), grace.format("30s"))


def _old_workers(stack: Stack) -> int:
    proxy = stack.containers("proxy")[0]
    script = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -cx 'nginx: worker process is shutting dow[n]'"
    output = proxy.exec_run(["sh", "-c", script]).output
    assert isinstance(output, bytes)
    return int(output)


def _wait_for_step(lines: Any, number: int) -> int:
    """Read a run's output until this step begins; return how many there are in all."""
    for line in lines:
        found = re.match(r"\[(\d+)/(\d+)\]", line)
        if found and int(found[1]) == number:
            return int(found[2])
    raise AssertionError(f"it ended before step {number}")


@contextmanager
def _counted(stack: Stack) -> Iterator[list[tuple[int, int]]]:
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
