"""A stack on Swarm as the manager's API describes it. Nothing in here changes anything."""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from stack import model
from stack.composefile import PORT_LABEL, PROXY_LABEL
from stack.engines.engine_api import EngineApi
from stack.engines.swarm_file import DIGEST_LABEL, PREVIOUS_LABEL, files
from stack.engines.swarm_model import Cluster, Deployed, Node
from stack.errors import NO_LEADER, ConfigurationError, EngineUnavailable
from stack.model import NAMESPACE_LABEL, Replica, Snapshot, TargetList, Update, unix_seconds
from stack.revision import LENGTH

# On nodes: the proxy's.
NODE_LABEL = "stack.proxy"

# A task's states, in Swarm's words, in which its container runs or will.
COMING = ("new", "pending", "assigned", "accepted", "preparing", "ready", "starting")
FAILED = ("failed", "rejected", "orphaned")
# What Swarm wants of a task that is to go.
ENDING = ("shutdown", "remove")


def read(api: EngineApi, project: str) -> Cluster:
    """The project on this Swarm.

    Raises EngineUnavailable where the engine is no manager of a Swarm, or that has no leader.
    """
    require_manager(api)
    cluster, mine = observe(api, project), _of(project)
    secrets, configs = (
        tuple(str(one["Spec"]["Name"]) for one in api.json(f"/{kind}", filters=mine) or [])
        for kind in ("secrets", "configs")
    )
    networks = tuple(str(one["Name"]) for one in api.json("/networks", filters=mine) or [])
    here = str(api.info()["Swarm"]["NodeID"])
    return replace(cluster, secrets=secrets, configs=configs, networks=networks, here=here)


def observe(api: EngineApi, project: str) -> Cluster:
    """What changes by itself: services, their replicas, nodes. Raises as the API does."""
    services = api.json("/services", filters=_of(project)) or []
    tasks = api.json("/tasks", filters=_of(project)) or []
    # Swarm lists them in any order.
    nodes = sorted((_node(one) for one in api.json("/nodes") or []), key=lambda node: node.name)
    return cluster_of(project, services, tasks, tuple(nodes))


def require_manager(api: EngineApi) -> None:
    """Raise EngineUnavailable, with what to do, unless this engine can change a Swarm."""
    try:
        swarm = api.info()["Swarm"]
    except EngineUnavailable as error:
        raise EngineUnavailable(
            f"{error} (a Swarm that has just lost too many of its managers does so at first: "
            "docs/swarm.md)"
        ) from None
    if swarm["LocalNodeState"] == "locked":
        raise EngineUnavailable("this node of the Swarm is locked. Unlock it: docker swarm unlock")
    if swarm["LocalNodeState"] in ("pending", "error"):
        raise EngineUnavailable(
            f"this node has not joined its Swarm ({swarm['LocalNodeState']}): {swarm.get('Error')}"
        )
    if swarm["LocalNodeState"] != "active":
        raise EngineUnavailable(
            "this engine is not part of a Swarm. Make it the first node of one: docker swarm init "
            "--advertise-addr ADDRESS (docs/swarm.md)"
        )
    if not swarm["ControlAvailable"]:
        managers = ", ".join(one["Addr"] for one in swarm.get("RemoteManagers") or ())
        raise EngineUnavailable(
            f"this node of the Swarm is a worker. Ask a manager ({managers}): "
            "DOCKER_HOST=ssh://USER@MANAGER"
        )
    if "does not have a leader" in (swarm.get("Error") or ""):
        raise EngineUnavailable(NO_LEADER)


