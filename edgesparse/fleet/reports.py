"""Reports of a fleet: one JSON file per device, written at each poll, read into a table and a page.

A device writes NAME.json to a folder, such as a mounted share, stores it at an https address, or keeps it at an MQTT
broker. The workstation reads a folder of them, or the broker. When a device was last heard of is the time of its file,
since the device's own clock may be wrong. A broker keeps no times: there the device's clock counts, and one that is
ahead is a bad report.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgesparse.errors import ConfigError, DeployError
from edgesparse.files import make_folder, read_regular, replace_text
from edgesparse.fleet.bundle import MAX_TIME
from edgesparse.fleet.connection import Server, why_failed
from edgesparse.pages import html
from edgesparse.progress import Progress
from edgesparse.redaction import redact_all

MOST_REPORT = 1 << 16
LATE = 3600.0
"""Seconds without a report after which a device counts as late."""
AHEAD = 300.0
"""Seconds that the clock of a device may be ahead where its report's own time counts."""
COLUMNS = ("device", "state", "detector", "version", "heard", "result", "why")
ORDER = ("unhealthy", "bad report", "late", "no engine", "no service", "healthy")
"""States, those that need attention first."""

_Text = Annotated[str, Field(max_length=2000)]


class Report(BaseModel):
    """What a device says of itself after a poll. `healthy`: None if no service writes a status there."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    device: _Text
    time: Annotated[float, Field(ge=0, le=MAX_TIME)]
    result: _Text
    why: _Text = ""
    name: _Text = ""
    version: _Text = ""
    bundle: _Text = ""
    healthy: bool | None = None
    edgesparse: _Text = ""
    machine: _Text = ""

    @property
    def state(self) -> str:
        if not self.version:
            return "no engine"
        return "no service" if self.healthy is None else "healthy" if self.healthy else "unhealthy"


@dataclass(frozen=True)
class Row:
    """A device in the table. `heard`: seconds since its report was written."""

    device: str
    state: str
    heard: float
    report: Report | None = None
    why: str = ""

    def cells(self) -> tuple[str, ...]:
        report, minutes = self.report, self.heard / 60
        heard = f"{minutes:.0f} min ago" if minutes < 120 else f"{minutes / 60:.0f} h ago"
        values = (report.name, report.version, heard, report.result, report.why) if report else ("", "", heard, "")
        return (self.device, self.state, *values, *(() if report else (self.why,)))

    def as_dict(self) -> dict[str, Any]:
        values = self.report.model_dump() if self.report else {"device": self.device, "why": self.why}
        return {**values, "state": self.state, "heard": round(self.heard)}


def of_device(device: str, state: dict[str, Any], result: str, why: str) -> Report:
    """Return the report of a device whose `status` is `state` after a poll with this result."""
    running = state["running"] or {}
    fields = {key: str(running.get(key, ""))[:2000] for key in ("name", "version", "bundle")}
    return Report(
        device=device,
        time=round(time.time()),
        result=result,
        why=why[:2000],
        healthy=state["healthy"],
        edgesparse=state["edgesparse"],
        machine=str(state["machine"])[:2000],
        **fields,
    )


def mqtt_reports_at(where: str) -> bool:
    """Whether this is the address of a broker."""
    return where.startswith(("mqtt://", "mqtts://"))


def send(report: Report, where: str) -> None:
    """Store a report in a folder, by PUT below an https address, or at an MQTT broker. Raises DeployError."""
    text = report.model_copy(update=redact_all(report.model_dump())).model_dump_json(indent=1) + "\n"
    if mqtt_reports_at(where):
        from edgesparse.fleet import mqtt_reports

        mqtt_reports.send(report.device, text, where)
        return
    if "://" not in where:
        try:
            make_folder(Path(where))
            replace_text(Path(where) / f"{report.device}.json", text)
        except OSError as error:
            raise DeployError(f"cannot write the report to {where}: {error.strerror}") from None
        return
    server, parts = Server(where), urlsplit(where)
    if parts.scheme != "https":
        raise DeployError(f"{server.where}: needed a folder, an https:// or an mqtts:// address for the report")
    target = urlsplit(server.url)
    url = target._replace(path=f"{target.path.rstrip('/')}/{report.device}.json").geturl()
    try:
        server.open(url, {"Content-Type": "application/json"}, text.encode()).close()
    except (OSError, HTTPException, ValueError) as error:
        reason = why_failed(error) if isinstance(error, OSError | HTTPException) else "it is not a valid address"
        raise DeployError(f"cannot send the report to {server.where}: {reason}") from None


def read(where: str, progress: Progress, late: float = LATE) -> list[Row]:
    """Return a row per report in a folder or at a broker, those that need attention first.

    Raises ConfigError if `where` is neither, DeployError if a broker does not answer.
    """
    rows: dict[str, Row] = {}
    if mqtt_reports_at(where):
        from edgesparse.fleet import mqtt_reports

        mqtt_reports.read(where, lambda device, data: rows.update({device: _row(device, data, late)}), progress)
    elif Path(where).is_dir():
        rows = {path.stem: _file_row(path, late) for path in Path(where).glob("*.json")}
    else:
        raise ConfigError(f"{where} is not a folder of reports: name the one that devices report to, or a broker")
    return sorted(rows.values(), key=lambda row: (ORDER.index(row.state), row.device))


def counts(rows: Iterable[Row]) -> list[tuple[str, int]]:
    """Return how many devices are in each state and run each version."""
    rows = list(rows)
    states = Counter(row.state for row in rows)
    versions = Counter(row.report.version for row in rows if row.report and row.report.version)
    return [*((state, states[state]) for state in ORDER if states[state]), *sorted(versions.items())]


def page(rows: Sequence[Row]) -> str:
    """Return the table as one HTML page."""
    colors = {"healthy": "sparse", "no service": "ineligible"}
    drawn = [
        html.Row((cells[0], html.state_cell(colors.get(row.state, "dense"), cells[1]), *cells[2:]))
        for row in rows
        for cells in (row.cells(),)
    ]
    tiles = html.tiles((name, str(count)) for name, count in counts(rows))
    title = f"Fleet: {sum(row.state == 'healthy' for row in rows)} of {len(rows)} healthy"
    now = html.paragraph(f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC", "soft")
    return html.document(title, f"<h1>{html.text(title)}</h1>", now, tiles, html.table(COLUMNS, drawn))


def _file_row(path: Path, late: float) -> Row:
    heard = 0.0
    try:
        heard = max(time.time() - path.lstat().st_mtime, 0)
        data = read_regular(path, MOST_REPORT)
    except (OSError, ValueError) as error:
        return Row(path.stem, "bad report", heard, why=str(error))
    return _row(path.stem, data, late, heard)


def _row(device: str, data: bytes, late: float, heard: float | None = None) -> Row:
    """Return the row of a report. `heard`: seconds since it was written; None if only its own time is known."""
    try:
        if len(data) > MOST_REPORT:
            raise ValueError(f"it has {len(data)} bytes, more than {MOST_REPORT}")
        report = Report.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        return Row(device, "bad report", heard or 0, why=f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except ValueError as error:
        return Row(device, "bad report", heard or 0, why=str(error))
    if report.device != device:
        return Row(device, "bad report", heard or 0, why=f"it is a report of {report.device}")
    age = time.time() - report.time if heard is None else heard
    if age < -AHEAD:
        return Row(device, "bad report", 0, why=f"its clock is {-age / 60:.0f} min ahead: set it")
    return Row(device, "late" if age > late else report.state, max(age, 0), report)
