"""A Compose file and what runs of it on a Swarm, for tests."""

from dataclasses import replace
from typing import Any

from stack import composefile
from stack.engines import swarm_plans
from stack.engines.swarm_file import Deployment, stack_file
from stack.engines.swarm_model import Cluster, Deployed, Node
from stack.model import HEALTHY, Replica, Snapshot, Update

# What `docker compose config --format json` says, cut down.
DOCUMENT: dict[str, Any] = {
    "name": "stack",
    "networks": {
        "edge": {"name": "stack_edge", "ipam": {}},
        "web": {"name": "stack_web", "ipam": {}, "internal": True},
        "other": {"name": "stack_other"},
    },
    "secrets": {"key": {"name": "stack_key", "file": "key.txt"}, "ca": {"file": "ca.pem"}},
    "volumes": {
        "data": {"name": "stack_data"},
        "proxy-state": {"name": "stack_proxy-state", "labels": {"stack.disposable": "true"}},
    },
    "services": {
        "web": {
            "build": {"context": "web", "secrets": [{"source": "ca"}]},
            "command": None,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "depends_on": {"migrate": {"condition": "service_completed_successfully"}},
            "deploy": {
                "replicas": 2,
                "resources": {"limits": {"cpus": 1.5, "memory": "268435456"}},
                "update_config": {"parallelism": 1, "monitor": "2s"},
                "placement": {},
            },
            "image": "stack-web:abc",
            "labels": {"stack.route.port": "8000"},
            "networks": {"web": None},
            "restart": "unless-stopped",
            "secrets": [{"source": "key", "mode": "0440"}],
            "tmpfs": ["/cache:size=64m"],
            "volumes": [{"type": "volume", "source": "data", "target": "/data", "volume": {}}],
        },
        "migrate": {
            "image": "stack-migrate:abc",
            "restart": "on-failure:3",
            "networks": {"web": None},
        },
        "proxy": {
            "image": "stack-proxy:def",
            "labels": {"stack.proxy": "true"},
            "networks": {"edge": None, "web": None},
            "ports": [
                {
                    "mode": "ingress",
                    "host_ip": "127.0.0.1",
                    "target": 8080,
                    "published": "8080",
                    "protocol": "tcp",
                }
            ],
            "restart": "unless-stopped",
            "volumes": [
                {
                    "type": "volume",
                    "source": "proxy-state",
                    "target": "/var/lib/proxy",
                    "volume": {},
                }
            ],
        },
    },
}
SERVICES = tuple(
    replace(one, revision="abc") for one in composefile.described(DOCUMENT, {}).services
)
WEB = tuple(one for one in SERVICES if one.name == "web")
IMAGES = {"web": "registry.local:5000/stack-web:abc", "proxy": "stack-proxy:def"}
DIGESTS = {"key.txt": "0a1b2c3", "ca.pem": "fffffff"}


def made(**changes: Any) -> dict[str, Any]:
    return stack_file(
        DOCUMENT, SERVICES, replace(Deployment(images=IMAGES, digests=DIGESTS), **changes)
    )


NODES = (
    Node("n1", "node1", "10.0.0.1", "manager", is_ready=True),
    Node("n2", "node2", "10.0.0.2", "worker", is_ready=True),
)


def replica(number: int = 1, **changes: Any) -> Replica:
    one = Replica(
        f"t{number}", f"stack_web.{number}", "web", number, HEALTHY, "abc", config_hash="goal"
    )
    return replace(one, **{"port": 8000, **changes})


def cluster(*replicas: Replica, image: str = IMAGES["web"], **update: Any) -> Cluster:
    there = Deployed(
        name="web",
        image=f"{image}@sha256:01",
        revision="abc",
        digest=swarm_plans.identity(made(), "web"),
        previous="old",
        replicas=len(replicas),
        state=update.get("state", ""),
    )
    status = Update(**{"wanted": len(replicas), "config_hash": "goal", **update})
    snapshot = Snapshot("stack", replicas=replicas, updates={"web": status})
    return Cluster(snapshot, {"web": there}, NODES)


FAILED = replica(9, state="exited", reason="task: non-zero exit (3)", node="node2")


def of_revision(name: str, *replicas: Replica, **update: Any) -> Cluster:
    now = cluster(*replicas, image=f"stack-web:{name}", **update)
    return replace(now, services={"web": replace(now.services["web"], revision=name)})
