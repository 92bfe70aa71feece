"""docs/proof.svg: requests per second by revision over time, with the steps of the rollout."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tests.e2e.oracle import Sent

WIDTH, HEIGHT = 960, 394
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 92, 66
BIN_S = 0.25
COLOURS = ("#4477aa", "#ee8866", "#228833")
LOST = "#cc3311"


@dataclass(frozen=True)
class Mark:
    """A step of the manager: when it began, since the load began, and what it is, in short."""

    at_s: float
    text: str


def svg(sent: Sequence[Sent], marks: Sequence[Mark]) -> str:
    """The picture: a stack of bars for each quarter of a second, lost requests on top in red."""
    end_s = max(one.due_s for one in sent)
    bins = int(end_s / BIN_S)
    revisions = list(dict.fromkeys(one.revision for one in sorted(sent, key=lambda s: s.due_s)))
    revisions = [revision for revision in revisions if revision]
    layers = [*((name, COLOURS[n % len(COLOURS)]) for n, name in enumerate(revisions)), ("", LOST)]
    counts = Counter((int(one.due_s / BIN_S), one.revision) for one in sent)
    per_s = [sum(counts[n, name] for name, _ in layers) / BIN_S for n in range(bins)]
    most = max(per_s) * 1.1

    def x(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / end_s

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / most

    lost = sum(bool(one.failure) for one in sent)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="600">'
        f"Three replicas replaced under load: {lost} of {len(sent):,} requests lost</text>",
    ]
    for number in range(bins):
        below = 0.0
        for name, colour in layers:
            rate = counts[number, name] / BIN_S
            if rate:
                top = y(below + rate)
                parts.append(
                    f'<rect x="{x(number * BIN_S):.1f}" y="{top:.1f}" fill="{colour}" '
                    f'width="{x(BIN_S) - LEFT - 0.6:.1f}" height="{y(below) - top:.1f}"/>'
                )
                below += rate
    for mark in marks:
        at = x(mark.at_s)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}" '
            'stroke="#333" stroke-dasharray="2 3" stroke-width="0.8"/>'
            f'<text transform="translate({at + 3:.1f} {TOP - 10}) rotate(-50)" font-size="11">'
            f"{escape(mark.text)}</text>"
        )
    foot = HEIGHT - BOTTOM
    parts += [
        f'<text x="{LEFT - 8}" y="{y(rate) + 4:.1f}" text-anchor="end">{rate}</text>'
        f'<path d="M{LEFT - 4} {y(rate):.1f}h4" stroke="#333"/>'
        for rate in range(0, int(most) + 1, 50)
    ]
    parts += [
        f'<text x="{x(second):.1f}" y="{foot + 16}" text-anchor="middle">{second}</text>'
        for second in range(int(end_s) + 1)
    ]
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#333"/>'
        f'<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2})">requests per second</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM + 34}" text-anchor="end">seconds</text>'
    )
    for number, (name, colour) in enumerate(layers):
        left = LEFT + number * 240
        text = f"answered by revision {name}" if name else "lost"
        parts.append(
            f'<rect x="{left}" y="{HEIGHT - 24}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{left + 18}" y="{HEIGHT - 14}">{escape(text)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
