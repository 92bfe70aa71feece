"""Whatever is typed or written: a value that makes sense, or an error of ours, and no other."""

import string
from contextlib import suppress
from typing import Any

import click
from hypothesis import given
from hypothesis import strategies as st

from stack import arguments, composefile
from stack.arguments import MAX_REPLICAS, Counts
from stack.composefile import PORT_LABEL
from stack.errors import StackError, UsageError
from stack.model import Service

SERVICES = (Service("web", port=8000), Service("db"), Service("proxy", is_proxy=True))
# What JSON can say, as `docker compose config` might of a file that nobody has tried.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.text(max_size=60) | st.from_regex(r"[a-z]{0,4}=[-+0-9a-f. ]{0,12}", fullmatch=True))
def test_a_number_of_replicas_is_taken_or_refused(text: str) -> None:
    try:
        service, count = Counts().convert(text, None, None)
    except click.BadParameter:
        return
    assert f"{service}={count}" == f"{service}={int(text.partition('=')[2])}"
    assert 0 <= count <= MAX_REPLICAS


@given(
    st.lists(
        st.tuples(st.sampled_from(["web", "db", "proxy", "wbe", ""]), st.integers(0, 100)),
        max_size=4,
    ),
    st.booleans(),
)
def test_counts_are_of_services_that_can_have_them(
    given_: list[tuple[str, int]], zero_allowed: bool
) -> None:
    try:
        wanted = arguments.counts(tuple(given_), SERVICES, zero_allowed=zero_allowed)
    except UsageError:
        return
    assert wanted == dict(given_)
    assert wanted.keys() <= {"web", "db"}
    assert zero_allowed or 0 not in wanted.values()


@given(st.text(max_size=80) | st.text(string.ascii_letters + string.digits + ":/.-", max_size=40))
def test_a_registry_that_is_taken_can_be_part_of_an_image_name(name: str) -> None:
    with suppress(UsageError):
        arguments.check_registry(name)
        assert not set(name) - set(string.ascii_letters + string.digits + ":/._-")
        assert "//" not in name


@given(st.text(max_size=20))
def test_any_service_name_is_known_or_refused(name: str) -> None:
    with suppress(UsageError):
        assert arguments.known(name, SERVICES).name == name


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["h", "m", "s", "ms", "us"]))))
def test_a_duration_has_as_many_seconds_as_its_parts(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert composefile.seconds(text) == sum(composefile.seconds(f"{n}{u}") for n, u in parts)


@given(st.text(max_size=12))
def test_a_port_label_is_a_port_or_refused(text: str) -> None:
    body = {"image": "x", "labels": {PORT_LABEL: text}}
    with suppress(StackError):
        (service,) = composefile.described({"name": "p", "services": {"web": body}}, {}).services
        assert service.port
        assert 0 < service.port < 65536


@given(
    st.dictionaries(
        st.sampled_from(["environment", "volumes", "tmpfs", "ulimits", "x-any", "cap_add"]),
        ANYTHING,
        max_size=4,
    )
)
def test_settings_that_differ_have_another_digest(body: dict[str, Any]) -> None:
    def digest(body: dict[str, Any]) -> str:
        document = {"name": "p", "services": {"web": {"image": "x", **body}}}
        return composefile.described(document, {}).services[0].settings

    assert digest(body) == digest(dict(reversed(body.items())))
    assert digest(body) != digest({**body, "user": "7"})
