"""Rollouts: their order, and that they are safe at every point and with every failure."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from stack.engines import compose_plans, compose_up
from stack.engines.images import Wanted
from stack.errors import ReplicaFailed
from stack.model import (
    CONTINUE,
    EXITED,
    PAUSE,
    STOP_FIRST,
    UNHEALTHY,
    Hook,
    Replica,
    Revision,
    Service,
    Snapshot,
    UpdateConfig,
)
from stack.plan import Plan
from tests.unit.simulation import (
    PROXY,
    PROXY_REPLICA,
    WEB,
    Killed,
    SimulatedEngine,
    replica,
    snapshot_of,
)

COMPOSE = ("docker", "compose")


def now(engine: SimulatedEngine, start: Snapshot) -> Snapshot:
    """What the next run of the manager sees: the engine's state, the same Compose file."""
    return replace(engine.snapshot, services=start.services, revisions=start.revisions)


def rollout(snapshot: Snapshot) -> Plan:
    return compose_plans.rollout(
        snapshot, ["web"], Wanted(revisions={"web": snapshot.services[1].revision}), COMPOSE
    )


def up(snapshot: Snapshot) -> Plan:
    return compose_up.up(snapshot, Wanted(revisions={"web": "new"}, proxy_config="b"), COMPOSE)


def rollback(snapshot: Snapshot) -> Plan:
    return compose_plans.rollback(snapshot, snapshot.services[1], Wanted(), COMPOSE, "sources")


def restart(snapshot: Snapshot) -> Plan:
    return compose_plans.restart(snapshot, snapshot.services[1], Wanted(), COMPOSE)


def scale_to(count: int) -> Callable[[Snapshot], Plan]:
    return lambda snapshot: compose_plans.scale(
        snapshot, {"web": count}, Wanted(revisions={"web": "new"}), COMPOSE, {"web": "new"}
    )


def running(count: int, revision: str, web: Service) -> Snapshot:
    numbers = list(range(1, count + 1))
    return snapshot_of([replica(n, revision=revision) for n in numbers], numbers, web=web)


def with_config(**config: object) -> Service:
    return replace(WEB, update=UpdateConfig(**config))  # type: ignore[arg-type]


def assert_all(engine: SimulatedEngine, count: int, revision: str) -> None:
    """N ready replicas of one revision, all listed, and nothing left over."""
    mine = engine.snapshot.of("web")
    assert [(r.is_ready, r.revision) for r in mine] == [(True, revision)] * count
    assert all(engine.snapshot.routes_to(r) for r in mine)
    assert len(engine.snapshot.routing["web:8000"].targets) == count
    assert PROXY_REPLICA in engine.snapshot.replicas


def texts(plan: Plan) -> list[str]:
    return [step.text() for step in plan.steps]


def test_a_rollout_replaces_one_replica_after_the_other() -> None:
    plan = texts(rollout(running(2, "old", WEB)))
    ready = (
        '[ "$(docker ps -q --filter label=com.docker.compose.project=p --filter '
        'label=com.docker.compose.service=web --filter health=healthy | wc -l)" -ge {} ]'
    )
    make = (
        "WEB_REVISION=new docker compose up --detach --no-build --no-deps --no-recreate "
        "--scale web=3 web"
    )
    assert plan == [
        make,
        f"until {ready.format(3)}; do sleep 0.5; done",
        "docker exec p-proxy-1 proxy targets web:8000 p-web-2 p-web-3",
        "docker exec p-proxy-1 proxy drain 10 p-web-1",
        "docker stop -t 10 p-web-1",
        "docker rm p-web-1",
        ready.format(2),
        make,
        f"until {ready.format(3)}; do sleep 0.5; done",
        "docker exec p-proxy-1 proxy targets web:8000 p-web-3 p-web-4",
        "docker exec p-proxy-1 proxy drain 10 p-web-2",
        "docker stop -t 10 p-web-2",
        "docker rm p-web-2",
        f"sleep 5; {ready.format(2)}",
    ]


def test_a_rollout_to_what_runs_is_an_empty_plan() -> None:
    assert rollout(running(3, "new", WEB)).steps == ()


@pytest.mark.parametrize(("parallelism", "batches"), [(1, 4), (2, 2), (3, 2), (4, 1), (0, 1)])
def test_a_rollout_takes_as_many_turns_as_replicas_by_parallelism(
    parallelism: int, batches: int
) -> None:
    plan = rollout(running(4, "old", with_config(parallelism=parallelism)))
    assert sum("proxy targets" in text for text in texts(plan)) == batches