def cluster_of(
    project: str,
    services: Sequence[Mapping[str, Any]],
    tasks: Sequence[Mapping[str, Any]],
    nodes: tuple[Node, ...],
) -> Cluster:
    """The project from what the API says of its services, their tasks and the nodes."""
    names = {one["ID"]: one["Spec"]["Name"].removeprefix(f"{project}_") for one in services}
    hosts = {node.id: node.name for node in nodes}
    lost = {node.id for node in nodes if not node.is_ready}
    slots: dict[tuple[str, object], list[Mapping[str, Any]]] = {}
    for task in sorted(tasks, key=lambda task: task["CreatedAt"]):
        slot = (task["ServiceID"], task.get("Slot") or task.get("NodeID"))
        slots.setdefault(slot, []).append(task)
    replicas = tuple(
        _replica(project, names[service_id], task, hosts, of_slot)
        for (service_id, _), of_slot in slots.items()
        if service_id in names
        for task in of_slot
        if _is_there(task, of_slot, lost)
    )
    by_name = {names[one["ID"]]: one for one in services}
    proxies = any(replica.is_proxy for replica in replicas)
    routing = {
        f"{replica.service}:{replica.port}": TargetList(by_dns=True)
        for replica in replicas
        if replica.port is not None and proxies
    }
    return Cluster(
        Snapshot(
            project,
            replicas=replicas,
            routing=routing,
            updates={
                name: _update(project, name, one, tasks, hosts, nodes)
                for name, one in by_name.items()
            },
        ),
        {name: _deployed(project, name, one) for name, one in by_name.items()},
        nodes,
    )


def of_image(project: str, service: str, image: str) -> str:
    """The revision in the name of an image; its tag, if it is not one of the project's own.

    >>> of_image("stack", "web", "registry.local:5000/stack-web:e1a6501@sha256:0123")
    'e1a6501'
    """
    name, _, tag = image.partition("@")[0].rpartition(":")
    is_ours = name.rpartition("/")[2] == f"{project}-{service}"
    return tag if is_ours or "/" not in tag else ""


def _is_there(
    task: Mapping[str, Any], of_slot: Sequence[Mapping[str, Any]], lost: Set[str]
) -> bool:
    """Whether it runs, will run, or is the last of its slot and has done its work."""
    state = task["Status"]["State"]
    if state == "complete":
        return task is of_slot[-1] and task["DesiredState"] != "remove"
    if task.get("NodeID") in lost and task["DesiredState"] in ENDING:
        # Nobody will ever say what became of it.
        return False
    return state == "running" or (state in COMING and task["DesiredState"] not in ENDING)


def _replica(
    project: str,
    service: str,
    task: Mapping[str, Any],
    hosts: Mapping[str, str],
    of_slot: Sequence[Mapping[str, Any]] = (),
) -> Replica:
    spec = task["Spec"]["ContainerSpec"]
    labels = spec.get("Labels") or {}
    port = labels.get(PORT_LABEL, "")
    status = task["Status"]
    host = hosts.get(task.get("NodeID", ""), "")
    return Replica(
        id=task["ID"],
        name=f"{project}_{service}.{task.get('Slot') or host}",
        service=service,
        number=task.get("Slot", 0),
        state=_state(task, has_check=bool(spec.get("Healthcheck"))),
        revision=of_image(project, service, spec["Image"]),
        config_hash=_goal(task["Spec"]),
        addresses=tuple(
            address.partition("/")[0]
            for attachment in task.get("NetworksAttachments") or ()
            for address in attachment.get("Addresses") or ()
        ),
        restarts=sum(
            one["Status"]["State"] in FAILED and _goal(one["Spec"]) == _goal(task["Spec"])
            for one in of_slot
        ),
        created_at=unix_seconds(task["CreatedAt"]),
        started_at=unix_seconds(status["Timestamp"]),
        exit_code=(status.get("ContainerStatus") or {}).get("ExitCode", 0),
        port=int(port) if port.isdecimal() else None,
        is_proxy=labels.get(PROXY_LABEL) == "true",
        draining=task["DesiredState"] in ENDING and status["State"] == "running",
        node=host,
        reason=_reason(status),
    )


def _reason(status: Mapping[str, Any]) -> str:
    if status.get("Err") or status["State"] != "complete":
        return str(status.get("Err", ""))
    # Whoever is not healthy gets SIGTERM, and may end well.
    return "it ended, or was ended because it was not healthy"


def _state(task: Mapping[str, Any], *, has_check: bool) -> str:
    state = task["Status"]["State"]
    if state == "running":
        return model.HEALTHY if has_check else model.RUNNING
    return model.STARTING if state in COMING else model.EXITED


