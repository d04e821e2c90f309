"""How the playbooks handle a batch, with real Ansible on hosts that are folders on this machine.

`edgesparse` is replaced by a script; tests/deploy/test_fleet.py runs them over SSH against the real program.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from playing import BOOKS, play, recap

STAND_IN = """#!{python}
import json, pathlib, sys
folder, verb = pathlib.Path(__file__).parent, sys.argv[1]
if verb != "status":
    with (folder.parent / "log").open("a") as log:
        log.write(f"{{folder.name}} {{verb}}\\n")
(folder / verb).write_text(" ".join(sys.argv[2:]))
runs = (folder / "runs").read_text() if (folder / "runs").exists() else ""
if verb == "status" and (folder / "status.json").exists():
    print((folder / "status.json").read_text())
elif verb == "status" and (folder / "doing").exists():
    print(json.dumps({{"under_way": {{"verb": "deploy", "progress": (folder / "doing").read_text()}}}}))
    (folder / "doing").unlink()
elif verb == "status":
    running = {{"name": "parts", "version": runs}}
    print(json.dumps({{"running": running, "healthy": True, "service": {{}}, "last": None}}))
elif verb == "rollback":
    (folder / "runs").write_text("old")
    print(json.dumps({{"result": "rolled back", "changed": True}}))
elif (folder / "fails").exists():
    print(json.dumps({{"result": "refused", "changed": False, "why": "it detects nothing"}}))
    sys.exit(1)
else:
    new = sys.argv[2] if "://" in sys.argv[2] else pathlib.Path(sys.argv[2]).read_text()
    (folder / "runs").write_text(new)
    print(json.dumps({{"result": "deployed", "changed": new != runs}}))