def test_stop_first_takes_the_old_one_away_before_the_new_one_comes() -> None:
    plan = texts(rollout(running(2, "old", with_config(order=STOP_FIRST))))
    assert plan[:4] == [
        "docker exec p-proxy-1 proxy targets --awaiting 1 web:8000 p-web-2",
        "docker exec p-proxy-1 proxy drain 10 p-web-1",
        "docker stop -t 10 p-web-1",
        "docker rm p-web-1",
    ]
    assert "--scale web=2 web" in plan[4]


def test_the_revision_before_is_noted_first_and_old_ones_go_last() -> None:
    start = running(1, "r7", WEB)
    known = tuple(Revision(f"r{n}", "") for n in range(9, 0, -1))
    plan = texts(rollout(replace(start, revisions={"web": known})))
    # Before the first one goes, and no sooner.
    assert plan[plan.index("docker tag p-web:r7 p-web:previous") + 1] == "docker stop -t 10 p-web-1"
    # Five stay: the new one, the one before, and the three newest of the others.
    assert plan[-1] == "docker rmi p-web:r5 p-web:r4 p-web:r3 p-web:r2 p-web:r1"


def test_hooks_run_in_new_replicas_once_they_are_made_and_in_old_ones_before_they_stop() -> None:
    web = replace(
        WEB,
        post_start=(Hook(("warm", "up"), user="root"),),
        pre_stop=(Hook(("say", "bye"), environment=("A=1",)),),
    )
    start = running(1, "old", web)
    wanted = Wanted(revisions={"web": "new"}, runs_post_start=True)
    plan = texts(compose_plans.rollout(start, ["web"], wanted, COMPOSE))
    assert plan[1] == "docker exec --user root p-web-2 warm up"
    stop = plan.index("docker stop -t 10 p-web-1")
    assert plan[stop - 1] == "docker exec --env A=1 p-web-1 say bye"
    # Where Compose runs post_start itself, it is not run twice.
    assert not any("warm" in text for text in texts(rollout(start)))


def test_a_migration_that_has_to_end_first_runs_before_any_replica_is_made() -> None:
    migrate = Service("migrate", config_hash="new")
    done = Replica("m", "p-migrate-1", "migrate", 1, EXITED, config_hash="old", started_at=1)
    web = replace(
        WEB,
        depends_on=("migrate",),
        needs=("migrate",),
        conditions={"migrate": "service_completed_successfully"},
    )
    start = running(2, "old", web)
    start = replace(start, services=(PROXY, web, migrate), replicas=(*start.replicas, done))
    assert texts(rollout(start))[0] == (
        "WEB_REVISION=new docker compose up --no-build --no-deps --exit-code-from migrate migrate"
    )


VERBS: Mapping[str, tuple[Callable[[Snapshot], Plan], str, str]] = {
    # verb, revision before, revision that it is to reach
    "up": (up, "old", "new"),
    "rollout": (rollout, "old", "new"),
    "rollback": (rollback, "old", "new"),
    "restart": (restart, "new", "new"),
    "scale to 2": (scale_to(2), "new", "new"),
    "scale to 4": (scale_to(4), "new", "new"),
}
COUNT_AFTER = {"scale to 2": 2, "scale to 4": 4}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize("surge", [1, 2, 3])
@pytest.mark.parametrize("order", ["start-first", STOP_FIRST])
def test_a_change_killed_after_any_step_finishes_when_run_again(
    verb: str, count: int, surge: int, order: str
) -> None:
    plan, before, after = VERBS[verb]
    config = UpdateConfig(parallelism=surge, order=order)
    start = running(count, before, replace(WEB, update=config, rollback=config))
    # Of nothing there is nothing to be restarted; all others bring up what the file says.
    wanted = COUNT_AFTER.get(verb, count or (0 if verb == "restart" else WEB.replicas))
    for killed_after in range(len(plan(start).steps) + 1):
        engine = SimulatedEngine(start)
        try:
            assert engine.run(plan(start), killed_after=killed_after) is None
        except Killed:
            engine = SimulatedEngine(engine.snapshot, served=engine.served, totals=engine.totals)
            assert engine.run(plan(now(engine, start))) is None
        assert_all(engine, wanted, after)
        if order == "start-first":
            assert min(engine.served, default=count) >= min(count, wanted)
            assert max(engine.totals, default=0) <= max(count, wanted) + surge


