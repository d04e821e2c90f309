"""The power is cut in the middle of work, in a virtual machine: what was promised is there. Marker `vm`.

This is a sample; power.py cuts as often as there is time for.
"""

from __future__ import annotations

import json
from pathlib import Path

import power
import prefixes
import pytest
from power import Campaign, Cut, Writer
from writer import ALL


@pytest.mark.vm
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", ALL)
def test_a_power_cut_breaks_no_promise(writer: Writer, tmp_path: Path, scenario: str) -> None:
    cut = Campaign(writer, tmp_path).cut(scenario, 0)
    assert not cut.lost, cut


@pytest.mark.vm
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", ["deploy", "spool", "package"])
def test_every_write_may_be_the_last(writer: Writer, tmp_path: Path, scenario: str) -> None:
    """On a disk with a cache: what follows its last flush may be lost. prefixes.py checks more."""
    result = prefixes.check(writer, scenario, 20, tmp_path)
    assert result["broken"] == [] and result["flushes"] >= 2, result


def test_a_campaign_continues_and_counts_what_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts that are in the results are not repeated."""
    results, done = tmp_path / "cuts.jsonl", []

    def cut(_: Campaign, scenario: str, number: int) -> Cut:
        done.append((scenario, number))
        kind = "moment" if number else "operation"
        return Cut(scenario, number, kind, 1, "", False, False, "gone" if scenario == "b" else "", 2.0)

    monkeypatch.setattr(Campaign, "cut", cut)
    campaign = Campaign(Writer(None, tmp_path), tmp_path)  # type: ignore[arg-type]
    power.run(campaign, [("a", 0)], results)
    power.run(campaign, [("a", 0), ("b", 0), ("a", 1), ("b", 1)], results)
    assert done == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    summary = power.summary(results)
    assert summary["cuts"] == 4 and summary["at moments"] == 2
    assert summary["scenarios"]["a"] == {"cuts": 2, "at operations": 1, "at moments": 1, "after the end": 0}
    assert [cut["scenario"] for cut in summary["lost"]] == ["b", "b"]
    json.dumps(summary)
