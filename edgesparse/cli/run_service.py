"""The service that `run --service` and `serve` run."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from edgesparse.cli.show import progress
from edgesparse.errors import BackendUnavailable


def run_service(
    target: Path, store: Path, settings: Path | None, overrides: Mapping[str, Any], web: Mapping[str, Any] | None = None
) -> NoReturn:
    """Run the service until it ends, and exit. For the mappings, see service.life.Target. Raises EdgeSparseError."""
    from edgesparse.supervised import NEEDED, check_threads

    check_threads(NEEDED + 3 * len(os.sched_getaffinity(0)))  # NumPy's, OpenCV's and ONNX Runtime's, one per core each
    try:
        from edgesparse.service.life import Service, Target
    except ImportError as error:
        raise BackendUnavailable(f"a service needs {error.name}: pip install 'edgesparse[service]'") from None
    faulthandler.enable(2)  # prints every thread's stack when systemd's watchdog kills a hung loop
    log = logging.getLogger("edgesparse")
    log.setLevel(logging.INFO)
    with _service_logging():
        with progress() as advance:
            service = Service(Target(target, store, settings, dict(overrides), web), advance)
        log.info("%s", service.run())
    _leave()


@contextmanager
def _service_logging() -> Iterator[None]:
    """Limit repeated log lines, and prefix lines for the journal with their priority."""
    from edgesparse.service.journal import Priorities, stderr_is_journal
    from edgesparse.service.log_rate import LogRate

    before = [(handler, handler.formatter, LogRate()) for handler in logging.getLogger().handlers]
    for handler, formatter, rate in before:
        handler.addFilter(rate)
        if stderr_is_journal() and formatter is not None:
            handler.setFormatter(Priorities(formatter))
    try:
        yield
    finally:
        for handler, formatter, rate in before:
            handler.removeFilter(rate)
            handler.setFormatter(formatter)


def _leave() -> NoReturn:
    """Exit without waiting for capture threads, which a driver may block: everything has been written."""
    sys.stdout.flush()
    logging.shutdown()
    if threading.active_count() > 1:
        os._exit(0)
    sys.exit(0)
