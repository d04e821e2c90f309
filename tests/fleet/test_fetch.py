"""Bundles over HTTPS from a real server on loopback: resumed, and refused if the server misbehaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundles
import https
import pytest

from edgesparse.errors import DeployError, SignatureError
from edgesparse.fleet import connection, fetch, keys
from edgesparse.fleet.fetch import open_bundle

SIZE = 3_000_000
"""Bytes of the model: more than what is read for the header."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[https.Site]:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    private = bundles.key(tmp_path)
    with https.serving(tmp_path) as site:
        site.data = bundles.signed(tmp_path / "model.esb", private, "1.0", filler=SIZE).read_bytes()
        yield site


def deploy(site: https.Site, folder: Path) -> Any:
    with open_bundle(site.url, keys.trusted(folder / "trusted")) as source:
        return bundles.device(folder / "device").deploy(source)


def refused(site: https.Site, folder: Path, kind: type[Exception] = DeployError) -> str:
    with pytest.raises(kind) as error:
        deploy(site, folder)
    assert "\n" not in str(error.value)
    assert not (folder / "device" / "current").exists()
    return str(error.value)


def test_a_bundle_is_fetched_and_deployed_and_no_download_is_kept(site: https.Site, tmp_path: Path) -> None:
    assert deploy(site, tmp_path).result == "deployed"
    assert bundles.serving(tmp_path / "device") == "1.0"
    assert not (tmp_path / "device" / "fetch").exists()
    site.ranges_requested.clear()
    assert deploy(site, tmp_path).result == "nothing to do"
    assert site.ranges_requested == [""]  # the header is enough


def test_a_broken_connection_is_resumed(site: https.Site, tmp_path: Path) -> None:
    site.cut = 1_200_000
    assert deploy(site, tmp_path).result == "deployed"
    starts = [int(requested[6:-1]) for requested in site.ranges_requested[1:]]
    assert starts[0] < 200_000 and starts == sorted(starts) and len(starts) >= 2


def test_a_download_continues_in_another_process(site: https.Site, tmp_path: Path) -> None:
    """As after a power cut: only the missing part of the file is requested."""
    site.cut = 1_200_000
    with open_bundle(site.url, keys.trusted(tmp_path / "trusted")) as source:

        def breaks(step: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            bundles.device(tmp_path / "device", progress=breaks).deploy(source)
    kept = next((tmp_path / "device" / "fetch").iterdir()).stat().st_size
    assert 0 < kept < SIZE
    site.cut, site.ranges_requested = None, []
    assert deploy(site, tmp_path).result == "deployed"
    assert site.ranges_requested[1:] == [f"bytes={kept}-"]


def test_a_server_without_ranges_sends_everything_again(site: https.Site, tmp_path: Path) -> None:
    site.ranges = False
    assert deploy(site, tmp_path).result == "deployed"


def test_a_bundle_that_is_too_long_is_refused(site: https.Site, tmp_path: Path) -> None:
    site.data += bytes(50_000_000)
    assert "of its manifest: refused" in refused(site, tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "device").rglob("*")) < 2 * SIZE


def test_a_short_bundle_with_extra_bytes_is_refused(site: https.Site, tmp_path: Path) -> None:
    site.data = (bundles.signed(tmp_path / "short.esb", tmp_path / "factory.key", "1.0")).read_bytes() + b"more"
    assert "of its manifest: refused" in refused(site, tmp_path)


def test_a_wrong_content_length_does_not_matter(site: https.Site, tmp_path: Path) -> None:
    site.length = 10**12
    assert deploy(site, tmp_path).result == "deployed"  # the manifest's length counts


def test_tampered_bytes_are_refused_and_not_kept(site: https.Site, tmp_path: Path) -> None:
    good, middle = site.data, len(site.data) - 10_000
    site.data = good[:middle] + b"y" + good[middle + 1 :]
    assert "model/model.onnx is not what was signed" in refused(site, tmp_path, SignatureError)
    site.data = good
    assert deploy(site, tmp_path).result == "deployed"


