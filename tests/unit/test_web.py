"""The web service's endpoints, in-process."""

import json
import time
from datetime import datetime

import pytest
from flask.testing import FlaskClient

from app import create_app


@pytest.fixture
def client() -> FlaskClient:
    return create_app(REVISION="abc1234").test_client()


def test_healthz_is_plain_ok(client: FlaskClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.text, answer.mimetype) == (200, "ok\n", "text/plain")


def test_replica_says_who_answers_and_counts(client: FlaskClient) -> None:
    first, second = client.get("/api/replica").json, client.get("/api/replica").json
    assert first
    assert second
    assert set(first) == {"replica", "revision", "pid", "started_at", "served"}
    assert first["revision"] == "abc1234"
    assert second["served"] == first["served"] + 1
    offset = datetime.fromisoformat(first["started_at"]).utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0


def test_an_error_is_json_and_keeps_its_headers(client: FlaskClient) -> None:
    answer = client.put("/api/echo")
    assert answer.status_code == 405
    assert answer.json
    assert answer.json["error"] == "Method Not Allowed"
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


def test_the_description_says_what_this_replica_allows() -> None:
    client = create_app(MAX_WORK_MS=30).test_client()
    document = client.get("/api/openapi.json").json
    assert document
    assert document["components"]["parameters"]["ms"]["schema"]["maximum"] == 30
    assert client.get("/api/work?ms=31").status_code == 400


def test_echo_answers_with_the_id(client: FlaskClient) -> None:
    answer = client.post("/api/echo", json={"id": "a-1"})
    assert answer.status_code == 200
    assert answer.json
    assert answer.json["id"] == "a-1"
    assert set(answer.json) == {"id", "replica", "revision"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"{}",
        b'{"id": 1}',
        b'{"id": ""}',
        b'{"id": null}',
        b'{"id": "a", "more": 1}',
        b'{"id": "' + b"a" * 201 + b'"}',
        b"\xff",
    ],
)
def test_echo_refuses_everything_else_in_json(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/api/echo", data=body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json
    assert set(answer.json) == {"error", "detail"}


def test_echo_refuses_a_body_that_is_not_json_by_name(client: FlaskClient) -> None:
    answer = client.post("/api/echo", data=b'{"id": "a"}', content_type="text/plain")
    assert answer.status_code == 400
    assert answer.json


def test_a_body_over_the_cap_is_refused(client: FlaskClient) -> None:
    assert client.post("/api/echo", json={"id": "a" * 20_000}).status_code == 413


@pytest.mark.parametrize("method", ["get", "post"])
def test_work_waits_without_burning_cpu(client: FlaskClient, method: str) -> None:
    cpu, wall = time.process_time(), time.monotonic()
    answer = getattr(client, method)("/api/work?ms=200")
    assert answer.json["waited_ms"] == 200
    assert time.monotonic() - wall >= 0.2
    assert time.process_time() - cpu < 0.15


def test_work_burns_cpu_when_asked_to(client: FlaskClient) -> None:
    cpu = time.process_time()
    answer = client.get("/api/work?burn=100")
    assert answer.json
    assert answer.json["burned_ms"] == 100
    assert time.process_time() - cpu > 0.03


@pytest.mark.parametrize("ms", ["-1", "60001", "1.5", "abc", "", "1e3", "٣", "99999999999", " 5"])
@pytest.mark.parametrize("name", ["ms", "burn"])
def test_work_refuses_what_is_not_a_number_of_milliseconds(
    client: FlaskClient, name: str, ms: str
) -> None:
    assert client.get("/api/work", query_string={name: ms}).status_code == 400


def test_unknown_paths_and_methods_are_json_errors(client: FlaskClient) -> None:
    assert client.get("/nosuch").json == {
        "error": "Not Found",
        "detail": client.get("/nosuch").json["detail"],  # type: ignore[index]
    }
    assert client.get("/api/echo").status_code == 405


def test_metrics_count_by_method_route_and_status(client: FlaskClient) -> None:
    client.get("/api/replica")
    client.get("/nosuch/1")
    client.get("/nosuch/2")
    client.open("/nosuch", method="BREW")
    text = client.get("/metrics").text
    assert 'http_requests_total{method="GET",route="/api/replica",status="200"} 1.0' in text
    assert 'http_requests_total{method="GET",route="none",status="404"} 2.0' in text
    assert 'method="other"' in text
    assert "BREW" not in text
    assert 'http_request_duration_seconds_bucket{le="0.005"' in text


def test_each_request_is_one_json_line(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.get("/api/replica?x=1", headers={"X-Request-ID": 'id-1"\n'.strip()})
    client.get("/healthz")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert set(line) == {
        *("time", "request_id", "method", "path", "client", "url_root", "status", "ms")
    }
    assert line["request_id"] == 'id-1"'
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/replica", 200)
