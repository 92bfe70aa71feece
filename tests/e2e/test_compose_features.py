"""What else a Compose file can say: hooks, one-shot services, profiles, update_config."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Stack, copy_sources
from tests.e2e.lab import new_revision

WITH_MORE = """
  migrate:
    <<: *hardened
    restart: "no"
    image: ${COMPOSE_PROJECT_NAME}-web:${WEB_REVISION:-dev}
    command: [python3, -c, "print('migrated')"]
    networks: [web]
  tools:
    <<: *hardened
    image: ${COMPOSE_PROJECT_NAME}-web:${WEB_REVISION:-dev}
    command: [sleep, infinity]
    profiles: [tools]
    networks: [web]
"""
HOOKS = """    depends_on:
      migrate: {condition: service_completed_successfully}
    post_start:
      - command: [sh, -c, 'echo "$$GREETING" > /tmp/greeting']
        environment: [GREETING=hello]
    pre_stop:
      - command: [sh, -c, 'test "$$(cat /tmp/greeting)" = hello && test ! -e /tmp/stay']
"""


@pytest.fixture(scope="module")
def rich_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(directory=copy_sources(tmp_path_factory.mktemp("rich") / "stack"))
    compose = stack.directory / "compose.yaml"
    text = compose.read_text()
    text = text.replace("\nservices:\n", f"\nservices:{WITH_MORE}\n", 1)
    text = text.replace(
        "    networks: [web]\n    deploy:\n", f"    networks: [web]\n{HOOKS}    deploy:\n"
    )
    compose.write_text(text)
    try:
        stack.run("up")
        yield stack
    finally:
        stack.remove()


def greetings(stack: Stack) -> list[object]:
    return [
        container.exec_run(["cat", "/tmp/greeting"]).output  # noqa: S108 - in the container
        for container in stack.containers("web")
    ]


def test_hooks_run_once_in_each_new_replica_and_before_each_old_one_stops(
    rich_stack: Stack,
) -> None:
    assert greetings(rich_stack) == [b"hello\n"] * 2
    rich_stack.run("scale", "web=3")
    assert greetings(rich_stack) == [b"hello\n"] * 3
    # A pre_stop that fails keeps its replica, without traffic, and says so.
    for container in rich_stack.containers("web"):
        container.exec_run(["touch", "/tmp/stay"])  # noqa: S108 - in the container
    done = rich_stack.try_run("scale", "web=2")
    assert done.returncode == 1
    assert "test ! -e /tmp/stay" in done.stderr
    assert len(rich_stack.containers("web")) == 3
    for container in rich_stack.containers("web"):
        container.exec_run(["rm", "/tmp/stay"])  # noqa: S108 - in the container
    rich_stack.run("scale", "web=2")
    assert len(rich_stack.containers("web")) == 2


def test_a_one_shot_service_runs_to_its_end_before_a_new_revision_starts(rich_stack: Stack) -> None:
    (before,) = rich_stack.containers("migrate")
    assert (before.status, before.attrs["State"]["ExitCode"]) == ("exited", 0)
    new_revision(rich_stack)
    rich_stack.run("rollout")
    (after,) = rich_stack.containers("migrate")
    assert (after.status, after.attrs["State"]["ExitCode"]) == ("exited", 0)
    web = rich_stack.containers("web")
    assert after.attrs["Config"]["Image"] == web[0].attrs["Config"]["Image"]
    assert after.attrs["Config"]["Image"] != before.attrs["Config"]["Image"]
    ended = after.attrs["State"]["FinishedAt"]
    assert all(container.attrs["Created"] > ended for container in web)
    assert greetings(rich_stack) == [b"hello\n"] * 2
    assert "Nothing to do" in rich_stack.try_run("up").stderr


def test_a_migration_that_fails_ends_a_rollout_before_anything_is_replaced(
    rich_stack: Stack,
) -> None:
    before = {container.id for container in rich_stack.containers("web")}
    rich_stack.edit("compose.yaml", "print('migrated')", "raise SystemExit('cannot migrate')")
    new_revision(rich_stack)
    done = rich_stack.try_run("rollout")
    rich_stack.edit("compose.yaml", "raise SystemExit('cannot migrate')", "print('migrated')")
    assert done.returncode == 1
    assert "cannot migrate" in done.stderr
    assert {container.id for container in rich_stack.containers("web")} == before
    rich_stack.run("up")


def test_services_of_profiles_run_when_the_profile_is_active_and_go_with_the_rest(
    rich_stack: Stack,
) -> None:
    assert rich_stack.containers("tools") == []
    done = rich_stack.try_run("up", COMPOSE_PROFILES="tools")
    assert done.returncode == 0, done.stderr
    assert len(rich_stack.containers("tools")) == 1
    rich_stack.run("down")
    assert rich_stack.containers() == []


def test_update_config_sets_how_many_at_a_time_and_what_a_failure_does(
    tmp_path: Path, stack: Stack
) -> None:
    stack.directory = copy_sources(tmp_path / "stack")
    config = (
        "update_config: {parallelism: 1, order: start-first, monitor: 2s, failure_action: rollback}"
    )
    stack.edit("compose.yaml", config, "update_config: {parallelism: 2, monitor: 1s, delay: 1s}")
    stack.run("up", "web=4")
    new_revision(stack)
    said = stack.try_run("rollout").stderr
    assert said.count("make 2 more") == 2
    assert "sleep 1;" in said
    # An image that cannot start, and a file that says to wait for somebody to look at it.
    stack.edit("compose.yaml", "delay: 1s", "failure_action: pause")
    stack.edit("web/app/api.py", "import os\n", "import no_such_module\n")
    done = stack.try_run("rollout")
    assert done.returncode == 1
    assert "paused, as failure_action says" in done.stderr
    states = [(row["routed"], row["revision"]) for row in stack.web()]
    assert sorted(routed for routed, _ in states) == [False, False, True, True, True, True]
    stack.run("rollback", "web", next(revision for routed, revision in states if routed))
    assert [row["routed"] for row in stack.web()] == [True] * 4
