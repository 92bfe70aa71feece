"""`make proof`: repeat the scenarios, compare with others, write docs/proof.md and docs/proof.svg.
`make proof-swarm`: likewise those on a Swarm, and write their part of docs/proof.md.

REPEAT   how often (5)
CYCLES   how many scale cycles in the one long run of them (200)
"""

import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.harness import ROOT, Stack, engine
from tests.e2e.lab import make_lab, new_revision
from tests.e2e.oracle import Result, load
from tests.proof import report
from tests.proof.picture import Mark, svg

REPEAT = int(os.environ.get("REPEAT", "5"))
CYCLES = os.environ.get("CYCLES", "200")
REPORT = ROOT / "docs" / "proof.md"
SHORT = {
    "make": "make",
    "only replicas": "wait",
    "traffic goes": "route",
    "wait until nothing": "drain",
    "SIGTERM": "stop",
}


def swarm() -> int:
    """Repeat the scenarios on a Swarm; exit code 1 if one failed."""
    began = time.monotonic()
    scenarios = _rounds([("scenarios on a Swarm", "swarm", "")] * REPEAT, began)
    text = REPORT.read_text() if REPORT.exists() else ""
    rest = text.removesuffix(report.swarm_part(text))
    REPORT.write_text(rest + report.about_swarm(_facts(), scenarios))
    return _result(scenarios, began)


def main() -> int:
    """Run everything; exit code 1 if a scenario failed."""
    began = time.monotonic()
    often = ("scenarios", "not swarm", "not many_scale_cycles")
    once = (f"{CYCLES} scale cycles", "not swarm", "many_scale_cycles")
    scenarios = _rounds([often] * REPEAT + [once], began)
    comparison: list[dict[str, Any]] = []
    for number in range(1, REPEAT + 1):
        _say(f"side by side, {number} of {REPEAT}", began)
        comparison += [*_compose_rollout(), *_ours(), *_docker_rollout()]
    _say("the picture", began)
    picture = _picture()
    (ROOT / "docs" / "proof.svg").write_text(picture)
    others = report.swarm_part(REPORT.read_text()) if REPORT.exists() else ""
    REPORT.write_text(report.markdown(_facts(), scenarios, comparison, others))
    return _result(scenarios, began)


def _rounds(rounds: list[tuple[str, str, str]], began: float) -> list[report.Scenario]:
    """Run scenarios, round by round: what to say, a marker and an expression of pytest's."""
    outcomes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="stack-proof-") as scratch:
        results = Path(scratch) / "results.jsonl"
        results.touch()
        for number, (what, marked, which) in enumerate(rounds, start=1):
            _say(f"{what}, {number} of {len(rounds)}", began)
            outcomes += _scenarios(Path(scratch), results, marked, which)
        lines = [json.loads(line) for line in results.read_text().splitlines()]
    return report.collect(lines, outcomes)


def _result(scenarios: list[report.Scenario], began: float) -> int:
    failed = [one.name for one in scenarios if one.failed]
    _say(f"docs/proof.md is written; failed: {', '.join(failed) or 'none'}", began)
    return 1 if failed else 0


def _scenarios(scratch: Path, results: Path, marked: str, which: str) -> list[dict[str, Any]]:
    """Run scenarios once; return of each test whether it passed."""
    junit = scratch / "junit.xml"
    junit.unlink(missing_ok=True)
    subprocess.run(
        (
            *(sys.executable, "-m", "pytest", "-q", "-m", f"scenario and {marked}", "-k", which),
            *("tests/e2e", f"--junit-xml={junit}"),
        ),
        cwd=ROOT,
        env={**os.environ, "PROOF_RESULTS": str(results), "CYCLES": CYCLES},
        check=False,
    )
    # Our own file, just written.
    cases = ET.parse(junit).getroot().iter("testcase")  # noqa: S314
    return [
        {
            "scenario": case.get("name"),
            "passed": case.find("failure") is None and case.find("error") is None,
        }
        for case in cases
    ]


def _ours() -> Iterator[dict[str, Any]]:
    with _lab() as stack:
        stack.run("up", "web=3")
        yield _measured(stack, "a new revision: this, `rollout`", lambda: stack.run("rollout"))
        yield _measured(stack, "scale 3 to 1: this", lambda: stack.run("scale", "web=1"))


