"""The Compose file as `docker compose config` resolves it: the one reader of it is Compose."""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from stack import runner
from stack.errors import CommandFailed, ConfigurationError, EngineUnavailable, NoAnswer
from stack.model import (
    CONTINUE,
    PAUSE,
    ROLLBACK,
    START_FIRST,
    STOP_FIRST,
    Hook,
    Service,
    UpdateConfig,
)

PORT_LABEL = "stack.route.port"
PROXY_LABEL = "stack.proxy"
TLS_LABEL = "stack.tls"
# What guards the front door: the proxy's variables, and what users set for each.
GUARDS = {
    "STACK_TLS": "STACK_TLS",
    "BASIC_AUTH": "HTPASSWD",
    "ALLOWED_HOSTS": "ALLOWED_HOSTS",
    "RATE_LIMIT": "RATE_LIMIT",
    "CONNECTION_LIMIT": "CONNECTION_LIMIT",
}
# The file of a secret that is not used: it is on every machine, that of a remote engine too.
UNUSED = os.devnull
# On volumes: what they hold is of no value.
DISPOSABLE_LABEL = "stack.disposable"

# What depends_on says of a service that has to do its work and end.
COMPLETED = "service_completed_successfully"

# What Compose looks for, first found first.
NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")

# Compose's defaults for a health check, from its specification.
INTERVAL_S, TIMEOUT_S, RETRIES = 30.0, 30.0, 3

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class ComposeFile:
    """Project name and services, those of active profiles only; `secrets` are the files behind
    those secrets that are used, by name.
    """

    project: str
    services: tuple[Service, ...]
    secrets: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()


def load(compose: Sequence[str], env: Mapping[str, str]) -> ComposeFile:
    """Resolve the Compose file; `compose` is how Compose is called, `env` is added to the
    environment that its ${...} are taken from.

    Raises ConfigurationError with Compose's own message, EngineUnavailable without Compose.
    """
    reading = _config(compose, env, "--format", "json")
    hashing = _config(compose, env, "--hash", "*")
    try:
        document = json.loads(_result(reading))
        hashes = dict(line.split() for line in _result(hashing).splitlines())
    finally:
        hashing.end()
    if not document.get("services"):
        raise ConfigurationError("Compose file: it has no services")
    return described(document, hashes)


def document(compose: Sequence[str], env: Mapping[str, str], *, text: str = "") -> dict[str, Any]:
    """All that the Compose file says, as Compose resolves it; `text` in its place. Raises as `load`
    does.
    """
    return dict(json.loads(_result(_config(compose, env, "--format", "json", text=text))))


def described(document: Mapping[str, Any], hashes: Mapping[str, str]) -> ComposeFile:
    """What a resolved Compose file says; `hashes` are Compose's own of its services."""
    services = document.get("services") or {}
    return ComposeFile(
        project=document["name"],
        services=tuple(
            replace(_service(name, body, hashes.get(name, "")), needs=_needs(name, services))
            for name, body in sorted(services.items())
        ),
        networks=tuple(one["name"] for one in (document.get("networks") or {}).values()),
        secrets={
            name: body["file"]
            for name, body in (document.get("secrets") or {}).items()
            if body.get("file") not in (None, "", UNUSED)
        },
    )


def project_name(compose: Sequence[str]) -> str:
    """The project's name, by Compose's rules; raises as `load` does.

    Compose is asked only where the answer is not plain to see, because asking it takes longer
    than all the rest of `ps`.
    """
    return _plain_name() or str(
        json.loads(_result(_config(compose, {}, "--format", "json")))["name"]
    )


def _plain_name() -> str | None:
    """The name, if COMPOSE_PROJECT_NAME gives it, or a literal top-level `name:` of a compose.yaml
    right here.
    """
    given = os.environ.get("COMPOSE_PROJECT_NAME", "")
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", given):
        return given
    if any(variable.startswith("COMPOSE_") for variable in os.environ):
        return None
    directory = Path()
    others = any((directory / name).exists() for name in NAMES[1:])
    if others or any(directory.glob("*override*")) or not (directory / NAMES[0]).is_file():
        return None
    try:
        dotenv = directory / ".env"
        if dotenv.exists() and (not dotenv.is_file() or "COMPOSE_" in dotenv.read_text()):
            return None
        text = (directory / NAMES[0]).read_text()
    except (OSError, UnicodeDecodeError):
        return None
    found = re.findall(r"^name:(.*)$", text, re.MULTILINE)
    literal = re.fullmatch(r" +([a-z0-9][a-z0-9_-]*) *", found[0]) if len(found) == 1 else None
    return literal[1] if literal else None


