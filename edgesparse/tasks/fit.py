"""One search over input size, rewrites, channels, and ReLU, 2:4 and INT8 per layer, under one budget of mAP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import yaml

from edgesparse.config import Accept, Recipe
from edgesparse.disk import check_folder, storing
from edgesparse.errors import ConfigError
from edgesparse.files import make_folder, replace_text
from edgesparse.predict import boards
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.labels.read import Labels
from edgesparse.tasks import fit_network
from edgesparse.tasks.fit_build import time_best
from edgesparse.tasks.fit_costs import Costs
from edgesparse.tasks.fit_network import FitOptions, Network, Settings
from edgesparse.tasks.fit_reference import reference_boxes
from edgesparse.tasks.fit_report import AGREEMENT, MAP, FitReport, page
from edgesparse.tasks.fit_search import Judges, Search
from edgesparse.tasks.inputs import Target, as_recipe, check_images, check_numbers, need_torch, read_annotations
from edgesparse.tasks.writing import write


def fit_folder(target: Target, output: Path, options: FitOptions, progress: Progress = quiet) -> FitReport:
    """Search, and write the chosen network, its recipe, `fit.json` and `ladder.html` into the folder `output`.

    What each choice saves is predicted for the board, what it costs is measured, and a knapsack picks the best set; the
    best few networks are made and scored as a whole, and the fastest within the budget is the result. Without
    `options.annotations`, the boxes that the float network keeps take the place of labels. What was measured is stored
    in `output`, so the same call continues after an interruption. Raises ConfigError, ModelError, CalibrationError,
    SourceError, BuildError, BackendUnavailable.
    """
    with storing(output):
        return _fit(target, output, options, progress)


def _fit(target: Target, output: Path, options: FitOptions, progress: Progress) -> FitReport:
    recipe = as_recipe(target, options.names)
    images = options.images or recipe.calibrate.images
    check_numbers(options.count, options.max_drop)
    if images is None:
        raise ConfigError("no images to calibrate on: pass --images, or set calibrate.images in the recipe")
    if options.annotated_images is not None and options.annotations is None:
        raise ConfigError("--annotated-images needs --annotations")
    check_images(str(images))
    boards.board(options.device)
    if options.steps:
        need_torch("--steps")
    _check_folder(output, options.force)
    evaluation = read_annotations(recipe.accept.annotations, recipe.accept.images)
    choosing = read_annotations(options.annotations, options.annotated_images)
    if choosing is not None and evaluation is not None:
        _check_apart(choosing, evaluation)
    make_folder(output / "networks")
    costs = Costs(output / "costs.json")  # first: it marks the folder as one that the same call may continue
    settings = Settings(options, recipe, str(images), output / "networks")
    base = fit_network.base(recipe, settings)
    if choosing is None:
        settings, judges = _without_labels(base, settings, output / "reference", progress)
    else:
        judges = Judges(choosing, evaluation, MAP)
    search = Search(base, settings, judges, costs, progress)
    search.run()
    accept = _accept(recipe, judges, search.budget)
    candidates = {trial.label: trial.network for trial in search.within_budget}
    timings = time_best(candidates, accept, options.build, output / "engines", progress)
    report, chosen = search.report(timings)
    return _write(output, chosen, report, accept, images)


def _without_labels(base: Network, settings: Settings, folder: Path, progress: Progress) -> tuple[Settings, Judges]:
    """Let the boxes of the float network take the place of labels, and calibrate on the images of the first half."""
    _, spec = fit_network.scored(base)
    files = reference_boxes(base.model, spec, settings.images, settings.options.count, folder, progress)
    first, second = (Labels(path, path.parent / "images") for path in files)
    images = str(files[0].parent / "images")
    return replace(settings, images=images), Judges(first, second, AGREEMENT)


def _check_folder(output: Path, force: bool) -> None:
    check_folder(output)
    if output.exists() and not (output / "costs.json").exists() and any(output.iterdir()):
        raise ConfigError(f"{output} holds other files: name an empty folder, or that of an interrupted fit")
    if (output / "fit.json").exists() and not force:
        raise ConfigError(f"{output / 'fit.json'} already exists: pass --force to overwrite it, or name another folder")


def _check_apart(choosing: Labels, evaluation: Labels) -> None:
    if choosing.path.resolve() == evaluation.path.resolve():
        raise ConfigError(
            f"--annotations {choosing.path} are also accept.annotations: a result must not be chosen on the images "
            "that it is reported on; name others"
        )


def _accept(recipe: Recipe, judges: Judges, budget: float) -> Accept:
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
