"""Run a plan: no decisions here. Each step is run, awaited and reported."""

import json
import time
from collections.abc import Callable

from stack import runner
from stack.errors import CommandFailed, Interrupted, StackError
from stack.model import EXITED, PAUSED, UNHEALTHY, Replica, Snapshot
from stack.plan import Command, Plan, WaitReady
from stack.progress import Progress

POLL_S = 0.2
LOG_LINES = 15


def execute(plan: Plan, observe: Callable[[], Snapshot], progress: Progress) -> None:
    """Run the steps in their order. The first that fails ends the run with an error that says
    what state it leaves; running the same verb again goes on from there.
    """
    total = len(plan.steps)
    for number, step in enumerate(plan.steps, start=1):
        try:
            bound = step if isinstance(step, WaitReady) else step.command(observe())
            with progress.step(number, total, bound):
                if isinstance(bound, WaitReady):
                    _wait(bound, observe)
                else:
                    output = runner.run(bound, stream=progress.debug)
            if isinstance(bound, Command) and bound.speaks:
                progress.tell(output)
        except Interrupted as error:
            raise _interrupted(error, number, total) from None
        except CommandFailed as error:
            raise _failed(error, number, total) from error


def _wait(wait: WaitReady, observe: Callable[[], Snapshot]) -> None:
    deadline = time.monotonic() + wait.timeout_s
    restarts: dict[str, int] = {}
    while True:
        snapshot = observe()
        ready = wait.ready(snapshot)
        if len(ready) >= wait.count:
            return
        service = wait.service.name
        broken = []
        for replica in snapshot.of(service):
            # What it lived through before does not count.
            before = restarts.setdefault(replica.id, replica.restarts)
            awaited = replica.name not in wait.without and replica not in ready
            if awaited and _is_broken(replica, replica.restarts - before):
                broken.append(replica)
        if broken or time.monotonic() >= deadline:
            state = f"{broken[0].name} is {_state(broken[0])}" if broken else _timed_out(wait)
            raise StackError(
                f"{service}: {len(ready)} of {wait.count} replicas ready: {state}. The target list "
                f"is as it was. See: python -m stack logs {service}" + _last_log_lines(broken)
            )
        time.sleep(POLL_S)


def _is_broken(replica: Replica, restarts: int) -> bool:
    """Whether waiting on is useless. Docker restarts what ends; twice says it will go on so."""
    return replica.state in (UNHEALTHY, PAUSED, EXITED) or restarts > 1


def _state(replica: Replica) -> str:
    if replica.state in (UNHEALTHY, PAUSED):
        return replica.state
    return f"ending over and over (exit code {replica.exit_code}, {replica.restarts} restarts)"


def _timed_out(wait: WaitReady) -> str:
    return f"no more within {wait.timeout_s:.0f} s (python -m stack ps)"


def _last_log_lines(broken: list[Replica]) -> str:
    if not broken:
        return ""
    name = broken[0].name
    argv = ("docker", "logs", "--tail", str(LOG_LINES), name)
    try:
        text = runner.read(("sh", "-c", 'exec "$@" 2>&1', "sh", *argv))
        state = json.loads(runner.read(("docker", "inspect", name)))[0]["State"]
    except (StackError, LookupError):
        return ""
    said = f"\nThe last lines of {name}, which stays to be looked at:\n{_indented(text)}"
    checks = (state.get("Health") or {}).get("Log") or [{}]
    health = str(checks[-1].get("Output", "")).strip()
    return said + (f"\nIts health check says:\n{_indented(health)}" if health else "")


def _failed(error: CommandFailed, number: int, total: int) -> StackError:
    text = f"step {number} of {total} failed: {error}"
    if error.output.strip():
        text += "\n" + _indented("\n".join(error.output.strip().splitlines()[-LOG_LINES:]))
    text += "\nRun the same command again when the cause is gone: it goes on from what is there."
    failure = StackError(text)
    failure.exit_code = error.exit_code
    return failure


def _interrupted(error: Interrupted, number: int, total: int) -> StackError:
    failure = StackError(
        f"interrupted at step {number} of {total}: run the same command again to finish"
    )
    failure.exit_code = error.exit_code
    return failure


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())
