"""The live view in a real browser: what it shows while the stack changes is the truth.

SCREENSHOTS=1 writes the README's picture, docs/live-view.png, as well.
"""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.browser import launch
from tests.e2e.harness import ARTIFACTS, ROOT, Stack, background, copy_sources, crash, eventually

RATE = 20
# What the page sends at once: see load.js.
AT_ONCE = 5
# The page looks every 0.4 s, and tiles that are gone fade for 1.5 s.
SEEN_WITHIN_S = 3

TILES = """() => [...document.querySelectorAll(".replica")].map((tile) => ({
  id: tile.dataset.id,
  name: tile.querySelector(".name").textContent,
  revision: tile.querySelector(".revision").textContent,
  state: tile.dataset.state,
}))"""
# Every state that a tile ever shows, as it shows it.
KEEP_STATES = """() => {
  window.seen = [];
  const keep = () => {
    for (const tile of document.querySelectorAll(".replica")) {
      const one = `${tile.querySelector(".name").textContent} ${tile.dataset.state}`;
      if (!window.seen.includes(one)) window.seen.push(one);
    }
  };
  new MutationObserver(keep).observe(document.getElementById("replicas"),
    { subtree: true, childList: true, attributes: true, attributeFilter: ["data-state"] });
  keep();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is looked at, with sources of its own."""
    stack = Stack(directory=copy_sources(tmp_path_factory.mktemp("view") / "stack"))
    try:
        yield stack
    finally:
        stack.remove()


@pytest.fixture
def opened(browser: Browser, seen: Stack) -> Iterator[Callable[..., Page]]:
    """Opens the page; whatever it complains of, or asks from elsewhere, fails the test."""
    wrong: list[str] = []
    contexts = []
    may_fail = (f"{seen.url}/api/work", f"{seen.url}/stack/topology.json")

    def answered(response: Any) -> None:
        mine = response.url.startswith(seen.url)
        if not mine or (response.status >= 400 and not response.url.startswith(may_fail)):
            wrong.append(f"{response.status} {response.url}")

    def complained(said: Any) -> None:
        # That something could not be loaded is seen above, or counted by the page.
        if "Failed to load resource" not in said.text:
            wrong.append(said.text)

    def open_page(**options: Any) -> Page:
        seen.run("up", "web=2")
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 720}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("response", answered)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", complained)
        page.goto(seen.url)
        eventually(lambda: len(tiles(page)) == 2, "two tiles")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def tiles(page: Page) -> list[dict[str, str]]:
    return [tile for tile in page.evaluate(TILES) if tile["state"] != "gone"]


def as_told_by_ps(stack: Stack) -> set[tuple[str, str, str]]:
    """Name, revision and state of each replica; "draining" for who is asked for nothing more."""
    return {
        (row["name"].removeprefix(f"{stack.project}-"), row["revision"], row["state"])
        for row in stack.web()
    }


def as_shown(page: Page) -> set[tuple[str, str, str]]:
    return {(tile["name"], tile["revision"], tile["state"]) for tile in tiles(page)}


def number(page: Page, element: str) -> int:
    return int(page.locator(f"#{element}").inner_text())


def load(page: Page, rate: int, *, work_ms: int = 0, method: str = "GET") -> None:
    page.locator("#wanted").fill(str(rate))
    page.locator("select[name=work]").select_option(str(work_ms))
    page.get_by_label(method).check()
    page.get_by_role("button", name="Count anew").click()


def change_and_watch(stack: Stack, page: Page, *verb: str) -> int:
    """Run a verb. At each point in time, the tiles are what `ps` says, as soon as the page can
    know: how many different things `ps` has said meanwhile.
    """
    said: list[set[tuple[str, str, str]]] = []
    with background(stack, *verb) as process:
        over = False
        while not over:
            over = process.poll() is not None
            told, since = as_told_by_ps(stack), time.monotonic()
            while as_shown(page) != told:
                if time.monotonic() - since > SEEN_WITHIN_S:
                    # It may have changed meanwhile; what stays has to be seen.
                    assert as_told_by_ps(stack) != told, (as_shown(page), told)
                    break
                page.wait_for_timeout(50)
            if told not in said:
                said.append(told)
        assert process.wait() == 0, process.communicate()
    return len(said)


