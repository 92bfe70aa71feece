"""An engine in memory: understands the commands that plans are made of, and checks after each
that traffic only ever goes to replicas that serve.
"""

from dataclasses import dataclass, field, replace

from stack.model import HEALTHY, STARTING, Replica, Service, Snapshot, Target, TargetList
from stack.plan import Command, Plan, Route, WaitReady

WEB = Service("web", replicas=2, port=8000, config_hash="new", image="p-web:new")
PROXY = Service("proxy", is_proxy=True, config_hash="px", published=(("127.0.0.1", 8080),))


def replica(number: int, *, state: str = HEALTHY, config_hash: str = "new") -> Replica:
    return Replica(
        id=f"id{number}",
        name=f"p-web-{number}",
        service="web",
        number=number,
        state=state,
        revision=config_hash,
        config_hash=config_hash,
        addresses=(f"10.0.0.{number}",),
        port=8000,
    )


PROXY_REPLICA = Replica(
    "px", "p-proxy-1", "proxy", 1, HEALTHY, revision="a-b", config_hash="px", is_proxy=True
)


def snapshot_of(replicas: list[Replica], routed: list[int] | None) -> Snapshot:
    """A project with a proxy; `routed` are numbers of replicas, None means by DNS."""
    lists = TargetList(by_dns=True)
    if routed is not None:
        lists = TargetList(tuple(Target(f"10.0.0.{n}:8000", f"p-web-{n}") for n in routed))
    return Snapshot(
        "p", (PROXY, WEB), (*replicas, PROXY_REPLICA), {"web:8000": lists}, proxy_config="b"
    )


@dataclass
class SimulatedEngine:
    """Runs steps one by one. `config_hash` is what new replicas are made from."""

    snapshot: Snapshot
    config_hash: str = "new"
    served: list[int] = field(default_factory=list)
    broken_before: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        ready = {f"{r.addresses[0]}:8000" for r in self.snapshot.of("web") if r.is_ready}
        listed = {target.address for target in self.snapshot.routing["web:8000"].targets}
        self.broken_before = listed - ready

    def run(self, plan: Plan, *, steps: int | None = None) -> None:
        """Run the first `steps` of the plan, as if the manager were killed then."""
        for step in plan.steps[:steps]:
            if isinstance(step, WaitReady):
                self._become_ready()
                assert len(step.ready(self.snapshot)) >= step.count, step.text()
            else:
                bound = step.command(self.snapshot)
                if isinstance(step, Route):
                    # What --explain showed is what runs.
                    assert bound.text() == step.text()
                self._apply(bound)
            self._check()

    def _apply(self, command: Command) -> None:
        match command.argv:
            case ("docker", "compose", "up", *rest) if "--scale" in rest:
                assert "--no-recreate" in rest
                self._make(next(int(w.partition("=")[2]) for w in rest if w.startswith("web=")))
            case ("docker", "exec", "p-proxy-1", "proxy", "targets", "web:8000", *names):
                self._route(names)
            case ("docker", "exec", "p-proxy-1", "proxy", "drain", _, *names):
                routed = {t.name for t in self.snapshot.routing["web:8000"].targets}
                assert not routed & set(names), "drained while it gets traffic"
            case ("docker", "stop", "-t", _, *names):
                self._set_state(names, "exited")
            case ("docker", "rm", *names):
                assert all(not r.is_live for r in self.snapshot.replicas if r.name in names)
                kept = tuple(r for r in self.snapshot.replicas if r.name not in names)
                self.snapshot = replace(self.snapshot, replicas=kept)
            case _:
                raise AssertionError(f"unknown command: {command.text()}")

    def _make(self, total: int) -> None:
        mine = self.snapshot.of("web")
        highest = max((r.number for r in mine), default=0)
        new = tuple(
            replica(highest + 1 + i, state=STARTING, config_hash=self.config_hash)
            for i in range(total - len(mine))
        )
        self.snapshot = replace(self.snapshot, replicas=(*self.snapshot.replicas, *new))

    def _route(self, names: list[str]) -> None:
        addresses = {r.name: r.addresses[0] for r in self.snapshot.replicas if r.addresses}
        lists = TargetList(tuple(Target(f"{addresses[name]}:8000", name) for name in names))
        self.snapshot = replace(self.snapshot, routing={"web:8000": lists})

    def _become_ready(self) -> None:
        self._set_state([r.name for r in self.snapshot.replicas if r.state == STARTING], HEALTHY)

    def _set_state(self, names: list[str], state: str) -> None:
        self.snapshot = replace(
            self.snapshot,
            replicas=tuple(
                replace(r, state=state) if r.name in names else r for r in self.snapshot.replicas
            ),
        )

    def _check(self) -> None:
        routes = self.snapshot.routing["web:8000"]
        if routes.by_dns:
            # Docker's DNS knows a container long before it is ready.
            assert all(r.is_ready for r in self.snapshot.of("web")), "DNS sends traffic too early"
            return
        ready = {f"{r.addresses[0]}:8000" for r in self.snapshot.of("web") if r.is_ready}
        listed = {target.address for target in routes.targets}
        assert listed <= ready | self.broken_before, f"traffic to {listed - ready}: nobody serves"
        self.served.append(len(listed))
