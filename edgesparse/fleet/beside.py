"""A new engine beside the active one, before the switch: requested of the service, watched, and judged."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

from pydantic import ValidationError

from edgesparse.config import Deploy
from edgesparse.errors import DeployError
from edgesparse.files import sync_folder
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.state import write_state
from edgesparse.progress import Progress
from edgesparse.shadow import REQUEST, ShadowRequest, ShadowResult, ShadowSettings

ANSWER_SECONDS = 15.0
"""Time in which the service, which looks once per second, must have begun."""
LOAD_SECONDS = 120.0
"""Time for loading, in addition to that of the recipe."""
INSTEAD = "or deploy with --no-shadow"


def run_beside(
    root: Path, service: ServiceControl, package: Path, limits: Deploy, progress: Progress
) -> ShadowResult | None:
    """Have the service run a package beside its own as `limits.shadow` says. Returns how it compared; None without such
    a section. Raises DeployError, with the reason, if the limits do not hold.
    """
    settings = limits.shadow
    if settings is None:
        return None
    if service.current_status() is None:
        raise DeployError(f"the service writes no status, needed a running one for deploy.shadow: start it, {INSTEAD}")
    request = ShadowRequest(id=uuid.uuid4().hex, package=str(package.resolve()), settings=settings)
    write_state(root / REQUEST, request.model_dump())
    try:
        result = _wait(service, request, progress)
    finally:
        withdraw(root)
    if (why := why_not(result, limits, settings)) is not None:
        raise DeployError(why)
    return result


def withdraw(root: Path) -> None:
    """Remove a request, also one that an interrupted deploy left."""
    if (root / REQUEST).exists():
        (root / REQUEST).unlink(missing_ok=True)
        sync_folder(root)


def _wait(service: ServiceControl, request: ShadowRequest, progress: Progress) -> ShadowResult:
    begun, frames = time.monotonic(), request.settings.frames
    result: ShadowResult | None = None
    while time.monotonic() < begun + request.settings.seconds + LOAD_SECONDS:
        status = service.current_status()
        current = _result(status.shadow) if status is not None and status.shadow is not None else None
        if current is not None and current.id == request.id:
            result = current
            progress("running beside the active engine", min(result.frames, frames), frames)
            if result.state in ("done", "failed"):
                return result
        elif result is None and time.monotonic() > begun + ANSWER_SECONDS:
            raise DeployError(
                "the service does not run the new engine beside its own: needed one of this version whose state "
                f"folder (EDGESPARSE_STATE) is that of the slots: restart it, {INSTEAD}"
            )
        time.sleep(service.interval)
    raise DeployError(f"the new engine did not finish beside the active one: raise deploy.shadow.seconds, {INSTEAD}")


def _result(values: object) -> ShadowResult | None:
    try:
        return ShadowResult.model_validate_json(json.dumps(values))
    except ValidationError:
        return None


def why_not(result: ShadowResult, limits: Deploy, settings: ShadowSettings) -> str | None:
    """Return why a device must not switch, as 'found, needed', or None if the recipe's limits hold."""
    beside = "beside the active engine"
    if result.state != "done":
        return f"the new engine failed {beside}: {result.why or 'it gives no reason'}"
    tried = result.frames + result.errors
    if result.errors > limits.max_error_share * tried:
        errors = f"found {result.errors} errors in {tried} frames {beside} ({result.why})"
        return f"{errors}, needed deploy.max_error_share {limits.max_error_share:g}"
    if result.frames < settings.frames or result.boxes < settings.boxes:
        compared = f"found {result.frames} frames with {result.boxes} boxes {beside} in {settings.seconds:g} s"
        needed = f"{settings.frames} with {settings.boxes}"
        return f"{compared}, needed {needed}: raise deploy.shadow.seconds or share, {INSTEAD}"
    if result.recall is None or result.precision is None:
        return f"the service reports no agreement {beside}"
    if min(result.recall, result.precision) < settings.min_agreement:
        return (
            f"{beside}, the new one found {100 * result.recall:.0f} % of its {result.boxes} boxes, and it has "
            f"{100 * result.precision:.0f} % of the new one's, needed deploy.shadow.min_agreement "
            f"{100 * settings.min_agreement:.0f} % of each"
        )
    most = limits.max_latency_ms
    if most is not None and result.latency_ms is not None and result.latency_ms > most:
        return f"found {result.latency_ms:.1f} ms per frame {beside}, needed deploy.max_latency_ms {most:g}"
    return None
