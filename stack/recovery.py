"""What a rollout does when a new replica fails: the Compose file's failure_action, as plans."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from stack.errors import ReplicaFailed, StackError
from stack.model import CONTINUE, PAUSE, Snapshot
from stack.plan import Plan, Steps
from stack.reconcile import Goal, choose
from stack.transition import reach


@dataclass(frozen=True)
class Recovery:
    """Called with a failure and what there is then, gives the plan to go on with.

    `goals` is what services are to become, `back` what they were; only those that served before
    have something to go back to. `again` makes the plan anew for changed goals. `undo` are steps
    that take back what else a rollout has changed. `lost` are services whose old image has no
    name any more, so that more of it cannot be made.
    """

    goals: Mapping[str, Goal]
    back: Mapping[str, Goal]
    again: Callable[[Snapshot, Mapping[str, Goal]], Plan]
    proxy: str
    undo: Mapping[str, Steps] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    failures: int = 0

    def __call__(self, failed: ReplicaFailed, now: Snapshot) -> Plan | None:
        """None where there is nothing to go back to: the failure ends the run."""
        if failed.service not in self.back:
            return None
        goal = self.goals[failed.service]
        goal = replace(goal, bad=goal.bad | set(failed.replicas))
        failures = self.failures + 1
        if failures <= goal.config.max_failure_ratio * goal.count:
            return self._go_on(goal, now, failures)
        # Each may fail once, and once more where no old one is left to stay in its place.
        if goal.config.failure_action == CONTINUE and failures <= 2 * goal.count:
            old = len(choose(now, goal).old)
            held = min(goal.held + 1, old, goal.count)
            plan = self._go_on(replace(goal, held=held), now, failures)
            text = f"Gone on, as failure_action says: {held} of {goal.count} stay as they were"
            return replace(plan, failure=_because(text, failed))
        if goal.config.failure_action == PAUSE:
            text = (
                "Now paused, as failure_action says: everything stays as it is, and what has "
                f"traffic keeps it.\n  Go on:   python -m stack rollout {failed.service}\n"
                f"  Go back: python -m stack rollback {failed.service}"
            )
            return Plan((), failure=_because(text, failed))
        return self._go_back(failed, now)

    def _go_on(self, goal: Goal, now: Snapshot, failures: int) -> Plan:
        goals = {**self.goals, goal.service.name: goal}
        return replace(
            self.again(now, goals), recover=replace(self, goals=goals, failures=failures)
        )

    def _go_back(self, failed: ReplicaFailed, now: Snapshot) -> Plan:
        goal = replace(self.back[failed.service], bad=frozenset(failed.replicas))
        missing = choose(now, goal).missing
        if missing and failed.service in self.lost:
            text = (
                f"Going back would need {missing} more of the old replicas, and "
                "their image has no name any more: another was built under it. It stops here; what "
                "serves goes on serving: python -m stack ps"
            )
            return Plan((), failure=_because(text, failed))
        was = f" revision {goal.service.revision}" if goal.service.revision else " what it was"
        done = f"Taken back: all {goal.count} are of{was} again"
        return Plan(
            (*reach(now, goal, self.proxy), *self.undo.get(failed.service, ())),
            recover=lambda again, _: _stop(again, failed),
            failure=_because(done, failed),
        )


def _stop(again: ReplicaFailed, failed: ReplicaFailed) -> Plan:
    """Going back has failed as well: never a third try."""
    text = (
        f"Then going back failed, too, and stops here: {again.what}. What serves goes on serving: "
        f"python -m stack ps{again.evidence}"
    )
    return Plan((), failure=_because(text, failed))


def _because(text: str, failed: ReplicaFailed) -> StackError:
    return StackError(f"{failed.service}: {failed.what}. {text}{failed.evidence}")