"""


FAST = {"edgesparse_poll": 0.2, "edgesparse_most_hours": 1}


class Folders:
    """Hosts named by single letters, of which a is the canary. Those in `away` have an address without a server."""

    def __init__(self, folder: Path, names: str = "abcd") -> None:
        self.folder = folder
        self.sites = {"north": names[:2], "south": names[2:]}
        for name in names:
            (folder / name).mkdir()
            program = folder / name / "edgesparse"
            program.write_text(STAND_IN.format(python=sys.executable))
            program.chmod(0o755)
        self.write()

    def write(self, away: str = "") -> None:
        local = {"ansible_connection": "local"}
        absent = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_common_args": "-o ConnectTimeout=2"}
        sites = {
            name: {"hosts": {h: absent if h in away else local for h in hosts}} for name, hosts in self.sites.items()
        }
        variables = {"edgesparse_program": f"{self.folder}/{{{{ inventory_hostname }}}}/edgesparse"}
        variables["edgesparse_incoming"] = f"{self.folder}/{{{{ inventory_hostname }}}}/incoming"
        children = {"sites": {"children": sites}, "canary": {"hosts": {"a": {}}}}
        (self.folder / "inventory.yml").write_text(yaml.safe_dump({"all": {"vars": variables, "children": children}}))

    def roll_out(self, version: str, **variables: object) -> tuple[int, str]:
        (self.folder / "parts.esb").write_text(version)
        (self.folder / "log").unlink(missing_ok=True)
        variables = {"bundle": str(self.folder / "parts.esb"), **FAST, **variables}
        done = play(self.folder / "inventory.yml", "rollout", **variables)
        self.counts = recap(done)
        return done.returncode, done.stdout

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def runs(self) -> list[str]:
        return [file.read_text() if (file := self.folder / name / "runs").exists() else "" for name in "abcd"]


@pytest.fixture
def hosts(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.mark.fleet
def test_the_canary_comes_first_then_batches(hosts: Folders) -> None:
    (hosts.folder / "b" / "doing").write_text("watching the service 20/60, 40 s left")
    code, output = hosts.roll_out("1", batches=[1, "100%"])
    assert code == 0 and "ok: [b] => (item=watching the service 20/60, 40 s left)" in output, output
    first, second, *rest = hosts.log()
    assert (first, second) == ("a deploy", "b deploy") and set(rest) == {"c deploy", "d deploy"}
    assert hosts.roll_out("1")[0] == 0
    assert {counts["changed"] for counts in hosts.counts.values()} == {0}


def test_a_failed_canary_ends_the_rollout(hosts: Folders) -> None:
    (hosts.folder / "a" / "fails").touch()
    code, output = hosts.roll_out("1")
    assert code == 2 and "it detects nothing" in output and hosts.log() == ["a deploy"]


def test_a_batch_is_rolled_back_only_where_too_many_failed(hosts: Folders) -> None:
    (hosts.folder / "c" / "fails").touch()
    code, output = hosts.roll_out("1", batches=["100%"], max_fail=40)
    assert code == 2 and hosts.runs() == ["1", "1", "", "1"] and hosts.counts["c"]["failed"] == 1
    code, output = hosts.roll_out("2", batches=[2, 1], max_fail=40)
    assert code == 2 and "rolled back with its batch: c failed" in output
    assert hosts.runs() == ["2", "old", "", "1"] and "d deploy" not in hosts.log()


def test_a_host_without_an_answer_is_a_failure_and_a_row(hosts: Folders) -> None:
    hosts.write(away="c")
    code, _ = hosts.roll_out("1", batches=["100%"], max_fail=40)
    assert code == 2 and hosts.runs() == ["1", "1", "", "1"]
    done = play(hosts.folder / "inventory.yml", "status")
    rows = json.loads((hosts.folder / "fleet.json").read_text())["devices"]
    assert [(row["host"], row["state"]) for row in rows] == [
        ("c", "no answer"),
        ("a", "healthy"),
        ("b", "healthy"),
        ("d", "healthy"),
    ]
    assert "3 of 4 healthy" in done.stdout
    # Where ssh ends before Ansible has written to it, Ansible reports the broken pipe instead of what ssh said.
    assert re.search("^ssh: connect to host|not be sent to remote host", rows[0]["why"])
    assert "no answer" in (hosts.folder / "fleet.html").read_text()


HOSTILE = {
    "running": {
        "name": "<b>n</b>",
        "version": "{{ 7 * 7 }}",
        "committed": 1e300,
        "backend": ["x"],
        "precision": {"a": 1},
    },
    "healthy": True,
    "edgesparse": "<script>alert(1)</script>",
    "service": {
        "why": "\x1b[2J<img src=x onerror=alert(2)>" + "w" * 5000,
        "cameras": [{"name": "a", "state": "live", "fps": "x"}, {"fps": 5}, "no camera", 3, None],
        "latency_ms": {"p99": "<script>alert(3)</script>"},
        "temperature_c": "<script>alert(4)</script>",
        "errors": "<script>alert(5)</script>",
        "frames": [1],
    },
    "last": {"result": "<script>alert(6)</script>", "why": '"><script>alert(7)</script>'},
}


REPORTS = {
    "e": (json.dumps(HOSTILE), "healthy"),
    "f": (json.dumps({**HOSTILE, "service": "x", "last": [1], "healthy": "yes"}), "no service"),
    "g": (json.dumps({**HOSTILE, "service": {"cameras": 5, "latency_ms": 3}, "healthy": False}), "unhealthy"),
    "h": ('{"running": {"committed": NaN, "name": 1e999}, "healthy": true, "service": {"errors": NaN}}', "healthy"),
    "i": ("[1, 2]", "no edgesparse"),
    "j": ("this is no JSON", "bad report"),
    "k": ("[" * 100_000, "bad report"),
}
"""By host: what it prints, and the state that its row shows."""


def test_a_device_that_reports_anything_costs_its_own_row_and_is_escaped(tmp_path: Path) -> None:
    """All of them in one fleet: a play starts hundreds of processes."""
    hosts = Folders(tmp_path, "abcd" + "".join(REPORTS))
    for name in "abcd":
        (hosts.folder / name / "runs").write_text("1")
    for name, (report, _) in REPORTS.items():
        (hosts.folder / name / "status.json").write_text(report)
    done = play(hosts.folder / "inventory.yml", "status")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["host"]: row for row in json.loads((hosts.folder / "fleet.json").read_text())["devices"]}
    states = {name: state for name, (_, state) in REPORTS.items()}
    assert {name: row["state"] for name, row in rows.items()} == {**dict.fromkeys("abcd", "healthy"), **states}
    page = (hosts.folder / "fleet.html").read_text()
    assert page.count("<tr>") == len(rows) + 1 and "<script" not in page and "<img" not in page and "<b>" not in page
    for name in REPORTS:
        assert "49" not in rows[name]["version"] and len(rows[name]["why"]) <= 300, rows[name]
    assert "\x1b" not in done.stdout


def test_every_expression_of_the_page_is_escaped() -> None:
    """Ansible's templates do not escape by themselves, even with {% autoescape %}."""
    page = (BOOKS / "roles" / "edgesparse" / "templates" / "fleet.html.j2").read_text()
    expressions = re.findall(r"\{\{(.*?)\}\}", page)
    assert len(expressions) > 15 and [text for text in expressions if not text.endswith("| e ")] == []


