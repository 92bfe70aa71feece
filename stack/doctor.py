"""`doctor`: what the stack needs, what was found, and what to do about it."""

import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import click

from stack import bases, certificates, front_door, lock, runner, show, versions
from stack.engines import Engine, Finding, sources
from stack.errors import StackError
from stack.plan import Command
from stack.reconcile import BROKEN

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
    findings += _try("certificate", lambda: _certificate(engine))
    findings += _try("front door", lambda: _guards(engine))
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


def _try(check: str, run: Callable[[], Iterator[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(run())
    except StackError as error:
        found.append(Finding(check, str(error).splitlines()[0], error.exit_code))
    except OSError as error:
        found.append(Finding(check, f"{error.filename}: {error.strerror}", 1))
    return found


def _engine(engine: Engine) -> Iterator[Finding]:
    info = engine.api.info()
    yield Finding(
        "engine", f"{info['ServerVersion']} on {info['OperatingSystem']}, {info['Architecture']}"
    )
    versions.require("Docker Engine", info["ServerVersion"], versions.ENGINE_AT_LEAST)


def _compose() -> Iterator[Finding]:
    version = runner.read(("docker", "compose", "version", "--short")).strip()
    yield Finding("compose", version)
    versions.require("Docker Compose", version, versions.COMPOSE_AT_LEAST)


def _buildx() -> Iterator[Finding]:
    yield Finding("buildx", runner.read(("docker", "buildx", "version")).split()[1])


def _file(engine: Engine) -> Iterator[Finding]:
    services = ", ".join(service.name for service in engine.file.services)
    yield Finding("compose file", f"project {engine.project}: {services}")


def _base(engine: Engine, variable: str, reference: str) -> Iterator[Finding]:
    base = sources.base(engine.api, variable, reference)
    yield Finding(f"base {variable}", f"{base.reference}: {base.reason}")


def _certificate(engine: Engine) -> Iterator[Finding]:
    if not any(service.is_tls for service in engine.file.services):
        yield Finding("certificate", "none needed: STACK_TLS is not 1")
        return
    found = certificates.read(certificates.paths(engine.file))
    if found is None:
        yield Finding("certificate", "not there", 1, "make it: python -m stack cert")
        return
    own = "" if found.is_local else " --cert FILE --key FILE"
    until = f"{', '.join(found.names)}: until {found.expires_at:%Y-%m-%d}"
    if not certificates.fits(certificates.paths(engine.file)):
        advice = f"make another: python -m stack cert{own}"
        yield Finding("certificate", "it does not fit its key", 1, advice)
    served = _served(engine)
    if served and served not in certificates.paths(engine.file).cert.read_text():
        advice = "put it right: python -m stack up; or see why: python -m stack logs proxy"
        yield Finding("certificate", "the proxy serves another one", 1, advice)
    for note in certificates.notes(engine.file):
        said, _, advice = note.partition(": ")
        yield Finding("certificate", said, 1, advice)
    if found.is_due(datetime.now(UTC)):
        yield Finding("certificate", until, 1, f"renew it: python -m stack cert{own}")
    else:
        yield Finding("certificate", until)


def _guards(engine: Engine) -> Iterator[Finding]:
    front_door.check(engine.file)
    snapshot = engine.observe()
    front_door.dropped(snapshot, engine.file.services)
    stale = engine.stale_secrets(snapshot)
    if stale:
        found = f"the proxy has an older file of {', '.join(stale)} mounted"
        yield Finding("front door", found, 1, "put it right: python -m stack up")
    on = [front_door.WHAT[name] for one in engine.file.services for name in one.guards]
    yield Finding("front door", ", ".join(on) or "open to whoever reaches the port")


def _served(engine: Engine) -> str:
    """The certificate that the proxy serves, in PEM; empty if it serves none."""
    for url in engine.urls():
        address = urlsplit(url)
        with suppress(OSError):
            host, port = address.hostname or "", address.port or 443
            return ssl.get_server_certificate((host, port), timeout=5).strip()
    return ""


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
        yield Finding("disk", found, 1, "make room: docker image prune")


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
