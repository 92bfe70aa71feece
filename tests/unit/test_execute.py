"""Waiting for replicas: what ends it, and what does not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from stack import execute as module
from stack import runner
from stack.errors import CommandFailed, EngineUnavailable, ReplicaFailed, StackError
from stack.execute import execute
from stack.model import RESTARTING, STARTING, Snapshot
from stack.plan import Await, Command, Plan, Those, WaitReady
from stack.progress import Progress
from tests.unit.simulation import WEB, replica, snapshot_of


def wait_through(*snapshots: Snapshot) -> None:
    """Wait for two ready replicas, while the engine goes through these states."""
    states = iter(snapshots)
    wait = WaitReady(Those("p", WEB, 2), timeout_s=5, why="test")
    execute(Plan((wait,)), lambda: next(states), Progress(debug=False))


def test_crashes_of_long_ago_do_not_end_a_wait() -> None:
    survivor = replace(replica(1), restarts=2)
    ill_before = replace(replica(2, state=STARTING), restarts=3)
    wait_through(
        snapshot_of([survivor, ill_before], [1]),
        snapshot_of([survivor, replace(ill_before, state="healthy")], [1]),
    )


def test_a_replica_that_ends_over_and_over_ends_a_wait_and_is_named() -> None:
    with pytest.raises(StackError, match=r"p-web-2 ends over and over .*2 restarts"):
        wait_through(
            snapshot_of([replica(1), replica(2, state=STARTING)], [1]),
            snapshot_of([replica(1), replace(replica(2, state=RESTARTING), restarts=2)], [1]),
        )


def await_through(
    *answers: Snapshot | Exception,
    holds: Callable[[Snapshot], bool] = lambda _: True,
    timeout_s: float = 0,
) -> None:
    """Await something of an orchestrator that answers this, one after the other."""
    given = iter(answers)

    def observe() -> Snapshot:
        answer = next(given)
        if isinstance(answer, Exception):
            raise answer
        return answer

    step = Await(
        service="web",
        holds=holds,
        late=lambda _: ReplicaFailed("web", "late", replicas=("t1",)),
        shell="",
        timeout_s=timeout_s,
        why="test",
        log=lambda replica: ("echo", f"{replica} says why"),
        steady_s=0,
    )
    execute(Plan((step,)), observe, Progress(debug=False))


def test_an_orchestrator_that_has_done_it_is_waited_for_no_longer() -> None:
    await_through(Snapshot("p"))


def test_what_does_not_come_in_time_fails_with_the_last_lines_of_a_replica() -> None:
    with pytest.raises(ReplicaFailed, match="late") as failed:
        await_through(Snapshot("p"), holds=lambda _: False)
    assert "t1 says why" in failed.value.evidence


def test_an_orchestrator_that_is_away_for_a_moment_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await_through(EngineUnavailable("no leader"), Snapshot("p"), timeout_s=5)
    monkeypatch.setattr(module, "AWAY_S", -1)
    with pytest.raises(EngineUnavailable, match="no leader"):
        await_through(EngineUnavailable("no leader"))


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [("docker service scale p_web=2", 69), ("docker compose build web", 1)],
)
def test_a_command_that_no_leader_takes_fails_as_an_engine_that_is_away(
    command: str, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "rpc error: code = Unavailable desc = node lost leader status"

    def fails(*_: object, **__: object) -> str:
        raise CommandFailed(command, 1, said)

    monkeypatch.setattr(runner, "run", fails)
    step = Command(("false",), why="test")
    with pytest.raises(StackError) as failed:
        execute(Plan((step,)), lambda: Snapshot("p"), Progress(debug=False))
    assert failed.value.exit_code == exit_code
    assert ("no leader" in str(failed.value)) is (exit_code == 69)
