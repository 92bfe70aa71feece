"""What `top` shows."""

import io
from dataclasses import replace

from rich.console import Console

from stack import top
from stack.model import STARTING
from stack.verdict import Answer
from tests.unit.simulation import replica, snapshot_of

NOW = 1000.0


def answer(number: int, status: str = "200", *, ago: float = 1, seconds: float = 0.01) -> Answer:
    return Answer(NOW - ago, ((f"10.0.0.{number}:8000", status),), seconds)


def test_traffic_is_what_each_replica_was_sent_in_the_last_seconds() -> None:
    replicas = [replica(1), replica(2), replica(3)]
    answers = [
        *[answer(1, seconds=0.01)] * 2,
        answer(1, "502", seconds=0.03),
        answer(2),
        answer(2, ago=60),
        Answer(NOW, (("-", "-"),)),
    ]
    found = top.traffic(replicas, answers, NOW)
    assert [found[one.name] for one in replicas] == [
        top.Traffic(3, 0.75, 1, 0.01),
        top.Traffic(1, 0.25, 0, 0.01),
        top.Traffic(),
    ]


def test_a_replica_does_not_get_what_its_address_was_sent_before_it() -> None:
    young = replace(replica(1), started_at=NOW - 2)
    found = top.traffic([young], [answer(1, ago=3), answer(1, ago=1)], NOW)
    assert found[young.name].count == 1


def test_seconds_are_counted_once_they_are_over() -> None:
    counts = top.per_second([answer(1, ago=0), answer(1, ago=1), answer(1, ago=60)], NOW)
    assert (counts[-1], counts[0], sum(counts)) == (1, 1, 2)


def test_the_manager_is_shown_at_its_step() -> None:
    step = {"number": 2, "total": 3, "why": "wait", "at": 1.0}
    told = {"verb": "`up`", "steps": [step]}
    assert top.doing(told, "") == "no change is under way"
    assert top.doing(told, "process 7, `up`") == "process 7, `up`: 2 of 3, wait"
    assert top.doing(told, "process 8, `down`") == "process 8, `down`"
    assert top.doing({**told, "steps": [{**step, "ended_at": 2.0}]}, "7, `up`") == "7, `up`"
    assert top.doing(None, "process 7") == "process 7"


class Log:
    """An engine of which only the proxy's log is there."""

    def __init__(self, *logs: str | None) -> None:
        self._logs = iter(logs)
        self.api = self

    def info(self) -> dict[str, str]:
        return {"SystemTime": "1970-01-01T00:16:40Z"}

    def proxy_log(self, proxy: object, since: float) -> str | None:
        del proxy, since
        return next(self._logs)


def test_what_was_read_before_is_not_counted_again() -> None:
    line = '1970-01-01T00:16:3{}Z {{"upstream":"a:1","upstream_status":"200","seconds":0.1}}\n'
    first, second = line.format(8), line.format(9)
    watch = top.Watch(Log(first, first + second, None))  # type: ignore[arg-type]
    counts = [len(watch._read_log(replica(1), NOW) or ()) for _ in range(3)]
    assert counts == [1, 2, 0]


def shown(*replicas: object, answers: list[Answer] | None) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    snapshot = snapshot_of(list(replicas), [1])  # type: ignore[arg-type]
    console.print(top.screen(snapshot, {}, answers, "idle", NOW, ["new"]))
    return console.export_text()


def test_the_screen_has_a_row_for_each_replica_and_the_last_minute() -> None:
    text = shown(replica(1), replica(2, state=STARTING), answers=[answer(1)] * 10)
    first, second = (
        next(line for line in text.splitlines() if name in line) for name in ("web-1", "web-2")
    )
    assert "healthy" in first
    assert "██████████ 100%" in first
    assert "2.0" in first
    assert "starting" in second
    assert "at most 10" in text


def test_without_a_log_there_is_no_traffic_but_all_the_rest() -> None:
    text = shown(replace(replica(1), node="one"), answers=None)
    assert "one" in text
    assert "%" not in text
    assert "requests per second" not in text