def test_scaling_and_a_rollout_are_shown_as_they_are_and_nothing_is_lost(
    seen: Stack, opened: Callable[..., Page]
) -> None:
    page = opened()
    load(page, RATE)
    page.evaluate(KEEP_STATES)
    old = seen.web()[0]["revision"]
    for count in (5, 2):
        assert change_and_watch(seen, page, "scale", f"web={count}") >= 2
    seen.edit("web/app/templates/index.html", "The stack runs", "The stack runs on")
    assert change_and_watch(seen, page, "rollout") >= 3

    new = seen.web()[0]["revision"]
    assert {tile["revision"] for tile in tiles(page)} == {new} != {old}
    states = {one.split()[1] for one in page.evaluate("seen")}
    assert {"starting", "healthy", "draining", "gone"} <= states
    assert states <= {"starting", "healthy", "draining", "gone"}, "nobody was ill"
    legend = page.locator("#legend").inner_text()
    assert old in legend
    assert new in legend
    assert "lost" not in legend
    assert "make 3 more" in page.locator("#marks").inner_text()
    load_ended(page)
    assert number(page, "sent") > 10 * RATE
    assert number(page, "lost") == 0


def load_ended(page: Page) -> None:
    """End the load, and wait for the last answers."""
    page.locator("#wanted").fill("0")
    page.wait_for_timeout(1000)


def test_what_is_lost_is_counted(seen: Stack, opened: Callable[..., Page]) -> None:
    page = opened()
    load(page, RATE, work_ms=500, method="POST")
    eventually(lambda: number(page, "sent") > RATE, "some are on their way")
    for container in seen.containers("web"):
        crash(container)
    eventually(lambda: number(page, "lost") > 0, "those that were in flight are lost")
    assert page.locator("#lost.some").is_visible()
    assert "lost: " in page.locator("#legend").inner_text()


def test_a_replica_that_is_stopped_by_hand_is_shown_as_silent(
    seen: Stack, opened: Callable[..., Page]
) -> None:
    page = opened()
    load(page, RATE)
    (first, _) = seen.web()
    name = first["name"].removeprefix(f"{seen.project}-")
    tile = page.locator(".replica", has_text=name)
    # No manager tells of it, so it has to be seen from the answers.
    seen.docker("stop", first["name"])
    eventually(lambda: "does not answer" in tile.inner_text(), "who says nothing")
    seen.docker("start", first["name"])
    eventually(lambda: "healthy" in tile.inner_text(), "it answers again")


def test_requests_that_wait_are_counted(seen: Stack, opened: Callable[..., Page]) -> None:
    page = opened()
    load(page, RATE)
    for row in seen.web():
        seen.docker("pause", row["name"])
    # No more than a browser sends at once, and the page goes on asking for news.
    eventually(lambda: number(page, "waiting") == AT_ONCE, "nobody answers")
    for row in seen.web():
        seen.docker("unpause", row["name"])
    eventually(lambda: number(page, "waiting") < AT_ONCE, "they are answered after all")
    assert number(page, "lost") == 0


def test_a_replica_that_is_frozen_is_replaced_under_the_eyes_of_the_page(
    seen: Stack, opened: Callable[..., Page]
) -> None:
    page = opened()
    load(page, RATE)
    (first, _) = seen.web()
    seen.docker("pause", first["name"])
    eventually(lambda: number(page, "waiting") == AT_ONCE, "all are stuck with it")
    name = first["name"].removeprefix(f"{seen.project}-")
    silent = "[data-state=silent] .name"
    eventually(lambda: page.locator(silent).all_inner_texts() == [name], "it does not answer")
    seen.run("up", "--drain-timeout", "1")
    eventually(lambda: as_shown(page) == as_told_by_ps(seen), "another one is shown")
    assert first["name"] not in {row["name"] for row in seen.web()}


def test_a_replica_that_is_removed_by_hand_goes_when_the_manager_says_so(
    seen: Stack, opened: Callable[..., Page]
) -> None:
    page = opened()
    load(page, RATE)
    (first, _) = seen.web()
    seen.docker("rm", "--force", first["name"])
    eventually(lambda: "does not answer" in page.locator("#replicas").inner_text(), "it is missed")
    seen.run("up")
    eventually(lambda: as_shown(page) == as_told_by_ps(seen), "it is gone, another one is there")
    # A tile that is gone must not come back as one that is silent.
    page.wait_for_timeout(3000)
    assert as_shown(page) == as_told_by_ps(seen)


