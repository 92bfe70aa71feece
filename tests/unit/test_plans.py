"""The plans of the verbs: their text, and that they are safe at every point."""

from dataclasses import replace

import pytest

from stack.engines import compose_plans, compose_up
from stack.engines.images import Wanted
from stack.errors import StackError
from stack.model import (
    EXITED,
    PAUSED,
    RESTARTING,
    STARTING,
    UNHEALTHY,
    Replica,
    Revision,
    Service,
    Snapshot,
)
from stack.plan import Plan
from stack.reconcile import running_revision
from tests.unit.simulation import PROXY, PROXY_REPLICA, WEB, SimulatedEngine, replica, snapshot_of

COMPOSE = ("docker", "compose")


def scale(snapshot: Snapshot, count: int) -> Plan:
    wanted = Wanted(revisions={"web": "new"})
    return compose_plans.scale(snapshot, {"web": count}, wanted, COMPOSE, {"web": "new"})


def up(snapshot: Snapshot, count: int | None = None, **wanted: object) -> Plan:
    counts = {} if count is None else {"web": count}
    return compose_up.up(snapshot, replace(Wanted(counts), **wanted), COMPOSE)  # type: ignore[arg-type]


def commands(plan: Plan) -> list[str]:
    return [step.text() for step in plan.steps]


def test_scaling_up_makes_then_waits_then_routes() -> None:
    plan = scale(snapshot_of([replica(1), replica(2)], [1, 2]), 4)
    assert commands(plan) == [
        "WEB_REVISION=new docker compose up --detach --no-build --no-deps --no-recreate "
        "--scale web=4 web",
        'until [ "$(docker ps -q --filter label=com.docker.compose.project=p --filter '
        'label=com.docker.compose.service=web --filter health=healthy | wc -l)" -ge 4 ]; '
        "do sleep 0.5; done",
        "docker exec p-proxy-1 proxy targets web:8000 p-web-1 p-web-2 p-web-3 p-web-4",
    ]


def test_scaling_down_routes_away_then_drains_then_stops_the_highest_numbers() -> None:
    plan = scale(snapshot_of([replica(1), replica(2), replica(5)], [1, 2, 5]), 1)
    assert commands(plan) == [
        "docker exec p-proxy-1 proxy targets web:8000 p-web-1",
        "docker exec p-proxy-1 proxy drain 10 p-web-2 p-web-5",
        "docker stop -t 10 p-web-2 p-web-5",
        "docker rm p-web-2 p-web-5",
    ]


def test_scaling_to_what_is_there_is_an_empty_plan() -> None:
    assert scale(snapshot_of([replica(1), replica(2)], [1, 2]), 2).steps == ()


def test_every_step_says_why() -> None:
    plan = up(snapshot_of([replica(1, revision="old"), replica(2, state=EXITED)], None), 3)
    assert plan.steps
    assert all(step.why for step in plan.steps)


def test_scaling_down_keeps_those_that_serve_whatever_their_numbers() -> None:
    ill = [replica(1, state=UNHEALTHY), replica(2), replica(3, state=PAUSED), replica(4)]
    plan = scale(snapshot_of(ill, [2, 4]), 2)
    assert commands(plan) == [
        "docker unpause p-web-3",
        "docker exec p-proxy-1 proxy drain 10 p-web-1 p-web-3",
        "docker stop -t 10 p-web-1 p-web-3",
        "docker rm p-web-1 p-web-3",
    ]


@pytest.mark.parametrize("state", [UNHEALTHY, PAUSED, RESTARTING])
def test_a_broken_replica_is_replaced_though_it_has_traffic(state: str) -> None:
    start = snapshot_of([replica(1), replica(2, state=state), replica(3)], [1, 2])
    # The healthy one that has no traffic takes its place.
    assert "docker rm p-web-2" in commands(scale(start, 2))
    assert not any("--scale" in text for text in commands(scale(start, 2)))
    engine = SimulatedEngine(snapshot_of([replica(1), replica(2, state=state)], [1, 2]))
    engine.run(scale(engine.snapshot, 2))
    assert_wanted(engine, 2)


