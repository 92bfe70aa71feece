"""Which base image is used, and how the ways of not getting one are told apart."""

import pytest

from stack import bases
from stack.bases import AVAILABLE, NO_REGISTRY, NO_SUCH_IMAGE, NOT_ALLOWED, Answer, decide
from stack.errors import ConfigurationError, EngineUnavailable, NotPermitted

OFFICIAL = "python:3.13-slim-trixie"
MADE = "stack-base/python:3.13"


def test_a_base_that_is_there_is_used_and_nobody_is_asked() -> None:
    base = decide("PYTHON_IMAGE", OFFICIAL, here=True, answer=None)
    assert (base.reference, base.step) == (OFFICIAL, None)


def test_a_registry_that_has_it_is_pulled_from() -> None:
    base = decide("PYTHON_IMAGE", OFFICIAL, here=False, answer=Answer(AVAILABLE))
    assert base.step
    assert base.step.argv == ("docker", "pull", OFFICIAL)


def test_without_a_registry_it_is_made_and_the_reason_is_said() -> None:
    base = decide("PYTHON_IMAGE", OFFICIAL, here=False, answer=Answer(NO_REGISTRY, "no such host"))
    assert base.reference == MADE
    assert base.step
    assert base.step.argv[-2:] == ("scripts/debian-base.sh", "python")
    assert "no such host" in base.step.why


def test_a_made_base_that_is_gone_is_made_again_without_asking_a_registry() -> None:
    base = decide("PYTHON_IMAGE", MADE, here=False, answer=None)
    assert base.step
    assert base.step.argv[-1] == "python"


def test_an_image_that_does_not_exist_is_not_replaced_by_another() -> None:
    with pytest.raises(ConfigurationError, match="has no such image"):
        decide("PYTHON_IMAGE", "python:0", here=False, answer=Answer(NO_SUCH_IMAGE, "unknown"))


def test_an_image_that_is_not_ours_to_pull_is_said_so() -> None:
    with pytest.raises(NotPermitted, match="docker login"):
        decide("PYTHON_IMAGE", "a/b", here=False, answer=Answer(NOT_ALLOWED, "denied"))


def test_a_base_that_cannot_be_made_here_says_what_to_do() -> None:
    with pytest.raises(EngineUnavailable, match="RUBY_IMAGE"):
        decide("RUBY_IMAGE", "ruby:4", here=False, answer=Answer(NO_REGISTRY))


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (401, NOT_ALLOWED),
        (403, NOT_ALLOWED),
        (404, NO_SUCH_IMAGE),
        (429, NO_REGISTRY),
        (500, NO_REGISTRY),
        (503, NO_REGISTRY),
        (None, NO_REGISTRY),
    ],
)
def test_the_registrys_answers_are_told_apart(status: int | None, verdict: str) -> None:
    assert bases.classify(status, "text").verdict == verdict
