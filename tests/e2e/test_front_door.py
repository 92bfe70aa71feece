"""What the proxy lets in, and what answers carry: headers, hosts, limits, password, HTTPS."""

import shlex
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.e2e.harness import Stack, copy_sources, eventually

HEADERS = {
    "Content-Security-Policy",
    "Cross-Origin-Opener-Policy",
    "Cross-Origin-Resource-Policy",
    "Permissions-Policy",
    "Referrer-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-Request-ID",
}


@pytest.fixture(scope="module")
def _front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(directory=copy_sources(tmp_path_factory.mktemp("front") / "stack"))
    try:
        yield stack
    finally:
        stack.settings = {}
        stack.remove()


@pytest.fixture
def front(_front: Stack) -> Iterator[Stack]:
    """A stack with sources of its own; a test's settings end with it."""
    yield _front
    _front.settings = {}


# What is on only for some goes off only if one says so.
OFF = {
    "STACK_TLS": "0",
    "HTPASSWD": "",
    "ALLOWED_HOSTS": "",
    "RATE_LIMIT": "",
    "CONNECTION_LIMIT": "",
}


def up(stack: Stack, **settings: str) -> str:
    stack.settings = {**OFF, **settings}
    return stack.run("up", "web=1")


# --- headers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/static/page.css", 200),
        ("GET", "/api/replica", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/api/replica", 405),
        ("POST", "/api/echo", 400),
        ("POST", "/api/echo?big", 413),
        ("GET", f"/{'x' * 9000}", 414),
    ],
)
def test_every_answer_has_the_headers(front: Stack, method: str, path: str, status: int) -> None:
    up(front)
    body = b"x" * (2 << 20) if "big" in path else b""
    answer = requests.request(method, front.url + path, data=body, timeout=10)
    assert answer.status_code == status
    assert not HEADERS - answer.headers.keys()
    assert "script" not in answer.headers["Content-Security-Policy"], "from itself, none inline"
    assert answer.headers["Server"] == "nginx", "without a version"


def test_an_answer_of_the_proxy_alone_has_the_headers_too(front: Stack) -> None:
    up(front)
    front.run("scale", "web=0", "--force")
    for accept in ("text/html", "*/*"):
        answer = front.get("/", headers={"Accept": accept})
        assert answer.status_code == 502
        assert not HEADERS - answer.headers.keys()
        assert "<style" not in answer.text
    assert front.get("/errors/unavailable.css").status_code == 200
    front.run("scale", "web=1")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/stack/topology.json", "GET, HEAD"),
        ("TRACE", "/", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    ],
)
def test_who_is_refused_a_method_by_the_proxy_is_told_which_are_allowed(
    front: Stack, method: str, path: str, allowed: str
) -> None:
    up(front)
    answer = requests.request(method, front.url + path, timeout=10)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert "Allow" not in front.get(path).headers


def test_a_policy_of_the_apps_own_stands(front: Stack) -> None:
    before = "    app.register_error_handler("
    policy = "default-src 'none'"
    own = f"""    @app.after_request
    def policy(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "{policy}"
        return response

{before}"""
    front.edit("web/app/__init__.py", before, own)
    up(front)
    assert front.get("/").headers["Content-Security-Policy"] == policy
    front.edit("web/app/__init__.py", own, before)
    up(front)


def hashed(password: str) -> str:
    argv = ("openssl", "passwd", "-5", password)
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


# What other proxies tell their apps, who then believe it.
REMOVED = (
    *("CF-Connecting-IP", "Front-End-Https", "Proxy", "Proxy-Authorization", "Remote-User"),
    *("True-Client-IP", "X-Auth-Request-User", "X-Client-IP", "X-Cluster-Client-IP"),
    *("X-Forwarded-Client-Cert", "X-Forwarded-Email", "X-Forwarded-Path", "X-Forwarded-Protocol"),
    *("X-Forwarded-Server", "X-Forwarded-Uri", "X-Forwarded-User", "X-Host", "X-Original-Host"),
    *("X-Original-URL", "X-Remote-User", "X-Rewrite-URL", "X-Script-Name", "X-Url-Scheme"),
)