def test_a_listed_replica_that_is_starting_again_leaves_the_list_before_it_is_drained() -> None:
    # For a moment it has no address; in the next it may have traffic.
    again = replace(replica(2, state=RESTARTING), addresses=())
    texts = commands(scale(snapshot_of([replica(1), again], [1, 2]), 1))
    assert [text.partition(" proxy ")[2] for text in texts][:2] == [
        "targets web:8000 p-web-1",
        "drain 10 p-web-2",
    ]


def test_up_replaces_a_replica_that_has_died() -> None:
    engine = SimulatedEngine(snapshot_of([replica(1), replica(2, state=EXITED)], [1, 2]))
    engine.run(up(engine.snapshot))
    assert_wanted(engine, 2)


def test_a_replica_that_is_ready_but_has_no_traffic_gets_it() -> None:
    plan = scale(snapshot_of([replica(1), replica(2)], [1]), 2)
    assert commands(plan) == [
        "docker exec p-proxy-1 proxy targets web:8000 p-web-1 p-web-2",
    ]


def test_a_target_that_does_not_exist_is_taken_off_the_list() -> None:
    plan = scale(snapshot_of([replica(1)], [1, 9]), 1)
    assert commands(plan) == ["docker exec p-proxy-1 proxy targets web:8000 p-web-1"]


def test_dead_containers_are_removed_before_compose_could_start_them() -> None:
    plan = scale(snapshot_of([replica(1), replica(2, state=EXITED)], [1]), 2)
    assert commands(plan)[:2] == [
        "docker rm p-web-2",
        "WEB_REVISION=new docker compose up --detach --no-build --no-deps --no-recreate "
        "--scale web=2 web",
    ]


def test_scaling_to_none_leaves_an_empty_list() -> None:
    plan = scale(snapshot_of([replica(1)], [1]), 0)
    assert commands(plan)[0] == "docker exec p-proxy-1 proxy targets web:8000"


def test_new_replicas_are_of_the_revision_that_has_the_traffic() -> None:
    mixed = [replica(1, revision="old"), replica(2, revision="old"), replica(3)]
    assert running_revision(snapshot_of(mixed, [1, 2]), "web") == "old"
    assert running_revision(snapshot_of(mixed, [3]), "web") == "new"
    assert running_revision(snapshot_of([], []), "web") is None


def test_more_of_an_older_revision_are_made_with_the_settings_in_its_image() -> None:
    start = snapshot_of([replica(1, revision="old")], [1], web=replace(WEB, revision="old"))
    known = {"web": (Revision("new", ""), Revision("old", "", has_settings=True))}
    wanted = Wanted(revisions={"web": "old"})
    plan = compose_plans.scale(
        replace(start, revisions=known), {"web": 2}, wanted, COMPOSE, {"web": "new"}
    )
    assert commands(plan)[0] == (
        "docker image inspect --format '{{index .Config.Labels \"stack.settings\"}}' p-web:old | "
        "base64 -d | WEB_REVISION=old docker compose --file - up --detach --no-build --no-deps "
        "--no-recreate --scale web=2 web"
    )


def test_replicas_that_an_interrupted_up_has_left_do_not_get_traffic_by_a_scale() -> None:
    start = [replica(1, revision="old"), replica(2, revision="old"), replica(3), replica(4)]
    wanted = Wanted(revisions={"web": "old"})
    plan = compose_plans.scale(
        snapshot_of(start, [1, 2], web=replace(WEB, revision="old")),
        {"web": 3},
        wanted,
        COMPOSE,
        {"web": "old"},
    )
    assert any(
        text.endswith("proxy targets web:8000 p-web-1 p-web-2 p-web-3") for text in commands(plan)
    )
    # They go first: so there are never more than can be of use.
    assert "docker rm p-web-3 p-web-4" in commands(plan)[:3]


