"""The manager is killed or told to stop, under load: nothing is lost, and it can go on."""

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.harness import Stack, background
from tests.e2e.lab import (
    Oracle,
    assert_whole,
    new_revision,
    on_every_replica,
    short_grace,
    wait_for_step,
    work,
)


def test_a_rollout_killed_after_any_step_is_finished_by_running_it_again(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=1")
    with oracle(lab, rate=90) as result:
        step, total = 0, 1
        while step < total:
            step += 1
            new_revision(lab)
            with background(lab, "rollout") as process:
                assert process.stderr
                total = wait_for_step(process.stderr, step)
                process.send_signal(signal.SIGKILL)
                process.wait()
            lab.run("--lock-wait", "60", "rollout")
            assert_whole(lab, 1)
            assert len(lab.containers("web")) == 1
    assert total > 8
    result.assert_nothing_lost()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_rollout_between_two_steps(
    lab: Stack, oracle: Oracle, number: signal.Signals, code: int
) -> None:
    new_revision(lab)
    with oracle(lab) as result:
        with background(lab, "rollout") as process:
            assert process.stderr
            wait_for_step(process.stderr, 3)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
            assert process.returncode == code
            assert "stopping after this step" in said
            assert re.search(r"web: [12] of revision \w+", said), said
            assert "run the same command again" in said
        lab.run("rollout")
        assert_whole(lab, 2)
    result.assert_nothing_lost()


def test_a_second_signal_stops_at_once(lab: Stack, oracle: Oracle) -> None:
    new_revision(lab)
    with oracle(lab) as result:
        with ThreadPoolExecutor(2) as pool, background(lab, "rollout") as process:
            slow = [pool.submit(work, lab, 5_000) for _ in range(2)]
            assert process.stderr
            # The drain: it waits for the slow requests.
            while "proxy drain" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)  # two at the very same moment are one
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            process.wait(30)
            assert time.monotonic() - began < 2
            assert [future.result().status_code for future in slow] == [200, 200]
        lab.run("rollout")
        assert_whole(lab, 2)
    result.assert_nothing_lost()


def test_what_explain_prints_of_a_rollout_can_be_typed(lab: Stack, oracle: Oracle) -> None:
    new_revision(lab)
    with oracle(lab) as result:
        script = lab.run("--explain", "rollout")
        lab.shell(script)
        assert_whole(lab, 2)
        assert "Nothing to do" in lab.try_run("rollout").stderr
    result.assert_nothing_lost()


def test_a_long_poll_or_a_websocket_does_not_hold_a_scale_down_for_ever(
    lab: Stack, oracle: Oracle
) -> None:
    lab.run("scale", "web=2")
    with ThreadPoolExecutor() as pool:
        polls = on_every_replica(lab, pool, 16_000, "POST")
        with oracle(lab) as result, short_grace(lab):
            began = time.monotonic()
            lab.run("scale", "web=1", "--drain-timeout", "2")
            took_s = time.monotonic() - began
        # The drain, the grace, and what the steps take; the polls take 16 s.
        assert took_s < 12
        assert_whole(lab, 1)
        result.assert_nothing_lost()
        assert {future.result().status_code for future in polls} == {200, 502}