def _compose_rollout() -> Iterator[dict[str, Any]]:
    with _lab() as stack:
        _compose_up(stack, "one")
        yield _measured(
            stack,
            "a new revision: `docker compose up` with a new tag",
            lambda: _compose_up(stack, "two"),
        )
        yield _measured(
            stack,
            "scale 3 to 1: `docker compose up --scale`",
            lambda: _compose_up(stack, "two", 1),
        )


def _docker_rollout() -> Iterator[dict[str, Any]]:
    what = "a new revision: docker-rollout"
    plugins = "{{range .ClientInfo.Plugins}}{{.Name}} {{end}}"
    if "rollout" not in _said("docker", "info", "--format", plugins).split():
        yield {"what": what, "missing": "not installed where this was written"}
        return
    with _lab() as stack:
        _compose_up(stack, "one")
        yield _measured(stack, what, lambda: stack.docker("rollout", "web", WEB_REVISION="two"))


def _compose_up(stack: Stack, revision: str, count: int = 3) -> None:
    options = ("--detach", "--wait", "--no-build", "--scale", f"web={count}")
    stack.compose("up", *options, WEB_REVISION=revision)


def _measured(stack: Stack, what: str, change: Callable[[], object]) -> dict[str, Any]:
    new_revision(stack)
    with load(stack) as result:
        began = time.monotonic()
        change()
        took_s = time.monotonic() - began
    return {
        "what": what,
        "sent": len(result.sent),
        "lost": len(result.lost),
        "silent_s": _longest_silence_s(result),
        "took_s": took_s,
    }


def _longest_silence_s(result: Result) -> float:
    """The longest time in which no request was answered."""
    ends = sorted(one.due_s + one.took_s for one in result.sent if not one.failure)
    return max((after - before for before, after in itertools.pairwise(ends)), default=0)


def _picture() -> str:
    with _lab() as stack:
        stack.run("up", "web=3")
        new_revision(stack)
        marks = []
        with load(stack) as result:
            process = subprocess.Popen(
                (sys.executable, "-m", "stack", "rollout"),
                cwd=stack.directory,
                env=stack.env,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stderr
            for line in process.stderr:
                found = re.match(r"\[\d+/\d+\] web: (.*)", line)
                short = next(
                    (s for k, s in SHORT.items() if found and found[1].startswith(k)), None
                )
                if short:
                    marks.append(Mark(time.time() - result.began_at, short))
            assert process.wait() == 0
        return svg(result.sent, marks)


@contextmanager
def _lab() -> Iterator[Stack]:
    """A stack of its own, with images "one" and "two" of the app for Compose."""
    with tempfile.TemporaryDirectory(prefix="stack-lab-") as directory:
        stack = make_lab(Path(directory) / "stack", Stack())
        try:
            stack.run("up")
            stack.run("down")
            for service in ("web", "proxy"):
                (image,) = engine().images.list(name=f"{stack.project}-{service}")
                for tag in ("one", "two") if service == "web" else ("dev",):
                    image.tag(f"{stack.project}-{service}", tag=tag)
            yield stack
        finally:
            stack.remove()


def _facts() -> report.Facts:
    cores = os.cpu_count()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return report.Facts(
        date=time.strftime("%Y-%m-%d"),
        revision=_said("git", "rev-parse", "--short", "HEAD"),
        machine=f"{platform.system()} {platform.machine()}, {cores} cores, {memory_gib:.0f} GiB",
        engine=_said("docker", "version", "--format", "{{.Server.Version}}"),
        compose=_said("docker", "compose", "version", "--short"),
        repeat=REPEAT,
    )


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


def _say(what: str, began: float) -> None:
    minutes = (time.monotonic() - began) / 60
    print(f"proof: {minutes:5.1f} min  {what}", flush=True)


if __name__ == "__main__":
    if not shutil.which("docker"):
        sys.exit("proof: docker is not there. Run: make engine")
    sys.exit(swarm() if sys.argv[1:] == ["swarm"] else main())