def test_scaling_a_stack_that_is_not_up_says_how_to_start_it() -> None:
    with pytest.raises(StackError, match="python -m stack up web=2"):
        scale(Snapshot("p", (PROXY, WEB)), 2)


def test_the_first_up_starts_the_proxy_when_the_replicas_are_ready() -> None:
    assert commands(up(Snapshot("p", (PROXY, WEB)), revisions={"web": "r1"})) == [
        "WEB_REVISION=r1 docker compose up --detach --no-build --no-recreate --scale web=2 web",
        'until [ "$(docker ps -q --filter label=com.docker.compose.project=p --filter '
        'label=com.docker.compose.service=web --filter health=healthy | wc -l)" -ge 2 ]; '
        "do sleep 0.5; done",
        "WEB_REVISION=r1 docker compose up --detach --no-build --no-deps proxy",
        'until [ "$(docker ps -q --filter label=com.docker.compose.project=p --filter '
        'label=com.docker.compose.service=proxy --filter health=healthy | wc -l)" -ge 1 ]; '
        "do sleep 0.5; done",
        "docker exec p-proxy-1 proxy targets web:8000 p-web-1 p-web-2",
    ]


def test_up_on_a_stack_that_is_up_is_an_empty_plan() -> None:
    snapshot = snapshot_of([replica(1), replica(2)], [1, 2])
    assert up(snapshot, proxy_config="b").steps == ()


def test_up_keeps_the_number_of_replicas_that_runs() -> None:
    snapshot = snapshot_of([replica(n) for n in (1, 2, 3, 4, 5)], [1, 2, 3, 4, 5])
    assert up(snapshot).steps == ()


def test_up_after_a_plain_compose_up_only_writes_the_list() -> None:
    plan = up(snapshot_of([replica(1), replica(2)], None))
    assert commands(plan) == ["docker exec p-proxy-1 proxy targets web:8000 p-web-1 p-web-2"]


def test_a_changed_proxy_configuration_is_installed_into_the_running_proxy() -> None:
    snapshot = replace(
        snapshot_of([replica(1), replica(2)], [1, 2]),
        services=(replace(PROXY, build_context="proxy"), WEB),
    )
    plan = up(snapshot, proxy_config="other", revisions={"proxy": "a-b"})
    assert commands(plan) == ["tar -c -C proxy/conf . | docker exec -i p-proxy-1 proxy configure"]


def test_a_changed_proxy_program_replaces_its_container_and_nothing_else() -> None:
    snapshot = replace(
        snapshot_of([replica(1), replica(2)], [1, 2]),
        services=(replace(PROXY, config_hash="changed"), WEB),
    )
    plan = up(snapshot, proxy_config="b", revisions={"proxy": "c-b"})
    assert commands(plan)[0] == (
        "PROXY_REVISION=c-b docker compose up --detach --no-build --no-deps proxy"
    )
    # A new container starts with DNS, so that it gets its list again.
    assert commands(plan)[-1].endswith("proxy targets web:8000 p-web-1 p-web-2")


def test_compose_never_gets_to_choose_how_many_routed_replicas_there_are() -> None:
    database = Service("db", config_hash="d")
    snapshot = snapshot_of([replica(n) for n in (1, 2, 3, 4)], [1, 2, 3, 4])
    plan = up(replace(snapshot, services=(database, PROXY, WEB)))
    assert commands(plan)[0] == (
        "docker compose up --detach --no-build --no-recreate --scale db=1 --scale web=4 db web"
    )


def test_what_routed_replicas_need_is_renewed_before_new_ones_are_made() -> None:
    database = Service("db", config_hash="new")
    old = Replica("d", "p-db-1", "db", 1, config_hash="old", state="healthy")
    snapshot = snapshot_of([replica(n, revision="old") for n in (1, 2, 3)], [1, 2, 3])
    snapshot = replace(
        snapshot, services=(database, PROXY, WEB), replicas=(*snapshot.replicas, old)
    )
    assert commands(up(snapshot))[:2] == [
        "docker compose up --detach --no-build db",
        "docker compose up --detach --no-build --no-deps --no-recreate --scale web=4 web",
    ]