@pytest.mark.parametrize("verb", ["up", "rollout", "rollback", "restart"])
@pytest.mark.parametrize("count", range(1, 5))
@pytest.mark.parametrize("surge", [1, 2, 3])
def test_whichever_wait_fails_the_whole_service_is_what_it_was(
    verb: str, count: int, surge: int
) -> None:
    plan, before, _ = VERBS[verb]
    start = running(count, before, with_config(parallelism=surge))
    waits = 0
    while True:
        waits += 1
        engine = SimulatedEngine(start, fails_at=frozenset({waits}))
        failure = engine.run(plan(start))
        if engine.waits < waits:
            break
        assert failure is not None
        assert "failed" in str(failure)
        assert_all(engine, count, before)
        # One that dies with traffic is missing until another has taken its place.
        assert min(engine.served) >= count - 1
        assert max(engine.totals) <= count + surge + 1
    assert waits > 1


@pytest.mark.parametrize("count", range(1, 5))
@pytest.mark.parametrize("surge", [1, 2, 3])
def test_a_rollout_whose_every_wait_fails_stops_and_the_next_good_one_puts_it_right(
    count: int, surge: int
) -> None:
    """Also killed at every point of its way back."""
    start = running(count, "old", with_config(parallelism=surge))
    for first in range(1, 2 * count + 1):
        broken = frozenset(range(first, first + 20))
        engine = SimulatedEngine(start, fails_at=broken)
        failure = engine.run(rollout(start))
        if failure is None:
            continue
        for killed_after in range(engine.ran + 1):
            other = SimulatedEngine(start, fails_at=broken)
            try:
                other.run(rollout(start), killed_after=killed_after)
            except Killed:
                assert min(other.served, default=count) >= count - 2
            good = SimulatedEngine(other.snapshot)
            assert good.run(rollout(now(good, start))) is None
            assert_all(good, count, "new")


def test_a_rollback_that_fails_stops_and_says_so() -> None:
    start = running(3, "old", WEB)
    # The second new one fails, and so does the old one that is to take the first one's place.
    engine = SimulatedEngine(start, fails_at=frozenset({3, 4}))
    failure = engine.run(rollout(start))
    assert failure is not None
    assert "going back failed, too, and stops here" in str(failure)
    assert min(engine.served) == 3


def test_failures_within_max_failure_ratio_are_tried_again() -> None:
    start = running(4, "old", with_config(max_failure_ratio=0.5))
    engine = SimulatedEngine(start, fails_at=frozenset({1, 4}))
    assert engine.run(rollout(start)) is None
    assert_all(engine, 4, "new")
    engine = SimulatedEngine(start, fails_at=frozenset({1, 2, 3}))
    assert engine.run(rollout(start)) is not None
    assert_all(engine, 4, "old")


def test_failure_action_continue_goes_on_with_the_others_and_fails_in_the_end() -> None:
    start = running(4, "old", with_config(failure_action=CONTINUE))
    engine = SimulatedEngine(start, fails_at=frozenset({1, 4}))
    failure = engine.run(rollout(start))
    assert "2 of 4 stay as they were" in str(failure)
    assert sorted(r.revision for r in engine.snapshot.of("web")) == ["new", "new", "old", "old"]
    assert min(engine.served) == 4


@pytest.mark.parametrize("count", range(1, 5))
@pytest.mark.parametrize("order", ["start-first", STOP_FIRST])
@pytest.mark.parametrize("bad_but_ready", [False, True])
def test_failure_action_continue_always_ends_with_as_many_as_wanted(
    count: int, order: str, bad_but_ready: bool
) -> None:
    start = running(count, "old", with_config(failure_action=CONTINUE, order=order))
    for first in range(1, 2 * count + 2):
        for more in (0, 1, 20):
            engine = SimulatedEngine(
                start,
                fails_at=frozenset(range(first, first + 1 + more)),
                bad_but_ready=bad_but_ready,
            )
            failure = engine.run(rollout(start))
            if engine.waits < first:
                continue
            assert failure is not None
            mine = engine.snapshot.of("web")
            if "stops here" not in str(failure):
                assert [r.is_ready for r in mine] == [True] * count, str(failure)
                assert len(engine.snapshot.routing["web:8000"].targets) == count
                assert not engine.bad & {r.id for r in mine}


def test_a_replica_that_answers_5xx_is_the_first_to_go() -> None:
    start = running(3, "old", with_config(max_failure_ratio=0.4))
    # The watch after the first batch.
    engine = SimulatedEngine(start, fails_at=frozenset({2}), bad_but_ready=True)
    assert engine.run(rollout(start)) is None
    assert_all(engine, 3, "new")
    assert not engine.bad & {r.id for r in engine.snapshot.of("web")}


def test_going_back_from_a_pause_or_an_interruption_takes_the_new_ones_away() -> None:
    start = running(3, "old", WEB)
    engine = SimulatedEngine(start)
    with pytest.raises(Killed):
        engine.run(rollout(start), killed_after=8)
    old = replace(WEB, revision="old")
    back = replace(now(engine, start), services=(PROXY, old))
    assert engine.run(rollback(back)) is None
    assert_all(engine, 3, "old")


