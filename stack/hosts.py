"""Names of hosts, as ALLOWED_HOSTS and certificates have them."""

import ipaddress
import re

from stack.errors import UsageError

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"


def host(text: str) -> str:
    """The name or address in lowercase; raises UsageError, with what to write, for what is none.

    >>> host("Staging.Example"), host("*.staging.example"), host("::1")
    ('staging.example', '*.staging.example', '::1')
    """
    if ":" in text:
        return _address(text)
    name = text.lower()
    if re.fullmatch(r"[0-9.]+", name):
        return _address(name)
    if len(name) <= 253 and re.fullmatch(rf"(\*\.)?({_LABEL}\.)*{_LABEL}", name):
        return name
    raise UsageError(f"{text!r} is no host name and no address{_hint(text)}")


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise UsageError(f"{text!r} is no host name and no address{_hint(text)}") from None
    # Clients send the short form, and nginx compares letters.
    if str(address) != text:
        raise UsageError(f"{text!r}: write it {str(address)!r}")
    return text


def _hint(text: str) -> str:
    if "," in text:
        return ": separate names by spaces"
    if text.startswith("[") and text.endswith("]"):
        return f": without brackets, {text[1:-1]!r}"
    if re.fullmatch(r"[^:]+:[0-9]+", text):
        return f": without the port, {text.partition(':')[0]!r}; any port will do"
    if text.endswith("."):
        return f": without the dot at its end, {text.rstrip('.')!r}"
    if text.startswith("."):
        return f": say {text[1:]!r} and '*{text}'"
    if not text.isascii():
        return ": write it in punycode (xn--...)"
    return ", such as staging.example, *.staging.example, 127.0.0.1"
