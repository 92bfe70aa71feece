"""The certificate that the proxy serves HTTPS with: one of a local CA, or the user's own.

The files are the Compose file's secrets tls_cert and tls_key. Beside them are those of the CA.
"""

import fcntl
import os
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stack import authority
from stack.composefile import ComposeFile
from stack.errors import ConfigurationError, NotPermitted
from stack.hosts import host
from stack.plan import Command, Steps

CERT, KEY = "tls_cert", "tls_key"

# Browsers take no longer one from public CAs (CA/Browser Forum, ballot SC-22).
VALID_DAYS = 397
RENEW_DAYS = 30
NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Paths:
    """Where the certificate and its key are, and those of the CA."""

    cert: Path
    key: Path

    @property
    def ca(self) -> Path:
        return self.cert.with_name("ca.pem")

    @property
    def ca_key(self) -> Path:
        return self.cert.with_name("ca-key.pem")


@dataclass(frozen=True)
class Certificate:
    """What a certificate says. `is_local`: it is of the CA that is beside it; `has_new_ca`: that
    was made just now, and nobody trusts it yet.
    """

    names: tuple[str, ...]
    expires_at: datetime
    is_local: bool
    has_new_ca: bool = False

    def is_due(self, now: datetime) -> bool:
        """Whether it is to be renewed by now."""
        return self.expires_at - now < timedelta(days=RENEW_DAYS)


def paths(file: ComposeFile) -> Paths:
    """Where the Compose file wants them. Raises ConfigurationError if it does not."""
    if not {CERT, KEY} <= file.secrets.keys():
        raise ConfigurationError(f"the Compose file has no secrets {CERT} and {KEY}")
    return Paths(*(Path(os.path.relpath(file.secrets[name])) for name in (CERT, KEY)))


def steps(file: ComposeFile) -> Steps:
    """Make the certificate that is needed and not there, or renew that of the local CA."""
    if not any(service.is_tls for service in file.services):
        return []
    where = paths(file)
    found = read(where)
    why = f"{where.cert}: a certificate of a local CA"
    if found and found.is_local and not fits(where):
        why += ", since the one that is there does not fit its key"
    elif found and found.is_local and found.is_due(datetime.now(UTC)):
        why += ", since the one that is there expires soon"
    elif found:
        return []
    here = os.path.relpath(sys.executable)
    python = sys.executable if here.startswith("..") else here
    return [Command((python, "-m", "stack", "cert"), why)]


def notes(file: ComposeFile) -> list[str]:
    """What to say of the certificate that is there, although it is served."""
    found = read(paths(file)) if any(service.is_tls for service in file.services) else None
    missing = ", ".join(unnamed(file, found)) if found else ""
    command = "python -m stack cert" if found and found.is_local else "another certificate"
    return [f"no browser takes the certificate for {missing}: {command}"] if missing else []


def unnamed(file: ComposeFile, found: Certificate) -> list[str]:
    """Hosts that the proxy allows, and that the certificate is not for."""
    allowed = [host(name) for service in file.services for name in service.hosts]
    return [
        name
        for name in allowed
        if name not in found.names and f"*.{name.partition('.')[2]}" not in found.names
    ]


def read(where: Paths) -> Certificate | None:
    """The certificate that is there, or None. Raises ConfigurationError for what is none,
    NotPermitted if we may not look.
    """
    try:
        if not where.cert.is_file():
            return None
    except PermissionError:
        raise NotPermitted(f"{where.cert}: it belongs to another user") from None
    found = _loaded(where.cert)
    is_local = False
    # Not by its name alone: a CA that was made anew has the same.
    with suppress(OSError, ValueError, TypeError, InvalidSignature):
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(where.ca.read_bytes()))
        is_local = True
    return Certificate(_names(where.cert, found), found.not_valid_after_utc, is_local)


