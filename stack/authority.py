"""A CA of this machine: it signs certificates for a few hosts, and cannot for others."""

import ipaddress
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stack.hosts import host

CA_VALID_DAYS = 3650

_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Leaf:
    """A certificate that was just signed, and its key, in PEM."""

    cert_pem: bytes
    key_pem: bytes
    expires_at: datetime
    has_new_ca: bool


def sign(
    ca_path: Path, ca_key_path: Path, identities: Sequence[x509.GeneralName], valid_days: int
) -> Leaf:
    """Sign a certificate for these, by the CA in these files; it is made anew if it may not, does
    not last as long, or is broken. Raises OSError.
    """
    constraints = _constraints(identities)
    there = _authority_there(ca_path, ca_key_path, constraints, valid_days)
    ca, ca_key = there or _new_authority(ca_path, ca_key_path, constraints)
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        _builder(f"stack: {identities[0].value}", ca.subject, leaf_key.public_key(), valid_days)
        .add_extension(x509.SubjectAlternativeName(identities), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    cert_pem, key_pem = leaf.public_bytes(Encoding.PEM), _pem(leaf_key)
    return Leaf(cert_pem, key_pem, leaf.not_valid_after_utc, has_new_ca=there is None)


def identity(name: str) -> x509.GeneralName:
    """A host name or address; raises UsageError for what is none."""
    normal = host(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(normal))
    except ValueError:
        return x509.DNSName(normal)


def _new_authority(
    ca_path: Path, ca_key_path: Path, constraints: x509.NameConstraints
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    private = ec.generate_private_key(ec.SECP256R1())
    name = f"stack: local CA of {platform.node()}"
    ca = (
        _builder(name, None, private.public_key(), CA_VALID_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
        )
        .sign(private, hashes.SHA256())
    )
    _replace(ca_key_path, _pem(private), 0o600)
    _replace(ca_path, ca.public_bytes(Encoding.PEM), 0o644)
    return ca, private


def _authority_there(
    ca_path: Path, ca_key_path: Path, wanted: x509.NameConstraints, valid_days: int
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """The CA in these files, if it is whole, lasts, and may sign for what is wanted."""
    try:
        ca = x509.load_pem_x509_certificate(ca_path.read_bytes())
        private = load_pem_private_key(ca_key_path.read_bytes(), None)
        allowed = ca.extensions.get_extension_for_class(x509.NameConstraints).value
    except (FileNotFoundError, TypeError, ValueError, x509.ExtensionNotFound):
        return None
    lasts = ca.not_valid_after_utc > datetime.now(UTC) + timedelta(days=valid_days)
    covers = set(wanted.permitted_subtrees or ()) <= set(allowed.permitted_subtrees or ())
    fits = private.public_key() == ca.public_key()
    if isinstance(private, ec.EllipticCurvePrivateKey) and lasts and covers and fits:
        return ca, private
    return None


def _constraints(identities: Sequence[x509.GeneralName]) -> x509.NameConstraints:
    """For what a CA of these may sign: for no other host or address. Whoever steals its key can
    pretend to be these, and what is below their names.

    A kind of name that is not listed at all would be free (RFC 5280, 4.2.1.10).
    """
    permitted = [_constraint(identity) for identity in identities]
    excluded: list[x509.GeneralName] = []
    if not any(isinstance(one, x509.DNSName) for one in permitted):
        excluded.append(x509.DNSName(""))
    for everything in ("0.0.0.0/0", "::/0"):
        network = ipaddress.ip_network(everything)
        addresses = [one.value for one in permitted if isinstance(one, x509.IPAddress)]
        if not any(address.version == network.version for address in addresses):
            excluded.append(x509.IPAddress(network))
    return x509.NameConstraints(permitted, excluded or None)


def _builder(
    name: str, issuer: x509.Name | None, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer or subject,
        subject_name=subject,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        # Clocks differ.
        not_valid_before=now - timedelta(hours=1),
        not_valid_after=now + timedelta(days=days),
    )


def _constraint(identity: x509.GeneralName) -> x509.GeneralName:
    """What a CA may sign for, to sign for this one."""
    if isinstance(identity, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(str(identity.value)))
    return x509.DNSName(str(identity.value).removeprefix("*."))


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _replace(path: Path, data: bytes, mode: int) -> None:
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode)
    new.chmod(mode)
    new.write_bytes(data)
    new.replace(path)