def version() -> tuple[int, int]:
    """The version of Compose: (2, 26)."""
    words = re.findall(r"[0-9]+", runner.read(("docker", "compose", "version", "--short")))
    return int(words[0]), int(words[1])


def seconds(duration: str) -> float:
    """Seconds of a Compose duration: "1m30s" is 90.0.

    >>> seconds("1m30s"), seconds("500ms")
    (90.0, 0.5)
    """
    parts = re.findall(r"([0-9.]+)(h|ms|us|µs|ns|m|s)", duration)
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def _config(
    compose: Sequence[str], env: Mapping[str, str], *options: str, text: str = ""
) -> runner.Reading:
    _refuse_what_is_no_file()
    words = ("--file", "-") if text else ()
    return runner.Reading((*compose, *words, "config", *options), env=env, text_in=text)


def _refuse_what_is_no_file() -> None:
    """Compose would wait for ever for a pipe that nobody writes to."""
    given = os.environ.get("COMPOSE_FILE", "")
    separator = os.environ.get("COMPOSE_PATH_SEPARATOR", os.pathsep)
    for name in (*NAMES, ".env", *filter(None, given.split(separator))):
        path = Path(name)
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"{name} is not a file")


def _result(reading: runner.Reading) -> str:
    try:
        return reading.result()
    except NoAnswer as error:
        # A few aliases of aliases are a file of gigabytes.
        raise ConfigurationError(
            f"Compose file: {error}. Or does the file refer to itself over and over?"
        ) from None
    except CommandFailed as error:
        message = error.output.strip()
        if "unknown command: docker compose" in message or "not a docker command" in message:
            raise EngineUnavailable("Docker Compose v2 is not installed. Run: make up") from None
        raise ConfigurationError(f"Compose file: {message}") from None


def _service(name: str, body: Mapping[str, Any], config_hash: str) -> Service:
    labels = body.get("labels") or {}
    build = body.get("build") or {}
    deploy = body.get("deploy") or {}
    check = body.get("healthcheck") or {}
    return Service(
        name=name,
        replicas=int(deploy.get("replicas", body.get("scale", 1))),
        port=_port(name, labels),
        is_proxy=labels.get(PROXY_LABEL) == "true",
        is_tls=_is_tls(name, labels),
        guards=guards(body.get("environment")),
        secrets=tuple(one["source"] for one in body.get("secrets") or ()),
        image=body.get("image", ""),
        build_context=_near(build.get("context")),
        dockerfile=build.get("dockerfile", "Dockerfile"),
        build_args={key: value for key, value in (build.get("args") or {}).items() if value},
        depends_on=tuple(sorted(body.get("depends_on") or ())),
        conditions={
            other: str(one.get("condition", "service_started"))
            for other, one in (body.get("depends_on") or {}).items()
        },
        settings=_settings(body),
        build_settings=_build_settings(build),
        config_hash=config_hash,
        has_health_check=bool(check.get("test")) and not check.get("disable"),
        stop_grace_s=round(seconds(body.get("stop_grace_period", "10s"))),
        start_timeout_s=_start_timeout_s(check),
        published=tuple(_published(body.get("ports") or ())),
        container_name=body.get("container_name", ""),
        update=_update_config(name, deploy.get("update_config") or {}),
        rollback=_update_config(name, deploy.get("rollback_config") or {}),
        post_start=tuple(_hook(one) for one in body.get("post_start") or ()),
        pre_stop=tuple(_hook(one) for one in body.get("pre_stop") or ()),
    )


def _needs(name: str, services: Mapping[str, Any]) -> tuple[str, ...]:
    todo, seen = [name], set[str]()
    while todo:
        others = services.get(todo.pop(), {}).get("depends_on") or ()
        todo += [other for other in others if other not in seen]
        seen |= set(others)
    return tuple(sorted(seen - {name}))


