"""The Compose file as `docker stack deploy` takes it: pure, from what `docker compose config` says.

Swarm reads an older form of the file, and knows neither building nor dependencies. What has another
name there is renamed, what it does by itself is left out, and what it cannot do is noted.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from stack.composefile import COMPLETED, DISPOSABLE_LABEL, UNUSED
from stack.errors import ConfigurationError
from stack.model import CONTINUE, PAUSE, ROLLBACK, START_FIRST, STOP_FIRST, Service

# What a service may have for `docker stack deploy` to heed it.
KEPT = frozenset(
    (
        *("cap_add", "cap_drop", "command", "configs", "credential_spec", "deploy", "dns"),
        *("dns_search", "entrypoint", "environment", "expose", "extra_hosts", "healthcheck"),
        *("hostname", "image", "init", "isolation", "labels", "logging", "networks", "ports"),
        *("read_only", "secrets", "stdin_open", "stop_grace_period", "stop_signal", "sysctls"),
        *("tty", "ulimits", "user", "volumes", "working_dir"),
    )
)
# What Swarm needs not be told: images are built before, replicas are started again, and so on.
BY_ITSELF = frozenset(
    (
        *("build", "container_name", "depends_on", "develop", "profiles", "pull_policy"),
        *("restart", "scale", "tmpfs"),
    )
)
OF_DEPLOY = ("resources", "labels", "placement", "restart_policy", "endpoint_mode")

# A replica leaves Swarm's DNS 2 s before it gets SIGTERM. nginx may go by an older answer for
# little more than 2 s, and gossip takes its time too: see docs/design.md.
STOP_DELAY = ("STOP_DELAY", "3")

# On services: what they were deployed from, but for the number of replicas; and the revision
# before theirs.
DIGEST_LABEL = "stack.digest"
PREVIOUS_LABEL = "stack.previous"

# How the proxy's port is published: by its node alone, or by every node (which needs IPVS).
PUBLISH_LABEL = "stack.publish"
HOST, INGRESS = "host", "ingress"
EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - to recognize it


@dataclass(frozen=True)
class Deployment:
    """What the Compose file does not say: of each service that is deployed, its image, its number
    of replicas; where the proxy goes (a constraint), how its port is published, and
    digests of the files behind secrets and configs, by path.
    """

    images: Mapping[str, str]
    counts: Mapping[str, int] = field(default_factory=dict)
    proxy_on: str = "node.role == manager"
    publish: str = HOST
    digests: Mapping[str, str] = field(default_factory=dict)


def stack_file(
    document: Mapping[str, Any], services: Sequence[Service], deployment: Deployment
) -> dict[str, Any]:
    """The file for `docker stack deploy`: those of `services` that get an image, and what they use.

    Raises ConfigurationError for what cannot be had under Swarm.
    """
    chosen = {
        service.name: _service(document, service, deployment)
        for service in services
        if service.name in deployment.images
    }
    used = {
        kind: {name for body in chosen.values() for name in _used(body, kind)}
        for kind in ("networks", "volumes", "secrets", "configs")
    }
    rest = {
        kind: {
            name: _resource(kind, name, body or {}, deployment.digests)
            for name, body in (document.get(kind) or {}).items()
            if name in names
        }
        for kind, names in used.items()
    }
    return {"services": chosen, **{kind: bodies for kind, bodies in rest.items() if bodies}}


def notes(
    document: Mapping[str, Any], services: Sequence[Service], deployment: Deployment
) -> tuple[str, ...]:
    """What Swarm will not do of what the Compose file says, a sentence each."""
    lost: dict[str, list[str]] = {}
    for service in services:
        if service.name not in deployment.images:
            continue
        body = document["services"][service.name]
        for key in body:
            if body[key] and key not in KEPT | BY_ITSELF:
                lost.setdefault(key, []).append(service.name)
    found = [f"Swarm has no {key}: {', '.join(names)}" for key, names in sorted(lost.items())]
    if any(key == "security_opt" for key in lost):
        found.append(
            "for no-new-privileges on every container of a node, set it in its daemon.json"
        )
    chosen = [one for one in services if one.name in deployment.images]
    found += [
        f"{one.name}: Swarm publishes its port on all addresses of its node, not on {host} alone"
        for one in chosen
        for host, _ in one.published
        if host not in EVERYWHERE
    ]
    for one in chosen:
        kinds = {
            mount.get("type")
            for mount in document["services"][one.name].get("volumes") or ()
            if mount.get("source") not in _disposable(document)
        }
        if "bind" in kinds:
            found.append(f"{one.name}: a bind mount needs the path on every node that may have it")
        if "volume" in kinds and not _is_placed(document["services"][one.name]):
            found.append(
                f"{one.name}: a volume is each node's own; deploy.placement.constraints keeps a "
                "replica where its data is"
            )
    return tuple(found)


def publish_mode(document: Mapping[str, Any], services: Sequence[Service]) -> str:
    """How the proxy's port is published; raises ConfigurationError for what there is not."""
    for service in services:
        if service.is_proxy:
            labels = document["services"][service.name].get("labels") or {}
            publish = str(labels.get(PUBLISH_LABEL, HOST))
            if publish not in (HOST, INGRESS):
                raise ConfigurationError(
                    f"Compose file: service {service.name}: label {PUBLISH_LABEL} must be "
                    f"{HOST} or {INGRESS}, not {publish!r}"
                )
            return publish
    return HOST


