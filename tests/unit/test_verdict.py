"""When a new replica counts as failed, and when not."""

import json
from dataclasses import replace

import pytest

from stack.model import EXITED, PAUSED, RESTARTING, STARTING, UNHEALTHY, Replica
from stack.verdict import Answer, Known, answers, cut, errors, illness, remember
from tests.unit.simulation import replica


@pytest.mark.parametrize(
    ("now", "known", "says"),
    [
        (replica(1), None, ""),
        (replica(1, state=STARTING), None, ""),
        (replica(1, state=UNHEALTHY), None, "is unhealthy"),
        (replica(1, state=PAUSED), None, "is paused"),
        (replace(replica(1, state=EXITED), exit_code=3), None, "ended (exit code 3, 0 restarts)"),
        # Docker restarts it once: it may have waited for a database.
        (replace(replica(1, state=RESTARTING), restarts=1), Known(0), ""),
        (replace(replica(1, state=RESTARTING), restarts=2), Known(0), "ends over and over"),
        (replace(replica(1, state=STARTING), restarts=1), Known(0, True), "had been ready"),
        # What it lived through before does not count.
        (replace(replica(1), restarts=7), Known(7), ""),
        (replace(replica(1, state=RESTARTING), oom_killed=True), Known(0), "more memory"),
    ],
)
def test_what_is_wrong_with_a_replica(now: Replica, known: Known | None, says: str) -> None:
    assert says in illness(now, known)
    assert bool(illness(now, known)) == bool(says)


def test_a_replica_that_was_ready_once_is_remembered_so() -> None:
    known = remember([replace(replica(1, state=STARTING), restarts=4)], {})
    assert known["id1-new"] == Known(4, was_ready=False)
    known = remember([replace(replica(1), restarts=5)], known)
    known = remember([replace(replica(1, state=STARTING), restarts=5)], known)
    assert known["id1-new"] == Known(4, was_ready=True)


def test_the_proxys_log_is_read_and_other_lines_are_not() -> None:
    line = {
        "upstream": "10.0.0.1:8000, 10.0.0.2:8000",
        "upstream_status": "502, 200",
        "seconds": 0.5,
    }
    log = f"1970-01-01T00:00:02.5Z {json.dumps(line)}\n1970-01-01T00:00:03Z 2026 [warn] oh\n\n"
    assert answers(log) == [Answer(2.5, (("10.0.0.1:8000", "502"), ("10.0.0.2:8000", "200")), 0.5)]


def seen(number: int, status: str, count: int, *, at: float) -> list[Answer]:
    return [Answer(at, ((f"10.0.0.{number}:8000", status),))] * count


@pytest.mark.parametrize(
    ("before", "after", "fails"),
    [
        (("200", 100), ("500", 2), False),
        (("200", 100), ("500", 3), True),
        (("500", 100), ("500", 100), False),
        ((None, 0), ("503", 3), True),
        ((None, 0), ("404", 50), False),
    ],
)
def test_5xx_count_where_the_old_ones_did_not_have_them(
    before: tuple[str | None, int], after: tuple[str, int], fails: bool
) -> None:
    new = replace(replica(2), created_at=10, started_at=10)
    log = seen(1, before[0] or "", before[1], at=5) + seen(2, after[0], after[1], at=11)
    assert (errors([new], log)[0] == new) == fails


def test_what_an_address_answered_before_it_was_this_replicas_does_not_count() -> None:
    new = replace(replica(2), created_at=10, started_at=10)
    assert errors([new], seen(2, "500", 50, at=9.5))[0] is None


def test_requests_that_ended_with_a_replica_are_counted() -> None:
    log = [
        Answer(1, (("10.0.0.1:8000", "502"),)),
        Answer(1, (("10.0.0.1:8000", "502"), ("10.0.0.2:8000", "200"))),
        Answer(1, (("10.0.0.1:8000", "200"),)),
        Answer(1, (("10.0.0.2:8000", "502"),)),
    ]
    assert cut([replica(1)], log) == (2, 1)
