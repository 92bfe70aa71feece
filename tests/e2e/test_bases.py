"""How the engine's way of not getting an image is told apart, against a registry that answers."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stack.bases import AVAILABLE, NO_REGISTRY, NO_SUCH_IMAGE, NOT_ALLOWED, ask_registry
from tests.e2e.harness import Stack, engine, eventually, free_port
from tests.e2e.swarm import registry_image

MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": 2,
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    },
    "layers": [],
}


class Registry(BaseHTTPRequestHandler):
    """Answers as the registry API says: one image, one that is unknown, one that is denied."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self._answer(200, {})
        elif self.path.startswith("/v2/there/manifests/"):
            self._answer(200, MANIFEST)
        elif self.path.startswith("/v2/there/blobs/"):
            self._answer(200, {})
        elif self.path.startswith("/v2/secret/"):
            self._answer(403, {"errors": [{"code": "DENIED", "message": "access denied"}]})
        else:
            self._answer(404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]})

    do_HEAD = do_GET  # noqa: N815 - the name that the base class calls

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", str(body.get("mediaType", "application/json")))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    """HOST:PORT of a registry on this machine, which engines talk to without TLS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_engine_tells_what_the_registry_said(registry: str) -> None:
    assert ask_registry(f"{registry}/there:1").verdict == AVAILABLE
    assert ask_registry(f"{registry}/nosuch:1").verdict == NO_SUCH_IMAGE
    assert ask_registry(f"{registry}/secret:1").verdict == NOT_ALLOWED


def test_a_registry_that_is_not_there_is_no_registry() -> None:
    assert ask_registry("127.0.0.1:1/python:3").verdict == NO_REGISTRY


def test_up_says_which_it_was_and_changes_nothing(stack: Stack, registry: str) -> None:
    done = stack.try_run("up", PYTHON_IMAGE=f"{registry}/nosuch:1")
    assert done.returncode == 78
    assert "has no such image" in done.stderr
    done = stack.try_run("up", PYTHON_IMAGE=f"{registry}/secret:1")
    assert done.returncode == 77
    assert "docker login" in done.stderr
    assert stack.containers() == []


def test_a_base_from_a_registry_can_be_pinned_by_digest(stack: Stack, tmp_path: Path) -> None:
    made = json.loads(stack.compose("config", "--format", "json"))
    base = made["services"]["web"]["build"]["args"]["PYTHON_IMAGE"]
    port = free_port()
    server = engine().containers.run(
        registry_image(tmp_path),
        environment={"REGISTRY_HTTP_ADDR": f"127.0.0.1:{port}"},
        network_mode="host",
        detach=True,
    )
    pinned = ""
    try:
        name = f"127.0.0.1:{port}/{stack.project}-base"
        engine().images.get(base).tag(name)
        eventually(lambda: "digest: sha256:" in engine().images.push(name), "it is pushed")
        pinned = engine().images.get_registry_data(name).id
        engine().images.remove(name)
        done = stack.try_run("up", "web=1", PYTHON_IMAGE=f"{name}@{pinned}")
        assert done.returncode == 0, done.stderr
        assert f"docker pull {name}@{pinned}" in done.stderr
        assert [row["state"] for row in stack.web()] == ["healthy"]
        wrong = f"{name}@sha256:{'0' * 64}"
        done = stack.try_run("--explain", "up", PYTHON_IMAGE=wrong)
        assert done.returncode == 78, done.stderr
        assert "has no such image" in done.stderr
    finally:
        server.remove(force=True)
        for image in engine().images.list():
            for one in (*image.tags, *image.attrs["RepoDigests"]):
                if one.startswith(f"127.0.0.1:{port}/"):
                    engine().images.remove(one, force=True)