@pytest.mark.fleet
def test_devices_can_fetch_the_bundle_themselves(hosts: Folders) -> None:
    done = play(hosts.folder / "inventory.yml", "rollout", bundle="https://releases.local/parts.esb", batches=["100%"])
    assert done.returncode == 0, done.stdout
    assert hosts.runs() == ["https://releases.local/parts.esb"] * 4


@pytest.mark.fleet
def test_a_delta_and_no_shadow_are_passed_to_each_device(hosts: Folders) -> None:
    bundle, delta = "https://releases.local/parts.esb", "https://releases.local/parts.esd"
    variables = {"bundle": bundle, "delta": delta, "no_shadow": True, "batches": ["100%"]}
    done = play(hosts.folder / "inventory.yml", "rollout", **variables)
    assert done.returncode == 0, done.stdout
    for name in "abcd":
        arguments = (hosts.folder / name / "deploy").read_text()
        assert arguments == f"{bundle} --health-seconds 60 --json --delta {delta} --no-shadow"
    code, output = hosts.roll_out("2", delta=delta)
    assert code == 2 and "a bundle that is copied arrives whole" in output and not (hosts.folder / "log").exists()


PROVISION = """#!{python}
import json, pathlib, sys
folder = pathlib.Path(sys.argv[2]).parents[1]
done = folder / "provisioned"
failed = {{"step": "board", "state": "failed", "why": "no Jetson", "remedy": "take another"}}
fails = (folder / "fails").exists()
print(json.dumps({{"changed": not done.exists(), "steps": [failed] if fails else []}}))
done.write_text(" ".join(sys.argv[3:]))
sys.exit(3 if fails else 0)
"""


def test_provisioning_passes_key_settings_and_what_it_pulls(hosts: Folders) -> None:
    """scripts/provision is replaced: its arguments, its report, and that a second run changes nothing."""
    script = hosts.folder / "wheelhouse" / "scripts" / "provision"
    script.parent.mkdir(parents=True)
    script.write_text(PROVISION.format(python=sys.executable))
    script.chmod(0o755)
    (hosts.folder / "fleet.pub").touch()
    (hosts.folder / "settings").mkdir()
    (hosts.folder / "settings" / "b.yaml").touch()
    (hosts.folder / "d" / "fails").touch()
    for name in ("pull.env", "1.root.json"):
        (hosts.folder / name).touch()
    files = {"key": "fleet.pub", "pull": "pull.env", "anchor": "1.root.json", "wheelhouse": "wheelhouse"}
    variables = {"max_fail": 50, **{variable: str(hosts.folder / name) for variable, name in files.items()}}
    done = play(hosts.folder / "inventory.yml", "provision", **variables)
    assert done.returncode == 2 and "board: no Jetson; fix: take another" in done.stdout, done.stdout
    arguments = [(hosts.folder / name / "provisioned").read_text() for name in "ab"]
    at = f"{hosts.folder}/a/incoming"
    assert arguments[0] == f"--json --key {at}/fleet.pub --pull {at}/pull.env --anchor {at}/1.root.json"
    assert Path(at, "pull.env").stat().st_mode & 0o777 == 0o600, "it may hold passwords"
    settings = hosts.folder / "b" / "incoming" / "device.yaml"
    assert f"--settings {settings}" in arguments[1]
    assert settings.stat().st_mode & 0o777 == 0o600, "it may hold passwords"
    again = recap(play(hosts.folder / "inventory.yml", "provision", **variables))
    assert [again[name]["changed"] for name in "abc"] == [0, 0, 0]
    del variables["anchor"]
    play(hosts.folder / "inventory.yml", "provision", "--limit", "a", **variables)
    alone = (hosts.folder / "a" / "provisioned").read_text()
    assert alone == f"--json --key {at}/fleet.pub --pull {at}/pull.env", "scripts/provision refuses it"


@pytest.mark.fleet
def test_a_bundle_that_was_not_copied_is_not_deployed(hosts: Folders) -> None:
    """An older bundle on the device must not be deployed in place of the new one."""
    assert hosts.roll_out("1")[0] == 0
    (hosts.folder / "a" / "incoming" / "bundle.esb").unlink()
    (hosts.folder / "a" / "incoming").rmdir()
    (hosts.folder / "a" / "incoming").touch()
    code, output = hosts.roll_out("2")
    assert code == 2 and not (hosts.folder / "log").exists(), output


def test_every_playbook_has_valid_syntax(hosts: Folders) -> None:
    books = sorted(book.stem for book in BOOKS.glob("*.yml") if not book.stem.startswith("inventory"))
    assert books == ["provision", "rollback", "rollout", "status"]
    for book in books:
        done = play(BOOKS / "inventory.example.yml", book, "--syntax-check")
        assert done.returncode == 0, done.stderr