def _is_placed(body: Mapping[str, Any]) -> bool:
    return bool(((body.get("deploy") or {}).get("placement") or {}).get("constraints"))


def _disposable(document: Mapping[str, Any]) -> set[str]:
    return {
        name
        for name, volume in (document.get("volumes") or {}).items()
        if ((volume or {}).get("labels") or {}).get(DISPOSABLE_LABEL) == "true"
    }


def _service(
    document: Mapping[str, Any], service: Service, deployment: Deployment
) -> dict[str, Any]:
    body = document["services"][service.name]
    kept = {key: deepcopy(body[key]) for key in sorted(KEPT & body.keys()) if body[key]}
    kept["image"] = deployment.images[service.name]
    kept["deploy"] = _deploy(body, service, deployment)
    policy = kept["deploy"].setdefault("restart_policy", _restart_policy(document, service.name))
    if policy.get("condition") in ("none", "on-failure"):
        # To Swarm, whoever ends while it watches has failed; what has ended well must not go back.
        kept["deploy"]["update_config"]["failure_action"] = CONTINUE
    if service.port is not None:
        name, value = STOP_DELAY
        kept["environment"] = {name: value, **(kept.get("environment") or {})}
    _refuse_private_ports(service, body)
    if "ports" in kept:
        mode = deployment.publish if service.is_proxy else HOST
        kept["ports"] = [_port(port, mode) for port in kept["ports"]]
    disposable = _disposable(document)
    mounts = kept.pop("volumes", [])
    volumes = [
        # What is of no value goes with its container.
        {"type": "volume", "target": one["target"]}
        if one.get("source") in disposable
        else _mount(one)
        for one in mounts
    ]
    volumes += [_in_memory(one) for one in body.get("tmpfs") or ()]
    if volumes:
        kept["volumes"] = volumes
    for kind in ("secrets", "configs"):
        given = kept.pop(kind, [])
        # Swarm makes no empty ones.
        used = [one for one in given if not _is_unused(document, kind, one["source"])]
        for one in used:
            if isinstance(one.get("mode"), str):
                one["mode"] = int(one["mode"], 8)
        if used:
            kept[kind] = used
    return kept


def _is_unused(document: Mapping[str, Any], kind: str, name: str) -> bool:
    return bool(document[kind][name].get("file") == UNUSED)


def _refuse_private_ports(service: Service, body: Mapping[str, Any]) -> None:
    """What only its own machine is to reach must not be open to all of a sudden."""
    hosts = [port.get("host_ip", "") for port in body.get("ports") or ()]
    private = [host for host in hosts if host not in EVERYWHERE]
    if private and not service.is_proxy:
        raise ConfigurationError(
            f"Compose file: service {service.name} publishes a port on {private[0]} alone, but "
            "Swarm would on all addresses of its node. Leave `ports` out: services reach each "
            "other without"
        )


def _deploy(body: Mapping[str, Any], service: Service, deployment: Deployment) -> dict[str, Any]:
    given = body.get("deploy") or {}
    if given.get("mode", "replicated") not in ("replicated", "global"):
        raise ConfigurationError(
            f"Compose file: service {service.name}: there is no deploy.mode {given['mode']} here. "
            "A service that ends has restart: on-failure"
        )
    deploy = {key: deepcopy(given[key]) for key in OF_DEPLOY if given.get(key)}
    for limits in (deploy.get("resources") or {}).values():
        if "cpus" in limits:
            limits["cpus"] = str(limits["cpus"])
    # Addresses by DNS. The other way, one address for all, needs IPVS in the kernel.
    ingress = service.is_proxy and deployment.publish == INGRESS
    deploy.setdefault("endpoint_mode", "vip" if ingress else "dnsrr")
    if (service.is_proxy and not ingress) or given.get("mode") == "global":
        # The proxy: a port of a node has one owner.
        deploy["mode"] = "global"
    else:
        deploy["replicas"] = deployment.counts.get(service.name, service.replicas)
    if service.is_proxy:
        placement = deploy.setdefault("placement", {})
        placement.setdefault("constraints", [deployment.proxy_on])
    for key, config in (("update_config", service.update), ("rollback_config", service.rollback)):
        deploy[key] = {
            "parallelism": config.parallelism,
            "delay": f"{config.delay_s:g}s",
            "order": _order(service, (given.get(key) or {}).get("order"), ingress=ingress),
            "monitor": f"{config.monitor_s:g}s",
            "failure_action": config.failure_action,
            "max_failure_ratio": config.max_failure_ratio,
        }
    if deploy["rollback_config"]["failure_action"] == ROLLBACK:
        deploy["rollback_config"]["failure_action"] = PAUSE
    return deploy


