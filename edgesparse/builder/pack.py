"""From the outcome of a contest to the files of a package and their manifest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from edgesparse import device
from edgesparse.backends import Backend
from edgesparse.builder import report
from edgesparse.builder.attempts import Tried
from edgesparse.builder.child.memory import MB
from edgesparse.builder.choose import sparse_layers
from edgesparse.builder.contest import Contest
from edgesparse.config import Recipe
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import Candidate, Layer, LayerVerdict, Manifest, Tensor, sha256
from edgesparse.package.store import sealed
from edgesparse.version import VERSION


def pack(
    folder: Path, contest: Contest, recipe: Recipe, engine: Backend, build_id: str, hashes: Mapping[str, str | None]
) -> None:
    """Write engine, fallback, report and manifest into `folder`."""
    chosen, fallback = contest.chosen, contest.fallback
    names = {"model": chosen} if fallback is chosen else {"model": chosen, "fallback": fallback}
    candidates = tuple(map(_candidate, contest.tried))  # while the engines are where they were built
    for name, tried in names.items():
        assert tried.result is not None
        path = folder / f"{name}{engine.suffix}"
        shutil.move(tried.result.path, path)
        if engine.native_code:
            path.chmod(0o600)
    manifest = Manifest(
        edgesparse=VERSION,
        build_id=build_id,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=recipe.model.stem,
        source_sha256=str(hashes["model"]),
        recipe_sha256=recipe.build_key(),
        labels_sha256=hashes["labels"],
        calibration_sha256=hashes["calibration"],
        backend=engine.name,
        identity=engine.identity(),
        machine=device.probe().named(),
        engine=f"model{engine.suffix}",
        fallback=f"{[*names][-1]}{engine.suffix}",
        fallback_precision=fallback.plan.precision,
        inputs=tuple(Tensor(**{**one, "shape": tuple(one["shape"])}) for one in chosen.inputs),
        outputs=tuple(Tensor(**{**one, "shape": tuple(one["shape"])}) for one in chosen.outputs),
        detector=contest.prepared.spec,
        threads=recipe.build.threads,
        dla=recipe.build.dla,
        batch=_batch(recipe, engine),
        run=recipe.run,
        candidates=candidates,
        verdict=contest.verdict,
        sparsity=_sparsity(contest),
        budget_mb=None if contest.budget.size is None else round(contest.budget.size / MB, 1),
        budget_of=contest.budget.where,
        clocks=contest.clocks,
        files={},
    )
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / "report.html").write_text(report.page(manifest.model_copy(update={"files": files})))
    files["report.html"] = sha256(folder / "report.html")
    manifests.write(folder, sealed(manifest.model_copy(update={"files": files})))


def _batch(recipe: Recipe, engine: Backend) -> tuple[int, int, int] | None:
    said = recipe.build.batch
    return (said.min, said.opt, said.max) if said.open and engine.open_batch else None


def _candidate(tried: Tried) -> Candidate:
    result, timing, spent = tried.result, tried.timing, tried.spent
    said = Candidate(
        name=tried.plan.name,
        precision=tried.plan.precision,
        sparse=tried.plan.sparse,
        outcome=tried.outcome,
        reason=tried.reason,
        host_mb=round(spent.host / MB, 1),
        device_mb=None if spent.device is None else round(spent.device / MB, 1),
        loaded_mb=None if spent.loaded is None else round(spent.loaded / MB, 1),
        rung=tried.rung,
        score=tried.score,
        agreement=tried.agreement,
    )
    if timing is not None:
        said = said.model_copy(update={"latency_ms": round(timing.median_ms, 4), "spread_ms": round(timing.spread, 4)})
    if result is None:
        return said
    built = {
        "precision": result.precision,
        "build_seconds": round(result.seconds, 3),
        "file_mb": round(result.path.stat().st_size / MB, 6),
        "context_mb": round(result.device_memory / MB, 1),
        "eligible": result.eligible,
        "picked": sparse_layers(result),
        "layers": tuple(Layer(**asdict(layer)) for layer in result.layers),
        "degraded": result.degraded,
        "warnings": result.warnings,
        "command": result.command,
    }
    return said.model_copy(update=built)


def _sparsity(contest: Contest) -> tuple[LayerVerdict, ...]:
    """Of the chosen engine; when that is dense, of the fastest 2:4 one; without any, what the model has."""
    proofs = {proof.tried: proof for proof in contest.proofs}
    proof = proofs.get(contest.chosen) or min(
        contest.proofs, key=lambda p: p.tried.timing.median_ms if p.tried.timing else 0, default=None
    )
    dense = "no candidate with 2:4 kernels was built"
    words = {layer.name: reason for layer, reason in proof.layers} if proof else {}
    states = {"dense": "could be 2:4: 'edgesparse prune' makes it", "sparse": dense}
    return tuple(
        LayerVerdict(
            name=layer.name,
            state=layer.state,
            sparse=words.get(layer.name) == "",
            why=words.get(layer.name, layer.reason or states[layer.state]),
        )
        for layer in contest.prepared.layers.layers
    )
