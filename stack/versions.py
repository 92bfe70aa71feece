"""What Engine and Compose have to be at least."""

import re

from stack.errors import EngineUnavailable

# start_interval of health checks came with Engine 25; Compose before 2.20 does not pass it on.
ENGINE_AT_LEAST = (25, 0)
COMPOSE_AT_LEAST = (2, 20)


def is_at_least(found: str, wanted: tuple[int, ...]) -> bool:
    """Whether a version such as "v2.26.1-4" is that new.

    >>> is_at_least("v2.26.1-4", (2, 20, 2)), is_at_least("24.0.7", (25, 0))
    (True, False)
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[: len(wanted)])
    return numbers >= wanted


def require(what: str, found: str, wanted: tuple[int, ...]) -> None:
    """Raise EngineUnavailable if this version is too old."""
    if not is_at_least(found, wanted):
        needed = ".".join(map(str, wanted))
        raise EngineUnavailable(f"{what} {found} is too old: {needed} or later is needed")