def _order(service: Service, given: str | None, *, ingress: bool) -> str:
    if service.published and not ingress:
        # Two cannot have the same port of a node, not even for a moment.
        return STOP_FIRST
    # Two databases on the same volume would be worse than none for a moment.
    return given or (START_FIRST if service.port is not None or service.is_proxy else STOP_FIRST)


def _restart_policy(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    restart = str(document["services"][name].get("restart") or "")
    condition, _, attempts = restart.partition(":")
    if condition == "on-failure":
        return {"condition": condition, **({"max_attempts": int(attempts)} if attempts else {})}
    awaited = any(
        needed.get("condition") == COMPLETED
        for body in document["services"].values()
        for other, needed in (body.get("depends_on") or {}).items()
        if other == name
    )
    # Not Compose's default, which is "no": whoever loses a node wants the rest to move.
    return {"condition": "none" if condition == "no" or awaited else "any"}


def _port(port: Mapping[str, Any], mode: str) -> dict[str, Any]:
    published = str(port.get("published", ""))
    if published and not published.isdecimal():
        raise ConfigurationError(f"Compose file: Swarm publishes no ranges of ports: {published}")
    return {
        "target": port["target"],
        **({"published": int(published)} if published else {}),
        "protocol": port.get("protocol", "tcp"),
        "mode": mode,
    }


def _in_memory(tmpfs: str) -> dict[str, Any]:
    """The mount for "/tmp" or "/tmp:size=64m": Swarm passes `tmpfs:` over in silence."""
    target, _, options = tmpfs.partition(":")
    given = dict(one.partition("=")[::2] for one in options.split(",") if one)
    size = {"tmpfs": {"size": _bytes(given["size"])}} if "size" in given else {}
    return {"type": "tmpfs", "target": target, **size}


def _bytes(size: str) -> int:
    """A size as Docker writes it.

    >>> _bytes("64m"), _bytes("512")
    (67108864, 512)
    """
    found = re.fullmatch(r"([0-9]+)([kmg]?)b?", size.lower())
    if not found:
        raise ConfigurationError(f"Compose file: {size!r} is no size of a tmpfs")
    return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[found[2]]


def _mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    options = ("type", "source", "target", "read_only", "volume", "tmpfs")
    kept = {key: mount[key] for key in options if mount.get(key)}
    if size := (mount.get("tmpfs") or {}).get("size"):
        kept["tmpfs"] = {"size": _bytes(str(size))}
    return kept


def _resource(
    kind: str, name: str, body: Mapping[str, Any], digests: Mapping[str, str]
) -> dict[str, Any]:
    kept = {key: value for key, value in body.items() if value}
    if kept.get("external"):
        return kept
    if kind == "networks" and kept.get("driver") in (None, "bridge"):
        kept["driver"] = "overlay"
    return _from_file(name, kept, digests) if kind in ("secrets", "configs") else kept


def _from_file(name: str, body: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    if "file" not in body:
        raise ConfigurationError(
            f"Compose file: {name}: Swarm takes secrets and configs from files, or external ones"
        )
    # They never change once they are made: other contents have another name.
    own = body.get("name", name)
    return {"name": f"{own}_{digests[body['file']]}", "file": body["file"]}


def files(document: Mapping[str, Any]) -> Iterator[str]:
    """The paths of the files behind secrets and configs that services use."""
    for kind in ("secrets", "configs"):
        used = {name for body in document["services"].values() for name in _used(body, kind)}
        for name, body in (document.get(kind) or {}).items():
            if name in used and body.get("file", UNUSED) != UNUSED:
                yield body["file"]


def _used(body: Mapping[str, Any], kind: str) -> Iterable[str]:
    given = body.get(kind) or ()
    if isinstance(given, Mapping):
        return given.keys()
    names = [one.get("source", "") for one in given if one.get("type", "volume") == "volume"]
    return [name for name in names if name]
