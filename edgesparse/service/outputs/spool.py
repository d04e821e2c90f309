"""Messages on disk, in order and bounded: the oldest are dropped to make room for the newest, and counted."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesparse.errors import SinkError
from edgesparse.files import set_aside

log = logging.getLogger("edgesparse.service")

ROW_BYTES = 40
"""Approximate size of a row without topic and payload."""


@dataclass(frozen=True)
class Message:
    """`number` increases with each message, across restarts too."""

    number: int
    topic: str
    payload: bytes
    kept: bool = False
    """Whether the message is on disk."""

    @property
    def size(self) -> int:
        return len(self.topic) + len(self.payload) + ROW_BYTES


MEMORY, MEMORY_BYTES = Path(":memory:"), 16 << 20
FULL = 1 << 20
"""Free bytes at which SQLite cannot open a file."""


class Spool:
    """An SQLite file in WAL mode. It survives a kill at any moment; after a power cut the last seconds may be
    missing. Where the disk is full when it is opened, messages are kept in memory. Used from one thread. Raises
    SinkError if it cannot be opened for another reason.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self.dropped = 0
        self.error = ""
        """Why the last write failed, or why nothing is on disk; empty otherwise."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            if _free(path) > FULL:
                raise SinkError(f"cannot write {path}: {error}") from None
            self._db, self._most = _connect(MEMORY), min(most, MEMORY_BYTES)
            self._report(error, "the disk is full: messages are only in memory until the next start")
        self._at_start = self.error
        self.count, self._bytes, self.last = self._totals()

    def _open(self) -> sqlite3.Connection:
        try:
            if os.path.lexists(self._path) and not stat.S_ISREG(os.lstat(self._path).st_mode):
                raise sqlite3.DatabaseError("it is no regular file")
            return _connect(self._path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            damaged = set_aside(self._path)
            log.warning("%s is damaged (%s): it is renamed to %s, its messages are lost", self._path, error, damaged)
            for ending in ("-wal", "-shm"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
            return _connect(self._path)

    def _totals(self) -> tuple[int, int, int]:
        # MAX(number) would start again at 1 once all messages are delivered; sqlite_sequence does not.
        (count, size), *_ = self._db.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM messages")
        rows = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchall()
        return int(count), int(size), int(rows[0][0]) if rows else 0

    def append(self, messages: Iterable[Message]) -> None:
        """Store messages. What does not fit on the disk or within the limit is dropped, oldest first."""
        rows = [(m.number, m.topic, m.payload, m.size) for m in messages]
        if not rows:
            return
        try:
            with self._db:
                self._db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", rows)
                self.count += len(rows)
                self._bytes += sum(row[3] for row in rows)
                self._shrink()
            self.error = self._at_start
        except sqlite3.Error as error:
            self._report(error, "new messages are lost")
            self.dropped += len(rows)
            self.count, self._bytes, _ = self._totals()

    def _report(self, error: Exception, consequence: str) -> None:
        """Log an error, only once until a write succeeds: a full disk must not fill the journal."""
        text = f"{error}; {consequence}"
        if text != self.error:
            self.error = text
            log.warning("cannot write %s: %s", self._path, text)

    def _shrink(self) -> None:
        while self._bytes > self._most and self.count:
            oldest = self._db.execute("SELECT number, size FROM messages ORDER BY number LIMIT 256").fetchall()
            numbers = []
            for number, size in oldest:
                if self._bytes <= self._most:
                    break
                numbers.append((number,))
                self._bytes -= size
            self._db.executemany("DELETE FROM messages WHERE number = ?", numbers)
            self.count -= len(numbers)
            self.dropped += len(numbers)

    def after(self, number: int, most: int) -> Sequence[Message]:
        """Return up to `most` of the oldest messages with a higher number."""
        rows = self._db.execute(
            "SELECT number, topic, payload FROM messages WHERE number > ? ORDER BY number LIMIT ?", (number, most)
        )
        return [Message(number, topic, payload, True) for number, topic, payload in rows]

    def remove(self, messages: Sequence[Message]) -> None:
        """Remove delivered messages. One that cannot be removed from a full disk is sent again over the next
        connection.
        """
        if not messages:
            return
        removed = []
        try:
            with self._db:
                for message in messages:
                    rows = self._db.execute("DELETE FROM messages WHERE number = ?", (message.number,)).rowcount
                    removed += [message.size] if rows else []
        except sqlite3.Error as error:
            self._report(error, "delivered messages stay")
            return
        self.count -= len(removed)
        self._bytes -= sum(removed)

    def close(self) -> None:
        self._db.close()


def _free(path: Path) -> int:
    """Return the bytes that are free where a file would be, in a folder that may be missing too."""
    return shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.is_dir())).free


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(
            "CREATE TABLE IF NOT EXISTS messages "
            "(number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, payload BLOB, size INTEGER)"
        )
        _check(db)
    except BaseException:
        db.close()
        raise
    return db


_NO_MESSAGE = (
    "typeof(number) <> 'integer' OR number < 1 OR typeof(topic) <> 'text' OR typeof(payload) <> 'blob' "
    "OR typeof(size) <> 'integer' OR size < 0"
)


def _check(db: sqlite3.Connection) -> None:
    """Raise DatabaseError if the tables are not those of a spool, or a row cannot be sent."""
    try:
        wrong = db.execute(f"SELECT COUNT(*) FROM messages WHERE {_NO_MESSAGE}").fetchone()[0]  # nosec B608: a constant
        wrong += db.execute("SELECT COUNT(*) FROM sqlite_sequence WHERE typeof(seq) <> 'integer'").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise
        raise sqlite3.DatabaseError(str(error)) from None
    if wrong:
        raise sqlite3.DatabaseError(f"{wrong} rows are no messages")
