"""Ansible, in an environment of its own: a program that is run; its licence lets nothing here import it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
import roots

BOOKS = Path(__file__).parents[2] / "deploy" / "ansible"


def ansible() -> Path:
    """ansible-playbook, installed once beside the cached roots; skips where that cannot be."""
    place = roots.CACHE.parent / "ansible"
    if not (place / "bin" / "ansible-playbook").exists():
        venv.create(place, with_pip=True)
        done = subprocess.run([place / "bin" / "pip", "install", "-q", "ansible-core>=2.16"], check=False)
        if done.returncode:
            pytest.skip("ansible-core cannot be installed")
    return place / "bin" / "ansible-playbook"


def play(inventory: Path, book: str, *options: str, **said: Any) -> subprocess.CompletedProcess[str]:
    command = [str(ansible()), "-i", str(inventory), str(BOOKS / f"{book}.yml"), "-e", json.dumps(said), *options]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(BOOKS / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(command, cwd=BOOKS, env=environment, capture_output=True, text=True, check=False)


def recap(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, int]]:
    """Ansible's last table: counts by host."""
    lines = re.findall(r"^(\S+)\s+: (ok=.+)$", done.stdout, re.M)
    return {host: {key: int(n) for key, n in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in lines}
