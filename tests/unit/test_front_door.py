"""What guards the front door is checked before anything is done."""

from dataclasses import replace
from pathlib import Path

import pytest

from stack import front_door
from stack.composefile import ComposeFile, guards
from stack.errors import ConfigurationError, UsageError
from stack.hosts import host
from stack.model import Service, Snapshot
from tests.unit.simulation import replica

SHA256 = "$5$salt$hash"


def file_of(directory: Path, **on: str) -> ComposeFile:
    """A Compose file whose proxy has these guards; files of secrets below the directory."""
    secrets = {name: str(directory / name) for name in ("tls_cert", "tls_key", "htpasswd")}
    proxy = Service(
        "proxy", is_proxy=True, is_tls="STACK_TLS" in on, guards=on, secrets=(*secrets,)
    )
    for name in secrets:
        (directory / name).write_text(f"a:{SHA256}\n")
    return ComposeFile("p", (proxy,), secrets)


def test_a_guard_is_on_if_it_says_something() -> None:
    given = {"STACK_TLS": "0", "BASIC_AUTH": "f", "RATE_LIMIT": "", "OTHER": "x"}
    assert guards(given) == {"HTPASSWD": "f"}
    assert guards(None) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("RATE_LIMIT", value) for value in ("-1", "0.5", "many", "100001", "9" * 30, "٣")),
        *(("CONNECTION_LIMIT", value) for value in ("00", "65536", "1e3")),
    ],
)
def test_a_limit_is_a_number_that_nginx_takes(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}=.*no number from 1 to"):
        front_door.check(file_of(tmp_path, **{name: value}))


@pytest.mark.parametrize(
    ("hosts", "says"),
    [
        ("localhost,127.0.0.1", "separate names by spaces"),
        ("a.example:8080", "without the port, 'a.example'"),
        ("[::1]", "without brackets, '::1'"),
        ("0:0:0:0:0:0:0:1", "write it '::1'"),
        ("staging.example.", "without the dot at its end"),
        (".staging.example", r"say 'staging.example' and '\*.staging.example'"),
        ("café.example", "punycode"),
        ("www.*", "no host name"),
        ("*", "no host name"),
        ("a;b", "no host name"),
        ("10.0.0.256", "no host name"),
        ("a.example A.example", "is there twice"),
    ],
)
def test_a_host_that_could_never_match_is_refused(tmp_path: Path, hosts: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"ALLOWED_HOSTS: .*{says}"):
        front_door.check(file_of(tmp_path, ALLOWED_HOSTS=hosts))


def test_hosts_are_names_and_addresses(tmp_path: Path) -> None:
    front_door.check(file_of(tmp_path, ALLOWED_HOSTS="Localhost *.a.example a_b ::1 10.0.0.1"))
    with pytest.raises(UsageError):
        host("")


@pytest.mark.parametrize(
    "line",
    [f"a:{SHA256}", "a:$apr1$x$y:comment", "a:{SSHA}abc=", "a:" + "x" * 13, "# none\n\na:{SHA}x"],
)
def test_a_password_file_has_users_and_hashes(tmp_path: Path, line: str) -> None:
    file = file_of(tmp_path, HTPASSWD="f")
    (tmp_path / "htpasswd").write_text(line)
    front_door.check(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no user"),
        ("# nobody\n", "names no user"),
        (f"a:{SHA256}\nteacher:secret\n", "line 2: not USER:HASH"),
        ("teacher", "line 1"),
        (f":{SHA256}", "line 1"),
    ],
)
def test_a_password_file_that_lets_nobody_in_is_refused(
    tmp_path: Path, text: str, says: str
) -> None:
    file = file_of(tmp_path, HTPASSWD="f")
    (tmp_path / "htpasswd").write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        front_door.check(file)


def test_a_secret_whose_file_is_gone_is_named_before_anything_is_done(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    (tmp_path / "tls_key").unlink()
    with pytest.raises(ConfigurationError, match="tls_key, is not there"):
        front_door.check(file)
    # A certificate is made where one is wanted.
    (one,) = file.services
    front_door.check(replace(file, services=(replace(one, is_tls=True),)))
    (tmp_path / "htpasswd").unlink()
    (tmp_path / "htpasswd").mkdir()
    with pytest.raises(ConfigurationError, match=r"HTPASSWD: .*is a directory"):
        front_door.check(replace(file, services=(replace(one, is_tls=True),)))


def test_a_guard_goes_off_only_if_somebody_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    running = replace(replica(1), is_proxy=True, guards={"HTPASSWD": "f", "STACK_TLS": "1"})
    snapshot = Snapshot("p", replicas=(running,))
    kept = file_of(tmp_path, HTPASSWD="g", STACK_TLS="1").services
    front_door.dropped(snapshot, kept)
    open_ = file_of(tmp_path).services
    with pytest.raises(ConfigurationError, match="HTPASSWD=f, STACK_TLS=1"):
        front_door.dropped(snapshot, open_)
    monkeypatch.setenv("HTPASSWD", "")
    with pytest.raises(ConfigurationError, match="say it: STACK_TLS= python -m stack up"):
        front_door.dropped(snapshot, open_)
    (tmp_path / ".env").write_text("# STACK_TLS=1\nSTACK_TLS=0\n")
    front_door.dropped(snapshot, open_)
    front_door.dropped(Snapshot("p"), open_)
