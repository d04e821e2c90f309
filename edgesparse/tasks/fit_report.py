"""What `fit` tried, predicted and measured, the ladder to the network that it chose, and the page that shows both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from edgesparse.pages.html import Html, Row, document, heading, number, paragraph, table, text, tiles
from edgesparse.predict import boards

MAP, AGREEMENT = "mAP", "agreement"
"""What scores are: against labels, or against the boxes that the float network keeps."""
WEAKER = (
    "Scores are agreement, not accuracy: mAP against the boxes that the float network keeps (confidence 0.25 or more), "
    "whose errors count as correct; 100 is the float network itself. Only a score on labels shows what was lost."
)
WIDTH, HEIGHT, MARGIN = 640, 320, 48
"""The chart, in pixels."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder, or one network that was tried.

    `outcome`: `kept`, `dropped` or `not tried`; of a network that was tried, `chosen`, `within the budget` or
    `dropped`; and `why`. `ms`: predicted latency on the board. `score`: measured, 0
    to 100, on the images to choose on; `evaluated`: on the evaluation images. `measured`:
    median latency of `engine` on this machine, if it was built; without it, `engine` says why it has none.
    """

    name: str
    outcome: str
    why: str
    ms: float | None = None
    score: float | None = None
    evaluated: float | None = None
    measured: float | None = None
    engine: str = ""


@dataclass(frozen=True)
class FitReport:
    """The ladder from FP32 to the chosen network, every network that was tried, and the files that were written.

    `result`: the chosen network, the last rung that was kept. `measure`: what scores are: MAP on labels, or AGREEMENT.
    """

    model: str
    device: str
    max_drop: float
    target_ms: float | None
    rungs: tuple[Rung, ...]
    measure: str = MAP
    trials: tuple[Rung, ...] = ()
    written: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[Rung, ...]:
        return tuple(rung for rung in self.rungs if rung.outcome == "kept")

    @property
    def result(self) -> Rung:
        return self.kept[-1]

    @property
    def chosen(self) -> str:
        """What the chosen network consists of."""
        return " + ".join(rung.name for rung in self.kept[2:]) or self.result.name

    @property
    def speedup(self) -> float:
        """Predicted, over FP32."""
        return (self.kept[0].ms or 0.0) / (self.result.ms or 1.0)

    @property
    def drop(self) -> float:
        """Points lost on the evaluation images, or without these, on the images that it was chosen on."""
        first, last = self.kept[0], self.result
        if first.evaluated is not None and last.evaluated is not None:
            return first.evaluated - last.evaluated
        return (first.score or 0.0) - (last.score or 0.0)

    @property
    def missed(self) -> str:
        """What the chosen network does not meet; empty if nothing."""
        result = self.result
        ms, how = (result.ms or 0.0, "predicted") if result.measured is None else (result.measured, "measured here")
        if self.drop > self.max_drop:
            where = "images that it was chosen on" if result.evaluated is None else "evaluation images"
            return f"lost {self.drop:.1f} points of {self.measure} on the {where}: needed at most {self.max_drop:g}"
        if self.target_ms is not None and ms > self.target_ms:
            needed = f"found {ms:.2f} ms ({how}): needed {self.target_ms:g}"
            return f"{needed}; allow more with --max-drop, or train with distill"
        return ""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return {
            **asdict(self),
            "chosen": self.chosen,
            "speedup": self.speedup,
            "drop": self.drop,
            "missed": self.missed,
            "milliseconds": f"predicted: {boards.held_out()}",
            "scores": WEAKER if self.measure == AGREEMENT else "mAP on labels, measured with ONNX Runtime",
        }


def page(report: FitReport) -> str:
    """Return the page: milliseconds against mAP, and the ladder."""
    last = report.result
    shown = [
        ("ms, predicted", number(last.ms, 2)),
        ("times as fast as FP32, predicted", number(report.speedup, 2)),
        ("points lost", number(report.drop)),
    ]
    measure = report.measure
    columns = ("step", "result", "reason", "ms (predicted)", f"{measure}, choosing", f"{measure}, evaluation")
    return document(
        f"{report.model}: fit",
        f"<h1>{text(report.model)}</h1>",
        tiles(shown),
        paragraph(f"Milliseconds are predicted for {report.device}, not measured: {boards.held_out()}."),
        paragraph(f"Scores ({measure}) are measured with ONNX Runtime. Nothing was chosen on the evaluation images."),
        paragraph(WEAKER) if measure == AGREEMENT else "",
        paragraph(f"Not met: {report.missed}.") if report.missed else "",
        heading(f"Predicted milliseconds against {measure}"),
        _chart(report, last),
        heading("Ladder"),
        table(columns, map(_row, report.rungs), range(3, 6)),
        heading("Networks that were tried"),
        table(columns[:-1], (Row(_row(rung).cells[:-1]) for rung in report.trials), range(3, 5)),
        _engines(report),
    )


def _row(rung: Rung) -> Row:
    return Row((rung.name, rung.outcome, rung.why, number(rung.ms, 2), number(rung.score), number(rung.evaluated)))


def _engines(report: FitReport) -> Html:
    rows = [Row((rung.name, rung.engine, number(rung.measured, 2))) for rung in report.trials if rung.engine]
    if not rows:
        return Html("")
    return Html(heading("Engines on this machine") + table(("step", "engine", "ms (measured)"), rows, [2]))


def _chart(report: FitReport, chosen: Rung) -> Html:
    every = (*report.trials, *report.kept)
    points = [(rung, rung.ms, rung.score) for rung in every if rung.ms is not None and rung.score is not None]
    most = max(ms for _, ms, _ in points)
    low, high = min(score for *_, score in points), max(score for *_, score in points)
    span = (high - low) or 1.0
    drawn = "".join(
        _point(
            rung,
            MARGIN + (WIDTH - 3 * MARGIN) * ms / most,
            MARGIN + (HEIGHT - 2 * MARGIN) * (high - score) / span,
            rung is chosen,
        )
        for rung, ms, score in points
    )
    axes = f'<path d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN / 2}H{WIDTH - MARGIN}" fill="none" stroke="var(--soft)"/>'
    labels = "".join(_labels(most, low, high))
    return Html(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Milliseconds against {report.measure}" '
        f'style="max-width:50rem;font-size:11px;fill:var(--ink)">{axes}{labels}{drawn}</svg>'
    )


def _labels(most: float, low: float, high: float) -> Iterator[str]:
    yield f'<text x="{WIDTH - 2 * MARGIN}" y="{HEIGHT - 6}">{most:.2f} ms</text>'
    yield f'<text x="{MARGIN}" y="{HEIGHT - 6}">0</text>'
    yield f'<text x="2" y="{MARGIN + 4}">{high:.1f}</text>'
    if high > low:
        yield f'<text x="2" y="{HEIGHT - MARGIN + 4}">{low:.1f}</text>'


def _point(rung: Rung, x: float, y: float, chosen: bool) -> str:
    color = "var(--sparse)" if rung.outcome == "kept" else "var(--ineligible)"
    title = f"{rung.name}: {rung.ms:.2f} ms predicted, score {rung.score:.1f}, {rung.outcome}"
    words = f"{rung.name}, chosen" if chosen else rung.name if rung.outcome == "kept" else ""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{7 if chosen else 4}" fill="{color}">'
        f"<title>{text(title)}</title></circle>"
        f'<text x="{x + 9:.1f}" y="{y - 6:.1f}">{text(words)}</text>'
    )
