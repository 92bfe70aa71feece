"""What `learn check` says of what has not been done, or not well."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stack import lesson_checks
from stack.errors import NO_LEADER, EngineUnavailable
from stack.lesson_checks import CHECKS, Look
from stack.model import PAUSED, Snapshot
from tests.unit.simulation import replica, snapshot_of

# These hold as long as nothing is there.
HELD_BY_NOTHING = {
    "the app is published nowhere",
    "no replica is paused",
    "lesson-crash is gone",
}


def nothing(snapshot: Snapshot | None = None) -> Look:
    """An engine on which nobody has done anything, but for what runs of the lessons' stack."""
    found = SimpleNamespace(
        snapshot=snapshot or Snapshot("lesson"),
        nodes=[],
        container=lambda _: None,
        containers=lambda _: [],
        image=lambda _: "",
        revisions=lambda: 0,
    )
    return cast(Look, found)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lesson").mkdir()
    monkeypatch.setattr(lesson_checks, "REGISTRY", ("127.0.0.1", 1))


@pytest.mark.parametrize("number", CHECKS)
def test_what_nobody_has_done_is_not_done(number: int) -> None:
    done = {what for what, missing in CHECKS[number] if not missing(nothing())}
    assert done <= HELD_BY_NOTHING
    assert len(done) < len(CHECKS[number])


def said(number: int, what: str, look: Look) -> str:
    (missing,) = [missing for name, missing in CHECKS[number] if name == what]
    return missing(look)


def test_a_replica_that_is_routed_but_frozen_is_not_healthy() -> None:
    what = "two replicas are healthy, and get traffic"
    frozen = replace(replica(1), state=PAUSED)
    assert "is paused" in said(6, what, nothing(snapshot_of([frozen, replica(2)], [1, 2])))
    assert said(6, what, nothing(snapshot_of([replica(1), replica(2)], [1, 2]))) == ""


@pytest.mark.parametrize(
    ("text", "done"), [("502", True), ("504", True), ("000", False), ("", False), ("200", False)]
)
def test_a_post_was_lost_only_if_the_proxy_says_so(text: str, done: bool) -> None:
    Path("lesson/post-lost.txt").write_text(f"{text}\n")
    assert (said(7, "a POST was lost", nothing()) == "") is done


@pytest.mark.parametrize(
    ("text", "done"),
    [("lost 0 of 9", True), ("lost 1 of 9", False), ("lost 0 of 0", False), ("Traceback", False)],
)
def test_a_load_has_lost_none_only_if_it_was_one(text: str, done: bool) -> None:
    Path("lesson/rollout.txt").write_text(f"{text}\n")
    assert (said(8, "the load under the rollout has lost none", nothing()) == "") is done


def test_without_a_leader_everything_else_is_looked_at() -> None:
    def away(_: Look) -> str:
        raise EngineUnavailable(NO_LEADER)

    assert "no leader" in lesson_checks._said(away, nothing())
