"""Run a plan: no decisions here. Each step is run, awaited and reported."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from stack import runner, signals, verdict
from stack.errors import (
    NO_LEADER,
    CommandFailed,
    EngineUnavailable,
    Interrupted,
    ReplicaFailed,
    StackError,
)
from stack.model import Replica, Snapshot
from stack.plan import (
    LOG_LINES,
    Await,
    Command,
    Make,
    Plan,
    Route,
    Run,
    Step,
    Stop,
    WaitReady,
    Watch,
)
from stack.progress import Progress
from stack.topology import Publisher

# What helps, by what a command said.
ADVICE = {
    "address pool": "Docker has no address left for a network. Free some: docker network prune",
    "no space left on device": "The disk is full. Make room: docker image prune",
}

POLL_S = 0.2
# How long an orchestrator may be away while it is waited for.
AWAY_S = 30.0
# How far back the proxy's log is read, to learn how the old replicas have answered.
LOOK_BACK_S = 10


def execute(
    plan: Plan,
    observe: Callable[[], Snapshot],
    progress: Progress,
    publisher: Publisher | None = None,
) -> None:
    """Run the steps in their order. Where a new replica fails, go on with the plan's `recover`.
    `publisher` is told what there is whenever that was looked at.

    Any other failure ends the run with an error that says what state it leaves; running the same
    verb again goes on from there. A signal ends it before the next step.
    """
    while True:
        try:
            _Run(plan, observe, progress, publisher).steps()
        except ReplicaFailed as failed:
            following = plan.recover(failed, observe()) if plan.recover else None
            if following is None:
                raise
            progress.tell(f"{failed.service}: {failed.what}")
            plan = following
        else:
            if plan.failure:
                raise plan.failure
            return


class _Run:
    """One run of a plan, and what it has seen of the replicas so far."""

    def __init__(
        self,
        plan: Plan,
        observe: Callable[[], Snapshot],
        progress: Progress,
        publisher: Publisher | None,
    ) -> None:
        self._plan = plan
        self._look = observe
        self._progress = progress
        self._publisher = publisher
        self._known: dict[str, verdict.Known] = {}
        self._routed_at = time.monotonic()
        # Whether the last drain was over before all that was in flight had ended.
        self._in_flight = False

    def steps(self) -> None:
        total = len(self._plan.steps)
        for number, step in enumerate(self._plan.steps, start=1):
            try:
                signals.check()
                published = (
                    self._publisher.step(number, total, step.why)
                    if self._publisher
                    else nullcontext()
                )
                with self._progress.step(number, total, step), published:
                    self._step(step)
            except Interrupted as error:
                now = "" if error.in_a_hurry else _summary(self._observe())
                if isinstance(step, Await):
                    now = f"The orchestrator goes on by itself. {now}"
                raise _interrupted(error, number, total, now) from None
            except CommandFailed as error:
                if isinstance(step, Make | Run):
                    raise self._not_made(step, error) from error
                raise _failed(error, number, total) from error

    def _observe(self) -> Snapshot:
        snapshot = self._look()
        if self._publisher:
            self._publisher.saw(snapshot)
        return snapshot

    def _not_made(self, step: Make | Run, error: CommandFailed) -> ReplicaFailed:
        what = "none could be made"
        replicas: tuple[str, ...] = ()
        if isinstance(step, Run):
            what = "a post_start hook failed"
            replicas = tuple(replica.id for replica in step.replicas(self._observe()))
        said = f"\n{_indented(_tail(error.output))}"
        return ReplicaFailed(step.service.name, f"{what}: {error}", said, replicas)

    def _step(self, step: Step) -> None:
        if isinstance(step, WaitReady):
            self._wait(step)
        elif isinstance(step, Watch):
            self._watch(step)
        elif isinstance(step, Await):
            self._await(step)
        else:
            snapshot = self._observe() if not isinstance(step, Command) else Snapshot("")
            for command in step.commands(snapshot):
                self._command(command)
            if isinstance(step, Route):
                self._routed_at = time.monotonic()
            elif isinstance(step, Stop) and self._in_flight:
                self._report_cut(step)

    def _command(self, command: Command) -> None:
        try:
            with signals.at_once(command.interruptible):
                stream = self._progress.debug and not command.speaks
                output = runner.run(command, stream=stream)
        except CommandFailed as error:
            if not command.may_fail:
                raise
            self._progress.tell(f"{error}\n{_tail(error.output)}")
            return
        if command.speaks:
            self._progress.tell(output)
            self._in_flight = bool(output.strip())

    def _report_cut(self, stop: Stop) -> None:
        """Say what became of requests that were still in flight when the drain was over."""
        self._in_flight = False
        argv = ("docker", "logs", "--timestamps", "--since", f"{stop.grace_s + 5}s", stop.proxy)
        ended, elsewhere = verdict.cut(stop.replicas, verdict.answers(runner.read(argv)))
        self._progress.tell(
            f"{ended} request(s) ended with it, of which {elsewhere} another replica answered"
        )

    def _wait(self, wait: WaitReady) -> None:
        """Wait, with a deadline, and no longer once waiting is useless."""
        deadline = time.monotonic() + wait.timeout_s
        those = wait.those
        while True:
            replicas = those.of(self._observe())
            self._check(those.service.name, replicas)
            ready = [replica for replica in replicas if replica.is_ready]
            if len(ready) >= those.count:
                return
            if time.monotonic() >= deadline:
                late = [replica for replica in replicas if replica not in ready]
                what = f"{len(ready)} of {those.count} replicas ready within {wait.timeout_s:.0f} s"
                raise ReplicaFailed(
                    those.service.name,
                    what,
                    "".join(_evidence(one) for one in late[:1]),
                    tuple(replica.id for replica in late),
                )
            signals.check()
            time.sleep(POLL_S)

    def _watch(self, watch: Watch) -> None:
        """See that what has traffic stays well, from the moment on at which it got it."""
        deadline = self._routed_at + watch.seconds
        service = watch.those.service.name
        while True:
            replicas = watch.those.of(self._observe())
            self._check(service, replicas)
            over = time.monotonic() >= deadline
            if over:
                new = [replica for replica in replicas if replica.id not in watch.known]
                replica, what = verdict.errors(new, _answers(watch.proxy, new))
                if replica:
                    raise _replica_failed(service, replica, what)
                return
            signals.check()
            time.sleep(POLL_S)

    def _await(self, step: Await) -> None:
        """Wait for the orchestrator, with a deadline, and no longer once waiting is useless."""
        deadline = time.monotonic() + step.timeout_s
        snapshot, seen_at, held_at = Snapshot(""), time.monotonic(), None
        try:
            while True:
                now = time.monotonic()
                try:
                    snapshot, seen_at = self._observe(), now
                except EngineUnavailable:
                    # Managers that choose a new leader do not answer meanwhile.
                    if now - seen_at > AWAY_S:
                        raise
                else:
                    held_at = (held_at or now) if step.holds(snapshot) else None
                    if held_at and now - held_at >= step.steady_s:
                        return
                if now >= deadline:
                    raise step.late(snapshot)
                signals.check()
                time.sleep(POLL_S)
        except ReplicaFailed as error:
            said = "".join(_said(step.log(one)) for one in error.replicas[:1])
            raise ReplicaFailed(error.service, error.what, said, error.replicas) from None

    def _check(self, service: str, replicas: tuple[Replica, ...]) -> None:
        """Raise ReplicaFailed if one of these is not well."""
        for replica in replicas:
            what = verdict.illness(replica, self._known.get(replica.id))
            if what:
                raise _replica_failed(service, replica, what)
        self._known = verdict.remember(replicas, self._known)


def _replica_failed(service: str, replica: Replica, what: str) -> ReplicaFailed:
    return ReplicaFailed(service, f"{replica.name} {what}", _evidence(replica), (replica.id,))


def _answers(proxy: str, replicas: Sequence[Replica]) -> list[verdict.Answer]:
    first = min((replica.created_at for replica in replicas), default=0)
    since = f"{first - LOOK_BACK_S:.3f}"
    argv = ("docker", "logs", "--timestamps", "--since", since, proxy)
    return verdict.answers(runner.read(argv))


def _evidence(replica: Replica) -> str:
    """The last lines of its log and of its health check, before it is gone."""
    argv = ("docker", "logs", "--tail", str(LOG_LINES), replica.name)
    try:
        text = runner.read(("sh", "-c", 'exec "$@" 2>&1', "sh", *argv))
        state = json.loads(runner.read(("docker", "inspect", replica.name)))[0]["State"]
    except (StackError, LookupError):
        return ""
    said = f"\nThe last lines of {replica.name}:\n{_indented(text)}"
    checks = (state.get("Health") or {}).get("Log") or [{}]
    health = str(checks[-1].get("Output", "")).strip()
    failing = health and checks[-1].get("ExitCode")
    return said + (f"\nIts health check says:\n{_indented(health)}" if failing else "")


def _said(argv: tuple[str, ...]) -> str:
    try:
        text = runner.read(("sh", "-c", 'exec "$@" 2>&1', "sh", *argv))
    except StackError:
        return ""
    return f"\nThe last that it wrote:\n{_indented(text)}" if text.strip() else ""


def _failed(error: CommandFailed, number: int, total: int) -> StackError:
    text = f"step {number} of {total} failed: {error}"
    if error.output.strip():
        text += "\n" + _indented(_tail(error.output))
    for symptom, advice in ADVICE.items():
        if symptom in error.output.lower():
            text += f"\n{advice}"
    if error.leaderless:
        text += f"\n{NO_LEADER}"
    text += "\nRun the same command again when the cause is gone: it goes on from what is there."
    failure = StackError(text)
    failure.exit_code = error.exit_code
    return failure


def _interrupted(error: Interrupted, number: int, total: int, now: str) -> StackError:
    failure = StackError(
        f"stopped at step {number} of {total}. {now}To finish, run the same command again. "
        "After a rollout, python -m stack rollback goes back."
    )
    failure.exit_code = error.exit_code
    return failure


def _summary(snapshot: Snapshot) -> str:
    """Who has traffic now, by service and revision, in words."""
    text = ""
    for service in sorted({r.service for r in snapshot.replicas if r.port is not None}):
        mine = snapshot.of(service)
        routed = [replica for replica in mine if snapshot.routes_to(replica)]
        parts = [
            f"{sum(replica.revision == revision for replica in routed)} of revision {revision}"
            for revision in sorted({replica.revision for replica in routed})
        ]
        rest = [f"{r.name} of revision {r.revision}" for r in mine if r not in routed]
        text += f"{service}: {', '.join(parts) or 'nobody'} with traffic"
        text += f"; without: {', '.join(rest)}. " if rest else ". "
    return text


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LOG_LINES:])


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())
