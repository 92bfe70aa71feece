"""What is read from the engine's answers, and how `ps` shows it."""

import socket
from contextlib import closing
from dataclasses import replace

import pytest

from stack import runner, show
from stack.engines.engine_api import EngineApi, replica_of, target_list
from stack.errors import EngineUnavailable
from stack.model import HEALTHY, TargetList
from tests.unit.simulation import replica, snapshot_of


def inspected(**state: object) -> dict[str, object]:
    return {
        "Id": "abc",
        "Name": "/p-web-1",
        "Created": "2026-11-21T08:00:00.123456789Z",
        "RestartCount": 2,
        "State": {"StartedAt": "0001-01-01T00:00:00Z", "ExitCode": 0, **state},
        "Config": {
            "Image": "p-web:abc1234",
            "Labels": {
                "com.docker.compose.service": "web",
                "com.docker.compose.container-number": "1",
                "stack.route.port": "8000",
            },
        },
        "NetworkSettings": {"Networks": {"p_web": {"IPAddress": "10.0.0.1"}}},
    }


def test_a_container_is_read_as_a_replica() -> None:
    found = replica_of(inspected(Status="running", Health={"Status": "healthy"}))
    assert (found.name, found.service, found.number, found.state) == ("p-web-1", "web", 1, HEALTHY)
    assert (found.addresses, found.port, found.restarts) == (("10.0.0.1",), 8000, 2)
    assert (found.revision, found.started_at, found.created_at) == (
        "abc1234",
        0,
        1795248000.123456789,
    )


def test_states_are_dockers_words() -> None:
    assert replica_of(inspected(Status="running")).state == "running"
    assert replica_of(inspected(Status="running", Health={"Status": "none"})).state == "running"
    assert (
        replica_of(inspected(Status="running", Health={"Status": "starting"})).state == "starting"
    )
    assert replica_of(inspected(Status="paused", Health={"Status": "healthy"})).state == "paused"
    assert replica_of(inspected(Status="dead")).state == "exited"


def test_a_target_list_is_read_back_as_it_was_written() -> None:
    text = (
        "server 10.0.0.1:8000 max_fails=0; # p-web-1\n"
        "server 10.0.0.2:8000 max_fails=0; # p-web-2\n"
        "# draining p-web-3\n"
    )
    routes = target_list(text)
    assert [target.name for target in routes.targets] == ["p-web-1", "p-web-2"]
    assert routes.draining == ("p-web-3",)
    assert not routes.by_dns
    assert target_list("server web:8000 resolve;\n") == TargetList(by_dns=True)
    assert target_list("server 127.0.0.1:1 down;\n") == TargetList()


def test_ps_shows_a_replica_that_left_the_list_as_draining() -> None:
    snapshot = snapshot_of([replica(1), replace(replica(2), draining=True)], [1])
    states = {row["name"]: (row["state"], row["routed"]) for row in show.rows(snapshot, {})}
    assert states["p-web-1"] == ("healthy", True)
    assert states["p-web-2"] == ("draining", False)
    assert states["p-proxy-1"] == ("healthy", None)
    assert show.drift(snapshot) == []


def test_drift_is_named_in_both_directions() -> None:
    lines = show.drift(snapshot_of([replica(1), replica(2)], [1, 9]))
    assert lines == [
        "web: 10.0.0.9:8000 (p-web-9) gets traffic, but no such replica runs",
        "web: p-web-2 is ready, but gets no traffic",
    ]


def test_a_table_has_its_columns_under_each_other() -> None:
    snapshot = snapshot_of([replica(1), replica(10)], [1, 10])
    lines = show.table(show.rows(snapshot, {"id1-new": 40 * 2**20})).splitlines()
    assert len({line.index("healthy") for line in lines[1:]}) == 1
    assert "40.0 MiB" in lines[1]


class Line:
    """A connection to an engine that gives one answer, or hangs up."""

    def __init__(self, answer: bytes) -> None:
        self.socket, self._theirs = socket.socketpair()
        self._theirs.sendall(answer)
        if not answer:
            self._theirs.close()

    def complaint(self) -> str:
        return ""

    def close(self) -> None:
        self.socket.close()
        self._theirs.close()


def answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_an_engine_that_has_hung_up_is_dialed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Line(b"")) as first, closing(Line(answer("200 OK", "{}"))) as second:
        monkeypatch.setattr(runner, "dial_engine", lambda: second)
        api = EngineApi(first)  # type: ignore[arg-type]
        with pytest.raises(EngineUnavailable):
            api.info()
        assert api.info() == {}


@pytest.mark.parametrize("said", ["does not have a leader", "rpc error: code = DeadlineExceeded"])
def test_a_swarm_without_a_leader_is_not_there_for_the_moment(said: str) -> None:
    with (
        closing(Line(answer("500 Internal Server Error", said))) as line,
        pytest.raises(EngineUnavailable, match="no leader"),
    ):
        EngineApi(line).json("/nodes")  # type: ignore[arg-type]