def test_when_nobody_is_left_nobody_is_shown_as_healthy(
    seen: Stack, opened: Callable[..., Page]
) -> None:
    page = opened()
    load(page, RATE)
    seen.docker("stop", *(row["name"] for row in seen.web()))
    eventually(lambda: "healthy" not in page.locator("#replicas").inner_text(), "all are missed")
    assert number(page, "lost") > 0


def test_a_change_that_fails_is_said_to_have_failed(
    seen: Stack, opened: Callable[..., Page]
) -> None:
    page = opened()
    seen.edit("web/app/api.py", "import os\n", "import os, no_such_module\n")
    assert seen.try_run("rollout").returncode == 1
    seen.edit("web/app/api.py", "import os, no_such_module\n", "import os\n")
    eventually(lambda: "rollout: failed" in page.locator("#manager").inner_text(), "it is said")
    assert page.locator("#spoken").inner_text() == "rollout: failed"
    eventually(lambda: as_shown(page) == as_told_by_ps(seen), "and the old ones are shown")


def test_without_a_manager_the_answers_tell(seen: Stack, opened: Callable[..., Page]) -> None:
    page = opened()
    (proxy,) = seen.containers("proxy")
    seen.docker("exec", str(proxy.name), "rm", "/var/lib/proxy/topology.json")
    page.reload()
    load(page, RATE)
    eventually(lambda: "No manager" in page.locator("#manager").inner_text(), "it says so")
    eventually(lambda: len(tiles(page)) == 2, "two replicas answer")
    assert {tile["state"] for tile in tiles(page)} == {"answers"}


def test_it_can_be_used_by_keyboard_and_without_motion(opened: Callable[..., Page]) -> None:
    page = opened(reduced_motion="reduce")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "wanted"
    page.keyboard.press("End")
    assert page.locator("#rate").inner_text() == "40"
    eventually(lambda: number(page, "sent") > RATE, "requests are sent")
    assert page.locator(".dot").count() == 0
    page.emulate_media(reduced_motion="no-preference")
    eventually(lambda: page.locator(".dot").count() > 0, "dots move")
    roles = page.locator("body").aria_snapshot()
    for spoken in (
        "slider",
        "requests per second",
        "radio",
        "GET",
        'button "Count anew"',
        "Replicas",
    ):
        assert spoken in roles


@pytest.mark.parametrize(
    ("name", "scheme", "width", "height"),
    [
        ("live-view", "light", 1280, 800),
        ("live-view-dark", "dark", 1280, 800),
        ("live-view-phone", "light", 390, 844),
    ],
)
def test_it_fits_and_is_pictured(
    seen: Stack, opened: Callable[..., Page], name: str, scheme: Any, width: int, height: int
) -> None:
    page = opened(color_scheme=scheme, viewport={"width": width, "height": height})
    load(page, RATE)
    seen.run("scale", "web=4")
    seen.edit("web/app/templates/index.html", "The stack runs", "The stack runs ")
    with background(seen, "rollout") as process:
        revisions = ".replica .revision"
        eventually(
            lambda: len(set(page.locator(revisions).all_inner_texts())) == 2,
            "old and new are shown",
        )
        page.wait_for_timeout(2500)
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{name}.png")
        if os.environ.get("SCREENSHOTS") and name == "live-view":
            shutil.copy(ARTIFACTS / f"{name}.png", ROOT / "docs")
        assert process.wait() == 0, process.communicate()
    width_of_all = page.evaluate("document.documentElement.scrollWidth")
    assert width_of_all <= width, "nothing is wider than the window"


def test_the_same_is_seen_on_a_terminal(seen: Stack) -> None:
    seen.run("up", "web=2")
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        (sys.executable, "-m", "stack", "top"),
        cwd=seen.directory,
        env={**seen.env, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown: list[str] = []

    def look() -> bool:
        if select.select([master], [], [], 1)[0]:
            shown.append(os.read(master, 65536).decode(errors="replace"))
        text = "".join(shown)
        return "50%" in text and "at most" in text

    try:
        deadline = time.monotonic() + 30
        seen.get("/api/replica")
        while not look():
            assert process.poll() is None
            assert time.monotonic() < deadline, "".join(shown)
            seen.get("/api/replica")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        os.close(master)
    text = "".join(shown)
    for row in seen.web():
        assert row["name"] in text
    assert "healthy" in text
    assert "no change is under way" in text
    once = seen.run("top")
    assert seen.web()[0]["name"] in once
