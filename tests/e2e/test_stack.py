"""The verbs on the real engine."""

import json
import re
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from docker.models.containers import Container

from tests.e2e.harness import Stack, background, crash, engine, eventually


def names(stack: Stack) -> list[str]:
    return sorted(str(container.name) for container in stack.containers())


def target_list(stack: Stack) -> object:
    proxy = stack.containers("proxy")[0]
    return proxy.exec_run(["cat", "/var/lib/proxy/current/targets/web:8000"]).output


def test_up_brings_the_stack_up_and_prints_where_it_answers(running: Stack) -> None:
    assert running.run("up") == f"{running.url}/\n"
    page = running.get("/")
    assert page.status_code == 200
    assert "The stack runs" in page.text


def test_a_second_up_changes_nothing(running: Stack) -> None:
    before = [(c.id, c.attrs["State"]["StartedAt"]) for c in running.containers()]
    done = running.try_run("up")
    assert "Nothing to do" in done.stderr
    assert [(c.id, c.attrs["State"]["StartedAt"]) for c in running.containers()] == before


def test_requests_reach_every_replica_evenly(running: Stack) -> None:
    running.run("scale", "web=3")
    with requests.Session() as session:
        answered = Counter(
            session.get(f"{running.url}/api/replica", timeout=10).json()["replica"]
            for _ in range(1000)
        )
    assert len(answered) == 3
    assert min(answered.values()) >= 0.8 * max(answered.values()), answered


def test_ps_says_what_the_engine_says(running: Stack) -> None:
    running.run("scale", "web=2")
    rows = {row["name"]: row for row in running.ps()}
    containers = {container.name: container for container in running.containers()}
    assert set(rows) == set(containers)
    for name, row in rows.items():
        inspected = containers[name].attrs
        networks = inspected["NetworkSettings"]["Networks"].values()
        assert row["state"] == inspected["State"]["Health"]["Status"] == "healthy"
        assert row["restarts"] == inspected["RestartCount"]
        assert row["address"].partition(":")[0] in {n["IPAddress"] for n in networks}
        assert inspected["Config"]["Image"].endswith(f":{row['revision']}")
        stats = containers[name].stats(stream=False)
        assert isinstance(stats, dict)
        memory = stats["memory_stats"]["usage"]
        assert 0 < row["memory_bytes"] <= memory * 1.2
        assert row["routed"] is (True if row["service"] == "web" else None)


def test_the_replica_says_the_revision_that_ps_shows(running: Stack) -> None:
    revisions = {row["revision"] for row in running.ps() if row["service"] == "web"}
    assert {running.get("/api/replica").json()["revision"]} == revisions


def test_ps_shows_drift_in_both_directions(running: Stack) -> None:
    running.run("scale", "web=2")
    listed, unlisted = (row["name"] for row in running.ps() if row["service"] == "web")
    proxy = f"{running.project}-proxy-1"
    running._run(("docker", "exec", proxy, "proxy", "targets", "web:8000", listed), {})
    # Draining, not drift: it has just left the list, as in a scale that was interrupted.
    assert {row["name"]: row["state"] for row in running.ps()}[unlisted] == "draining"
    running._run(("docker", "exec", proxy, "proxy", "targets", "web:8000", listed), {})
    assert f"drift: web: {unlisted} is ready, but gets no traffic" in running.run("ps")
    running.run("up")
    assert "drift" not in running.run("ps")


def test_explain_changes_nothing_for_any_verb(running: Stack) -> None:
    running.run("scale", "web=2")
    before = names(running), target_list(running)
    for arguments in (
        ("up", "web=4"),
        ("scale", "web=4"),
        ("scale", "web=1"),
        ("down",),
        ("down", "--volumes"),
        ("ps",),
        ("logs",),
        ("doctor",),
    ):
        assert running.run("--explain", *arguments).strip()
        assert (names(running), target_list(running)) == before


def test_what_explain_prints_can_be_typed(running: Stack) -> None:
    running.run("scale", "web=2")
    for count in (3, 1, 2):
        script = running.run("--explain", "scale", f"web={count}")
        running._run(("sh", "-euc", script), {})
        web = [row for row in running.ps() if row["service"] == "web"]
        assert [row["routed"] for row in web] == [True] * count
        assert "Nothing to do" in running.try_run("scale", f"web={count}").stderr


def test_a_request_in_flight_on_a_replica_that_goes_is_answered(running: Stack) -> None:
    running.run("scale", "web=3")
    with ThreadPoolExecutor(6) as pool:
        slow = [pool.submit(running.get, "/api/work?ms=6000") for _ in range(6)]
        eventually(lambda: _connections(running) >= 6, "six requests in flight")
        running.run("scale", "web=1")
        answers = [future.result() for future in slow]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.json()["replica"] for answer in answers}) == 3


def _connections(stack: Stack) -> int:
    proxy = next(iter(stack.containers("proxy")))
    output = proxy.exec_run(["cat", "/proc/net/tcp"]).output
    assert isinstance(output, bytes)
    # 1F40 is port 8000, 01 is ESTABLISHED.
    return len(re.findall(rb":1F40 01 ", output))


