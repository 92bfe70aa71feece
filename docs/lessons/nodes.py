"""Machines for lessons 11 and 12, on this one: network namespaces, each with a Docker engine in it.

    python docs/lessons/nodes.py start [N]    make N nodes, one Swarm of managers, and a registry
    python docs/lessons/nodes.py kill N       what a power failure does to node N
    python docs/lessons/nodes.py revive N     switch it on again
    python docs/lessons/nodes.py stop         leave nothing of them

It takes Linux, root, and the packages of `make venv-dev`: the nodes are those of the tests.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "lesson"
SOCKET, LOG, ENV = DIRECTORY / "nodes.sock", DIRECTORY / "nodes.log", DIRECTORY / "nodes.env"
SOURCES = DIRECTORY / "swarm"
START_LIMIT_S = 300
# How long they run if nobody stops them.
LIFE_S = 24 * 3600

# The nodes are those of the tests.
sys.path.insert(0, str(ROOT))
if TYPE_CHECKING:
    from tests.e2e.rig import Node


def main() -> None:
    verb, *arguments = sys.argv[1:] or ["help"]
    numbers = [int(one) for one in arguments if one.isdecimal()]
    if len(numbers) != len(arguments):
        verb = "help"
    if verb == "start" and len(numbers) <= 1:
        start(*numbers)
    elif verb == "serve":
        serve(*numbers)
    elif (verb == "stop" and not numbers) or (verb in ("kill", "revive") and len(numbers) == 1):
        tell(verb, *numbers)
    else:
        sys.stderr.write(str(__doc__))
        sys.exit(2)


def tell(verb: str, *numbers: int) -> None:
    """Have the process that has the nodes do something, and print what it says."""
    try:
        with Client(str(SOCKET)) as server:
            server.send((verb, *numbers))
            print(server.recv(), end="")
    except PermissionError:
        sys.exit("nodes.py: the nodes are root's: sudo -E bash, and again")
    except (FileNotFoundError, ConnectionRefusedError):
        SOCKET.unlink(missing_ok=True)
        sys.exit("nodes.py: no nodes run: python docs/lessons/nodes.py start 3")


def start(count: int = 3) -> None:
    """Start a process that has the nodes, and wait until they are there."""
    if os.geteuid() != 0:
        sys.exit("nodes.py: network namespaces take root: sudo -E .venv/bin/python ...")
    if find_spec("pyroute2") is None:
        sys.exit("nodes.py: the packages of the tests are missing: make venv-dev")
    if SOCKET.exists():
        sys.exit("nodes.py: they run, or were not stopped: python docs/lessons/nodes.py stop")
    DIRECTORY.mkdir(exist_ok=True)
    # Of nodes whose end was not their own.
    ENV.unlink(missing_ok=True)
    shutil.rmtree(SOURCES, ignore_errors=True)
    with LOG.open("wb") as log:
        argv = (sys.executable, __file__, "serve", str(count))
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_LIMIT_S
    while not ENV.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            sys.exit(f"nodes.py: the nodes did not start\n{LOG.read_text()[-2000:]}")
        time.sleep(0.2)
    for number in range(1, count + 1):
        print(f"node{number}  10.77.0.{number}  a manager")
    print("Next: . lesson/nodes.env")


def serve(count: int) -> None:
    """Have nodes, until told to stop."""
    from tests.e2e import rig
    from tests.e2e.swarm import registry_image, start_registry, swarm

    # As an end of the process does, leave nothing behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rig.LIFE_S = LIFE_S
    with Listener(str(SOCKET)) as listener:
        try:
            with swarm(count, managers=count) as nodes:
                registry = start_registry(nodes[0], registry_image(DIRECTORY))
                _prepare_sources(nodes[0])
                _write_env(nodes, registry)
                caller = _obey(listener, nodes)
        finally:
            ENV.unlink(missing_ok=True)
            shutil.rmtree(SOURCES, ignore_errors=True)
        caller.send("")


def _obey(listener: Listener, nodes: "list[Node]") -> Connection:
    """Do what callers say; return the one that says stop."""
    while True:
        caller = listener.accept()
        # One that was interrupted does not wait for what it has asked for.
        with suppress(OSError, EOFError):
            verb, *numbers = caller.recv()
            if verb == "stop":
                return caller
            caller.send(_do(verb, numbers[0], nodes))
        caller.close()


def _do(verb: str, number: int, nodes: "list[Node]") -> str:
    if not 1 <= number <= len(nodes):
        return f"there is no node{number}\n"
    node = nodes[number - 1]
    runs = node.process is not None
    if runs == (verb == "kill"):
        try:
            node.kill() if runs else node.start()
        except (AssertionError, OSError) as error:
            return f"{node.name}: {error}\n"
    return f"{node.name} is {'dead' if verb == 'kill' else 'back'}\n"


def _prepare_sources(first: "Node") -> None:
    """The project's sources, such that its images can be built on a node, which has no network."""
    from tests.e2e.swarm import DOCKERFILE

    for name in ("web", "proxy", "scripts"):
        shutil.copytree(ROOT / name, SOURCES / name)
    for name in ("compose.yaml", ".env"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, SOURCES / name)
    base = os.environ.get("IMAGE", "lesson-python:1")
    config = ("docker", "compose", "config", "--format", "json")
    text = subprocess.run(config, cwd=SOURCES, capture_output=True, check=True).stdout
    nginx = json.loads(text)["services"]["proxy"]["build"]["args"].get("NGINX_IMAGE", "nginx:1.30")
    first.take_images([base, nginx])
    (SOURCES / "web" / "Dockerfile").write_text(DOCKERFILE.format(base=base))


def _write_env(nodes: "list[Node]", registry: str) -> None:
    pids = " ".join(str(node.network.holder.pid) for node in nodes if node.network)
    text = f"""# The engine to talk to is node1's.
export DOCKER_HOST={nodes[0].host} STACK_ENGINE=swarm STACK_REGISTRY={registry}
export COMPOSE_FILE={SOURCES.relative_to(ROOT)}/compose.yaml
# on_node 2 curl ...: a command on node2, as far as the network goes.
on_node() {{
    local pid; pid=$(echo {pids} | cut -d ' ' -f "$1"); shift
    nsenter --target "$pid" --net --uts "$@"
}}
"""
    spare = ENV.with_suffix(".new")
    spare.write_text(text)
    spare.replace(ENV)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("nodes.py: interrupted; to be rid of them: python docs/lessons/nodes.py stop")
