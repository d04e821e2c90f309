"""One search over precision, input size, rewrites, channels and 2:4, under one budget of mAP."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import yaml

from edgesparse.config import Recipe
from edgesparse.errors import BuildError, ConfigError, EdgeSparseError
from edgesparse.files import make_folder, replace_text
from edgesparse.predict import boards
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.labels.read import Labels
from edgesparse.tasks import fit_steps
from edgesparse.tasks.fit_report import FitReport, Rung, page
from edgesparse.tasks.fit_steps import FitOptions, Network, NotWorthIt, Settings
from edgesparse.tasks.inputs import Target, as_recipe, check_images, check_numbers, read_annotations
from edgesparse.tasks.writing import write

LEAST = 0.01
"""The saving, as a share of the predicted time, below which a step is not kept."""
DEFAULT_DROP = 1.0


class _TimeUp(BuildError):
    """The step ran past --minutes."""


def fit_folder(target: Target, output: Path, options: FitOptions, progress: Progress = quiet) -> FitReport:
    """Search, and write the chosen network, its recipe, `fit.json` and `ladder.html` into the folder `output`.

    Each step starts from the network that earlier ones left, and is kept if the board is predicted to run it at least
    1 % faster and its measured mAP stays within the budget. What a step costs is stored in `output`, so the same call
    continues after an interruption. Raises ConfigError, ModelError, CalibrationError, SourceError, BuildError.
    """
    recipe = as_recipe(target, options.names)
    images = options.images or recipe.calibrate.images
    check_numbers(options.count, options.max_drop)
    if images is None:
        raise ConfigError("no images to calibrate on: pass --images, or set calibrate.images in the recipe")
    check_images(str(images))
    boards.board(options.device)
    _check_folder(output, options.force)
    choosing = read_annotations(options.annotations, options.annotated_images)
    evaluation = read_annotations(recipe.accept.annotations, recipe.accept.images)
    assert choosing is not None
    _check_apart(Path(options.annotations), recipe.accept.annotations)
    make_folder(output / "steps")
    settings = Settings(options, recipe, str(images), output / "steps")
    search = _Search(recipe, settings, choosing, evaluation, progress)
    report = search.run()
    return _write(output, recipe, search.chosen, report, settings)


def _check_folder(output: Path, force: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: name a folder")
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
    def __init__(
        self, recipe: Recipe, settings: Settings, choosing: Labels, evaluation: Labels | None, progress: Progress
    ) -> None:
        self.recipe, self.settings, self.progress = recipe, settings, progress
        self.choosing, self.evaluation = choosing, evaluation
        options = settings.options
        self.budget = DEFAULT_DROP if options.max_drop is None else options.max_drop
        self.deadline = None if options.minutes is None else monotonic() + 60 * options.minutes
        self.rungs, self.networks = list[Rung](), dict[str, Network]()
        self.costs = _Costs(settings.folder.parent / "costs.json")

    def run(self) -> FitReport:
        """Try each step and score what was kept on the evaluation images."""
        base = self._measured(fit_steps.base(self.recipe, self.settings), "fp32")
        self.reference, self.chosen = base.score, base
        self._keep("FP32", base, "where the ladder starts")
        half = replace(base, precision="fp16")
        half = replace(half, ms=fit_steps.milliseconds(half, self.settings))
        self._keep("FP16", half, "scored in FP32: ONNX Runtime has no FP16 kernels here")
        for number, (name, step) in enumerate(fit_steps.STEPS.items()):
            self.progress(f"fit: {name}", number, len(fit_steps.STEPS))
            self._try(name, step)
        self.rungs.append(Rung("ReLU", "not tried", "needs training: edgesparse distill --relu, then fit its result"))
        options = self.settings.options
        self.deadline = None  # what was kept is always scored
        evaluated = {name: self._evaluated(network) for name, network in self.networks.items() if name != "FP16"}
        evaluated["FP16"] = evaluated["FP32"]
        rungs = tuple(replace(rung, evaluated=evaluated.get(rung.name)) for rung in self.rungs)
        return FitReport(self.recipe.model.name, options.device, self.budget, options.target_ms, rungs)

    def _try(self, name: str, step: fit_steps.Step) -> None:
        target = self.settings.options.target_ms
        if target is not None and self.chosen.ms <= target:
            self.rungs.append(Rung(name, "not tried", "the target is met"))
            return
        left = self.budget - (self.reference - self.chosen.score)
        key = self.costs.key(name, self.chosen, self.settings, left)
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
            self._keep(name, network, f"saves {saved:.2f} ms (predicted); {drop:.1f} points lost so far")
            return
        self.rungs.append(Rung(name, "dropped", why, network.ms, network.score))

    def _keep(self, name: str, network: Network, why: str) -> None:
        self.chosen = self.networks[name] = network
        self.rungs.append(Rung(name, "kept", why, network.ms, network.score))

    def _measured(self, network: Network, name: str) -> Network:
        self.progress(f"scoring {name}", 0, 0)
        return replace(
            network,
            ms=fit_steps.milliseconds(network, self.settings),
            score=self._score(network, self.choosing),
        )

    def _score(self, network: Network, labels: Labels) -> float:
        model, spec = fit_steps.scored(network)
        return ModelScorer(spec, labels, lambda done, total: self._progress("scoring", done, total))(model)

    def _evaluated(self, network: Network) -> float | None:
        return None if self.evaluation is None else self._score(network, self.evaluation)

    def _progress(self, step: str, done: int, total: int) -> None:
        self._check_time()
        self.progress(step, done, total)

    def _check_time(self) -> None:
        if self.deadline is not None and monotonic() > self.deadline:
            raise _TimeUp("the time of --minutes was up before the original was scored: allow more")


class _Costs:
    """The file with what each step costs, by everything that determines it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            self.known = {}
            replace_text(path, "{}\n")
        except ValueError:
            raise ConfigError(f"{path} cannot be read: remove it, to measure again") from None

    @staticmethod
    def key(name: str, network: Network, settings: Settings, left: float) -> str:
        options = settings.options
        used = (options.annotations, options.annotated_images, settings.images, options.count, options.device)
        text = json.dumps([name, network.precision, round(left, 3), *map(str, used)])
        return hashlib.sha256(text.encode() + network.model.read_bytes()).hexdigest()

    def get(self, key: str, network: Network) -> Network | None:
        if (values := self.known.get(key)) is None:
            return None
        return Network.from_dict(values, network.recipe, self.path.parent)

    def put(self, key: str, network: Network) -> None:
        self.known[key] = network.as_dict(self.path.parent)
        replace_text(self.path, json.dumps(self.known, indent=1, sort_keys=True) + "\n")