def test_two_managers_at_once_do_not_mix(running: Stack) -> None:
    running.run("scale", "web=2")
    with background(running, "scale", "web=4") as first:
        assert first.stderr
        first.stderr.readline()  # it has the lock and has begun
        second = running.try_run("scale", "web=1")
        assert second.returncode == 75
        assert f"process {first.pid}" in second.stderr
        assert "`scale web=4`" in second.stderr
        waited = running.try_run("--lock-wait", "60", "scale", "web=3")
        assert waited.returncode == 0
        assert first.wait(60) == 0
    assert sum(row["service"] == "web" for row in running.ps()) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_and_the_next_one_finishes_it(
    running: Stack, number: signal.Signals, code: int
) -> None:
    running.run("scale", "web=1")
    with background(running, "scale", "web=4") as process:
        assert process.stderr
        process.stderr.readline()
        process.send_signal(number)
        assert process.wait(30) == code
        assert "run the same command again" in process.stderr.read()
    assert running.get("/api/replica").status_code == 200
    running.run("scale", "web=4")
    assert [row["routed"] for row in running.ps() if row["service"] == "web"] == [True] * 4


def test_a_replica_that_crashes_gets_traffic_again_even_at_another_address(
    running: Stack,
) -> None:
    # A hole below the last one's address: Docker gives the lowest free one to whoever starts.
    running.run("scale", "web=4")
    min(running.containers("web"), key=_address).remove(force=True)
    running.run("scale", "web=3")
    victim = max(running.containers("web"), key=_address)
    before = _address(victim)
    crash(victim)
    for _ in range(20):
        assert running.get("/api/replica").status_code == 200
    eventually(
        lambda: all(r["state"] == "healthy" and r["routed"] in (True, None) for r in running.ps()),
        "the replica gets traffic again",
    )
    victim.reload()
    assert _address(victim) != before
    assert "drift" not in running.run("ps")


def _address(container: Container) -> tuple[int, ...]:
    networks = container.attrs["NetworkSettings"]["Networks"].values()
    return tuple(int(part) for part in next(iter(networks))["IPAddress"].split("."))


def test_the_target_list_survives_a_crash_of_the_proxy(running: Stack) -> None:
    running.run("scale", "web=2")
    proxy = running.containers("proxy")[0]
    before = proxy.exec_run(["cat", "/var/lib/proxy/current/targets/web:8000"]).output
    assert b"server " in before
    assert b"resolve" not in before
    crash(proxy)
    eventually(lambda: running.get("/api/replica").status_code == 200, "the proxy is back")
    assert proxy.exec_run(["cat", "/var/lib/proxy/current/targets/web:8000"]).output == before


def test_wrong_services_are_refused_and_the_nearest_is_named(running: Stack) -> None:
    before = names(running)
    for arguments, message in (
        (("scale", "wbe=2"), "Did you mean web?"),
        (("scale", "proxy=2"), "cannot be scaled"),
        (("scale", "web=0"), "--force"),
        (("scale", "web=1", "web=2"), "twice"),
        (("logs", "nosuch"), "no service 'nosuch'"),
    ):
        done = running.try_run(*arguments)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert names(running) == before


def test_scaling_to_none_needs_force_and_then_the_proxy_says_so_kindly(running: Stack) -> None:
    running.run("scale", "--force", "web=0")
    for accept, kind in (("text/html", "text/html"), ("*/*", "application/json")):
        answer = running.get("/", headers={"Accept": accept})
        assert answer.status_code == 502
        assert answer.headers["Content-Type"].startswith(kind)
    assert answer.json()["status"] == 502
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    running.run("scale", "web=2")
    assert running.get("/").status_code == 200


def test_logs_are_one_json_line_a_request_with_the_proxys_id(running: Stack) -> None:
    id_ = running.get("/api/replica").headers["X-Request-ID"]
    running.get("/api/replica", headers={"X-Request-ID": "mine-1"})
    running.get("/api/replica", headers={"X-Request-ID": "no good"})

    def lines(service: str) -> list[dict[str, object]]:
        texts = running.run("logs", service).splitlines()
        return [json.loads(t.partition("| ")[2]) for t in texts if "| {" in t]

    for service in ("web", "proxy"):
        eventually(lambda s=service: id_ in running.run("logs", s), "the line")  # type: ignore[misc]
        ids = [line["request_id"] for line in lines(service)]
        assert ids.count(id_) == ids.count("mine-1") == 1
        assert "no good" not in ids


def test_output_ends_quietly_when_its_reader_goes(running: Stack) -> None:
    running.get("/api/replica")
    for verb in ("logs", "ps", "--explain up web=5"):
        done = running._run(("sh", "-c", f"python3 -m stack {verb} | head -n 1"), {})
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ""


def test_doctor_finds_nothing_wrong_on_a_running_stack(running: Stack) -> None:
    report = running.run("doctor")
    assert "bad" not in report
    for check in ("engine", "compose", "buildx", "base", "port", "disk", "lock", "routing"):
        assert check in report


def test_down_leaves_no_container_network_or_volume(stack: Stack) -> None:
    stack.run("up", "web=1")
    stack.run("down")
    label = {"label": f"com.docker.compose.project={stack.project}"}
    assert stack.containers() == []
    assert engine().networks.list(filters=label) == []
    assert engine().volumes.list(filters=label) == []
    assert "Nothing to do" in stack.try_run("down").stderr
    assert "Nothing of project" in stack.run("ps")


def test_a_plain_compose_up_works_and_the_manager_takes_over(stack: Stack) -> None:
    stack.compose("up", "--detach", "--quiet-pull")
    eventually(lambda: stack.get("/api/replica").status_code == 200, "it answers")
    assert [row["routed"] for row in stack.ps()] == [True, True, None]
    failures: list[str] = []
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            answer = stack.get("/api/replica")
            if answer.status_code != 200:
                failures.append(answer.text)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        # A new revision, since these replicas are of "dev".
        stack.run("scale", "web=3")
    finally:
        stop.set()
        sender.join()
    assert failures == []
    assert [row["routed"] for row in stack.ps()] == [True, True, True, None]
