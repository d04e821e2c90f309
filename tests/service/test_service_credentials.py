"""Secrets in files: which are accepted, and when a change to their contents counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from samples import secret_file

from edgesparse.errors import ConfigError
from edgesparse.service.credentials import MAX_SECRET_BYTES, fingerprint, read_secret
from edgesparse.service.outputs.mqtt_settings import MqttSettings
from edgesparse.service.settings import WebSettings


def test_the_contents_of_every_file_setting_count(tmp_path: Path) -> None:
    """A rotated CA or password is a change, even if the settings are the same."""
    ca, password = tmp_path / "ca.pem", secret_file(tmp_path / "password", "one")
    ca.write_text("first")
    settings = MqttSettings(host="x", ca_file=ca, password_file=password)
    before = fingerprint(settings)
    assert fingerprint(settings) == before
    ca.write_text("second")
    rotated = fingerprint(settings)
    assert rotated != before
    password.write_text("two")
    assert fingerprint(settings) not in (before, rotated)


def test_a_missing_file_is_another_fingerprint(tmp_path: Path) -> None:
    token = secret_file(tmp_path / "token", "x" * 20)
    settings = WebSettings(token_file=token)
    before = fingerprint(settings)
    token.unlink()
    assert fingerprint(settings) != before and fingerprint(None) == ()


def test_a_pipe_or_a_large_file_is_refused_and_never_blocks(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    large = secret_file(tmp_path / "large", "x" * (MAX_SECRET_BYTES + 1))
    for path in (pipe, large, tmp_path):
        with pytest.raises(
            ConfigError, match=r"key: cannot read .*: (not a regular file|more than \d+ bytes|Is a directory)"
        ):
            read_secret(path, "key")
        fingerprint(WebSettings(token_file=path))


def test_a_secret_is_one_line_without_the_blanks_around_it(tmp_path: Path) -> None:
    assert read_secret(secret_file(tmp_path / "token", "  abc def \n"), "key") == "abc def"
