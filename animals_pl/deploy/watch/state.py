"""Processed files and pending deliveries, in an SQLite file that survives a crash and a power failure.

The process may end after any of these steps:

1. The snapshot is written to the disk.
2. One transaction records the alerts of an image, their deliveries, and that its file is done.
3. An alert is delivered.
4. Its delivery is removed.

If it ends before step 2, the file is processed again after a restart, with the same ids and snapshots. If it ends
between steps 3 and 4, the alert is delivered again. No file and no alert is lost; only deliveries may be repeated.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from animals_pl.errors import UsageError

FORMAT = 1
"""Version of the tables. Bump when they change."""

KEPT_ALERTS = 10_000
"""Number of delivered alerts whose ids are kept. Older ones are raised again if their file appears again."""

_TABLES = """
CREATE TABLE source (name TEXT);
CREATE TABLE files (path BLOB PRIMARY KEY, bytes INTEGER, modified INTEGER, seen REAL) WITHOUT ROWID;
CREATE TABLE alerts (number INTEGER PRIMARY KEY, id TEXT UNIQUE, class TEXT, time REAL, body TEXT);
CREATE TABLE waiting (sink TEXT, number INTEGER, PRIMARY KEY (sink, number)) WITHOUT ROWID;
"""


class FileVersion(NamedTuple):
    """A file, with the facts that change with its content.

    Attributes:
        path: Path relative to the watched folder.
        bytes: Size.
        modified: Modification time in nanoseconds.
    """

    path: str
    bytes: int
    modified: int


class Alert(NamedTuple):
    """An alert to record: its id, the class, its time in seconds, and its JSON."""

    id: str
    class_name: str
    time: float
    body: str


class State:
    """Files that are done, alerts, and pending deliveries. Threads may share it.

    Args:
        file: The SQLite file; it is created if needed. It must be on a local disk.
        source: What is watched. A file belongs to one source.

    Raises:
        UsageError: The file cannot be used, was written by another program or for another source, or is in use.
    """

    def __init__(self, file: Path, source: str) -> None:
        self._file = file
        self._lock = threading.RLock()
        with self._explained():
            self._database = sqlite3.connect(file, timeout=2, isolation_level=None, check_same_thread=False)
        try:
            self._open(hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest())  # a URL may have a password
        except UsageError:
            self.close()
            raise

    def _open(self, source: str) -> None:
        with self._explained():
            # Exclusive: a second process is refused. The lock ends with the process, however that ends.
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")  # fsync after each transaction
        with self._transaction() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            is_new = not version and not database.execute("SELECT 1 FROM sqlite_master").fetchone()
            if not is_new and version != FORMAT:
                raise self._error("it was written by another program or version")
            if is_new:
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute("INSERT INTO source VALUES (?)", (source,))
                database.execute(f"PRAGMA user_version={FORMAT}")
            if database.execute("SELECT name FROM source").fetchone() != (source,):
                raise self._error("it belongs to another source")

    def is_done(self, file: FileVersion) -> bool:
        """Whether this version of a file is done."""
        query = "SELECT bytes, modified FROM files WHERE path = ?"
        with self._lock, self._explained():
            found = self._database.execute(query, (os.fsencode(file.path),)).fetchone()
        return found == (file.bytes, file.modified)

    def record(self, alerts: Sequence[Alert], sinks: Sequence[str], file: FileVersion | None, now: float) -> int:
        """Record alerts, where to deliver them, and that a file is done, all or nothing.

        Returns:
            The number of alerts that were not recorded before.
        """
        new = 0
        with self._transaction() as database:
            for alert in alerts:
                row = database.execute(
                    "INSERT OR IGNORE INTO alerts (id, class, time, body) VALUES (?, ?, ?, ?) RETURNING number", alert
                ).fetchone()
                if row:
                    new += 1
                    database.executemany("INSERT INTO waiting VALUES (?, ?)", [(sink, *row) for sink in sinks])
            if file:
                row = (os.fsencode(file.path), file.bytes, file.modified, now)
                database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", row)
        return new

    def last_alerts(self) -> dict[str, float]:
        """Class → time of its last alert."""
        with self._lock, self._explained():
            return dict(self._database.execute("SELECT class, time FROM alerts ORDER BY number"))

    def next_delivery(self, sink: str) -> tuple[int, str] | None:
        """Number and JSON of the oldest alert that waits for a sink."""
        query = "SELECT number, body FROM waiting JOIN alerts USING (number) WHERE sink = ? ORDER BY number LIMIT 1"
        with self._lock, self._explained():
            return self._database.execute(query, (sink,)).fetchone()

    def delivered(self, sink: str, number: int) -> None:
        """Remove a delivery."""
        with self._transaction() as database:
            database.execute("DELETE FROM waiting WHERE sink = ? AND number = ?", (sink, number))

    def waiting(self) -> dict[str, int]:
        """Sink → number of alerts that wait for it."""
        with self._lock, self._explained():
            return dict(self._database.execute("SELECT sink, count(*) FROM waiting GROUP BY sink"))

    def mark_seen(self, paths: Sequence[str], now: float) -> None:
        """Record that processed files still existed at the time ``now``."""
        with self._transaction() as database:
            rows = [(now, os.fsencode(path)) for path in paths]
            database.executemany("UPDATE files SET seen = ? WHERE path = ?", rows)

    def forget(self, before: float) -> None:
        """Remove files last seen before the time ``before``, and delivered alerts beyond :data:`KEPT_ALERTS`."""
        with self._transaction() as database:
            database.execute("DELETE FROM files WHERE seen < ?", (before,))
            database.execute(
                "DELETE FROM alerts WHERE number <= (SELECT max(number) FROM alerts) - ? "
                "AND number NOT IN (SELECT number FROM waiting)",
                (KEPT_ALERTS,),
            )

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            with self._database:  # commits, or rolls back
                yield self._database

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            fault = "another process uses it" if "locked" in str(error) else str(error)
            raise self._error(fault) from error

    def _error(self, fault: str) -> UsageError:
        return UsageError(f"state={str(self._file)!r} cannot be used: {fault}. Choose another --state.")