def test_a_rollback_notes_last_what_it_has_left() -> None:
    start = running(2, "new", replace(WEB, revision="old"))
    plan = texts(rollback(start))
    assert not plan[0].startswith("docker tag")
    assert plan[-1] == "docker tag p-web:new p-web:previous"


def test_what_an_unfinished_rollout_was_replacing_is_what_is_gone_back_to() -> None:
    # "old" has served, "bad" was paused, and now its mended sources are rolled out.
    mixed = [replica(1, revision="old"), replica(2, revision="bad"), replica(3, revision="bad")]
    start = snapshot_of(mixed, [1, 2, 3])
    known = (Revision("bad", ""), Revision("old", "", is_previous=True))
    start = replace(start, revisions={"web": known})
    assert not any("docker tag" in text for text in texts(rollout(start)))
    engine = SimulatedEngine(start, fails_at=frozenset({1}))
    assert "all 3 are of revision old again" in str(engine.run(rollout(start)))
    assert_all(engine, 3, "old")


def test_an_image_that_was_made_for_a_rollout_that_failed_is_forgotten() -> None:
    start = running(2, "old", WEB)
    wanted = Wanted(revisions={"web": "new"}, to_build=("web",))
    plan = compose_plans.rollout(start, ["web"], wanted, COMPOSE)
    assert plan.recover
    back = plan.recover(ReplicaFailed("web", "p-web-3 failed"), start)
    assert back
    assert texts(back)[-1] == "docker rmi p-web:new"
    # One that was there before stays.
    plan = rollout(start)
    assert plan.recover
    back = plan.recover(ReplicaFailed("web", "p-web-3 failed"), start)
    assert back
    assert not any("rmi" in text for text in texts(back))


def test_a_migration_that_failed_is_run_again_before_anything_else() -> None:
    migrate = Service("migrate", config_hash="new")
    failed = Replica("m", "p-migrate-1", "migrate", 1, EXITED, config_hash="new", exit_code=1)
    web = replace(WEB, needs=("migrate",), conditions={"migrate": "service_completed_successfully"})
    start = running(2, "old", web)
    start = replace(start, services=(PROXY, web, migrate), replicas=(*start.replicas, failed))
    for plan in (rollout(start), up(start)):
        assert "--exit-code-from migrate migrate" in texts(plan)[0]


def test_what_is_dead_leaves_the_list_before_its_name_is_free_again() -> None:
    start = snapshot_of([replica(1), replica(2, state=EXITED)], [1, 2])
    plan = texts(scale_to(2)(start))
    assert plan[:2] == [
        "docker exec p-proxy-1 proxy targets --awaiting 1 web:8000 p-web-1",
        "docker rm p-web-2",
    ]


def test_ill_replicas_keep_their_traffic_until_new_ones_are_ready_and_go_first() -> None:
    ill = [replica(n, state=UNHEALTHY, revision="old") for n in (1, 2, 3)]
    start = snapshot_of([*ill[:2], replica(3, revision="old")], [1, 2, 3])
    engine = SimulatedEngine(start)
    assert engine.run(rollout(start)) is None
    assert_all(engine, 3, "new")
    assert max(engine.totals) == 4
    plan = texts(rollout(snapshot_of(ill, [1, 2, 3])))
    assert "docker exec p-proxy-1 proxy targets web:8000 p-web-2 p-web-3 p-web-4" in plan


def test_a_hook_that_nobody_knows_to_have_run_makes_its_replica_anew() -> None:
    web = replace(WEB, post_start=(Hook(("warm",)),))
    start = snapshot_of([replica(1, revision="old"), replica(2)], [1], web=web)
    wanted = Wanted(revisions={"web": "new"}, runs_post_start=True)
    plan = texts(compose_plans.rollout(start, ["web"], wanted, COMPOSE))
    assert "docker rm p-web-2" in plan[:3]


def test_failure_action_pause_leaves_everything_as_it_is() -> None:
    start = running(3, "old", with_config(failure_action=PAUSE))
    engine = SimulatedEngine(start, fails_at=frozenset({3}))
    failure = engine.run(rollout(start))
    assert "paused" in str(failure)
    assert sorted(r.revision for r in engine.snapshot.of("web")) == ["new", "new", "old", "old"]
    assert len(engine.snapshot.routing["web:8000"].targets) == 3
    # And it can go on, or back.
    engine = SimulatedEngine(engine.snapshot)
    assert engine.run(rollout(now(engine, start))) is None
    assert_all(engine, 3, "new")
