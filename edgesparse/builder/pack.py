"""Writes the files of a package and their manifest from the outcome of a build."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.builder import report
from edgesparse.builder.attempts import Attempt
from edgesparse.builder.child.memory import MB
from edgesparse.builder.choose import sparse_layers
from edgesparse.builder.compare import Comparison
from edgesparse.builder.prepare import Build
from edgesparse.config import DetectorSpec
from edgesparse.head_table import head_file
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import Candidate, LayerRecord, LayerVerdict, Manifest, TensorRecord, sha256
from edgesparse.package.store import HEAD, sealed
from edgesparse.version import VERSION


def pack(folder: Path, comparison: Comparison, build_id: str, hashes: Mapping[str, str | None]) -> None:
    """Write engine, fallback, report and manifest into `folder`."""
    build, chosen, fallback = comparison.build, comparison.chosen, comparison.fallback
    suffix = build.backend.suffix
    names = {"model": chosen} if fallback is chosen else {"model": chosen, "fallback": fallback}
    candidates = tuple(map(_candidate, comparison.attempts))  # before the engines are moved
    for name, attempt in names.items():
        assert attempt.result is not None
        path = folder / f"{name}{suffix}"
        shutil.move(attempt.result.path, path)
        if build.backend.native_code:
            path.chmod(0o600)
    if (own := head_file(build.prepared.spec.head)) is not None:
        shutil.copyfile(own.path, folder / HEAD)
    manifest = Manifest(
        edgesparse=VERSION,
        build_id=build_id,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        candidates=candidates,
        engine=f"model{suffix}",
        fallback=f"{[*names][-1]}{suffix}",
        fallback_precision=fallback.plan.precision,
        inputs=tuple(TensorRecord(**asdict(spec)) for spec in chosen.inputs),
        outputs=tuple(TensorRecord(**asdict(spec)) for spec in chosen.outputs),
        verdict=comparison.verdict,
        sparsity=_sparsity(comparison),
        clocks=comparison.clocks,
        seconds=comparison.phases.rounded(),
        files={},
        **_origin(build, hashes),
    )
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / "report.html").write_text(report.page(manifest.model_copy(update={"files": files})))
    files["report.html"] = sha256(folder / "report.html")
    manifests.write(folder, sealed(manifest.model_copy(update={"files": files})))


def _origin(build: Build, hashes: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the manifest fields that are known before anything is built."""
    recipe, backend, batch = build.recipe, build.backend, build.recipe.build.batch
    return {
        "model": recipe.model.stem,
        "source_sha256": str(hashes["model"]),
        "recipe_sha256": recipe.build_key(),
        "labels_sha256": hashes["labels"],
        "calibration_sha256": hashes["calibration"],
        "backend": backend.name,
        "identity": backend.identity(),
        "machine": device.probe().named(),
        "detector": _spec(build.prepared.spec),
        "threads": recipe.build.threads,
        "dla": recipe.build.dla,
        "batch": (batch.min, batch.opt, batch.max) if batch.open and backend.open_batch else None,
        "run": recipe.run,
        "budget_mb": None if build.budget.size is None else round(build.budget.size / MB, 1),
        "budget_of": build.budget.where,
    }


def _spec(spec: DetectorSpec) -> DetectorSpec:
    """With a head from a file, the copy of that file in the package."""
    own = head_file(spec.head)
    return spec if own is None else spec.model_copy(update={"head": f"{HEAD}:{own.name}"})


def _candidate(attempt: Attempt) -> Candidate:
    result, timing, spent = attempt.result, attempt.timing, attempt.spent
    candidate = Candidate(
        name=attempt.plan.name,
        precision=attempt.plan.precision,
        sparse=attempt.plan.sparse,
        outcome=attempt.outcome,
        reason=attempt.reason,
        host_mb=round(spent.host / MB, 1),
        device_mb=None if spent.device is None else round(spent.device / MB, 1),
        loaded_mb=None if spent.loaded is None else round(spent.loaded / MB, 1),
        seconds=attempt.phases.rounded(),
        rung=attempt.rung,
        score=attempt.score,
        agreement=attempt.agreement,
        shift=attempt.shift,
    )
    if timing is not None:
        times = {"latency_ms": round(timing.median_ms, 4), "spread_ms": round(timing.spread, 4)}
        candidate = candidate.model_copy(update=times)
    if result is None:
        return candidate
    engine = {
        "precision": result.precision,
        "build_seconds": round(result.seconds, 3),
        "file_mb": round(result.path.stat().st_size / MB, 6),
        "context_mb": round(result.device_memory / MB, 1),
        "eligible": result.eligible,
        "picked": sparse_layers(result),
        "layers": tuple(LayerRecord(**asdict(layer)) for layer in result.layers),
        "degraded": result.degraded,
        "warnings": result.warnings,
        "command": result.command,
        "image": result.image,
    }
    return candidate.model_copy(update=engine)


def _sparsity(comparison: Comparison) -> tuple[LayerVerdict, ...]:
    """Return the chosen engine's layers; if it is dense, the fastest 2:4 engine's; without any, the model's layer
    states.
    """
    proofs = {proof.attempt: proof for proof in comparison.proofs}
    proof = proofs.get(comparison.chosen) or min(
        comparison.proofs, key=lambda p: p.attempt.timing.median_ms if p.attempt.timing else 0, default=None
    )
    dense = "no candidate with 2:4 kernels was built"
    words = {layer.name: reason for layer, reason in proof.layers} if proof else {}
    states = {"dense": "could be 2:4: run 'edgesparse prune'", "sparse": dense}
    return tuple(
        LayerVerdict(
            name=layer.name,
            state=layer.state,
            sparse=words.get(layer.name) == "",
            why=words.get(layer.name, layer.reason or states[layer.state]),
        )
        for layer in comparison.build.prepared.layers.layers
    )
