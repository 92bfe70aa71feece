"""What is read from the Compose file, and how the project gets its name."""

from pathlib import Path

import pytest

from stack.composefile import _plain_name, _service, seconds
from stack.errors import ConfigurationError
from stack.model import Hook, UpdateConfig


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("1h", 3600), ("1.5s", 1.5), ("0s", 0)],
)
def test_durations_are_read_as_compose_writes_them(duration: str, expected: float) -> None:
    assert seconds(duration) == expected


def test_a_routed_service_has_its_port_from_its_label() -> None:
    service = _service("web", {"labels": {"stack.route.port": "8000"}}, "hash")
    assert (service.port, service.target, service.is_fixed) == (8000, "web:8000", False)


@pytest.mark.parametrize("port", ["", "http", "0", "65536", "-1", "8000 ", "٣"])
def test_a_port_label_that_is_no_port_is_refused_with_its_service(port: str) -> None:
    with pytest.raises(ConfigurationError, match="service web"):
        _service("web", {"labels": {"stack.route.port": port}}, "")


def test_a_service_that_publishes_a_port_or_has_a_fixed_name_cannot_be_scaled() -> None:
    published = {"ports": [{"host_ip": "127.0.0.1", "target": 80, "published": "8080"}]}
    assert _service("a", published, "").is_fixed
    assert _service("b", {"container_name": "b"}, "").is_fixed


def test_a_replica_may_take_as_long_as_its_health_check_allows() -> None:
    check = {
        "test": ["CMD", "true"],
        "interval": "10s",
        "timeout": "3s",
        "retries": 3,
        "start_period": "30s",
    }
    assert _service("web", {"healthcheck": check}, "").start_timeout_s == 30 + 13 * 3 + 10


def test_a_disabled_health_check_is_none() -> None:
    service = _service("web", {"healthcheck": {"test": ["CMD", "true"], "disable": True}}, "")
    assert not service.has_health_check


def test_how_replicas_are_replaced_is_read_with_the_specifications_words() -> None:
    config = {"parallelism": 0, "delay": "1m30s", "monitor": "2s", "order": "stop-first"}
    service = _service(
        "web", {"deploy": {"update_config": {**config, "max_failure_ratio": 0.3}}}, ""
    )
    assert service.update == UpdateConfig(0, 90, "stop-first", 2, "rollback", 0.3)
    # What is not said is what loses nothing.
    assert service.rollback == UpdateConfig(1, 0, "start-first", 5, "rollback", 0)


@pytest.mark.parametrize(("key", "value"), [("order", "both"), ("failure_action", "panic")])
def test_words_that_the_specification_does_not_have_are_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"service web: {key} .*{value}"):
        _service("web", {"deploy": {"update_config": {key: value}}}, "")


def test_hooks_are_read_as_compose_prints_them() -> None:
    hooks = [
        {"command": ["sh", "-c", "echo $$HOME"], "user": "root", "environment": {"A": "1"}},
        {"command": "say 'good bye'", "environment": ["B=2"]},
    ]
    service = _service("web", {"pre_stop": hooks}, "")
    assert service.pre_stop == (
        Hook(("sh", "-c", "echo $HOME"), user="root", environment=("A=1",)),
        Hook(("say", "good bye"), environment=("B=2",)),
    )


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMPOSE_PROJECT_NAME", raising=False)
    monkeypatch.delenv("COMPOSE_FILE", raising=False)
    return tmp_path


def test_a_literal_name_is_read_without_asking_compose(directory: Path) -> None:
    (directory / "compose.yaml").write_text("# comment\nname: my-stack\nservices: {}\n")
    assert _plain_name() == "my-stack"


@pytest.mark.parametrize(
    "text",
    [
        "services: {}\n",
        "name: ${NAME:-x}\n",
        'name: "quoted"\n',
        "name: Upper\n",
        "name: a # comment\n",
        "name: a\nname: b\n",
        "services:\n  web:\n    name: inner\n",
    ],
)
def test_compose_is_asked_for_every_other_kind_of_name(directory: Path, text: str) -> None:
    (directory / "compose.yaml").write_text(text)
    assert _plain_name() is None


def test_compose_is_asked_when_anything_could_override_the_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "compose.yaml").write_text("name: a\n")
    (directory / ".env").write_text("COMPOSE_PROJECT_NAME=b\n")
    assert _plain_name() is None
    (directory / ".env").write_text("OTHER=b\n")
    assert _plain_name() == "a"
    (directory / "compose.override.yaml").write_text("name: c\n")
    assert _plain_name() is None
    (directory / "compose.override.yaml").unlink()
    monkeypatch.setenv("COMPOSE_FILE", "other.yaml")
    assert _plain_name() is None
    monkeypatch.delenv("COMPOSE_FILE")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "d")
    assert _plain_name() == "d"
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "Not A Name")
    assert _plain_name() is None
