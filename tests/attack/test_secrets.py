"""Promise: no secret leaves the process in any text, however wrong the settings that hold it are."""

from __future__ import annotations

import functools
import io
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import Running
from samples import wait_until

from edgesparse import cli, strict_yaml
from edgesparse.cli.process import report
from edgesparse.cli.show import complain
from edgesparse.redaction import RedactingFormatter, redact, redact_all, redact_text, remember, remember_address

PATHS = ("/", "/page.js", "/status.json", "/live.json", "/metrics", "/healthz", "/readyz", "/report", "/nowhere")


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://admin:PLANTED@10.0.0.9/x",
        "rtsp:/admin:PLANTED@10.0.0.9/x",
        "rtsp//admin:PLANTED@10.0.0.9/x",
        "rtspx:/admin:PLANTED@10.0.0.9/x",
        "admin:PLANTED@10.0.0.9/x",
        "ädmin:PLANTED@10.0.0.9/x",
        "//admin:PLANTED@10.0.0.9/x",
        "http://10.0.0.9/x?token=PLANTED",
        "http://10.0.0.9/user=a&password=PLANTED/x",
        "rtspsrc location=rtsp://a:PLANTED@h/x user-pw=PLANTED ! appsink",
    ],
)
def test_an_address_hides_its_credentials_however_it_is_mistyped(address: str) -> None:
    for text in (redact_text(f"cannot open '{address}': no answer"), redact_text(address), redact_all([address])[0]):
        assert "PLANTED" not in text
    assert " " in address or "PLANTED" not in redact(address)


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=4, max_size=20)


@given(WORDS.filter(lambda word: len(set(word)) > 2), st.sampled_from(["{}", "a {} b", "'{}'", "x: {}, y", "({})"]))
def test_a_remembered_secret_is_replaced_in_every_sentence(secret: str, sentence: str) -> None:
    remember(secret)
    text = redact_text(sentence.format(secret))
    assert secret not in text.replace(sentence.format("..."), "")


def test_a_password_with_blanks_is_found_in_parts_of_an_address_and_encoded_for_http() -> None:
    remember_address("http://admin:pa ss%20wo@rd@h/x")
    for form in ("pa ss%20wo@rd", "pa ss wo@rd", "YWRtaW46cGEgc3Mgd29AcmQ="):
        assert redact_text(f"Invalid header value b'{form}'") == "Invalid header value b'...'"


def test_names_of_cameras_survive_a_password_of_the_same_word() -> None:
    remember("live")
    assert redact_all({"state": "live", "why": "live is wrong"}) == {"state": "live", "why": "... is wrong"}


@pytest.mark.parametrize(
    "text", ['run:\n  source: "rtsp://a:PLANTED@h/x\n', "a: [PLANTED", "a: 'PLANTED", "PLANTED: %"]
)
def test_a_syntax_error_never_quotes_its_line(text: str) -> None:
    with pytest.raises(strict_yaml.YamlError) as caught:
        strict_yaml.load(text.encode())
    assert "PLANTED" not in str(caught.value)


def test_log_messages_and_tracebacks_are_redacted(capsys: pytest.CaptureFixture[str], state: Path) -> None:
    remember("tokentokentoken")
    formatter = RedactingFormatter("%(message)s")
    try:
        raise ValueError("Invalid header value b'Bearer tokentokentoken', http://u:PLANTED@h")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (error,), (ValueError, error, error.__traceback__))
        texts = [formatter.format(record), report(error, ["run", "rtsp:/u:PLANTED@h"])]
        complain(str(error))
    texts += [capsys.readouterr().err, *(path.read_text() for path in (state / "reports").glob("error-*.txt"))]
    assert len(texts) >= 4
    for text in texts:
        assert "tokentoken" not in text and "PLANTED" not in text


CAMERA, ONE_SLASH, WEB, MQTT, HOOK, QUERY = (
    "CameraPlanted1",
    "SlashPlanted2",
    "WebPlanted3-0123456789",
    "MqttPlanted4",
    "HookPlanted5-0123456789",
    "QueryPlanted6",
)
SECRETS = (CAMERA, ONE_SLASH, WEB, MQTT, HOOK, QUERY)


@pytest.fixture
def planted(null_engine: Path, tmp_path: Path) -> Iterator[Running]:
    """A service with a secret in every place that accepts one; none of the secrets works."""
    for name, secret in (("web", WEB), ("mqtt", MQTT), ("hook", HOOK)):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(secret + "\n")
    settings: dict[str, Any] = {
        "run": {
            "cameras": [
                {"name": "door", "source": f"http://admin:{CAMERA}@127.0.0.1:9/x.jpg?password={QUERY}"},
                {"name": "yard", "source": "demo", "size": "160x120"},
            ]
        },
        "service": {
            "web": {"token_file": "web"},
            "mqtt": {"host": "127.0.0.1", "port": 9, "username": "u", "password_file": "mqtt"},
            "webhook": {"url": f"http://hook:{CAMERA}@127.0.0.1:9/in?token={QUERY}", "token_file": "hook"},
            "events": [{"name": "any", "pause": 0}],
        },
    }
    running = Running(tmp_path, null_engine, settings)
    yield running
    running.close()


def metrics_have(service: Running, line: bytes) -> bool:
    return line in service.get("/metrics", Authorization=f"Bearer {WEB}")[1]


def test_secrets_planted_everywhere_come_out_nowhere(planted: Running) -> None:
    planted.until(lambda status: status["detecting"] and all(output["state"] for output in status["outputs"]))
    refused = planted.settings.read_text()
    broken_ones = (
        refused.replace("demo", f"rtsp:/u:{ONE_SLASH}@h/x"),
        refused.replace('"demo"', f'"rtsp://u:{ONE_SLASH}@h/x').replace("{", "\n{", 3),
        refused.replace('"demo"', f'["rtsp://u:{ONE_SLASH}@h/x"]'),
    )
    for refusals, broken in enumerate(broken_ones, 1):
        planted.settings.write_text(broken)
        planted.signal(signal.SIGHUP)
        line = f'edgesparse_reloads_total{{outcome="refused"}} {refusals}.0'.encode()
        wait_until(functools.partial(metrics_have, planted, line))
    texts = {path: planted.get(path, Authorization=f"Bearer {WEB}")[1].decode() for path in PATHS}
    texts |= {f"{path} without token": planted.get(path)[1].decode() for path in PATHS}
    command = [sys.executable, "-m", "edgesparse", "status", "--status", "runtime/status.json", "--root", "."]
    done = subprocess.run([*command, "--json"], cwd=planted.folder, capture_output=True, text=True, check=False)
    texts |= {"status": done.stdout + done.stderr, "state": json.dumps(planted.status())}
    planted.stop()
    texts |= {"log": planted.ended(), "systemd": "\n".join(planted.notify.lines())}
    assert "refused" in texts["log"] and "away" in texts["state"]
    assert {name: secret for name, text in texts.items() for secret in SECRETS if secret in text} == {}


def test_an_exception_of_a_thread_that_nobody_expected_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("PLANTEDPLANTED")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter())
    monkeypatch.setattr(threading, "excepthook", cli._thread_failed)
    monkeypatch.setattr(logging.getLogger("edgesparse"), "handlers", [handler])
    thread = threading.Thread(target=lambda: int("PLANTEDPLANTED"))
    thread.start()
    thread.join()
    assert "ValueError" in stream.getvalue() and "PLANTED" not in stream.getvalue()
