"""Classifiers of whole images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case
from head_checks import SIZE, layout

from edgesparse.config import DetectorSpec, InputSpec, Run, override
from edgesparse.errors import ConfigError
from edgesparse.runtime.heads.recognize import check, choose
from edgesparse.runtime.heads.registry import head
from edgesparse.runtime.run_settings import check_task

AT = layout({"output0": (2, 4)}, (224, 224))
RAW = np.array([[0.1, 0.6, 0.3, 0], [0.25, 0.25, 0.25, 0.25]], np.float32)


def test_probabilities_tell_it() -> None:
    assert choose(AT, {}, [RAW]) == choose(AT, {"task": "classify"}) == "classifier"
    check("classifier", AT)
    assert head("classifier").classes(AT) == 4


@pytest.mark.parametrize("raw", [RAW * 3, RAW - 0.5, np.zeros_like(RAW)])
def test_logits_are_refused_with_the_remedy(raw: np.ndarray) -> None:
    with pytest.raises(Exception, match="a classifier without a softmax"):
        choose(AT, {"task": "classify"}, [raw])


def test_the_best_class_counts_or_all_that_reach_the_threshold() -> None:
    boxes, confidence, class_id = head("classifier").decode(AT, 0.25)([RAW], 0)
    assert boxes.tolist() == [[0, 0, 224, 224]] and class_id.tolist() == [1]
    assert confidence.tolist() == pytest.approx([0.6])
    assert head("classifier").decode(AT, 0.25, True)([RAW], 0)[2].tolist() == [1, 2]
    assert not len(head("classifier").decode(AT, 0.7)([RAW], 0)[1])


ZONES = {"name": "a", "source": "0", "zones": {"z": [[0, 0], [1, 0], [1, 1]]}}


@pytest.mark.parametrize("changes", [{"tracking": True}, {"cameras": [ZONES]}])
def test_tracking_and_zones_mean_nothing(changes: dict[str, Any]) -> None:
    spec = DetectorSpec(head="classifier", classes=("a",), input=InputSpec(size=(8, 8)))
    with pytest.raises(ConfigError, match="sees the whole frame: remove tracking and zones"):
        check_task("classify", spec, override(Run(), changes))


SCORES = np.full((1, 64), 0.25 / 63, np.float32)
SCORES[0, 5] = 0.75
CASES = [Case("classifier", {"output0": SCORES}, ((0, 0, SIZE[1], SIZE[0], 0.75, 5),))]
