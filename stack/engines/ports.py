"""Who has the ports that services publish."""

import socket
from collections.abc import Callable, Iterable

from stack.engines.engine_api import EngineApi
from stack.model import Service


def conflicts(
    api: EngineApi, services: Iterable[Service], is_ours: Callable[[str], bool]
) -> list[str]:
    """Ports that services publish and somebody else has, a sentence each. `is_ours` is asked of
    names of containers.
    """
    users = api.published_ports()
    # Of another machine's ports only the engine knows.
    local = api.is_local
    found = []
    for host, port in (pair for one in services for pair in one.published):
        user = users.get(port, "")
        if user and is_ours(user):
            continue
        if user or (local and _answers(host, port)):
            by = f"container {user}" if user else "a process that is not a container"
            found.append(
                f"port {port} of {host} is in use by {by}. Choose another: "
                "HTTP_PORT=8081 python -m stack up"
            )
    return found


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