def test_a_wrong_range_is_refused(site: https.Site, tmp_path: Path) -> None:
    site.shifted = True
    assert "requested from byte" in refused(site, tmp_path)


def test_a_truncated_bundle_is_given_up(site: https.Site, tmp_path: Path) -> None:
    site.data = site.data[:-100_000]
    message = refused(site, tmp_path)
    assert "cannot fetch" in message and "bytes are kept" in message
    assert len(site.ranges_requested) <= 2 + fetch.TRIES


def test_a_server_that_sends_a_few_bytes_per_connection_is_given_up(site: https.Site, tmp_path: Path) -> None:
    with open_bundle(site.url, keys.trusted(tmp_path / "trusted")) as source:
        site.cut, site.ranges_requested = 10, []
        with pytest.raises(DeployError, match="the connection ended too early"):
            bundles.device(tmp_path / "device").deploy(source)
    assert len(site.ranges_requested) == fetch.TRIES


def test_answers_other_than_a_bundle_are_refused(site: https.Site, tmp_path: Path) -> None:
    site.answers = [404]
    assert "the server answers 404" in refused(site, tmp_path)
    site.answers = [503]
    assert "the server answers 503" in refused(site, tmp_path)
    site.data = b"<html>" * 1000
    assert "is not a bundle" in refused(site, tmp_path, SignatureError)
    site.data = b""
    assert "is not a bundle" in refused(site, tmp_path, SignatureError)


def test_a_busy_server_is_asked_again(site: https.Site, tmp_path: Path) -> None:
    with open_bundle(site.url, keys.trusted(tmp_path / "trusted")) as source:
        site.answers = [503, 502]
        assert bundles.device(tmp_path / "device").deploy(source).result == "deployed"


def test_only_https_is_accepted(site: https.Site, tmp_path: Path) -> None:
    site.answers, site.location = [302], "http://127.0.0.1:9/model.esb"
    assert "redirects to http://127.0.0.1:9/model.esb: needed https" in refused(site, tmp_path)
    for where in ("http://127.0.0.1/model.esb", "ftp://127.0.0.1/model.esb"):
        with pytest.raises(DeployError, match="needed a file or an https:// address"):
            open_bundle(where, [])


def test_an_unknown_certificate_is_refused(site: https.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "CERTIFICATE_VERIFY_FAILED" in refused(site, tmp_path)


@pytest.mark.parametrize(("since", "words"), [(300, "not yet valid"), (-300, "expired")])
def test_a_refused_certificate_reports_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: int, words: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with (
        https.serving(tmp_path, since) as site,
        pytest.raises(DeployError, match=rf"{words}.*\(the clock here says 20"),
    ):
        open_bundle(site.url, [])


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"^cannot fetch https://127\.0\.0\.1:9/x: .*refused$"):
        open_bundle("https://127.0.0.1:9/x?secret=1", [])


def test_credentials_in_an_address_are_used_and_not_shown(site: https.Site, tmp_path: Path) -> None:
    url = site.url.replace("https://", "https://user:secret@") + "?token=secret"
    with open_bundle(url, keys.trusted(tmp_path / "trusted")) as source:
        assert source.where == site.url and site.authorization == "Basic dXNlcjpzZWNyZXQ="
    site.answers, site.location, site.authorization = [302], site.url + "?elsewhere", ""
    with open_bundle(url, keys.trusted(tmp_path / "trusted")):
        assert site.authorization == ""


def test_a_slow_connection_is_given_up(site: https.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT", 0.5)
    site.pace = 0.2
    assert "bytes per second arrived" in refused(site, tmp_path)


def test_a_header_that_never_ends_is_given_up(
    site: https.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that slowly sends single bytes: no receive ever times out."""
    monkeypatch.setattr(connection, "TIMEOUT", 1.0)
    site.header_pace = 0.1
    begin = time.monotonic()
    assert "no complete answer within 1 s" in refused(site, tmp_path)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("where", ["https://host:port/x", "https://[::1/x", "https://host/a b?token=secret", "a\0b"])
def test_an_invalid_address_is_one_line_without_its_secrets(where: str) -> None:
    with pytest.raises(DeployError) as error:
        open_bundle(where, [])
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
