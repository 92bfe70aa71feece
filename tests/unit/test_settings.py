"""Figures that belong together stand in different files: here they are held against each other."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.arguments import MAX_DRAIN_S
from stack.composefile import seconds

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def gunicorn() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "web" / "gunicorn.conf.py"))


def nginx_seconds(directive: str, file: str) -> float:
    text = (ROOT / "proxy" / "conf" / file).read_text()
    (value,) = re.findall(rf"^\s*{directive}\s+(\w+);", text, re.MULTILINE)
    return seconds(value)


def test_timeouts_nest(compose: dict[str, Any], gunicorn: dict[str, Any]) -> None:
    grace = seconds(compose["services"]["web"]["stop_grace_period"])
    longest_answer = nginx_seconds("proxy_read_timeout", "forwarding.conf")
    old_workers = nginx_seconds("worker_shutdown_timeout", "nginx.conf")
    assert nginx_seconds("keepalive_timeout", "replicas.conf") < gunicorn["keepalive"]
    assert gunicorn["graceful_timeout"] < grace
    assert old_workers >= MAX_DRAIN_S >= grace
    assert old_workers > longest_answer
    # /api/work may take a minute.
    assert longest_answer > 60


def test_the_drain_knows_how_long_old_workers_keep_idle_clients() -> None:
    script = (ROOT / "proxy" / "bin" / "proxy").read_text()
    assert "keepalive_min_timeout" in script
    assert nginx_seconds("keepalive_min_timeout", "clients.conf") == 2


def test_the_routed_port_is_the_one_that_the_app_listens_on(
    compose: dict[str, Any], gunicorn: dict[str, Any]
) -> None:
    port = compose["services"]["web"]["labels"]["stack.route.port"]
    assert gunicorn["bind"].endswith(f":{port}")
    assert f"targets/web:{port};" in (ROOT / "proxy" / "conf" / "services.conf").read_text()


def test_every_service_is_hardened(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        assert service["healthcheck"]["test"][0] == "CMD"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
