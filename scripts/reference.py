"""Write docs/reference.md: every verb and option, from the code, and every setting.

    .venv/bin/python scripts/reference.py [--check]

--check writes nothing; exit code 1 if the file is not what would be written, or if a variable of
compose.yaml or a label of the code is not described below.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from stack.cli import cli

OUTPUT = Path("docs/reference.md")

VARIABLES = {
    "HTTP_PORT": "the port on 127.0.0.1 (8080)",
    "COMPOSE_PROJECT_NAME": "the name of the stack (`stack`); several run side by side",
    "PYTHON_IMAGE": "base image of `web/`, from a registry of yours, say; `@sha256:...` pins it",
    "NGINX_IMAGE": "base image of `proxy/`, likewise",
    "PIP_INDEX_URL": "the package index that builds use",
    "CA_BUNDLE": "certificates that builds trust (this machine's); never part of an image",
    "STACK_TLS": "1: HTTPS, see [security](security.md#https)",
    "HTPASSWD": "a password file, see [security](security.md#a-password)",
    "ALLOWED_HOSTS": "hosts that are answered, see [security](security.md#the-front-door)",
    "RATE_LIMIT": "requests per second of a client",
    "CONNECTION_LIMIT": "requests of a client at the same time",
    "WEB_REVISION": "set by the manager: the tag of the image",
    "PROXY_REVISION": "set by the manager, likewise",
    "WEB_SETTINGS": "set by the manager: with what settings the image ran",
}
OF_THE_APP = {
    "THREADS": "how many requests a replica works on at a time (4)",
    "STOP_DELAY": "seconds to serve on after SIGTERM (0; on a Swarm 3)",
    "MAX_BODY_BYTES": "the largest body that the example takes (16 KiB)",
    "MAX_WORK_MS": "the longest that `/api/work` takes (60,000)",
}
ELSEWHERE = {
    "STACK_ENGINE": "as `--engine`: `compose` or `swarm`",
    "STACK_REGISTRY": "as `--registry`",
    "DEBIAN_MIRROR": "where packages come from if there is no registry (as apt on this machine)",
    "DEBIAN_SECURITY_MIRROR": "likewise, of security updates",
    "NO_INSTALL": "1: never install anything",
    "DOCKER_HOST": "and Docker contexts, `COMPOSE_FILE`, `COMPOSE_ENV_FILES`: as with Compose",
}
LABELS = {
    "stack.route.port": "on a service: the proxy sends requests to it, on this port",
    "stack.proxy": "`true`, on a service: it is the proxy; on a node of a Swarm: there it runs",
    "stack.tls": "`1`, on the proxy: it speaks HTTPS",
    "stack.disposable": "`true`, on a volume: what it holds is of no value, and goes with `down`",
    "stack.publish": "`ingress`, on the proxy: Swarm publishes its port on every node",
    "stack.settings": "on an image, by the manager: with what settings of the Compose file it ran",
    "stack.digest": "on a service of a Swarm, by the manager: what it was deployed from",
    "stack.previous": "on a service of a Swarm, by the manager: the revision before",
}


def main() -> int:
    """Write the file, or check it; return the exit code."""
    text = "\n".join(reference()) + "\n"
    complaints = list(undescribed())
    if "--check" not in sys.argv[1:]:
        OUTPUT.write_text(text)
    elif OUTPUT.read_text() != text:
        complaints.append(f"{OUTPUT} is not up to date: make reference")
    for complaint in complaints:
        sys.stderr.write(f"{complaint}\n")
    return int(bool(complaints))


def reference() -> Iterator[str]:
    """The file, line by line."""
    yield "# Reference"
    yield ""
    yield "Written by `make reference` from the code; do not edit."
    yield ""
    yield "## For every verb"
    yield ""
    yield "`python -m stack [OPTIONS] VERB ...`. `--explain`, `--debug`, `--engine` and"
    yield "`--registry` can also stand after the verb."
    yield ""
    yield from _options(cli)
    for name, command in sorted(cli.commands.items()):
        yield f"## {name}"
        yield ""
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        yield f"`python -m stack {name} {usage}`"
        yield ""
        yield inspect.cleandoc(str(command.help))
        yield ""
        yield from _options(command)
    yield "## Settings"
    yield ""
    yield "In the environment, or in `.env`:"
    yield ""
    yield from _table("variable", VARIABLES)
    yield ""
    yield "In the environment alone:"
    yield ""
    yield from _table("variable", ELSEWHERE)
    yield ""
    yield "Under `environment:` of the service `web`:"
    yield ""
    yield from _table("variable", OF_THE_APP)
    yield ""
    yield "## Labels"
    yield ""
    yield from _table("label", LABELS)


def _options(command: click.Command) -> Iterator[str]:
    context = click.Context(command)
    records = [
        found
        for parameter in command.params
        if isinstance(parameter, click.Option) and (found := parameter.get_help_record(context))
    ]
    if records:
        yield "| option | |"
        yield "|---|---|"
        for option, text in records:
            yield f"| `{option.replace('|', chr(92) + '|')}` | {text} |"
        yield ""


def _table(head: str, rows: dict[str, str]) -> Iterator[str]:
    yield f"| {head} | |"
    yield "|---|---|"
    for name, text in rows.items():
        yield f"| `{name}` | {text} |"


def undescribed() -> Iterator[str]:
    """Variables and labels that are there, and not above."""
    used = set(re.findall(r"\$\{([A-Z_]+)", Path("compose.yaml").read_text()))
    # "PYTHON_IMAGE:" among the arguments of a build is taken from the environment, too.
    used |= set(re.findall(r"^ +([A-Z_]+):$", Path("compose.yaml").read_text(), re.MULTILINE))
    for name in sorted(used ^ VARIABLES.keys()):
        yield f"scripts/reference.py: {name} is only in one of compose.yaml and here"
    app = "".join(path.read_text() for path in Path("web").rglob("*.py"))
    for name in sorted(
        set(re.findall(r'"([A-Z]{3,}_?[A-Z_]*)", "[0-9]+"', app)) ^ OF_THE_APP.keys()
    ):
        yield f"scripts/reference.py: {name} is only in one of web/ and here"
    code = "".join(path.read_text() for path in Path("stack").rglob("*.py"))
    for name in sorted(set(re.findall(r'_LABEL = "(stack\.[a-z.]+)"', code)) - LABELS.keys()):
        yield f"scripts/reference.py: the label {name} is not described"


if __name__ == "__main__":
    sys.exit(main())
