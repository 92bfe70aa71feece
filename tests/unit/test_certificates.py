"""Certificates for HTTPS: whom they are for, how long, and what is refused."""

import ipaddress
import ssl
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from stack import certificates
from stack.certificates import Paths
from stack.composefile import ComposeFile
from stack.errors import ConfigurationError, UsageError
from stack.model import Service

PROXY = Service("proxy", is_proxy=True, is_tls=True)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "1" / "cert.pem", tmp_path / "1" / "key.pem")


def file_of(paths: Paths, *services: Service) -> ComposeFile:
    secrets = {"tls_cert": str(paths.cert), "tls_key": str(paths.key)}
    return ComposeFile("p", services, secrets)


def own(
    directory: Path, *, not_before: datetime | None = None, not_after: datetime | None = None
) -> tuple[Path, Path]:
    """A certificate from elsewhere, and its key."""
    issued = trustme.CA().issue_cert("staging.example", not_before=not_before, not_after=not_after)
    paths = (directory / "own.pem", directory / "own-key.pem")
    issued.cert_chain_pems[0].write_to_path(str(paths[0]))
    issued.private_key_pem.write_to_path(str(paths[1]))
    return paths


def test_without_a_name_it_is_for_this_machine_and_the_hosts_that_are_allowed(
    paths: Paths,
) -> None:
    allowing = replace(PROXY, guards={"ALLOWED_HOSTS": "localhost Staging.Example"})
    names = certificates.names_now(paths, file_of(paths, allowing))
    assert names == ("localhost", "127.0.0.1", "::1", "staging.example")
    made = certificates.issue(paths, certificates.NAMES)
    assert made.has_new_ca
    assert replace(made, has_new_ca=False) == certificates.read(paths)
    assert certificates.notes(file_of(paths, allowing)) == [
        "no browser takes the certificate for staging.example: python -m stack cert"
    ]
    for name in ("*.example", "staging.example"):
        certificates.issue(paths, ("localhost", name))
        assert certificates.notes(file_of(paths, allowing)) == []
    assert made.names == ("localhost", "127.0.0.1", "::1")
    assert made.is_local
    assert timedelta(days=390) < made.expires_at - datetime.now(UTC) < timedelta(days=398)


def test_nobody_else_on_the_machine_can_read_a_key(paths: Paths) -> None:
    certificates.issue(paths, certificates.NAMES)
    # The proxy's user, who owns nothing here, has the two files mounted; not the directory.
    assert paths.cert.parent.stat().st_mode & 0o777 == 0o700
    assert paths.key.stat().st_mode & 0o777 == 0o644
    assert paths.ca_key.stat().st_mode & 0o777 == 0o600


def test_a_renewed_one_is_for_the_same_names_by_the_same_ca_in_the_same_file(paths: Paths) -> None:
    certificates.issue(paths, ("staging.example", "10.0.0.1"))
    ca, cert, inode = paths.ca.read_bytes(), paths.cert.read_bytes(), paths.cert.stat().st_ino
    names = certificates.names_now(paths, file_of(paths, PROXY))
    assert certificates.issue(paths, names).names == ("staging.example", "10.0.0.1")
    assert paths.ca.read_bytes() == ca
    assert paths.cert.read_bytes() != cert
    assert paths.cert.stat().st_ino == inode, "a container that has it mounted sees the new one"


def test_other_names_get_another_ca(paths: Paths) -> None:
    certificates.issue(paths, ("*.staging.example",))
    ca = paths.ca.read_bytes()
    certificates.issue(paths, ("staging.example",))
    assert paths.ca.read_bytes() == ca
    certificates.issue(paths, ("other.example",))
    assert paths.ca.read_bytes() != ca