# --- who may come in -------------------------------------------------------------------------


def test_the_app_believes_the_proxy_and_nobody_else(front: Stack) -> None:
    what, shown = '"pid": os.getpid(),', '"pid": os.getpid(), "headers": dict(request.headers),'
    front.edit("web/app/api.py", what, shown)
    up(front)
    claims = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Port": "666",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Ssl": "on",
        "X-Forwarded-Scheme": "https",
        "X_Forwarded_For": "6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6;host=evil.example;proto=https",
        "X-Request-ID": "evil\tid",
        **dict.fromkeys(REMOVED, "evil"),
    }
    answer = front.get("/api/replica", headers=claims)
    seen = {name.lower(): value for name, value in answer.json()["headers"].items()}
    assert seen["x-forwarded-host"] == seen["host"] == f"127.0.0.1:{front.port}"
    assert seen["x-forwarded-port"] == str(front.port)
    assert seen["x-forwarded-proto"] == "http"
    assert not [value for value in seen.values() if "evil" in value or "6.6.6.6" in value]
    assert not {name.lower() for name in ("Forwarded", *REMOVED)} & seen.keys()
    front.edit("web/app/api.py", shown, what)
    id_ = answer.headers["X-Request-ID"]
    eventually(lambda: id_ in front.run("logs", "web"), "the app's line")
    (line,) = [one for one in front.run("logs", "web").splitlines() if id_ in one]
    assert f'"url_root": "http://127.0.0.1:{front.port}/"' in line
    for claim in ("6.6.6.6", "evil", "https"):
        assert claim not in front.run("logs")


@pytest.mark.parametrize("tls", ["0", "1"], ids=["HTTP", "HTTP where HTTPS is spoken"])
def test_hosts_that_are_not_allowed_get_no_answer(front: Stack, tls: str) -> None:
    up(front, ALLOWED_HOSTS="localhost *.staging.example ::1", STACK_TLS=tls)
    status = 307 if tls == "1" else 200
    for host in ("localhost", f"LOCALHOST:{front.port}", "a.staging.example", "[::1]:80"):
        answer = front.get("/", headers={"Host": host}, allow_redirects=False)
        assert answer.status_code == status
    for host in ("evil.example", "127.0.0.1", "staging.example.evil", "localhost.evil"):
        with pytest.raises(requests.ConnectionError):
            front.get("/", headers={"Host": host})


def test_a_host_in_the_request_line_is_what_counts(front: Stack) -> None:
    up(front, ALLOWED_HOSTS="localhost")
    request = "GET http://{}/seen-{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n"
    assert raw(front, request.format("evil.example", "one", "localhost")) == b""
    answer = raw(front, request.format("localhost", "two", "evil.example:666"))
    assert answer.startswith(b"HTTP/1.1 404")
    eventually(lambda: "/seen-two" in front.run("logs", "web"), "the app's line")
    (line,) = [one for one in front.run("logs", "web").splitlines() if "/seen-two" in one]
    assert '"url_root": "http://localhost/"' in line, "the port is not from another host either"
    assert "evil" not in front.run("logs", "web")
    assert "/seen-one" not in front.run("logs", "web")


def test_hosts_that_are_not_allowed_get_no_answer_by_https_either(front: Stack) -> None:
    up(front, ALLOWED_HOSTS="localhost", STACK_TLS="1")
    proxy = str(front.containers("proxy")[0].name)
    for version in ("--http1.1", "--http2"):
        curl = ("curl", "--silent", "--insecure", version, "--output", "/dev/null")
        for host, status in (("localhost", "200"), ("evil.example", "000")):
            there = ("--connect-to", f"{host}:443:127.0.0.1:8080", f"https://{host}/")
            script = shlex.join((*curl, "--write-out", "%{http_code}", *there))
            said = front.docker("exec", proxy, "sh", "-c", f"{script} || true")
            assert said == status, (version, host)


def test_http_0_9_which_has_no_headers_gets_no_answer(front: Stack) -> None:
    up(front)
    assert raw(front, "GET /api/replica\r\n") == b""


