"""One search over precision, input size, rewrites, channels and 2:4, under one budget of mAP."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import yaml

from edgesparse.config import Accept, Recipe
from edgesparse.errors import BuildError, ConfigError, EdgeSparseError
from edgesparse.files import make_folder, replace_text
from edgesparse.predict import boards
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.labels.read import Labels
from edgesparse.tasks import fit_steps
from edgesparse.tasks.fit_build import time_best
from edgesparse.tasks.fit_costs import Costs
from edgesparse.tasks.fit_reference import reference_boxes
from edgesparse.tasks.fit_report import AGREEMENT, MAP, FitReport, Rung, page
from edgesparse.tasks.fit_steps import FitOptions, Network, NotWorthIt, Settings
from edgesparse.tasks.inputs import Target, as_recipe, check_images, check_numbers, read_annotations
from edgesparse.tasks.writing import check_folder, write

LEAST = 0.01
"""The saving, as a share of the predicted time, below which a step is not kept."""
DEFAULT_DROP = {MAP: 1.0, AGREEMENT: 15.0}
"""The points that may be lost by default, by what they are of."""


class _TimeUp(BuildError):
    """The step ran past --minutes."""


@dataclass(frozen=True)
class _Judges:
    """The labels that steps are chosen on, those that the result is reported on, and what a score on them is."""

    choosing: Labels
    evaluation: Labels | None
    measure: str


def fit_folder(target: Target, output: Path, options: FitOptions, progress: Progress = quiet) -> FitReport:
    """Search, and write the chosen network, its recipe, `fit.json` and `ladder.html` into the folder `output`.

    Each step starts from the network that earlier ones left, and is kept if the board is predicted to run it at least
    1 % faster and its measured mAP stays within the budget. Without `options.annotations`, the boxes that the float
    network keeps take the place of labels. What a step costs is stored in `output`, so the same call continues after
    an interruption. Raises ConfigError, ModelError, CalibrationError, SourceError, BuildError.
    """
    recipe = as_recipe(target, options.names)
    images = options.images or recipe.calibrate.images
    check_numbers(options.count, options.max_drop)
    if images is None:
        raise ConfigError("no images to calibrate on: pass --images, or set calibrate.images in the recipe")
    if options.annotated_images is not None and options.annotations is None:
        raise ConfigError("--annotated-images needs --annotations")
    check_images(str(images))
    boards.board(options.device)
    _check_folder(output, options.force)
    evaluation = read_annotations(recipe.accept.annotations, recipe.accept.images)
    choosing = read_annotations(options.annotations, options.annotated_images)
    if options.annotations is not None:
        _check_apart(Path(options.annotations), recipe.accept.annotations)
    make_folder(output / "steps")
    costs = Costs(output / "costs.json")  # first: it marks the folder as one that the same call may continue
    settings = Settings(options, recipe, str(images), output / "steps", options.annotations, options.annotated_images)
    base = fit_steps.base(recipe, settings)
    if choosing is None:
        settings, judges = _without_labels(base, settings, output / "reference", progress)
    else:
        judges = _Judges(choosing, evaluation, MAP)
    search = _Search(base, settings, judges, costs, progress)
    report, accept = search.run(), _accept(recipe, judges, search.budget)
    if options.build:
        report = _built(report, search, accept, output / "engines")
    return _write(output, search.networks[report.result.name], report, accept, images)


def _built(report: FitReport, search: _Search, accept: Accept, folder: Path) -> FitReport:
    """Build and time the best networks within the budget; the fastest becomes the result."""
    timings = time_best(search.within_budget, accept, search.settings.options.build, folder, search.progress)
    rungs = (
        rung if (timing := timings.get(rung.name)) is None else replace(rung, measured=timing.ms, engine=timing.engine)
        for rung in report.rungs
    )
    return replace(report, rungs=tuple(rungs))


def _without_labels(base: Network, settings: Settings, folder: Path, progress: Progress) -> tuple[Settings, _Judges]:
    """Let the boxes of the float network take the place of labels, and calibrate on the images of the first half."""
    _, spec = fit_steps.scored(base)
    files = reference_boxes(base.model, spec, settings.images, settings.options.count, folder, progress)
    first, second = (Labels(path, path.parent / "images") for path in files)
    images = str(files[0].parent / "images")
    settings = replace(settings, images=images, annotations=files[0], annotated_images=images)
    return settings, _Judges(first, second, AGREEMENT)


def _check_folder(output: Path, force: bool) -> None:
    check_folder(output)
    if output.exists() and not (output / "costs.json").exists() and any(output.iterdir()):
        raise ConfigError(f"{output} holds other files: name an empty folder, or that of an interrupted fit")
    if (output / "fit.json").exists() and not force:
        raise ConfigError(f"{output / 'fit.json'} already exists: pass --force to overwrite it, or name another folder")


def _check_apart(choosing: Path, evaluation: Path | None) -> None:
    if evaluation is not None and choosing.resolve() == evaluation.resolve():
        raise ConfigError(
            f"--annotations {choosing} are also accept.annotations: a result must not be chosen on the images that "
            "it is reported on; name others"
        )


class _Search:
    def __init__(self, base: Network, settings: Settings, judges: _Judges, costs: Costs, progress: Progress) -> None:
        self.settings, self.judges, self.costs, self.progress = settings, judges, costs, progress
        options = settings.options
        self.budget = DEFAULT_DROP[judges.measure] if options.max_drop is None else options.max_drop
        self.deadline = None if options.minutes is None else monotonic() + 60 * options.minutes
        self.rungs, self.networks = list[Rung](), dict[str, Network]()
        self.chosen = base

    def run(self) -> FitReport:
        """Try each step, and score every network that was measured on the evaluation images."""
        base = self._measured(self.chosen, "fp32")
        self.reference = base.score
        self._keep("FP32", base, "where the ladder starts")
        half = replace(base, precision="fp16")
        half = replace(half, ms=fit_steps.milliseconds(half, self.settings))
        self._keep("FP16", half, "scored in FP32: ONNX Runtime has no FP16 kernels here")
        for number, (name, step) in enumerate(fit_steps.STEPS.items()):
            self.progress(f"fit: {name}", number, len(fit_steps.STEPS))
            self._try(name, step)
        self.rungs.append(Rung("ReLU", "not tried", "needs training: edgesparse distill --relu, then fit its result"))
        options = self.settings.options
        self.deadline = None  # what was measured is always scored
        rungs = tuple(replace(rung, evaluated=self._evaluated(rung.name)) for rung in self.rungs)
        model = self.settings.source.model.name
        return FitReport(model, options.device, self.budget, options.target_ms, rungs, self.judges.measure)

    @property
    def within_budget(self) -> dict[str, Network]:
        return {name: each for name, each in self.networks.items() if self.reference - each.score <= self.budget}

    def _try(self, name: str, step: fit_steps.Step) -> None:
        target = self.settings.options.target_ms
        if target is not None and self.chosen.ms <= target:
            self.rungs.append(Rung(name, "not tried", "the target is met"))
            return
        left = self.budget - (self.reference - self.chosen.score)
        key = self.costs.key(name, self.chosen, self.settings, left, self.judges.choosing)
        try:
            network = self.costs.get(key, self.chosen)
            if network is None:
                self._check_time()
                network = self._measured(step(self.chosen, self.settings, left, self._progress), name)
                self.costs.put(key, network)
        except NotWorthIt as reason:
            self.rungs.append(Rung(name, "not tried", str(reason)))
        except _TimeUp:
            self.rungs.append(Rung(name, "not tried", "the time of --minutes was up: run the same command to continue"))
        except EdgeSparseError as error:
            self.rungs.append(Rung(name, "dropped", str(error)))
        else:
            self._judge(name, network)

    def _judge(self, name: str, network: Network) -> None:
        saved, drop = self.chosen.ms - network.ms, self.reference - network.score
        if drop > self.budget:
            why = f"loses {drop:.1f} points in all: {self.budget:g} are allowed"
        elif saved < LEAST * self.chosen.ms:
            why = f"saves {saved:.3f} ms (predicted): less than {LEAST:.0%}"
        else:
            lost = round(drop, 1) + 0.0  # not -0.0
            self._keep(name, network, f"saves {saved:.2f} ms (predicted); {lost:.1f} points lost so far")
            return
        self.networks[name] = network
        self.rungs.append(Rung(name, "dropped", why, network.ms, network.score))

    def _keep(self, name: str, network: Network, why: str) -> None:
        self.chosen = self.networks[name] = network
        self.rungs.append(Rung(name, "kept", why, network.ms, network.score))

    def _measured(self, network: Network, name: str) -> Network:
        self.progress(f"scoring {name}", 0, 0)
        score = self._score(network, self.judges.choosing)
        return replace(network, ms=fit_steps.milliseconds(network, self.settings), score=score)

    def _score(self, network: Network, labels: Labels) -> float:
        key = self.costs.score_key(network, labels)
        if key not in self.costs.scores:
            model, spec = fit_steps.scored(network)
            scorer = ModelScorer(spec, labels, lambda done, total: self._progress("scoring", done, total))
            self.costs.put_score(key, scorer(model))
        return self.costs.scores[key]

    def _evaluated(self, name: str) -> float | None:
        network, labels = self.networks.get(name), self.judges.evaluation
        return None if network is None or labels is None else self._score(network, labels)

    def _progress(self, step: str, done: int, total: int) -> None:
        self._check_time()
        self.progress(step, done, total)

    def _check_time(self) -> None:
        if self.deadline is not None and monotonic() > self.deadline:
            raise _TimeUp("the time of --minutes was up before the original was scored: allow more")


def _accept(recipe: Recipe, judges: _Judges, budget: float) -> Accept:
    """Return the gate of the written recipe, which compares with the original; its paths are absolute."""
    accept = recipe.accept
    paths = {name: path.absolute() for name in ("annotations", "images") if (path := getattr(accept, name)) is not None}
    if not paths:
        return accept
    limit = {"max_map_drop": budget} if judges.measure == MAP and "annotations" in paths else {}
    return accept.model_copy(update={**paths, **limit, "reference": accept.reference or recipe.model.absolute()})


def _write(output: Path, chosen: Network, report: FitReport, accept: Accept, images: str | Path) -> FitReport:
    """Write the chosen network, its recipe, the report and its page; `fit.json` comes last."""
    written = [output / "model.onnx", output / "fit.yaml", output / "ladder.html", output / "fit.json"]
    write(written[0], lambda path: path.write_bytes(chosen.model.read_bytes()))
    if chosen.quantized is not None:
        quantized = chosen.quantized
        written.insert(1, output / "model-int8.onnx")
        write(written[1], lambda path: path.write_bytes(quantized.read_bytes()))
    folder = Path(images).absolute()
    calibrate = chosen.recipe.calibrate.model_copy(update={"images": folder if folder.is_dir() else None})
    changes = {"model": Path("model.onnx"), "calibrate": calibrate, "accept": accept}
    values = chosen.recipe.model_copy(update=changes).model_dump(mode="json", exclude_defaults=True, exclude={"run"})
    replace_text(output / "fit.yaml", yaml.safe_dump(values, sort_keys=False))
    report = replace(report, written=tuple(map(str, written)))
    replace_text(output / "ladder.html", page(report))
    replace_text(output / "fit.json", json.dumps(report.as_dict(), indent=1) + "\n")
    return report