def forged(paths: Paths, *names: x509.GeneralName) -> Path:
    """What somebody would make who has stolen the CA's key."""
    ca = x509.load_pem_x509_certificate(paths.ca.read_bytes())
    ca_key = load_pem_private_key(paths.ca_key.read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    leaf = (
        x509.CertificateBuilder()
        .issuer_name(ca.subject)
        .subject_name(x509.Name([]))
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(7)
        .not_valid_before(ca.not_valid_before_utc)
        .not_valid_after(ca.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(ca_key, SHA256())
    )
    path = paths.cert.with_name("forged.pem")
    path.write_bytes(leaf.public_bytes(Encoding.PEM))
    return path


def verify(paths: Paths, cert: Path) -> bool:
    argv = ("openssl", "verify", "-purpose", "sslserver", "-CAfile", str(paths.ca), str(cert))
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "names",
    [("localhost", "127.0.0.1", "::1"), ("staging.example",), ("10.0.0.5",), ("::1", "a.example")],
)
def test_a_stolen_ca_key_is_good_for_these_names_and_no_others(
    paths: Paths, names: tuple[str, ...]
) -> None:
    certificates.issue(paths, names)
    assert verify(paths, paths.cert)
    for name in (
        x509.DNSName("bank.example"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::7")),
    ):
        assert not verify(paths, forged(paths, name)), name


def test_a_ca_that_is_broken_is_made_anew(paths: Paths) -> None:
    certificates.issue(paths, certificates.NAMES)
    key = paths.ca_key.read_bytes()
    other = Paths(paths.cert.parent.parent / "2" / "cert.pem", paths.key)
    certificates.issue(other, certificates.NAMES)
    for broken in (b"", b"nonsense", other.ca_key.read_bytes()):
        paths.ca_key.write_bytes(broken)
        certificates.issue(paths, certificates.NAMES)
        assert verify(paths, paths.cert)
    assert paths.ca_key.read_bytes() != key


def test_a_directory_that_others_can_enter_gets_no_key(paths: Paths) -> None:
    paths.cert.parent.mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        certificates.issue(paths, certificates.NAMES)
    assert list(paths.cert.parent.iterdir()) == []


def test_it_is_made_where_it_is_needed_and_not_there(paths: Paths) -> None:
    assert certificates.steps(file_of(paths, Service("proxy", is_proxy=True))) == []
    (step,) = certificates.steps(file_of(paths, PROXY))
    assert step.text().endswith("-m stack cert")
    certificates.issue(paths, certificates.NAMES)
    assert certificates.steps(file_of(paths, PROXY)) == []


def test_one_of_the_local_ca_that_expires_soon_is_renewed(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "VALID_DAYS", 20)
    certificates.issue(paths, certificates.NAMES)
    assert len(certificates.steps(file_of(paths, PROXY))) == 1


def test_one_that_is_broken_is_mended_by_another(paths: Paths) -> None:
    made = certificates.issue(paths, certificates.NAMES)
    paths.key.write_bytes(b"")
    assert len(certificates.steps(file_of(paths, PROXY))) == 1
    assert certificates.names_now(paths, file_of(paths, PROXY)) == made.names
    paths.cert.write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="python -m stack cert"):
        certificates.steps(file_of(paths, PROXY))
    certificates.issue(paths, certificates.names_now(paths, file_of(paths, PROXY)))
    assert certificates.steps(file_of(paths, PROXY)) == []


def test_one_of_a_ca_that_is_gone_is_not_of_the_local_ca(paths: Paths) -> None:
    certificates.issue(paths, ("staging.example",))
    before = paths.cert.read_bytes()
    certificates.issue(paths, ("other.example",))
    paths.cert.write_bytes(before)
    found = certificates.read(paths)
    assert found
    assert not found.is_local


def test_ones_own_is_never_replaced_by_another(paths: Paths, tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(days=3)
    certificates.install(paths, *own(tmp_path, not_after=soon))
    assert certificates.steps(file_of(paths, PROXY)) == []
    # Only whoever names hosts gets one of the CA in its place.
    with pytest.raises(ConfigurationError, match="is not of the local CA"):
        certificates.names_now(paths, file_of(paths, PROXY))


def test_ones_own_is_taken_with_its_key(paths: Paths, tmp_path: Path) -> None:
    cert, key = own(tmp_path)
    made = certificates.install(paths, cert, key)
    assert made.names == ("staging.example",)
    assert not made.is_local
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(paths.cert, paths.key)


def test_what_does_not_fit_is_refused_and_nothing_changes(paths: Paths, tmp_path: Path) -> None:
    certificates.issue(paths, certificates.NAMES)
    before = paths.cert.read_bytes(), paths.key.read_bytes()
    cert, key = own(tmp_path)
    expired = tmp_path / "expired"
    expired.mkdir()
    (tmp_path / "empty.pem").touch()
    later = tmp_path / "later"
    later.mkdir()
    mail, mail_key = tmp_path / "mail.pem", tmp_path / "mail-key.pem"
    issued = trustme.CA().issue_cert("teacher@staging.example")
    issued.cert_chain_pems[0].write_to_path(str(mail))
    issued.private_key_pem.write_to_path(str(mail_key))
    for given, says in (
        ((cert, paths.ca_key), "is not the key of"),
        (own(expired, not_after=datetime(2020, 1, 1, tzinfo=UTC)), "has expired on 2020-01-01"),
        ((tmp_path / "no.pem", key), "No such file"),
        ((cert, tmp_path), "is not a file"),
        ((tmp_path / "empty.pem", key), "no certificate in PEM"),
        (own(later, not_before=datetime(2090, 1, 1, tzinfo=UTC)), "valid from 2090-01-01 on only"),
        ((mail, mail_key), "it names none"),
        ((cert, cert), "no key in PEM"),
        ((paths.ca, paths.ca_key), "it names none"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            certificates.install(paths, *given)
    assert (paths.cert.read_bytes(), paths.key.read_bytes()) == before


@pytest.mark.parametrize("name", ["", "a b", "-x", "a/b", "http://a", "ü.example", "a." * 130])
def test_what_is_no_name_is_refused(paths: Paths, name: str) -> None:
    with pytest.raises(UsageError, match=r"is no host name|write it"):
        certificates.issue(paths, (name,))
    assert not paths.cert.exists()


def test_a_compose_file_that_wants_none_says_so() -> None:
    with pytest.raises(ConfigurationError, match="tls_cert"):
        certificates.paths(ComposeFile("p", (PROXY,)))
