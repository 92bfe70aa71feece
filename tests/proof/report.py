"""docs/proof.md, from what the runs have counted: pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SWARM = "## On a Swarm of two nodes"

Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Scenario:
    """All runs of one scenario. `counts`: for each client what was sent, lost, dup. `counted`: it
    may lose requests, and its test says which.
    """

    name: str
    runs: int
    failed: int
    counted: bool
    counts: Counts


@dataclass(frozen=True)
class Facts:
    """Where and when the proof was made, in words."""

    date: str
    revision: str
    machine: str
    engine: str
    compose: str
    repeat: int


def collect(
    lines: Sequence[Mapping[str, Any]], outcomes: Sequence[Mapping[str, Any]]
) -> list[Scenario]:
    """Put the lines of all runs together, in the order in which they first came. `outcomes` say of
    each run of a test whether it passed.
    """
    found: dict[str, Scenario] = {}
    for outcome in outcomes:
        name = outcome["scenario"]
        one = found.get(name, Scenario(name, 0, 0, False, {}))
        failed = one.failed + (not outcome["passed"])
        found[name] = Scenario(name, one.runs + 1, failed, one.counted, {})
    for name, one in list(found.items()):
        mine = [line for line in lines if line["scenario"] == name]
        counts: dict[str, dict[str, int]] = {}
        for line in mine:
            for load in line["loads"]:
                for client, numbers in load.items():
                    total = counts.setdefault(client, {"sent": 0, "lost": 0, "dup": 0})
                    for key, number in numbers.items():
                        total[key] += number
        counted = any(line["counted"] for line in mine)
        found[name] = Scenario(name, one.runs, one.failed, counted, counts)
    return list(found.values())


def upper_bound(lost: int, sent: int) -> float:
    """The highest share of lost requests that 95 % confidence leaves possible: Poisson, exact.
    With none lost it is the "rule of three", 3 / sent.

    >>> round(upper_bound(0, 1000), 6)
    0.002996
    """
    if not sent:
        return 1.0
    low, high = 0.0, lost + 20.0 + 10 * math.sqrt(lost + 1)
    for _ in range(100):
        middle = (low + high) / 2
        at_most = sum(
            math.exp(-middle + k * math.log(middle) - math.lgamma(k + 1)) for k in range(lost + 1)
        )
        low, high = (middle, high) if at_most > 0.05 else (low, middle)
    return min(1.0, high / sent)


def markdown(
    facts: Facts,
    scenarios: Sequence[Scenario],
    comparison: Sequence[Mapping[str, Any]],
    others: str = "",
) -> str:
    """The report; `others` is the part about a Swarm."""
    return "\n".join(
        [
            "# The proof",
            "",
            "Written by `make proof`; do not edit. What is counted, and how: tests/e2e/oracle.py",
            "and [design.md](design.md). The scenarios are the tests of",
            "tests/e2e/test_scenarios.py and test_swarm.py, by their names.",
            "",
            *_summary(facts, scenarios),
            "![Requests per second by revision while three replicas are replaced](proof.svg)",
            "",
            "## Nothing is lost",
            "",
            *_table([one for one in scenarios if not one.counted]),
            "",
            "## Something may be lost, and is counted",
            "",
            "The control shows that the oracle sees losses. The others are crashes, and a revision",
            "that crashes or answers with errors: the tests say what each may cost at most.",
            "",
            *_table([one for one in scenarios if one.counted]),
            "",
            "## Side by side",
            "",
            "The same app, proxy, load and machine, in turn. Plain Compose finds replicas by DNS.",
            "",
            *_comparison(comparison),
            "",
            others,
        ]
    )


def about_swarm(facts: Facts, scenarios: Sequence[Scenario]) -> str:
    """The part of the report about a Swarm, which is measured apart."""
    return "\n".join(
        [
            SWARM,
            "",
            "The same app and proxy on two engines in two network namespaces of one machine,",
            "joined by an overlay network; `make proof-swarm`.",
            "",
            *_summary(facts, scenarios),
            *_table([one for one in scenarios if not one.counted]),
            "",
            "And what is counted: the control, and a node that is killed, where requests are lost",
            "until Swarm has noticed.",
            "",
            *_table([one for one in scenarios if one.counted]),
            "",
        ]
    )


def swarm_part(text: str) -> str:
    """The part about a Swarm of a report that was written before; empty if it has none."""
    _, found, rest = text.partition(SWARM)
    return found + rest


def _summary(facts: Facts, scenarios: Sequence[Scenario]) -> list[str]:
    promised = [one for one in scenarios if not one.counted]
    sent, lost, dup = (_total(promised, key) for key in ("sent", "lost", "dup"))
    failed = sum(one.failed for one in scenarios)
    bound = upper_bound(lost, sent)
    return [
        f"{facts.date}, revision {facts.revision}, {facts.repeat} repetitions, on "
        f"{facts.machine}; Docker Engine {facts.engine}, Compose {facts.compose}.",
        "",
        f"**Where nothing may be lost: {lost} lost and {dup} duplicated of {sent:,} requests** "
        f"(95 % confidence: at most 1 in {_one_in(bound)}). "
        f"{failed} of {sum(one.runs for one in scenarios)} runs of scenarios failed.",
        "",
    ]


def _table(scenarios: Sequence[Scenario]) -> list[str]:
    clients = list(dict.fromkeys(client for one in scenarios for client in one.counts))
    head = ["scenario", "runs", *(f"{client}: sent / lost / dup" for client in clients), "at most"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in scenarios:
        cells = [
            " / ".join(f"{one.counts[client][key]:,}" for key in ("sent", "lost", "dup"))
            if client in one.counts
            else "-"
            for client in clients
        ]
        sent, lost = _total([one], "sent"), _total([one], "lost")
        most = f"1 in {_one_in(upper_bound(lost, sent))}" if sent else "-"
        runs = f"{one.runs}, {one.failed} failed" if one.failed else str(one.runs)
        rows.append("| " + " | ".join([_title(one.name), runs, *cells, most]) + " |")
    return rows


def _comparison(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| | runs | sent | lost | longest without an answer | took |",
        "|---|---|---|---|---|---|",
    ]
    for what in dict.fromkeys(row["what"] for row in rows):
        mine = [row for row in rows if row["what"] == what]
        if "missing" in mine[0]:
            lines.append(f"| {what} | - | {mine[0]['missing']} | | | |")
            continue
        took = [row["took_s"] for row in mine]
        lines.append(
            f"| {what} | {len(mine)} | {sum(row['sent'] for row in mine):,} "
            f"| {sum(row['lost'] for row in mine):,} "
            f"| {max(row['silent_s'] for row in mine):.1f} s "
            f"| {min(took):.1f} to {max(took):.1f} s |"
        )
    return lines


def _total(scenarios: Sequence[Scenario], key: str) -> int:
    return sum(numbers[key] for one in scenarios for numbers in one.counts.values())


def _title(name: str) -> str:
    """A test's name as a sentence.

    >>> _title("test_a_revision_that[exits at once]")
    'a revision that exits at once'
    """
    words, _, parameter = name.removeprefix("test_").partition("[")
    return words.replace("_", " ") + (f" {parameter.rstrip(']')}" if parameter else "")


def _one_in(share: float) -> str:
    return f"{round(1 / share):,}" if share else "-"