def test_renewing_a_service_never_reaches_the_routed_ones_that_it_depends_on() -> None:
    worker = Service("worker", config_hash="new", depends_on=("queue",), needs=("queue", "web"))
    queue = Service("queue", config_hash="q", depends_on=("web",))
    there = [
        Replica("w", "p-worker-1", "worker", 1, "healthy", config_hash="old"),
        Replica("q", "p-queue-1", "queue", 1, "healthy", config_hash="q"),
    ]
    snapshot = snapshot_of([replica(1), replica(2)], [1, 2])
    snapshot = replace(
        snapshot,
        services=(PROXY, queue, WEB, worker),
        replicas=(*snapshot.replicas, *there),
    )
    assert commands(up(snapshot)) == ["docker compose up --detach --no-build --no-deps worker"]


def test_the_first_up_does_not_wait_for_a_one_shot_service_to_be_healthy() -> None:
    init = Service("init", has_health_check=False)
    texts = commands(up(Snapshot("p", (init, PROXY, WEB))))
    assert not any("service=init" in text for text in texts)


def test_the_first_list_is_written_before_dns_could_know_new_replicas() -> None:
    plan = up(snapshot_of([replica(1, revision="old"), replica(2, revision="old")], None))
    assert commands(plan)[0] == "docker exec p-proxy-1 proxy targets web:8000 p-web-1 p-web-2"


def test_a_new_proxy_gets_all_its_lists_again() -> None:
    shop = Service("shop", replicas=1, port=9000, config_hash="s")
    start = snapshot_of([replica(1, revision="old"), replica(2, revision="old")], [1, 2])
    services = (replace(PROXY, config_hash="changed"), shop, WEB)
    texts = commands(up(replace(start, services=services), revisions={"proxy": "c-b"}))
    renew = texts.index("PROXY_REVISION=c-b docker compose up --detach --no-build --no-deps proxy")
    # The replicas that the old proxy knows are drained while it still runs.
    assert texts.index("docker rm p-web-1") < texts.index("docker rm p-web-2") < renew
    assert "docker exec p-proxy-1 proxy targets web:8000 p-web-3 p-web-4" in texts[:renew]
    assert "docker exec p-proxy-1 proxy targets web:8000 p-web-3 p-web-4" in texts[renew:]
    assert "docker exec p-proxy-1 proxy targets shop:9000 p-shop-1" in texts[renew:]
    assert not any("shop:9000" in text for text in texts[:renew])


def test_a_one_shot_service_that_has_done_its_work_is_not_run_again() -> None:
    init = Service("init", config_hash="i")
    done = Replica("i", "p-init-1", "init", 1, EXITED, config_hash="i", started_at=5.0)
    snapshot = snapshot_of([replica(1), replica(2)], [1, 2])
    snapshot = replace(snapshot, services=(init, PROXY, WEB), replicas=(*snapshot.replicas, done))
    assert up(snapshot).steps == ()


def test_down_removes_the_volumes_without_value_and_names_those_it_keeps() -> None:
    snapshot = snapshot_of([replica(1)], [1])
    volumes = {"p_data": False, "p_proxy-state": True}
    plan = compose_plans.down(
        snapshot, {"p_web": True, "p_shop": False}, volumes, COMPOSE, with_volumes=False
    )
    assert commands(plan) == [
        "docker compose --profile '*' down --remove-orphans",
        "docker network rm p_shop",
        "docker volume rm p_proxy-state",
    ]
    assert "p_data" in plan.notes[0]