def fits(where: Paths) -> bool:
    """Whether the key is that of the certificate, and a server would take both."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(where.cert, where.key)
    except (OSError, ssl.SSLError):
        return False
    return True


def _loaded(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError(
            f"{path} is no certificate in PEM. If it is the stack's own, remove it, and run: "
            "python -m stack cert"
        ) from None


def _names(path: Path, certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise ConfigurationError(f"{path}: no certificate of a server: it names none") from None
    kinds = (x509.DNSName, x509.IPAddress)
    names = tuple(str(name.value) for name in found.value if isinstance(name, kinds))
    if not names:
        raise ConfigurationError(f"{path}: no certificate of a server: it names none")
    return names


def names_now(where: Paths, file: ComposeFile) -> tuple[str, ...]:
    """Whom a certificate is for where nobody says: those of the one before; else this machine, and
    the hosts that the proxy allows.
    """
    # One that is broken is what a new one is for.
    before = None
    with suppress(ConfigurationError):
        before = read(where)
    if before and not before.is_local:
        raise ConfigurationError(
            f"{where.cert} is not of the local CA. Renew your own by --cert and --key, or name the "
            "hosts that the local CA is to make one for"
        )
    names = before.names if before else NAMES
    allowed = (host(name) for service in file.services for name in service.hosts)
    return tuple(dict.fromkeys((*names, *allowed)))


def issue(where: Paths, names: Sequence[str]) -> Certificate:
    """Write a certificate for these host names and addresses, and its key: of the local CA, which
    is made anew where there is none that may sign for all of them.

    Raises UsageError for what is no name.
    """
    identities = [authority.identity(name) for name in dict.fromkeys(map(host, names))]
    with _private(where.cert.parent):
        leaf = authority.sign(where.ca, where.ca_key, identities, VALID_DAYS)
        _write_pair(where, leaf.cert_pem, leaf.key_pem)
    written = tuple(str(identity.value) for identity in identities)
    return Certificate(written, leaf.expires_at, is_local=True, has_new_ca=leaf.has_new_ca)


def install(where: Paths, own_cert: Path, own_key: Path) -> Certificate:
    """Take over the user's certificate, which may have a chain behind it, and its key.

    Raises ConfigurationError if they do not belong together, or have expired.
    """
    # They are read more than once, as a pipe cannot be.
    for path in (own_cert, own_key):
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"{path} is not a file")
    found = _loaded(own_cert)
    names = _names(own_cert, found)
    try:
        cert_pem, key_pem = own_cert.read_bytes(), own_key.read_bytes()
        private = load_pem_private_key(key_pem, None)
    except OSError as error:
        raise ConfigurationError(f"{own_key}: {error.strerror}") from None
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{own_key}: no key in PEM without a password: {error}") from None
    try:
        # What a server would refuse is refused here: a key that is too small, say.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(own_cert, own_key)
    except ssl.SSLError as error:
        if found.public_key() == private.public_key():
            raise ConfigurationError(f"{own_cert}: {error}") from None
    if found.public_key() != private.public_key():
        raise ConfigurationError(f"{own_key} is not the key of {own_cert}")
    if found.not_valid_before_utc > datetime.now(UTC):
        raise ConfigurationError(
            f"{own_cert} is valid from {found.not_valid_before_utc:%Y-%m-%d} on only"
        )
    if found.not_valid_after_utc < datetime.now(UTC):
        raise ConfigurationError(f"{own_cert} has expired on {found.not_valid_after_utc:%Y-%m-%d}")
    with _private(where.cert.parent):
        _write_pair(where, cert_pem, key_pem)
    return Certificate(names, found.not_valid_after_utc, is_local=False)


@contextmanager
def _private(directory: Path) -> Iterator[None]:
    """A directory that nobody else can enter, for one run at a time. Raises ConfigurationError if
    others can, NotPermitted if we cannot.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            raise ConfigurationError(
                f"{directory}: others could read the key. Keep them out: chmod 700 {directory}"
            )
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotPermitted(f"{error.filename or directory}: {error.strerror}") from None


def _write_pair(where: Paths, cert_pem: bytes, key_pem: bytes) -> None:
    # The proxy's user has to read both; nobody else can enter the directory. Written over in place,
    # not replaced: a container that has the file mounted would go on seeing the old one. The proxy
    # takes a pair only once it fits.
    for path, data in ((where.key, key_pem), (where.cert, cert_pem)):
        # A full disk shows here, before anything is written over.
        spare = path.with_suffix(".new")
        spare.write_bytes(data)
        path.touch()
        path.chmod(0o644)
        path.write_bytes(data)
        spare.unlink()
