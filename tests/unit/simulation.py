"""An engine in memory: understands the commands that plans are made of, and checks after each
that traffic only ever goes to replicas that serve, and that there are neither too few nor too
many.
"""

import itertools
from dataclasses import dataclass, field, replace

from stack.errors import ReplicaFailed
from stack.model import (
    EXITED,
    HEALTHY,
    PAUSED,
    STARTING,
    UNHEALTHY,
    Replica,
    Revision,
    Service,
    Snapshot,
    Target,
    TargetList,
)
from stack.plan import Await, Command, Make, Plan, Route, Step, WaitReady, Watch

WEB = Service("web", replicas=2, port=8000, revision="new", image="p-web:new")
PROXY = Service("proxy", is_proxy=True, config_hash="px", published=(("127.0.0.1", 8080),))


def replica(number: int, *, state: str = HEALTHY, revision: str = "new") -> Replica:
    return Replica(
        id=f"id{number}-{revision}",
        name=f"p-web-{number}",
        service="web",
        number=number,
        state=state,
        revision=revision,
        addresses=(f"10.0.0.{number}",),
        port=8000,
    )


PROXY_REPLICA = Replica(
    "px", "p-proxy-1", "proxy", 1, HEALTHY, revision="a-b", config_hash="px", is_proxy=True
)


def snapshot_of(
    replicas: list[Replica], routed: list[int] | None, *, web: Service = WEB
) -> Snapshot:
    """A project with a proxy; `routed` are numbers of replicas, None means by DNS."""
    lists = TargetList(by_dns=True)
    if routed is not None:
        lists = TargetList(tuple(Target(f"10.0.0.{n}:8000", f"p-web-{n}") for n in routed))
    return Snapshot(
        "p",
        (PROXY, web),
        (*replicas, PROXY_REPLICA),
        {"web:8000": lists},
        proxy_config="b",
        revisions={"web": (Revision("new", ""), Revision("old", "", is_previous=True))},
    )


# Numbers and addresses come again, ids never.
NEW_IDS = itertools.count()


class Killed(Exception):
    """The manager was killed, as far as the simulation goes."""