@pytest.mark.parametrize("state", [EXITED, RESTARTING])
def test_a_proxy_that_does_not_serve_is_made_anew_and_gets_its_lists(state: str) -> None:
    snapshot = snapshot_of([replica(1), replica(2)], [1, 2])
    dead = replace(PROXY_REPLICA, state=state)
    snapshot = replace(snapshot, replicas=(*snapshot.replicas[:-1], dead))
    texts = commands(up(snapshot))
    anew = " --force-recreate" if state == RESTARTING else ""
    assert texts[0] == f"docker compose up --detach --no-build --no-deps{anew} proxy"
    assert texts[-1] == "docker exec p-proxy-1 proxy targets web:8000 p-web-1 p-web-2"


def test_a_broken_first_start_is_mended_by_the_next_up() -> None:
    broken = [
        replica(1, state=UNHEALTHY, revision="old"),
        replica(2, state=RESTARTING, revision="old"),
    ]
    snapshot = replace(snapshot_of(broken, None), routing={})
    snapshot = replace(snapshot, replicas=snapshot.replicas[:-1])
    texts = commands(up(snapshot))
    # Nobody can have sent them anything: they go, and the proxy starts when new ones are ready.
    assert texts[:2] == ["docker stop -t 10 p-web-1 p-web-2", "docker rm p-web-1 p-web-2"]
    assert "--scale web=2 web" in texts[2]
    assert texts[-1] == "docker exec p-proxy-1 proxy targets web:8000 p-web-1 p-web-2"


def test_containers_of_services_that_are_gone_are_named() -> None:
    orphan = Replica("s", "p-shop-1", "shop", 1, "healthy")
    snapshot = snapshot_of([replica(1), replica(2)], [1, 2])
    plan = up(replace(snapshot, replicas=(*snapshot.replicas, orphan)))
    assert plan.steps == ()
    assert "docker rm -f p-shop-1" in plan.notes[0]


def test_a_down_killed_after_any_step_finishes_when_run_again() -> None:
    networks, volumes = {"p_shop": False}, {"p_proxy-state": True}
    # Compose has removed containers, and the networks that it knows.
    after = compose_plans.down(Snapshot("p"), networks, volumes, COMPOSE, with_volumes=False)
    assert commands(after)[-2:] == ["docker network rm p_shop", "docker volume rm p_proxy-state"]
    after = compose_plans.down(Snapshot("p"), {}, volumes, COMPOSE, with_volumes=False)
    assert commands(after) == ["docker volume rm p_proxy-state"]


def test_down_of_nothing_is_an_empty_plan() -> None:
    assert compose_plans.down(Snapshot("p"), {}, {}, COMPOSE, with_volumes=True).steps == ()


def test_a_proxy_that_has_just_started_is_awaited_before_it_gets_its_first_list() -> None:
    snapshot = snapshot_of([replica(1), replica(2)], None)
    starting = replace(PROXY_REPLICA, state=STARTING)
    snapshot = replace(snapshot, replicas=(*snapshot.replicas[:-1], starting))
    texts = commands(scale(snapshot, 3))
    assert "service=proxy" in texts[0]
    assert texts[1].endswith("proxy targets --awaiting 1 web:8000 p-web-1 p-web-2")
    assert "--scale web=3" in texts[2]


@pytest.mark.parametrize("state", [STARTING, UNHEALTHY, PAUSED, EXITED])
def test_a_replica_that_does_not_serve_never_gets_traffic(state: str) -> None:
    start = snapshot_of([replica(1), replica(2), replica(3, state=state)], [1, 2])
    engine = SimulatedEngine(start)
    engine.run(scale(start, 2))
    assert_wanted(engine, 2)


def assert_wanted(engine: SimulatedEngine, count: int) -> None:
    """N ready replicas of one revision, all listed, and nothing left over."""
    mine = engine.snapshot.of("web")
    assert len(mine) == count
    assert all(replica.is_ready and replica.revision == "new" for replica in mine)
    assert all(engine.snapshot.routes_to(replica) for replica in mine)
    assert len(engine.snapshot.routing["web:8000"].targets) == count
    assert PROXY_REPLICA in engine.snapshot.replicas
    assert up(engine.snapshot).steps == ()