def _update(
    project: str,
    name: str,
    service: Mapping[str, Any],
    tasks: Iterable[Mapping[str, Any]],
    hosts: Mapping[str, str],
    nodes: Sequence[Node],
) -> Update:
    status = service.get("UpdateStatus") or {}
    goal = _goal(service["Spec"]["TaskTemplate"])
    policy = service["Spec"]["TaskTemplate"].get("RestartPolicy") or {}
    # Whoever is to run for ever must not end, however well.
    ended = FAILED if policy.get("Condition", "any") != "any" else (*FAILED, "complete")
    failed = [
        _replica(project, name, task, hosts)
        for task in sorted(tasks, key=lambda task: task["CreatedAt"], reverse=True)
        if task["ServiceID"] == service["ID"] and task["Status"]["State"] in ended
    ]
    return Update(
        state=status.get("State", ""),
        message=status.get("Message", ""),
        began=status.get("StartedAt", ""),
        wanted=_wanted(service["Spec"], nodes),
        config_hash=goal,
        failures=tuple(failed),
    )


def _wanted(spec: Mapping[str, Any], nodes: Sequence[Node]) -> int | None:
    """How many replicas there should be: of a global service, one on each node that may have it."""
    if "Replicated" in spec["Mode"]:
        return int(spec["Mode"]["Replicated"]["Replicas"])
    constraints = (spec["TaskTemplate"].get("Placement") or {}).get("Constraints") or []
    suits = {
        "node.role==manager": lambda node: node.role == "manager",
        "node.role==worker": lambda node: node.role == "worker",
        f"node.labels.{NODE_LABEL}==true": lambda node: node.has_proxy_label,
    }
    given = [one.replace(" ", "") for one in constraints]
    if any(one not in suits for one in given):
        # Only Swarm knows.
        return None
    there = [node for node in nodes if node.is_ready and all(suits[one](node) for one in given)]
    if any(node.availability == "pause" for node in there):
        # Whatever was there before stays, and nothing else comes.
        return None
    return sum(node.is_active for node in there)


def _deployed(project: str, name: str, service: Mapping[str, Any]) -> Deployed:
    spec = service["Spec"]
    image = spec["TaskTemplate"]["ContainerSpec"]["Image"]
    labels = spec.get("Labels") or {}
    return Deployed(
        name=name,
        image=image,
        revision=of_image(project, name, image),
        digest=labels.get(DIGEST_LABEL, ""),
        previous=labels.get(PREVIOUS_LABEL, ""),
        replicas=(spec["Mode"].get("Replicated") or {}).get("Replicas"),
        files=frozenset(
            one[f"{kind}Name"]
            for kind in ("Secret", "Config")
            for one in spec["TaskTemplate"]["ContainerSpec"].get(f"{kind}s") or ()
        ),
        state=(service.get("UpdateStatus") or {}).get("State", ""),
    )


def _node(node: Mapping[str, Any]) -> Node:
    manager = node.get("ManagerStatus") or {}
    address = str(node["Status"].get("Addr", ""))
    if address in ("", "0.0.0.0", "127.0.0.1") and manager:  # noqa: S104 - to recognize it
        address = str(manager.get("Addr", "")).rpartition(":")[0]
    return Node(
        id=node["ID"],
        # One that has joined and never connected has none yet.
        name=node["Description"].get("Hostname") or node["ID"],
        address=address,
        role=node["Spec"]["Role"],
        # Right after another leader was elected it is "unknown" for a moment.
        is_ready=node["Status"]["State"] not in ("down", "disconnected"),
        availability=node["Spec"]["Availability"],
        has_proxy_label=(node["Spec"].get("Labels") or {}).get(NODE_LABEL) == "true",
    )


def _goal(spec: Mapping[str, Any]) -> str:
    """A digest of what a replica is made with, which a task has from its service; but not of where
    it may be: Swarm leaves a task alone that is in the right place already.
    """
    return digest({key: spec[key] for key in spec if key not in ("Runtime", "Placement")})


def _of(project: str) -> str:
    return json.dumps({"label": [f"{NAMESPACE_LABEL}={project}"]})


def file_digests(document: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files behind secrets and configs, by path.

    Raises ConfigurationError where one cannot be read.
    """
    return {path: _file_digest(path) for path in files(document)}


def _file_digest(path: str) -> str:
    try:
        return sha256(Path(path).read_bytes()).hexdigest()[:LENGTH]
    except OSError as error:
        raise ConfigurationError(f"Compose file: {path}: {error.strerror}") from None


def digest(value: object) -> str:
    """A short hash of something that JSON can say."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[: 2 * LENGTH]
