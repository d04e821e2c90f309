"""Names of classes: from a list of the recipe, a file, or COCO."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml

from edgesparse.errors import ConfigError


def named_classes(said: str | tuple[str, ...], base: Path) -> str | tuple[str, ...]:
    """What `classes:` says, with the names in place of a file's path."""
    return class_names(base / said) if isinstance(said, str) and said not in ("auto", "coco") else said


def class_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line, or from `names:` of a data set's YAML (a list or {0: name})."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"classes: cannot read {path}: {error}; needed a list, 'auto', 'coco' or a file") from None
    if path.suffix not in (".yaml", ".yml"):
        lines = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not lines:
            raise ConfigError(f"{path} holds no class: needed a name a line")
        return lines
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    names = said.get("names") if isinstance(said, dict) else None
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        names = [names[key] for key in sorted(names)]
    if not isinstance(names, list) or not names:
        raise ConfigError(f"{path}: found no 'names:' with a list of classes, or a mapping from 0, 1, 2 ...")
    return tuple(map(str, names))


def coco_names() -> tuple[str, ...]:
    """The 80 classes of COCO in the order of their category ids."""
    return tuple(resources.files("edgesparse").joinpath("coco.txt").read_text().splitlines())
