"""Ansible in its own environment: it is run as a program, since its license does not allow importing it here."""

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
    """Return ansible-playbook, installed once next to the cached roots; skips if that fails."""
    place = roots.CACHE.parent / "ansible"
    if not (place / "bin" / "ansible-playbook").exists():
        venv.create(place, with_pip=True)
        done = subprocess.run([place / "bin" / "pip", "install", "-q", "ansible-core>=2.18"], check=False)
        if done.returncode:
            pytest.skip("ansible-core cannot be installed")
    return place / "bin" / "ansible-playbook"


def play(inventory: Path, book: str, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    command = [str(ansible()), "-i", str(inventory), str(BOOKS / f"{book}.yml"), "-e", json.dumps(variables), *options]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(BOOKS / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(command, cwd=BOOKS, env=environment, capture_output=True, text=True, check=False)


def recap(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, int]]:
    """Return the counts of Ansible's recap by host."""
    lines = re.findall(r"^(\S+)\s+: (ok=.+)$", done.stdout, re.M)
    return {host: {key: int(n) for key, n in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in lines}