def test_a_client_that_asks_too_often_or_too_much_at_once_gets_429(front: Stack) -> None:
    up(front, RATE_LIMIT="5", CONNECTION_LIMIT="3")
    with ThreadPoolExecutor(6) as pool:
        paths = ["/api/work?ms=1500"] * 6
        at_once = [answer.status_code for answer in pool.map(front.get, paths)]
    assert sorted(set(at_once)) == [200, 429]
    often = [front.get("/api/replica") for _ in range(40)]
    assert {one.status_code for one in often} == {200, 429}
    assert not HEADERS - often[-1].headers.keys()


def test_a_password_file_protects_everything_and_a_changed_one_takes_over(
    front: Stack, tmp_path: Path
) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(f"teacher:{hashed('one')}\n")
    up(front, HTPASSWD=str(passwords))
    for path in ("/", "/api/replica", "/metrics", "/errors/unavailable.css"):
        answer = front.get(path)
        assert answer.status_code == 401
        assert not HEADERS - answer.headers.keys()
    assert front.get("/", auth=("teacher", "one")).status_code == 200
    assert front.get("/", auth=("teacher", "two")).status_code == 401
    tokens = requests.Session()
    tokens.headers["Authorization"] = "Bearer x"
    assert tokens.get(f"{front.url}/", timeout=10).status_code == 401
    assert [row["state"] for row in front.ps()] == ["healthy"] * 2
    passwords.write_text(f"teacher:{hashed('two')}\n")
    eventually(
        lambda: front.get("/", auth=("teacher", "two")).status_code == 200, "the new one is used"
    )
    assert front.get("/", auth=("teacher", "one")).status_code == 401


def test_a_password_file_that_an_editor_has_replaced_is_taken_over_by_up(
    front: Stack, tmp_path: Path
) -> None:
    passwords, edited = tmp_path / "htpasswd", tmp_path / "edited"
    passwords.write_text(f"teacher:{hashed('one')}\n")
    up(front, HTPASSWD=str(passwords))
    assert "front door" not in bad(front)
    edited.write_text(f"teacher:{hashed('two')}\n")
    edited.replace(passwords)
    assert "front door          the proxy has an older file of htpasswd mounted" in bad(front)
    front.run("up")
    assert front.get("/", auth=("teacher", "one")).status_code == 401
    assert front.get("/", auth=("teacher", "two")).status_code == 200
    assert "Nothing to do" in front.try_run("up").stderr


def bad(stack: Stack) -> str:
    """What `doctor` finds bad."""
    lines = stack.try_run("doctor").stdout.splitlines()
    return "\n".join(line for line in lines if line.startswith("bad"))


def test_a_guard_goes_off_only_if_one_says_so(front: Stack, tmp_path: Path) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(f"teacher:{hashed('one')}\n")
    up(front, HTPASSWD=str(passwords))
    front.settings = {}
    done = front.try_run("up", "--no-build")
    assert done.returncode == 78
    assert "the proxy that runs has a password, and nothing here says so any more" in done.stderr
    assert front.get("/").status_code == 401
    front.run("scale", "web=2")
    assert front.get("/").status_code == 401
    assert "a password" in bad(front)
    up(front)
    assert front.get("/").status_code == 200


