"""What `fit` measured so far, by everything that determines it, so that the same call continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesparse.errors import ConfigError
from edgesparse.files import file_states, replace_text
from edgesparse.runtime.labels.read import Labels
from edgesparse.stream.sources.open import image_states
from edgesparse.tasks.fit_network import Network, Settings


class Costs:
    """The file `costs.json`: the network that each stage led to, and the score of each network on each data set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
            self.networks: dict[str, Any] = dict(stored["networks"])
            self.scores: dict[str, float] = dict(stored["scores"])
        except FileNotFoundError:
            self.networks, self.scores = {}, {}
            self._write()
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} cannot be read: remove it, to measure again") from None

    @staticmethod
    def key(kind: str, names: Sequence[object], network: Network, settings: Settings) -> str:
        """Of a stage of this kind from a network: its layers or channels, and what they are fitted with."""
        options = settings.options
        used = (settings.images, image_states(settings.images, options.count), options.count, options.steps)
        text = json.dumps([kind, *map(str, (*names, *used, options.device)), _read(network)])
        return hashlib.sha256(text.encode() + network.model.read_bytes()).hexdigest()

    def get(self, key: str, network: Network) -> Network | None:
        """Return the network that a stage from `network` led to; None if that is unknown, or its files are gone."""
        values = self.networks.get(key)
        return None if values is None else Network.from_dict(values, network.recipe, self.path.parent)

    def put(self, key: str, network: Network) -> None:
        self.networks[key] = network.as_dict(self.path.parent)
        self._write()

    @staticmethod
    def score_key(network: Network, labels: Labels) -> str:
        """Of a network's score on labels."""
        states = file_states(image.path for image in labels.images)  # images may be replaced under the same names
        text = f"{_read(network)} {labels.images!r} {states} {labels.boxes!r} {labels.categories!r}"
        return hashlib.sha256(text.encode() + (network.quantized or network.model).read_bytes()).hexdigest()

    def put_score(self, key: str, score: float) -> None:
        self.scores[key] = score
        self._write()

    def _write(self) -> None:
        values = {"networks": self.networks, "scores": self.scores}
        replace_text(self.path, json.dumps(values, indent=1, sort_keys=True) + "\n")


def _read(network: Network) -> str:
    """How the network's input and outputs are read."""
    return f"{network.recipe.head} {network.recipe.input!r}"