def _build_settings(build: Mapping[str, Any]) -> str:
    # The context counts by what is in it; the others do not change what comes of it.
    ignored = ("context", "args", "labels", "secrets", "ssh", "tags", "cache_from", "cache_to")
    kept = {key: value for key, value in build.items() if key not in ignored}
    return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _settings(body: Mapping[str, Any]) -> str:
    """A digest of what the service's containers are made with, the image's name left out."""
    deploy = dict(body.get("deploy") or {})
    for key in ("replicas", "update_config", "rollback_config", "placement"):
        deploy.pop(key, None)
    ignored = (
        *("build", "image", "pull_policy", "depends_on", "scale", "profiles", "develop"),
        *("post_start", "pre_stop"),
    )
    kept = {key: value for key, value in body.items() if key not in ignored}
    text = json.dumps({**kept, "deploy": deploy}, sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _update_config(name: str, given: Mapping[str, Any]) -> UpdateConfig:
    default = UpdateConfig()
    config = UpdateConfig(
        parallelism=int(given.get("parallelism", default.parallelism)),
        delay_s=seconds(given.get("delay", "0s")),
        order=given.get("order", default.order),
        monitor_s=seconds(given["monitor"]) if "monitor" in given else default.monitor_s,
        failure_action=given.get("failure_action", default.failure_action),
        max_failure_ratio=float(given.get("max_failure_ratio", default.max_failure_ratio)),
    )
    for key, allowed in (
        ("order", (START_FIRST, STOP_FIRST)),
        ("failure_action", (ROLLBACK, PAUSE, CONTINUE)),
    ):
        if getattr(config, key) not in allowed:
            raise ConfigurationError(
                f"Compose file: service {name}: {key} of update_config or rollback_config must be "
                f"one of {', '.join(allowed)}, not {getattr(config, key)!r}"
            )
    return config


def _hook(given: Mapping[str, Any]) -> Hook:
    environment = given.get("environment") or {}
    if isinstance(environment, Mapping):
        environment = [f"{key}={value}" for key, value in environment.items()]
    command = given.get("command") or ()
    words = shlex.split(command) if isinstance(command, str) else command
    return Hook(
        # Compose prints what can be read again: a $ that is to stay one is doubled.
        command=tuple(word.replace("$$", "$") for word in words),
        user=given.get("user", ""),
        working_dir=given.get("working_dir", ""),
        privileged=bool(given.get("privileged")),
        environment=tuple(pair.replace("$$", "$") for pair in environment),
    )


def _near(path: str | None) -> str | None:
    """The path as a person here would write it: relative, if it is below this directory."""
    here = os.path.relpath(path) if path else ".."
    return path if here.startswith("..") else here


def _published(ports: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    for port in ports:
        # No number: the engine picks one. A range cannot be told before it has picked.
        if str(port.get("published", "")).isdecimal():
            yield port.get("host_ip", "0.0.0.0"), int(port["published"])  # noqa: S104


def _port(name: str, labels: Mapping[str, str]) -> int | None:
    text = labels.get(PORT_LABEL)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise ConfigurationError(
            f"Compose file: service {name}: label {PORT_LABEL} must be a port number, not {text!r}"
        )
    return int(text)


def guards(environment: object) -> dict[str, str]:
    """Those that are on, by what users set."""
    if not isinstance(environment, Mapping):
        return {}
    values = {said: str(environment.get(name) or "").strip() for name, said in GUARDS.items()}
    return {name: value for name, value in values.items() if value not in ("", "0")}


def _is_tls(name: str, labels: Mapping[str, str]) -> bool:
    text = labels.get(TLS_LABEL, "0")
    if text not in ("0", "1"):
        raise ConfigurationError(
            f"Compose file: service {name}: label {TLS_LABEL} must be 0 or 1, not {text!r} "
            "(STACK_TLS)"
        )
    return text == "1"


def _start_timeout_s(check: Mapping[str, Any]) -> int:
    """How long a replica may take to be ready: until Docker would call it unhealthy, and a bit."""
    if not check:
        return 30
    interval = seconds(check["interval"]) if "interval" in check else INTERVAL_S
    timeout = seconds(check["timeout"]) if "timeout" in check else TIMEOUT_S
    period = seconds(check.get("start_period", "0s"))
    return round(period + (interval + timeout) * int(check.get("retries", RETRIES)) + 10)