def test_a_secret_that_is_gone_is_named_and_what_runs_serves_on(
    front: Stack, tmp_path: Path
) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(f"teacher:{hashed('one')}\n")
    up(front, HTPASSWD=str(passwords))
    passwords.rename(tmp_path / "away")
    for verb in (("up",), ("restart", "proxy"), ("scale", "web=2"), ("rollout", "--build")):
        done = front.try_run(*verb)
        assert done.returncode == 78
        assert "htpasswd, is not there" in done.stderr
    # Docker finds no file in a container of which a mount is gone: then nobody guesses.
    assert "nobody can look into the proxy" in front.run("ps")
    assert [row["routed"] for row in front.ps()] == [None, None]
    front.settings = OFF
    done = front.try_run("up")
    assert done.returncode == 78
    assert "Put it back first" in done.stderr
    front.settings = {**OFF, "HTPASSWD": str(passwords)}
    assert front.get("/", auth=("teacher", "one")).status_code == 200
    (tmp_path / "away").rename(passwords)
    assert len(front.web()) == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"RATE_LIMIT": "many"}, "RATE_LIMIT=many: that is no number"),
        ({"CONNECTION_LIMIT": "-1"}, "CONNECTION_LIMIT=-1: that is no number"),
        ({"ALLOWED_HOSTS": "a;b"}, "ALLOWED_HOSTS: 'a;b' is no host name"),
        ({"STACK_TLS": "yes"}, "must be 0 or 1, not 'yes'"),
        ({"HTPASSWD": "/nowhere/htpasswd"}, "/nowhere/htpasswd"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_and_what_runs_serves_on(
    front: Stack, settings: dict[str, str], says: str
) -> None:
    up(front)
    before = images_of_proxy(front)
    front.settings = {**OFF, **settings}
    done = front.try_run("up", "web=1")
    assert done.returncode == 78
    assert images_of_proxy(front) == before
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert front.get("/").status_code == 200


def images_of_proxy(stack: Stack) -> set[str]:
    return set(stack.docker("image", "ls", "--quiet", f"{stack.project}-proxy").split())


# --- HTTPS -----------------------------------------------------------------------------------


def raw(stack: Stack, request: str) -> bytes:
    """All that comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", stack.port), 10) as connection:
        connection.sendall(request.encode())
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


@pytest.fixture
def tls(front: Stack) -> Stack:
    assert up(front, STACK_TLS="1") == f"https://127.0.0.1:{front.port}/\n"
    return front


def ca_of(stack: Stack) -> str:
    return str(stack.directory / "proxy/secrets/1/ca.pem")


def https(stack: Stack, path: str) -> requests.Response:
    return requests.get(f"https://127.0.0.1:{stack.port}{path}", timeout=10, verify=ca_of(stack))


def serial(stack: Stack) -> int:
    pem = ssl.get_server_certificate(("127.0.0.1", stack.port))
    return hash(pem)


def test_https_by_a_local_ca_and_http_is_sent_there(tls: Stack) -> None:
    answer = https(tls, "/")
    assert answer.status_code == 200
    assert not HEADERS - answer.headers.keys()
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://127.0.0.1:{tls.port}/", timeout=10)
    plain = requests.post(
        f"{tls.url}/api/echo?x=1", json={"id": "a"}, timeout=10, allow_redirects=False
    )
    assert plain.status_code == 307
    assert plain.headers["Cache-Control"] == "no-store"
    assert plain.headers["Location"] == f"https://127.0.0.1:{tls.port}/api/echo?x=1"
    id_ = answer.headers["X-Request-ID"]
    eventually(lambda: id_ in tls.run("logs", "web"), "the app's line")
    (line,) = [one for one in tls.run("logs", "web").splitlines() if id_ in one]
    assert f'"url_root": "https://127.0.0.1:{tls.port}/"' in line
    assert "certificate" in tls.run("doctor")
    assert "Nothing to do" in tls.try_run("up").stderr


@pytest.mark.parametrize(
    ("version", "agreed"),
    [
        (ssl.TLSVersion.TLSv1_1, None),
        (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_only_tls_of_today_is_spoken_and_http_2(
    tls: Stack, version: ssl.TLSVersion, agreed: str | None
) -> None:
    context = ssl.create_default_context(cafile=ca_of(tls))
    context.minimum_version = context.maximum_version = version
    # This machine's own library would not even try an old version.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", tls.port), 10) as connection:
        if agreed is None:
            with pytest.raises(ssl.SSLError, match="alert"):
                context.wrap_socket(connection, server_hostname="127.0.0.1")
            return
        with context.wrap_socket(connection, server_hostname="127.0.0.1") as spoken:
            assert spoken.version() == agreed
            assert spoken.selected_alpn_protocol() == "h2"


def test_a_certificate_is_renewed_without_losing_a_request(tls: Stack) -> None:
    over = threading.Event()
    failed: list[str] = []

    def ask(keep_alive: bool) -> int:
        count = 0
        session = requests.Session()
        while not over.is_set():
            if not keep_alive:
                session.close()
                session = requests.Session()
            try:
                url = f"https://127.0.0.1:{tls.port}/api/replica"
                answer = session.get(url, timeout=10, verify=ca_of(tls))
                if answer.status_code != 200:
                    failed.append(str(answer.status_code))
            except requests.RequestException as error:
                failed.append(str(error))
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(ask, number % 2 == 0) for number in range(4)]
        try:
            for _ in range(3):
                before = serial(tls)
                tls.run("cert")
                eventually(lambda was=before: serial(tls) != was, "the new one is served")  # type: ignore[misc]
        finally:
            over.set()
    assert failed == []
    assert sum(count.result() for count in counts) > 100


def test_a_renewal_loses_no_request_of_http_2(tls: Stack) -> None:
    over = threading.Event()
    (proxy,) = tls.containers("proxy")
    # One connection, eight requests at a time on it.
    curl = (
        *("curl", "--no-progress-meter", "--insecure", "--http2"),
        *("--parallel", "--parallel-max", "8", "https://127.0.0.1:8080/api/replica?[1-500]"),
        *("--output", "/dev/null", "--write-out", r"%{http_version} %{http_code}\n"),
    )

    def ask() -> list[str]:
        lines: list[str] = []
        while not over.is_set():
            lines += tls.docker("exec", str(proxy.name), *curl).splitlines()
        return lines

    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(ask)
        try:
            before = serial(tls)
            tls.run("cert")
            eventually(lambda: serial(tls) != before, "the new one is served")
        finally:
            over.set()
    assert set(answers.result()) == {"2 200"}


def test_a_pair_that_does_not_fit_is_refused_and_the_old_one_serves_on(tls: Stack) -> None:
    key = tls.directory / "proxy/secrets/1/key.pem"
    before, was = key.read_text(), serial(tls)
    key.write_text((tls.directory / "proxy/secrets/1/ca-key.pem").read_text())
    eventually(lambda: "nginx refuses the configuration" in tls.run("logs", "proxy"), "it says so")
    assert serial(tls) == was
    done = tls.try_run("doctor")
    assert done.returncode == 1
    assert "it does not fit its key" in done.stdout
    assert [row["state"] for row in tls.ps()] == ["healthy"] * 2
    # Other changes do not wait for it.
    tls.run("scale", "web=2")
    tls.run("scale", "web=1")
    key.write_text(before)


def test_a_pair_that_does_not_fit_keeps_nobody_in_whose_password_is_gone(
    front: Stack, tmp_path: Path
) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(f"teacher:{hashed('one')}\n")
    up(front, STACK_TLS="1", HTPASSWD=str(passwords))
    key, was = front.directory / "proxy/secrets/1/key.pem", serial(front)
    before = key.read_text()
    key.write_text((front.directory / "proxy/secrets/1/ca-key.pem").read_text())
    passwords.write_text(f"boss:{hashed('two')}\n")

    def status(user: str, password: str) -> int:
        url = f"https://127.0.0.1:{front.port}/"
        answer = requests.get(url, auth=(user, password), timeout=10, verify=ca_of(front))
        return answer.status_code

    eventually(lambda: status("boss", "two") == 200, "who is new comes in")
    assert status("teacher", "one") == 401
    assert serial(front) == was
    key.write_text(before)


def test_all_of_it_together_and_a_rollout_under_it(front: Stack, tmp_path: Path) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(f"teacher:{hashed('one')}\n")
    guards = {"STACK_TLS": "1", "HTPASSWD": str(passwords), "ALLOWED_HOSTS": "127.0.0.1"}
    up(front, **guards, RATE_LIMIT="200", CONNECTION_LIMIT="50")
    url = f"https://127.0.0.1:{front.port}/api/replica"
    over, codes = threading.Event(), set[int]()

    def ask() -> None:
        while not over.wait(0.05):
            answer = requests.get(url, auth=("teacher", "one"), timeout=10, verify=ca_of(front))
            codes.add(answer.status_code)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            front.run("scale", "web=2")
            front.run("restart", "web")
        finally:
            over.set()
        asked.result()
    assert codes == {200}
    assert requests.get(url, timeout=10, verify=ca_of(front)).status_code == 401
