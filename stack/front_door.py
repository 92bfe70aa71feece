"""What guards the front door: the proxy's settings and secrets, checked before anything is done."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from stack.composefile import ComposeFile
from stack.errors import ConfigurationError, UsageError
from stack.hosts import host
from stack.model import Service, Snapshot

# nginx counts requests in thousandths, and connections in 16 bits.
LIMITS = {"RATE_LIMIT": 100_000, "CONNECTION_LIMIT": 65_535}

# What nginx can check a password by: crypt(3) with a letter for its kind, {SSHA} and the like, or
# the old crypt of 13 characters.
USER_LINE = r"[^:#\s][^:]*:(\$[^:$]+\$[^:]+|\{(SSHA|SHA|PLAIN)\}[^:]+|[./0-9A-Za-z]{13})(:.*)?"

WHAT = {
    "STACK_TLS": "HTTPS",
    "HTPASSWD": "a password",
    "ALLOWED_HOSTS": "a list of hosts",
    "RATE_LIMIT": "a limit of requests",
    "CONNECTION_LIMIT": "a limit of connections",
}


def check(file: ComposeFile) -> None:
    """Raise ConfigurationError if the proxy could not be made with these settings and secrets."""
    for service in file.services:
        if not service.is_proxy:
            continue
        for name, most in LIMITS.items():
            _check_limit(name, service.guards.get(name, ""), most)
        _check_hosts(service.hosts)
        for name in service.secrets:
            path = Path(os.path.relpath(file.secrets[name])) if name in file.secrets else None
            # `up` makes a certificate where there is none.
            if path and not (service.is_tls and name.startswith("tls_")):
                _check_file(name, path)
                if name == "htpasswd" and "HTPASSWD" in service.guards:
                    _check_passwords(path)


def dropped(snapshot: Snapshot, services: Iterable[Service]) -> None:
    """Raise ConfigurationError if the running proxy has a guard of which nothing says any more
    whether it is wanted: a variable that was given once, on a command line.
    """
    proxy = snapshot.proxy
    if proxy is None or not proxy.is_live:
        return
    wanted = next((service.guards for service in services if service.is_proxy), {})
    gone = [name for name in proxy.guards if name not in wanted and not _is_said(name)]
    if gone:
        has = ", ".join(WHAT[name] for name in gone)
        on = ", ".join(f"{name}={proxy.guards[name]}" for name in gone)
        off = " ".join(f"{name}=" for name in gone)
        raise ConfigurationError(
            f"the proxy that runs has {has}, and nothing here says so any more. To keep it, write "
            f"it into .env: {on}. To go without, say it: {off} python -m stack up"
        )


def _is_said(name: str) -> bool:
    """Whether a variable is set, be it to nothing: in the environment, or where Compose looks."""
    if name in os.environ:
        return True
    files = os.environ.get("COMPOSE_ENV_FILES", ".env").split(",")
    texts = (Path(one).read_text(errors="replace") for one in files if Path(one).is_file())
    return any(re.search(rf"^\s*(export\s+)?{name}\s*=", text, re.MULTILINE) for text in texts)


def _check_limit(name: str, text: str, most: int) -> None:
    if not text:
        return
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise ConfigurationError(f"{name}={text}: that is no number from 1 to {most}")


def _check_hosts(names: tuple[str, ...]) -> None:
    seen = set()
    for name in names:
        try:
            normal = host(name)
        except UsageError as error:
            raise ConfigurationError(f"ALLOWED_HOSTS: {error}") from None
        if normal in seen:
            raise ConfigurationError(f"ALLOWED_HOSTS: {name} is there twice")
        seen.add(normal)


def _check_file(name: str, path: Path) -> None:
    variable = f"{name.upper()}: " if name == "htpasswd" else ""
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "is not there"
        raise ConfigurationError(f"{variable}{path}, the file of the secret {name}, {what}")


def _check_passwords(path: Path) -> None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise ConfigurationError(f"HTPASSWD: {path}: {error.strerror}") from None
    entries = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    for number, line in entries:
        if not re.fullmatch(USER_LINE, line):
            raise ConfigurationError(
                f"HTPASSWD: {path}, line {number}: not USER:HASH, with a hash as "
                "`openssl passwd -5` prints it"
            )
    if not entries:
        raise ConfigurationError(f"HTPASSWD: {path} names no user, so nobody could come in")