@dataclass
class SimulatedEngine:
    """Runs steps one by one. `makes` is the revision that new replicas are of, where no command
    says it. `fails_at`: the numbers of the waits (WaitReady and Watch) at which a new replica
    fails; `bad_but_ready`: one with traffic then answers 5xx, instead of dying.

    `served` and `totals`: how many were ready and listed, and how many there were, after each
    step.
    """

    snapshot: Snapshot
    makes: str = "new"
    fails_at: frozenset[int] = frozenset()
    bad_but_ready: bool = False
    bad: set[str] = field(default_factory=set)
    served: list[int] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)
    waits: int = 0
    ran: int = 0
    broken_before: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        ready = {f"{r.addresses[0]}:8000" for r in self.snapshot.of("web") if r.is_ready}
        listed = {target.address for target in self.snapshot.routing["web:8000"].targets}
        self.broken_before = listed - ready

    def run(self, plan: Plan, *, killed_after: int | None = None) -> Exception | None:
        """Run the plan, and what it recovers by, as the executor would. Return the failure that
        it ends with. Raises Killed after so many steps.
        """
        while True:
            try:
                for step in plan.steps:
                    if self.ran == killed_after:
                        raise Killed
                    self._step(step)
                    self.ran += 1
                    self._check()
            except ReplicaFailed as failed:
                following = plan.recover(failed, self._observe()) if plan.recover else None
                if following is None:
                    return failed
                plan = following
            else:
                return plan.failure

    def _observe(self) -> Snapshot:
        """What there is, without what was read of the Compose file."""
        return replace(self.snapshot, services=(), revisions={})

    def _step(self, step: Step) -> None:
        if isinstance(step, WaitReady | Watch):
            if step.those.service.name == "web":
                self._wait(step)
            return
        # An orchestrator is not simulated.
        assert not isinstance(step, Await)
        for command in step.commands(self.snapshot):
            if isinstance(step, Route | Make):
                # What --explain showed is what runs.
                assert command.text() == step.text()
            self._apply(command)

    def _wait(self, step: WaitReady | Watch) -> None:
        self.waits += 1
        mine = step.those.of(self.snapshot)
        if self.waits in self.fails_at:
            # One that is awaited never gets ready; or one with traffic dies.
            ill = [r for r in mine if r.state == STARTING] or list(mine)
            state = UNHEALTHY if ill[0].state == STARTING else EXITED
            if self.bad_but_ready and ill[0].state == HEALTHY:
                state = HEALTHY
            self.bad.add(ill[0].id)
            others = [r.name for r in mine if r.state == STARTING and r != ill[0]]
            self._set_state(others, HEALTHY)
            self._set_state([ill[0].name], state)
            self.broken_before |= {f"{ill[0].addresses[0]}:8000"}
            raise ReplicaFailed("web", f"{ill[0].name} failed", replicas=(ill[0].id,))
        self._set_state([r.name for r in mine if r.state == STARTING], HEALTHY)
        ready = [r for r in step.those.of(self.snapshot) if r.is_ready]
        assert len(ready) >= step.those.count, step.text()

    def _apply(self, command: Command) -> None:
        match command.argv:
            case ("docker", "compose", *_, "up", "--detach", "--no-build", "--no-deps", "proxy"):
                pass
            case ("docker", "compose", *rest) if "--scale" in rest:
                assert "--no-recreate" in rest
                total = next(int(w.partition("=")[2]) for w in rest if w.startswith("web="))
                self._make(total, str(dict(command.env).get("WEB_REVISION", self.makes)))
            case ("docker", "exec", "p-proxy-1", "proxy", "targets", "--awaiting", n, _, *names):
                self._route(names, int(n))
            case ("docker", "exec", "p-proxy-1", "proxy", "targets", "web:8000", *names):
                self._route(names, 0)
            case ("docker", "exec", "p-proxy-1", "proxy", "drain", _, *names):
                routed = {t.name for t in self.snapshot.routing["web:8000"].targets}
                assert not routed & set(names), "drained while it gets traffic"
            case ("docker", "stop", "-t", _, *names):
                self._set_state(names, EXITED)
            case ("docker", "unpause", *names):
                self._set_state(names, HEALTHY)
            case ("docker", "rm", *names):
                assert all(not r.is_live for r in self.snapshot.replicas if r.name in names)
                kept = tuple(r for r in self.snapshot.replicas if r.name not in names)
                self.snapshot = replace(self.snapshot, replicas=kept)
            case ("docker", "tag" | "rmi", *_):
                pass
            case _:
                raise AssertionError(f"unknown command: {command.text()}")

    def _make(self, total: int, revision: str) -> None:
        mine = self.snapshot.of("web")
        assert total > len(mine), "Compose would remove some"
        assert all(one.state != PAUSED for one in mine), "Compose would try to start it, and fail"
        highest = max((r.number for r in mine), default=0)
        new = tuple(
            replace(
                replica(highest + 1 + i, state=STARTING, revision=revision),
                id=f"made-{next(NEW_IDS)}",
            )
            for i in range(total - len(mine))
        )
        self.snapshot = replace(self.snapshot, replicas=(*self.snapshot.replicas, *new))

    def _route(self, names: list[str], awaiting: int) -> None:
        addresses = {r.name: r.addresses[0] for r in self.snapshot.replicas if r.addresses}
        lists = TargetList(
            tuple(Target(f"{addresses[name]}:8000", name) for name in names), awaiting=awaiting
        )
        self.snapshot = replace(self.snapshot, routing={"web:8000": lists})
        self.broken_before &= {target.address for target in lists.targets}

    def _set_state(self, names: list[str], state: str) -> None:
        self.snapshot = replace(
            self.snapshot,
            replicas=tuple(
                replace(r, state=state) if r.name in names else r for r in self.snapshot.replicas
            ),
        )

    def _check(self) -> None:
        routes = self.snapshot.routing["web:8000"]
        self.totals.append(len(self.snapshot.of("web")))
        if routes.by_dns:
            # Docker's DNS knows a container long before it is ready.
            assert all(r.is_ready for r in self.snapshot.of("web")), "DNS sends traffic too early"
            return
        ready = {f"{r.addresses[0]}:8000" for r in self.snapshot.of("web") if r.is_ready}
        listed = {target.address for target in routes.targets}
        assert listed <= ready | self.broken_before, f"traffic to {listed - ready}: nobody serves"
        self.served.append(len(listed & ready))
