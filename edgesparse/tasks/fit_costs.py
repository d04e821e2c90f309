"""What `fit` measured so far, by everything that determines it, so that the same call continues."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgesparse.errors import ConfigError
from edgesparse.files import file_states, replace_text
from edgesparse.runtime.labels.read import Labels
from edgesparse.stream.sources.open import image_states
from edgesparse.tasks.fit_steps import Network, Settings


class Costs:
    """The file `costs.json`: the network that each step led to, and the score of each network on each data set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
            self.steps: dict[str, Any] = dict(stored["steps"])
            self.scores: dict[str, float] = dict(stored["scores"])
        except FileNotFoundError:
            self.steps, self.scores = {}, {}
            self._write()
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} cannot be read: remove it, to measure again") from None

    @staticmethod
    def key(name: str, network: Network, settings: Settings, left: float, labels: Labels) -> str:
        """Of the step `name` from a network, with `left` points that may be lost on `labels`."""
        options = settings.options
        images = image_states(settings.images, options.count)
        used = (settings.annotations, settings.annotated_images, images, options.count, options.device)
        text = json.dumps([name, network.precision, round(left, 3), *map(str, used), _text(network, labels)])
        return hashlib.sha256(text.encode() + network.model.read_bytes()).hexdigest()

    def get(self, key: str, network: Network) -> Network | None:
        """Return the network that a step from `network` led to; None if that is unknown, or its files are gone."""
        values = self.steps.get(key)
        return None if values is None else Network.from_dict(values, network.recipe, self.path.parent)

    def put(self, key: str, network: Network) -> None:
        self.steps[key] = network.as_dict(self.path.parent)
        self._write()

    @staticmethod
    def score_key(network: Network, labels: Labels) -> str:
        """Of a network's score on labels."""
        return hashlib.sha256(
            _text(network, labels).encode() + (network.quantized or network.model).read_bytes()
        ).hexdigest()

    def put_score(self, key: str, score: float) -> None:
        self.scores[key] = score
        self._write()

    def _write(self) -> None:
        values = {"steps": self.steps, "scores": self.scores}
        replace_text(self.path, json.dumps(values, indent=1, sort_keys=True) + "\n")


def _text(network: Network, labels: Labels) -> str:
    """What determines a score besides the network's file."""
    recipe = network.recipe
    states = file_states(image.path for image in labels.images)  # images may be replaced under the same names
    return f"{recipe.head} {recipe.input!r} {labels.images!r} {states} {labels.boxes!r} {labels.categories!r}"
