"""`doctor`: what the stack needs, what was found, and what to do about it."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from stack import bases, lock, runner, show
from stack.engines import Engine, Finding, sources
from stack.errors import StackError
from stack.plan import Command
from stack.reconcile import BROKEN

# start_interval of health checks came with Engine 25; Compose before 2.20 does not pass it on.
ENGINE_AT_LEAST = (25, 0)
COMPOSE_AT_LEAST = (2, 20)
DISK_GIB_AT_LEAST = 2

# No engine, not permitted, no Compose file: the other checks would only say so again.
NOTHING_GOES = (69, 77, 78)

COMMANDS = (
    Command(("docker", "info"), "does an engine answer, and which"),
    Command(("docker", "compose", "version", "--short"), "Compose"),
    Command(("docker", "buildx", "version"), "BuildKit, which builds with secrets"),
    Command(("docker", "compose", "config", "--quiet"), "is the Compose file right"),
    Command(("docker", "image", "ls"), "base images"),
    Command(("docker", "ps"), "who publishes the port"),
    Command(("df", "-h"), "disk"),
)


def examine(engine: Engine) -> list[Finding]:
    """Run all checks that can be run: without an engine those that need one are left out."""
    findings = [*_try("engine", lambda: _engine(engine)), *_try("compose", _compose)]
    findings += _try("buildx", _buildx)
    findings += _try("compose file", lambda: _file(engine))
    for check in engine.checks():
        findings += _try(check.name, check.run)
    if any(finding.exit_code in NOTHING_GOES for finding in findings):
        return findings
    for variable, reference in bases.references(engine.file.services).items():
        findings += _try(f"base {variable}", lambda v=variable, r=reference: _base(engine, v, r))  # type: ignore[misc]
    findings += _try("port", lambda: _ports(engine))
    findings += _try("disk", lambda: _disk(engine))
    findings += _try("lock", lambda: _lock(engine))
    return findings + _try("routing", lambda: _routing(engine))


def report(findings: list[Finding]) -> str:
    """The findings for people, one line each and the advice below."""
    lines = []
    for finding in findings:
        mark = click.style("bad", fg="red") if finding.exit_code else click.style("ok ", fg="green")
        lines.append(f"{mark}  {finding.check:<18}  {finding.found}")
        if finding.advice:
            lines.append(f"     {'':<18}  -> {finding.advice}")
    return "\n".join(lines)


def at_least(found: str, wanted: tuple[int, ...]) -> bool:
    """Whether a version such as "v2.26.1-4" is that new.

    >>> at_least("v2.26.1-4", (2, 20, 2)), at_least("24.0.7", (25, 0))
    (True, False)
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[: len(wanted)])
    return numbers >= wanted


def _try(check: str, run: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(run())
    except StackError as error:
        return [Finding(check, str(error).splitlines()[0], error.exit_code)]


def _engine(engine: Engine) -> Iterator[Finding]:
    info = engine.api.info()
    version = info["ServerVersion"]
    found = f"{version} on {info['OperatingSystem']}, {info['Architecture']}"
    if at_least(version, ENGINE_AT_LEAST):
        yield Finding("engine", found)
    else:
        yield Finding("engine", found, 69, f"Engine {_dotted(ENGINE_AT_LEAST)} or later is needed")


def _compose() -> Iterator[Finding]:
    version = runner.read(("docker", "compose", "version", "--short")).strip()
    if at_least(version, COMPOSE_AT_LEAST):
        yield Finding("compose", version)
    else:
        advice = f"Compose {_dotted(COMPOSE_AT_LEAST)} or later is needed: make engine"
        yield Finding("compose", version, 69, advice)


def _buildx() -> Iterator[Finding]:
    yield Finding("buildx", runner.read(("docker", "buildx", "version")).split()[1])


def _file(engine: Engine) -> Iterator[Finding]:
    services = ", ".join(service.name for service in engine.file.services)
    yield Finding("compose file", f"project {engine.project}: {services}")


def _base(engine: Engine, variable: str, reference: str) -> Iterator[Finding]:
    base = sources.base(engine.api, variable, reference)
    yield Finding(f"base {variable}", f"{base.reference}: {base.reason}")


def _ports(engine: Engine) -> Iterator[Finding]:
    conflicts = engine.ports_in_use()
    for conflict in conflicts:
        found, _, advice = conflict.partition(". ")
        yield Finding("port", found, 1, advice)
    published = [str(port) for one in engine.file.services for _, port in one.published]
    if not conflicts:
        yield Finding("port", f"{', '.join(published) or 'none'}: free, or this stack's")


def _disk(engine: Engine) -> Iterator[Finding]:
    root = Path(engine.api.info()["DockerRootDir"])
    if not root.is_dir():
        yield Finding("disk", "the engine is on another machine")
        return
    free_gib = shutil.disk_usage(root).free / 2**30
    found = f"{free_gib:.0f} GiB free for images and containers"
    if free_gib >= DISK_GIB_AT_LEAST:
        yield Finding("disk", found)
    else:
        yield Finding("disk", found, 1, "make room: docker system prune")


def _lock(engine: Engine) -> Iterator[Finding]:
    who = lock.holder(lock.lock_path(engine.project, engine.id))
    yield Finding("lock", f"held by {who}" if who else "free")


def _routing(engine: Engine) -> Iterator[Finding]:
    snapshot = engine.observe()
    lines = show.drift(snapshot)
    lines += [f"{one.name} is {one.state}" for one in snapshot.replicas if one.state in BROKEN]
    for line in lines:
        yield Finding("routing", line, 1, "put it right: python -m stack up")
    if not lines:
        yield Finding("routing", "target lists and replicas agree")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
