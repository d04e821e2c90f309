"""Bundles over HTTPS, from a real server on loopback: resumed, and refused where it sends too much or lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundles
import https
import pytest

from edgesparse.errors import DeployError, SignatureError
from edgesparse.fleet import fetch, keys
from edgesparse.fleet.fetch import MOST_HEAD, open_source

SIZE = 3_000_000
"""Of the model: more than is read for the head."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[https.Site]:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    private = bundles.key(tmp_path)
    with https.serving(tmp_path) as site:
        site.data = bundles.signed(tmp_path / "model.esb", private, "1.0", filler=SIZE).read_bytes()
        yield site


def deploy(site: https.Site, folder: Path) -> Any:
    with open_source(site.url, keys.trusted(folder / "trusted")) as source:
        return bundles.device(folder / "device").deploy(source)


def refused(site: https.Site, folder: Path, kind: type[Exception] = DeployError) -> str:
    with pytest.raises(kind) as error:
        deploy(site, folder)
    assert "\n" not in str(error.value)
    assert not (folder / "device" / "current").exists()
    return str(error.value)


def test_it_is_fetched_and_runs_and_nothing_of_it_is_kept(site: https.Site, tmp_path: Path) -> None:
    assert deploy(site, tmp_path).result == "deployed"
    assert bundles.serving(tmp_path / "device") == "1.0"
    assert not (tmp_path / "device" / "fetch").exists()
    site.asked.clear()
    assert deploy(site, tmp_path).result == "nothing to do"
    assert site.asked == [""]  # its head tells


def test_a_connection_that_breaks_is_taken_up_again(site: https.Site, tmp_path: Path) -> None:
    site.cut = 1_200_000
    assert deploy(site, tmp_path).result == "deployed"
    starts = [int(said[6:-1]) for said in site.asked[1:]]
    assert starts[0] >= MOST_HEAD and starts == sorted(starts) and len(starts) >= 2


def test_a_download_goes_on_in_another_process(site: https.Site, tmp_path: Path) -> None:
    """As after a power cut: what has come is there, and the rest is asked for."""
    site.cut = 1_200_000
    with open_source(site.url, keys.trusted(tmp_path / "trusted")) as source:

        def breaks(step: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            bundles.device(tmp_path / "device", progress=breaks).deploy(source)
    kept = next((tmp_path / "device" / "fetch").iterdir()).stat().st_size
    assert 0 < kept < SIZE
    site.cut, site.asked = None, []
    assert deploy(site, tmp_path).result == "deployed"
    assert site.asked[1:] == [f"bytes={kept}-"]


def test_a_server_without_ranges_is_read_past_what_is_there(site: https.Site, tmp_path: Path) -> None:
    site.ranges = False
    assert deploy(site, tmp_path).result == "deployed"


def test_one_that_is_too_long_is_refused(site: https.Site, tmp_path: Path) -> None:
    site.data += bytes(50_000_000)
    assert "is longer than its manifest says" in refused(site, tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "device").rglob("*")) < 2 * SIZE


def test_a_short_one_that_is_too_long_is_refused_too(site: https.Site, tmp_path: Path) -> None:
    site.data = (bundles.signed(tmp_path / "short.esb", tmp_path / "factory.key", "1.0")).read_bytes() + b"more"
    assert "is longer than its manifest says" in refused(site, tmp_path)


def test_a_length_that_is_a_lie_is_found(site: https.Site, tmp_path: Path) -> None:
    site.length = 10**12
    assert deploy(site, tmp_path).result == "deployed"  # the manifest's length counts


def test_other_bytes_are_refused_and_not_kept(site: https.Site, tmp_path: Path) -> None:
    good, middle = site.data, len(site.data) - 10_000
    site.data = good[:middle] + b"y" + good[middle + 1 :]
    assert "model/model.onnx is not what was signed" in refused(site, tmp_path, SignatureError)
    site.data = good
    assert deploy(site, tmp_path).result == "deployed"


def test_a_range_that_is_another_is_refused(site: https.Site, tmp_path: Path) -> None:
    site.shifted = True
    assert "asked from byte" in refused(site, tmp_path)


def test_a_server_that_stops_in_the_middle_is_given_up(site: https.Site, tmp_path: Path) -> None:
    site.data = site.data[:-100_000]
    said = refused(site, tmp_path)
    assert "cannot fetch" in said and "bytes are kept" in said
    assert len(site.asked) <= 2 + fetch.TRIES


def test_a_server_that_sends_a_few_bytes_each_time_is_given_up(site: https.Site, tmp_path: Path) -> None:
    with open_source(site.url, keys.trusted(tmp_path / "trusted")) as source:
        site.cut, site.asked = 10, []
        with pytest.raises(DeployError, match="the connection ended too early"):
            bundles.device(tmp_path / "device").deploy(source)
    assert len(site.asked) == fetch.TRIES


def test_answers_that_are_no_bundle(site: https.Site, tmp_path: Path) -> None:
    site.answers = [404]
    assert "the server says 404" in refused(site, tmp_path)
    site.answers = [503]
    assert "the server says 503" in refused(site, tmp_path)
    site.data = b"<html>" * 1000
    assert "is no bundle" in refused(site, tmp_path, SignatureError)
    site.data = b""
    assert "is no bundle" in refused(site, tmp_path, SignatureError)


def test_a_server_that_is_busy_for_a_moment(site: https.Site, tmp_path: Path) -> None:
    with open_source(site.url, keys.trusted(tmp_path / "trusted")) as source:
        site.answers = [503, 502]
        assert bundles.device(tmp_path / "device").deploy(source).result == "deployed"


def test_only_https(site: https.Site, tmp_path: Path) -> None:
    site.answers, site.location = [302], "http://127.0.0.1:9/model.esb"
    assert "sends on to http://127.0.0.1:9/model.esb: needed https" in refused(site, tmp_path)
    for where in ("http://127.0.0.1/model.esb", "ftp://127.0.0.1/model.esb"):
        with pytest.raises(DeployError, match="needed a file or an https:// address"):
            open_source(where, [])


def test_a_certificate_that_nobody_vouches_for(
    site: https.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "CERTIFICATE_VERIFY_FAILED" in refused(site, tmp_path)


@pytest.mark.parametrize(("since", "words"), [(300, "not yet valid"), (-300, "expired")])
def test_a_clock_that_is_wrong_is_told_where_a_certificate_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: int, words: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with (
        https.serving(tmp_path, since) as site,
        pytest.raises(DeployError, match=rf"{words}.*\(the clock here says 20"),
    ):
        open_source(site.url, [])


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"^cannot fetch https://127\.0\.0\.1:9/x: .*refused$"):
        open_source("https://127.0.0.1:9/x?secret=1", [])


def test_secrets_of_an_address_are_used_and_not_told(site: https.Site, tmp_path: Path) -> None:
    url = site.url.replace("https://", "https://user:secret@") + "?token=secret"
    with open_source(url, keys.trusted(tmp_path / "trusted")) as source:
        assert source.where == site.url and site.who == "Basic dXNlcjpzZWNyZXQ="
    site.answers, site.location, site.who = [302], site.url + "?elsewhere", ""
    with open_source(url, keys.trusted(tmp_path / "trusted")):
        assert site.who == ""


def test_a_connection_that_trickles_is_given_up(
    site: https.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.5)
    site.pace = 0.2
    assert "bytes a second came" in refused(site, tmp_path)
