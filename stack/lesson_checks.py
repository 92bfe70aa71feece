"""What of a lesson has been done, by what the engine says."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from typing import Any

import click

from stack.engines import Engine
from stack.errors import EngineUnavailable, UsageError
from stack.lessons import DIRECTORY, NAME, lesson
from stack.model import HEALTHY, PAUSED, PROJECT_LABEL, Snapshot


class Look:
    """What the engine says, for checks; each answer is asked for once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @cached_property
    def snapshot(self) -> Snapshot:
        return self._engine.observe()

    def container(self, name: str) -> dict[str, Any] | None:
        """What `docker inspect` says; None if there is no such container."""
        found = self._engine.api.json(f"/containers/{name}/json")
        return dict(found) if found else None

    def containers(self, project: str) -> list[dict[str, Any]]:
        """The containers of a project of Compose's, as `docker inspect` says them."""
        labels = json.dumps({"label": [f"{PROJECT_LABEL}={project}"]})
        listed = self._engine.api.json("/containers/json", all="true", filters=labels)
        return [one for row in listed if (one := self.container(row["Id"]))]

    def image(self, reference: str) -> str:
        """Its id; empty if it is not here."""
        return self._engine.api.image_id(reference)

    def revisions(self) -> int:
        """How many revisions of web there are."""
        return len(self._engine.api.revisions(f"{NAME}-web"))

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the Swarm; none where there is no Swarm."""
        swarm = self._engine.api.info()["Swarm"]
        return list(self._engine.api.json("/nodes") or ()) if swarm["ControlAvailable"] else []


REGISTRY = ("127.0.0.1", 5088)

# What is to be, and a function that says why it is not; nothing if it is.
Check = tuple[str, Callable[[Look], str]]


def check(number: int, engine: Engine) -> list[tuple[str, str]]:
    """For each thing that a lesson leaves: what it is, and why it is not; empty if it is. Raises
    UsageError where the engine is asked about another stack than the lessons'.
    """
    if engine.project != NAME:
        raise UsageError(
            f"this shell is about the stack '{engine.project}': . docs/lessons/begin.sh"
        )
    look = Look(engine)
    return [(what, _said(missing, look)) for what, missing in CHECKS[lesson(number).number]]


def _said(missing: Callable[[Look], str], look: Look) -> str:
    try:
        return missing(look)
    except EngineUnavailable as error:
        # A Swarm without a leader, say: what else the lesson leaves can still be looked at.
        return str(error)


def checked(found: Sequence[tuple[str, str]]) -> str:
    """What has been done and what has not, a line each."""
    return "\n".join(
        f"{click.style('done    ', fg='green')} {what}"
        if not missing
        else f"{click.style('not yet ', fg='yellow')} {what}: {missing}"
        for what, missing in found
    )


# --- what lessons leave ------------------------------------------------------------------------


def _image(reference: str) -> Check:
    return (
        f"the image {reference} is there",
        lambda look: "" if look.image(reference) else f"there is no image {reference}",
    )


def _runs(name: str, image: str) -> Check:
    def missing(look: Look) -> str:
        found = look.container(name)
        if found is None:
            return f"there is no container {name}"
        if found["Config"]["Image"] != image:
            return f"it runs {found['Config']['Image']}"
        return "" if found["State"]["Running"] else "it does not run"

    return f"the container {name} runs {image}", missing


def _app(what: str, holds: Callable[[dict[str, Any]], bool], otherwise: str) -> Check:
    def missing(look: Look) -> str:
        found = look.container("lesson-app")
        if found is None:
            return "there is no container lesson-app"
        return "" if holds(found) else otherwise

    return what, missing


def _of_two(what: str, missing: Callable[[dict[str, dict[str, Any]]], str]) -> Check:
    def found(look: Look) -> str:
        mine = look.containers("lesson-two")
        by_service = {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in mine}
        absent = [name for name in ("counter", "front") if name not in by_service]
        return f"there is no container of {absent[0]}" if absent else missing(by_service)

    return what, found


def _two_run(two: dict[str, dict[str, Any]]) -> str:
    still = [name for name, one in two.items() if not one["State"]["Running"]]
    return f"{still[0]} does not run" if still else ""


def _two_are_together(two: dict[str, dict[str, Any]]) -> str:
    networks = [set(one["NetworkSettings"]["Networks"]) for one in two.values()]
    return "" if set.intersection(*networks) else "they are on different networks"


def _counter_is_private(two: dict[str, dict[str, Any]]) -> str:
    return (
        "counter has a port of this machine" if two["counter"]["HostConfig"]["PortBindings"] else ""
    )


def _routed(count: int, *, at_least: bool = False) -> Callable[[Look], str]:
    def missing(look: Look) -> str:
        routed = [one for one in look.snapshot.of("web") if look.snapshot.routes_to(one)]
        ill = [one for one in routed if not one.is_ready]
        if ill:
            return f"{ill[0].name} is {ill[0].state}: python -m stack up"
        if len(routed) == count or (at_least and len(routed) > count):
            return ""
        return f"{len(routed)} get traffic: python -m stack scale web={count}"

    return missing


def _proxy_is_healthy(look: Look) -> str:
    proxy = look.snapshot.proxy
    if proxy is None:
        return "there is none: python -m stack up"
    return "" if proxy.state == HEALTHY else f"it is {proxy.state}"


def _web_is_private(look: Look) -> str:
    for one in look.snapshot.of("web"):
        found = look.container(one.id)
        if found and found["HostConfig"]["PortBindings"]:
            return f"{one.name} has a port of this machine"
    return ""


def _all_routed(look: Look) -> str:
    mine = look.snapshot.of("web")
    left = [one.name for one in mine if not look.snapshot.routes_to(one)]
    if not mine:
        return "none runs: python -m stack up"
    return f"{left[0]} gets none: python -m stack up" if left else ""


def _none_paused(look: Look) -> str:
    paused = [one.name for one in look.snapshot.replicas if one.state == PAUSED]
    return f"{paused[0]} is: python -m stack up" if paused else ""


def _one_revision(look: Look) -> str:
    mine = {one.revision for one in look.snapshot.of("web")}
    if len(mine) > 1:
        return f"there are {len(mine)}: python -m stack rollout"
    return _routed(3)(look)


def _two_revisions(look: Look) -> str:
    return "" if look.revisions() > 1 else "there is one only: change web/, and roll it out"


def _load(file: str, *, lost: bool) -> Callable[[Look], str]:
    """What docs/lessons/load.py has written into a file."""

    def missing(_: Look) -> str:
        path = DIRECTORY / file
        words = path.read_text().split() if path.is_file() else []
        if len(words) != 4 or words[0] != "lost" or words[3] == "0":
            return f"{path} does not say so: run it again"
        count = int(words[1])
        if lost:
            return "" if count else "it has lost none: scale down while it runs"
        return f"it has lost {count}" if count else ""

    return missing


def _post(file: str, *statuses: str) -> Callable[[Look], str]:
    """What curl has written into a file: one of these."""

    def missing(_: Look) -> str:
        path = DIRECTORY / file
        text = path.read_text().strip() if path.is_file() else ""
        return "" if text in statuses else f"{path} says {text or 'nothing'}: do it again"

    return missing


def _ended(
    name: str, holds: Callable[[dict[str, Any]], bool], otherwise: str
) -> Callable[[Look], str]:
    def missing(look: Look) -> str:
        found = look.container(name)
        if found is None:
            return f"there is no container {name}"
        return "" if holds(found["State"]) else otherwise

    return missing


def _limits(look: Look) -> str:
    mine = look.snapshot.of("web")
    if not mine:
        return "none runs: python -m stack up"
    for one in mine:
        config = (look.container(one.id) or {}).get("HostConfig", {})
        if not (config.get("Memory") and config.get("NanoCpus") and config.get("PidsLimit")):
            return f"{one.name} has not"
    return ""


def _in_registry(_: Look) -> str:
    try:
        with closing(HTTPConnection(*REGISTRY, timeout=5)) as registry:
            registry.request("GET", "/v2/lesson-hello/tags/list")
            tags = json.load(registry.getresponse()).get("tags") or []
    except (OSError, HTTPException, ValueError):
        return "it does not answer"
    return "" if "2" in tags else "it was not pushed"


def _by_digest(look: Look) -> str:
    tagged, mine = look.image("127.0.0.1:5088/lesson-hello:2"), look.image("lesson-hello:2")
    if not mine or not tagged:
        return f"there is no {'lesson-hello:2' if tagged else '127.0.0.1:5088/lesson-hello:2'}"
    return "it is what the tag says now" if tagged == mine else ""


def _nodes(count: int, *, leader: bool = False) -> Callable[[Look], str]:
    def missing(look: Look) -> str:
        if not look.nodes:
            return "this is no Swarm: . lesson/nodes.env"
        ready = [one for one in look.nodes if one["Status"]["State"] == "ready"]
        if leader and not any((one.get("ManagerStatus") or {}).get("Leader") for one in look.nodes):
            return "there is no leader"
        return "" if len(ready) == count else f"{len(ready)} are"

    return missing


def _replicas(count: int, on: int = 0) -> Callable[[Look], str]:
    def missing(look: Look) -> str:
        mine = [one for one in look.snapshot.of("web") if one.is_ready]
        nodes = {one.node for one in mine}
        if len(mine) != count:
            return f"{len(mine)} run: python -m stack scale web={count}"
        return f"they are on {len(nodes)}" if on and len(nodes) != on else ""

    return missing


def _proxies(look: Look) -> str:
    nodes = {one.node for one in look.snapshot.replicas if one.is_proxy and one.is_ready}
    return "" if look.nodes and len(nodes) == len(look.nodes) else f"{len(nodes)} have"


CHECKS: dict[int, Sequence[Check]] = {
    1: (
        _image("lesson-hello:1"),
        _image("lesson-hello:2"),
        _runs("lesson-hello", "lesson-hello:2"),
    ),
    2: (
        _app("the container lesson-app runs", lambda one: one["State"]["Running"], "it has ended"),
        _app(
            "gunicorn is its process 1",
            lambda one: one["Path"].endswith("gunicorn"),
            "it is something else",
        ),
        _app(
            "it is published on 127.0.0.1 alone",
            lambda one: (
                {
                    at["HostIp"]
                    for ports in one["HostConfig"]["PortBindings"].values()
                    for at in ports
                }
                == {"127.0.0.1"}
            ),
            "others reach it, or nobody does",
        ),
        _app(
            "GREETING is set",
            lambda one: any(pair.startswith("GREETING=") for pair in one["Config"]["Env"]),
            "it is not: --env GREETING=...",
        ),
    ),
    3: (
        _of_two("counter and front run", _two_run),
        _of_two("they have a network in common", _two_are_together),
        _of_two("counter is published nowhere", _counter_is_private),
    ),
    4: (
        ("the proxy runs, and is healthy", _proxy_is_healthy),
        ("at least two replicas get traffic", _routed(2, at_least=True)),
        ("the app is published nowhere", _web_is_private),
    ),
    5: (
        ("three replicas get traffic", _routed(3)),
        ("the load that Compose scaled down under has lost some", _load("naive.txt", lost=True)),
        ("the load that was drained has lost none", _load("drained.txt", lost=False)),
    ),
    6: (
        ("two replicas are healthy, and get traffic", _routed(2)),
        ("no replica is paused", _none_paused),
        (
            "lesson-crash is gone",
            lambda look: (
                "it is there: docker rm lesson-crash" if look.container("lesson-crash") else ""
            ),
        ),
    ),
    7: (
        ("a POST was lost", _post("post-lost.txt", "502", "504")),
        ("and one was not", _post("post.txt", "200")),
        ("the load that was drained has lost none", _load("drained-7.txt", lost=False)),
        ("every replica that runs gets traffic", _all_routed),
    ),
    8: (
        ("three replicas of one revision get traffic", _one_revision),
        ("there is a revision to go back to", _two_revisions),
        ("the load under the rollout has lost none", _load("rollout.txt", lost=False)),
        ("the load under the broken one has lost none", _load("broken.txt", lost=False)),
    ),
    9: (
        (
            "lesson-modest has ended well",
            _ended("lesson-modest", lambda state: state["ExitCode"] == 0, "it has not"),
        ),
        (
            "lesson-greedy was killed for using more memory than its limit",
            _ended("lesson-greedy", lambda state: bool(state["OOMKilled"]), "it was not"),
        ),
        ("every replica has limits of memory, CPU and processes", _limits),
    ),
    10: (
        (
            "the registry runs",
            _ended("lesson-registry", lambda state: bool(state["Running"]), "it has ended"),
        ),
        ("it has lesson-hello:2", _in_registry),
        ("lesson-hello:2 is here by its first digest, not by its tag", _by_digest),
    ),
    11: (
        ("three nodes are ready", _nodes(3)),
        ("six replicas run, on three nodes", _replicas(6, on=3)),
        ("every node has a proxy", _proxies),
    ),
    12: (
        ("three nodes are ready, and there is a leader", _nodes(3, leader=True)),
        ("three replicas run", _replicas(3)),
    ),
}
