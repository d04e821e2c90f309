#!/usr/bin/env python3
"""Check with vulture that all definitions are used: those of the source by the source, those of tests by tests.

ALLOWED lists names whose use vulture cannot see. A name that it no longer reports has to be removed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from vulture.core import Vulture

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("edgesparse", "apps", "deploy/provision", "scripts", "benchmarks")
DECORATORS = ["@*.command*", "@*.group*", "@pytest.fixture*", "@*_validator*", "@*_serializer*"]
DECORATORS += ["@atexit.register", "@pytest.hookimpl*"]

ALLOWED = {
    "Python and pydantic call or read it": "__getattr__ __dir__ model_config",
    "click, logging, urllib and paho-mqtt call or read it": (
        "command_class format_commands handleError http_open https_open"
    ),
    "TensorRT and ONNX Runtime call it": (
        "get_batch_size get_batch read_calibration_cache write_calibration_cache phase_start step_complete "
        "phase_finish get_next"
    ),
    "SAHI calls or reads it": (
        "load_model perform_inference _create_object_prediction_list_from_original_predictions "
        "_object_prediction_list_per_image"
    ),
    "set on an object of another library, which reads it": (
        "graph_optimization_level optimized_model_filepath intra_op_num_threads inter_op_num_threads "
        "log_severity_level profiling_verbosity int8_calibrator default_device_type DLA_core "
        "avg_timing_iterations min_timing_iterations dynamic_range allowed_formats "
        "dst_x_in_bytes src_x_in_bytes dst_pitch src_pitch width_in_bytes "
        "dim_param pts connect_timeout on_connect on_publish on_message on_subscribe force_exit should_exit "
        "benchmark _create_connection"
    ),
    "a field that is written to a file or passed as part of its object": (
        "context_mb recipe_sha256 labels_sha256 calibration_sha256"
    ),
    "public: users call it": "stepwise of_rtsp",
    "the inverse of what the source needs, which tests check it with": "to_input",
    "a type in quotes": "PillowImage",
    "kept alive, not read": "_letterbox",
}
IN_TESTS = {
    "pytest calls it": "test_* check_* pytest_* pytestmark",
    "the standard library and paho-mqtt call or read it": (
        "do_GET do_POST do_PUT log_message handle_* daemon_threads close_connection maxBytes on_message on_subscribe"
    ),
    "the other half of an enumeration": "OUTPUT",
    "TensorRT calls or reads it": "select_algorithms report_algorithms algorithm_selector",
    "a key of settings": "key_file",
    "as in the source": " ".join(ALLOWED.values()),
}


def unused(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Return the name, and file:line with its kind, of every unused definition in these folders."""
    vulture = Vulture(ignore_decorators=DECORATORS)
    vulture.scavenge([str(ROOT / path) for path in paths], exclude=["*/scratch/*"])
    return [
        (item.name, f"{Path(item.filename).relative_to(ROOT)}:{item.first_lineno}: unused {item.typ} {item.name!r}")
        for item in vulture.get_unused_code(min_confidence=60)
        if item.typ != "variable" or item.confidence < 100  # a parameter that fixtures and callbacks need
    ]


def named_in_text() -> set[str]:
    """Return classes that a table names as "module:Class"."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "edgesparse").rglob("*.py"))
    return {name for text in texts for name in re.findall(r'"edgesparse[\w.]*:(\w+)"', text)}


def complaints(definitions: list[tuple[str, str]], allowed: Iterable[str]) -> list[str]:
    patterns = list(allowed)
    return [line for name, line in definitions if not any(fnmatch(name, pattern) for pattern in patterns)]


def main() -> int:
    in_source = unused(SOURCE)
    allowed = " ".join(ALLOWED.values()).split()
    problems = complaints(in_source, {*allowed, *named_in_text()})
    names = {name for name, _ in in_source}
    problems += [
        f"{Path(__file__).name}: {name!r} is used: remove it from ALLOWED" for name in allowed if name not in names
    ]
    in_tests = [definition for definition in unused([*SOURCE, "tests"]) if definition[1].startswith("tests/")]
    problems += complaints(in_tests, " ".join(IN_TESTS.values()).split())
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())
