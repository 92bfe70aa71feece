"""Changes of the sources: configuration, a second service, builds."""

import re
import socket
from collections.abc import Callable
from pathlib import Path

import requests

from tests.e2e.harness import Stack, engine
from tests.e2e.lab import follow_guide

NO_WAY_OUT = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"


def refuse_up_with_nonsense(stack: Stack) -> Callable[[], object]:
    """See that `up` refuses a configuration that nginx does; return what puts it right."""
    log = stack.directory / "proxy" / "conf" / "log.conf"
    good = log.read_text()
    log.write_text(good + "nonsense;\n")
    done = stack.try_run("up")
    assert done.returncode == 78
    assert 'unknown directive "nonsense"' in done.stderr
    return lambda: log.write_text(good)


def test_a_configuration_that_nginx_refuses_exits_78_and_the_old_one_serves_on(
    stack_copy: Stack,
) -> None:
    stack_copy.run("up")
    mend = refuse_up_with_nonsense(stack_copy)
    assert stack_copy.get("/api/replica").status_code == 200
    mend()
    assert "Nothing to do" in stack_copy.try_run("up").stderr


def test_a_first_start_with_a_broken_app_says_why_and_is_mended_by_the_next_up(
    stack_copy: Stack,
) -> None:
    api = stack_copy.directory / "web" / "app" / "api.py"
    good = api.read_text()
    api.write_text("import no_such_module\n" + good)
    done = stack_copy.try_run("up")
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stderr
    api.write_text(good)
    stack_copy.run("up")
    assert stack_copy.get("/api/replica").status_code == 200
    assert len(stack_copy.containers("web")) == 2
    assert "Nothing to do" in stack_copy.try_run("up").stderr


def test_a_first_start_with_a_broken_proxy_configuration_exits_78_and_is_mended_by_the_next_up(
    stack_copy: Stack,
) -> None:
    mend = refuse_up_with_nonsense(stack_copy)
    mend()
    stack_copy.run("up")
    assert stack_copy.get("/api/replica").status_code == 200


def test_a_port_that_is_taken_is_said_before_anything_is_done(stack: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", stack.port))
        taken.listen()
        done = stack.try_run("up")
    assert done.returncode == 1
    assert f"port {stack.port}" in done.stderr
    assert "HTTP_PORT=" in done.stderr
    assert stack.containers() == []


def test_a_changed_port_of_the_app_ends_with_all_replicas_on_the_new_one(
    stack_copy: Stack,
) -> None:
    stack_copy.run("up")
    for name in ("web/gunicorn.conf.py", "web/healthcheck.py", "compose.yaml"):
        path = stack_copy.directory / name
        path.write_text(path.read_text().replace("8000", "9000"))
    services = stack_copy.directory / "proxy" / "conf" / "services.conf"
    services.write_text(services.read_text().replace("web:8000", "web:9000"))
    stack_copy.run("up")
    assert stack_copy.get("/api/replica").status_code == 200
    rows = [row for row in stack_copy.ps() if row["service"] == "web"]
    assert [(row["routed"], row["address"][-5:]) for row in rows] == [(True, ":9000")] * 2
    assert "Nothing to do" in stack_copy.try_run("up").stderr


def test_a_second_routed_service_takes_the_lines_that_the_guide_shows(stack_copy: Stack) -> None:
    stack_copy.run("up", "web=3")
    follow_guide(stack_copy.directory)
    stack_copy.run("up")
    shop = {"Host": "shop.localhost"}
    answer = stack_copy.get("/api/replica", headers=shop).json()
    assert answer["replica"] in {c.id[:12] for c in stack_copy.containers("shop") if c.id}
    answer = stack_copy.get("/api/replica").json()
    assert answer["replica"] in {c.id[:12] for c in stack_copy.containers("web") if c.id}
    # The first service was left alone.
    assert len(stack_copy.containers("web")) == 3
    stack_copy.run("scale", "shop=3")
    assert [row["routed"] for row in stack_copy.ps() if row["service"] == "shop"] == [True] * 3
    assert "Nothing to do" in stack_copy.try_run("up").stderr


def test_no_layer_holds_the_ca_bundle_of_the_build(stack_copy: Stack, tmp_path: Path) -> None:
    marker = "MARKER-of-a-machine-s-own-CA"
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    certificates = bundle.read_text() if bundle.exists() else ""
    (tmp_path / "ca.pem").write_text(f"# {marker}\n{certificates}")
    done = stack_copy.try_run("up", CA_BUNDLE=str(tmp_path / "ca.pem"))
    assert done.returncode == 0, done.stderr
    image = engine().images.get(
        next(c.attrs["Config"]["Image"] for c in stack_copy.containers("web"))
    )
    saved = b"".join(image.save())
    assert marker.encode() not in saved
    assert marker not in str(image.history())


def test_a_plain_compose_build_works_without_a_ca_bundle_being_named(stack_copy: Stack) -> None:
    # Where TLS is inspected pip needs the machine's bundle; everywhere else nothing has to be set.
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        with (stack_copy.directory / ".env").open("a") as file:
            file.write(f"CA_BUNDLE={bundle}\n")
    stack_copy.compose("build")
    for service in ("web", "proxy"):
        assert engine().images.get(f"{stack_copy.project}-{service}:dev")


def test_images_carry_their_revision_and_a_numeric_user(running: Stack) -> None:
    for row in running.ps():
        image = engine().images.get(f"{running.project}-{row['service']}:{row['revision']}")
        config = image.attrs["Config"]
        assert config["Labels"]["org.opencontainers.image.revision"] == row["revision"]
        assert re.fullmatch(r"\d+:\d+", config["User"])
        assert config["User"] != "0:0"


def test_a_body_over_the_cap_is_refused_by_the_proxy(running: Stack) -> None:
    answer = requests.post(running.url + "/api/echo", data=b"x" * (2 << 20), timeout=10)
    assert answer.status_code == 413
