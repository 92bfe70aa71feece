"""What verbs are given, checked against the Compose file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from stack.errors import UsageError
from stack.model import Service

if TYPE_CHECKING:
    from stack.engines import Engine
    from stack.plan import Plan

MAX_REPLICAS = 100

# nginx ends its old workers, and what they have in flight, after this long.
MAX_DRAIN_S = 120


@dataclass(frozen=True)
class Options:
    """What stands before the verb."""

    engine: "Engine"
    explain: bool
    debug: bool
    lock_wait_s: float


class Counts(click.ParamType[tuple[str, int]]):
    """SERVICE=N."""

    name = "SERVICE=N"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        service, separator, number = value.partition("=")
        if not separator or not service:
            self.fail(f"{value!r} is not SERVICE=N, such as web=3", param, ctx)
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            self.fail(f"{value!r}: replicas are a whole number, 0 or more", param, ctx)
        if int(number) > MAX_REPLICAS:
            self.fail(f"{value!r}: at most {MAX_REPLICAS} replicas", param, ctx)
        return service, int(number)


drain_timeout = click.option(
    "--drain-timeout",
    type=click.IntRange(0, MAX_DRAIN_S),
    metavar="SECONDS",
    help="Wait this long for requests in flight on a replica that goes (default: its "
    "stop_grace_period). Then it gets SIGTERM.",
)


def check_registry(name: str) -> None:
    """Raise UsageError unless this is where a registry is, as image names say it.

    >>> check_registry("registry.local:5000/team")
    """
    part = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
    host = name.partition("/")[0]
    # By these Docker tells a registry from a user of the public one.
    is_host = host == "localhost" or "." in host or ":" in host
    port = host.partition(":")[2]
    fits = re.fullmatch(rf"{part}(:[0-9]{{1,5}})?(/{part})*", name)
    if not is_host or not fits or int(port or 1) not in range(1, 65536):
        raise UsageError(
            f"{name!r} is no registry: say HOST:PORT, HOST.DOMAIN or either with /PATH, without https://"
        )


def check_image(name: str) -> None:
    """Raise UsageError unless this can be the name of an image or of a revision.

    >>> check_image("registry.local:5000/team/web:1.4@sha256:0123")
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", name):
        raise UsageError(f"{name!r} is no name of an image, nor of a revision")


def counts(
    given: tuple[tuple[str, int], ...], services: Sequence[Service], *, zero_allowed: bool
) -> dict[str, int]:
    """Check SERVICE=N arguments.

    Raises UsageError for a service that is unknown, named twice, or cannot be scaled.
    """
    wanted: dict[str, int] = {}
    for name, number in given:
        service = known(name, services)
        if name in wanted:
            raise UsageError(f"{name} is given twice")
        if service.is_fixed:
            raise UsageError(
                f"{name} cannot be scaled: it publishes a port or has a fixed container name, "
                "which only one container can have"
            )
        if number == 0 and not zero_allowed:
            raise UsageError(
                f"{name}=0 would leave nobody to answer. If that is what you want: "
                f"python -m stack scale --force {name}=0"
            )
        wanted[name] = number
    return wanted


def known(name: str, services: Sequence[Service]) -> Service:
    """The service of this name; raises UsageError, with the nearest name, if there is none."""
    found = {service.name: service for service in services}
    if name not in found:
        from difflib import get_close_matches

        near = get_close_matches(name, found, n=1)
        raise UsageError(
            f"there is no service {name!r}."
            + (f" Did you mean {near[0]}?" if near else "")
            + f" The Compose file has: {', '.join(sorted(found)) or 'none'}"
        )
    return found[name]


def the_routed(name: str | None, services: Sequence[Service], *, must: bool) -> Service:
    """The service of this name; without a name, the one that the proxy routes to.

    Raises UsageError for the proxy, and, if it `must` be routed, for others that are not.
    """
    if name is not None:
        service = known(name, services)
        if service.is_proxy:
            raise UsageError(
                f"{name} is the proxy, and has no revisions. Change proxy/, then run: "
                "python -m stack up"
            )
        if must and service.port is None:
            raise UsageError(
                f"the proxy does not route to {name}: it is renewed where it is, by what the "
                f"Compose file says (python -m stack rollout {name})"
            )
        return service
    routed = [service for service in services if service.port is not None]
    if len(routed) != 1:
        names = ", ".join(service.name for service in routed) or "none"
        raise UsageError(f"say which service. The proxy routes to: {names}")
    return routed[0]


def explain(plan: "Plan") -> None:
    """Print the plan as commands that can be typed."""
    for line in plan.lines():
        click.echo(line)