def _write(output: Path, recipe: Recipe, chosen: Network, report: FitReport, settings: Settings) -> FitReport:
    """Write the chosen network, its recipe, the report and its page; `fit.json` comes last."""
    written = [output / "model.onnx", output / "fit.yaml", output / "ladder.html", output / "fit.json"]
    write(written[0], lambda path: path.write_bytes(chosen.model.read_bytes()))
    if chosen.quantized is not None:
        quantized = chosen.quantized
        written.insert(1, output / "model-int8.onnx")
        write(written[1], lambda path: path.write_bytes(quantized.read_bytes()))
    images = Path(settings.images).absolute()
    calibrate = recipe.calibrate.model_copy(update={"images": images if images.is_dir() else None})
    accept = recipe.accept
    if accept.annotations is not None:
        own = {"reference": accept.reference or recipe.model.absolute(), "annotations": accept.annotations.absolute()}
        if accept.images is not None:
            own["images"] = accept.images.absolute()
        accept = accept.model_copy(update={"max_map_drop": report.max_drop, **own})
    changes = {"model": Path("model.onnx"), "calibrate": calibrate, "accept": accept}
    values = chosen.recipe.model_copy(update=changes).model_dump(mode="json", exclude_defaults=True, exclude={"run"})
    replace_text(output / "fit.yaml", yaml.safe_dump(values, sort_keys=False))
    report = replace(report, written=tuple(map(str, written)))
    replace_text(output / "ladder.html", page(report))
    replace_text(output / "fit.json", json.dumps(report.as_dict(), indent=1) + "\n")
    return report
