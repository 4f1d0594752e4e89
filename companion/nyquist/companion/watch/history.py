"""What outlives a restart: probes, verdicts, comparisons of versions, and pictures that differ.

note -> one SQLite file, written ahead (WAL) -> read again at the next start, or downloaded

Rows are only added, and the oldest go where there are too many or they are too old. A companion
that is killed loses nothing of what it noted. Without a folder all lies in memory.
"""

import io
import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.companion.measures.parity import Parity
from nyquist.companion.watch.candidate import Comparison, Decision, Pair, Rollout
from nyquist.companion.watch.record import SHADOW, Disagreement, Key, Point
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.head import Head

logger = logging.getLogger(__name__)

FILE = "history.sqlite3"
SCHEMA = 1
"""Of the tables. A file of a later one is left as it is."""

IN_MEMORY_BYTES = 16 * 1024 * 1024
SHARE_FREED = 0.1
"""Of the time that rows span, which goes at once where there is no room."""

LEAST_FREED_S = 1e-3
LEAST_PAGES = 32
LOOKED_AFTER = 256
"""Rows between two looks at their age."""

BUSY_S = 1.0
ROWS_AT_ONCE = 1000

PROBE_COLUMNS = (
    *("max_abs_error", "mean_abs_error", "agreement", "pictures", "spread"),
    *("consistency", "latency_s"),
)
PAIR_COLUMNS = ("model", "baseline", "candidate", "baseline_sha256", "candidate_sha256")
COMPARED_COLUMNS = (
    *("disagreement", "baseline_flips", "candidate_flips"),
    *("baseline_confidence", "candidate_confidence", "baseline_s", "candidate_s", "trace_id"),
)
TABLES = {
    "probes": ("time_s", "model", "version", "sha256", "verdict", *PROBE_COLUMNS),
    "verdicts": (
        "time_s",
        "model",
        "version",
        "baseline",
        "sha256",
        "verdict",
        "pictures",
        "reason",
    ),
    "comparisons": ("time_s", *PAIR_COLUMNS, *COMPARED_COLUMNS),
}
"""What can be downloaded, table by table. `baseline` of a verdict is the version beside a
candidate, and empty where the verdict is on a version alone."""

JSON_COLUMNS = ("consistency", "latency_s")
PICTURES = ("time_s", *PAIR_COLUMNS, "picture", "baseline_answer", "candidate_answer", "about")


@dataclass(frozen=True)
class Bounds:
    """What is kept.

    Attributes:
        age_s: of the oldest row, in seconds.
        size_bytes: of the file.
    """

    age_s: float
    size_bytes: int


class History:
    """One database; safe to use from several threads. Close it.

    What cannot be written, because the disk is full for example, is told once in the log, and lost;
    the companion goes on.

    Args:
        folder: that holds it; None: memory.
        bounds: of what is kept.

    Raises:
        StartError: the folder or the file cannot be used; the message says why.
    """

    def __init__(self, folder: Path | None = None, bounds: Bounds | None = None) -> None:
        self._place = str(folder / FILE) if folder else ":memory:"
        self._bounds = bounds or Bounds(float("inf"), IN_MEMORY_BYTES)
        self._lock, self._added, self._written = Lock(), 0, True
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._place, BUSY_S, check_same_thread=False)
            self._prepare()
        except OSError as error:
            raise StartError(f"--state {folder} cannot be written: {error.strerror}") from error
        except sqlite3.Error as error:
            taken = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY
            why = "another companion uses it" if taken else error
            raise StartError(f"--state: {self._place} cannot be used: {why}") from error

    def close(self) -> None:
        """Finish what is written."""
        with self._lock:
            self._database.close()

    def note_probe(self, key: Key, point: Point) -> None:
        """Add a probe of a version."""
        parity = point.parity
        errors = (
            (parity.max_abs_error, parity.mean_abs_error, parity.agreement, parity.pictures)
            if parity
            else (None,) * 4
        )
        times = {f"{path} {size}": seconds for (path, size), seconds in point.latency_s.items()}
        spread = parity.spread if parity else None
        told = (json.dumps(dict(point.consistency)), json.dumps(times))
        row = (point.time_s, *key, point.sha256, point.verdict.value, *errors, spread, *told)
        self._add("probes", TABLES["probes"], row)

    def note_verdict(self, key: Key, sha256: str, verdict: Verdict, reason: str) -> None:
        """Add a verdict on a version that has become another."""
        row = (time(), *key, "", sha256, verdict.value, None, reason)
        self._add("verdicts", TABLES["verdicts"], row)

    def note_decision(self, rollout: Rollout) -> None:
        """Add a decision about a candidate that has become another."""
        pair = rollout.pair
        versions = (pair.model, pair.candidate, pair.baseline, pair.candidate_sha256)
        row = (time(), *versions, rollout.decision.value, rollout.pictures, rollout.reason)
        self._add("verdicts", TABLES["verdicts"], row)

    def note_comparison(self, pair: Pair, comparison: Comparison) -> None:
        """Add what two versions did with a picture."""
        compared = (getattr(comparison, name) for name in COMPARED_COLUMNS)
        row = (comparison.time_s, *_columns(pair), *compared)
        self._add("comparisons", TABLES["comparisons"], row)

    def note_difference(self, pair: Pair, difference: Disagreement, kept: int) -> None:
        """Add a picture that two versions answer differently; of a pair the latest `kept` stay."""
        about = {
            "layout": difference.layout,
            "labels": difference.labels,
            "head": (difference.head.kind, difference.head.values, difference.head.threshold),
            "trace_id": difference.trace_id,
        }
        arrays = (difference.picture, difference.reference, difference.served)
        packed = (_packed(array) for array in arrays)
        row = (difference.time_s, *_columns(pair), *packed, json.dumps(about))
        same = " AND ".join(f"{name} = ?" for name in PAIR_COLUMNS)
        latest = f"SELECT id FROM pictures WHERE {same} ORDER BY id DESC LIMIT ?"
        self._add(
            "pictures",
            PICTURES,
            row,
            f"DELETE FROM pictures WHERE {same} AND id NOT IN ({latest})",
            (*_columns(pair), *_columns(pair), kept),
        )

    def points(self, latest: int) -> dict[Key, list[Point]]:
        """Return the latest probes of each version, the oldest first."""
        rows = self._all(
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY model, version ORDER BY id "
            "DESC) AS back FROM probes) WHERE back <= ? ORDER BY id",
            (latest,),
        )
        found: dict[Key, list[Point]] = {}
        for row in rows:
            found.setdefault((row["model"], row["version"]), []).append(_point(row))
        return found

    def verdict(self, key: Key, sha256: str) -> tuple[Verdict, float] | None:
        """Return the last verdict on a graph and when it became so, in Unix time; None without."""
        rows = self._all(
            "SELECT * FROM verdicts WHERE model = ? AND version = ? AND baseline = '' "
            "ORDER BY id DESC LIMIT 1",
            key,
        )
        if not rows or rows[0]["sha256"] != sha256:
            return None
        return Verdict(rows[0]["verdict"]), rows[0]["time_s"]

    def pairs(self) -> list[Pair]:
        """Return the pair of each model that was compared last."""
        columns = ", ".join(PAIR_COLUMNS)
        rows = self._all(f"SELECT {columns}, max(id) FROM comparisons GROUP BY model", ())
        return [Pair(*(row[name] for name in PAIR_COLUMNS)) for row in rows]

    def comparisons(self, pair: Pair, latest: int) -> list[Comparison]:
        """Return the latest comparisons of a pair, the oldest first."""
        columns = ", ".join(("time_s", *COMPARED_COLUMNS))
        rows = self._of_pair("comparisons", pair, columns, latest)
        return [Comparison(*row) for row in rows]

    def decided_at(self, pair: Pair) -> int:
        """Return the pictures after which the last decision about a candidate was made."""
        rows = self._all(
            "SELECT pictures, verdict FROM verdicts WHERE model = ? AND version = ? AND "
            "baseline = ? AND sha256 = ? ORDER BY id DESC LIMIT 1",
            (pair.model, pair.candidate, pair.baseline, pair.candidate_sha256),
        )
        return rows[0]["pictures"] if rows and rows[0]["verdict"] != Decision.UNDECIDED.value else 0

    def differences(self, pair: Pair) -> list[Disagreement]:
        """Return the pictures that a pair answers differently, the latest first."""
        rows = self._of_pair("pictures", pair, "*", ROWS_AT_ONCE)
        return [_difference(pair, row) for row in reversed(rows)]

    def rows(self, table: str, model: str = "") -> Iterator[tuple[Any, ...]]:
        """Yield what lies in one of TABLES, the oldest first, a part at a time."""
        columns, last = ", ".join(TABLES[table]), 0
        where = "AND model = ?" if model else ""
        while True:
            part = self._all(
                f"SELECT id, {columns} FROM {table} WHERE id > ? {where} ORDER BY id LIMIT ?",
                (last, *([model] if model else []), ROWS_AT_ONCE),
            )
            yield from (tuple(row)[1:] for row in part)
            if len(part) < ROWS_AT_ONCE:
                return
            last = part[-1]["id"]

    def _prepare(self) -> None:
        database = self._database
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA locking_mode = EXCLUSIVE")  # a folder is one companion's
        (found,) = database.execute("PRAGMA user_version").fetchone()
        if found > SCHEMA:
            raise StartError(
                f"--state: {self._place} was written by a later Nyquist (schema {found}, this one "
                f"knows {SCHEMA}): give it another folder, or run the later one"
            )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA journal_size_limit = 1048576")
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
        self._most_pages = max(self._bounds.size_bytes // page_bytes, LEAST_PAGES)
        database.execute(f"PRAGMA max_page_count = {self._most_pages}")
        with database:
            for table, columns in {**TABLES, "pictures": PICTURES}.items():
                listed = ", ".join(columns)
                database.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY, {listed})"
                )
                database.execute(f"CREATE INDEX IF NOT EXISTS {table}_by_model ON {table} (model)")
                database.execute(f"CREATE INDEX IF NOT EXISTS {table}_by_time ON {table} (time_s)")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
            self._drop_old()

    def _add(
        self,
        table: str,
        columns: Sequence[str],
        row: Sequence[Any],
        then: str = "",
        values: Sequence[Any] = (),
    ) -> None:
        """Add a row, and do what is to be done with it."""
        marks = ", ".join("?" * len(columns))
        command = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        with self._lock:
            try:
                self._insert(command, row, then, values)
            except sqlite3.Error as error:
                if self._written:
                    logger.warning("%s is not written any more: %s", self._place, error)
                self._written = False
                return
        if not self._written:
            logger.info("%s is written again", self._place)
            self._written = True

    def _insert(self, command: str, row: Sequence[Any], then: str, values: Sequence[Any]) -> None:
        database = self._database
        self._added += 1
        if self._added % LOOKED_AFTER == 0:
            with database:
                self._drop_old()
        while True:
            try:
                with database:
                    database.execute(command, row)
                    if then:
                        database.execute(then, values)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not self._free():
                    raise
            else:
                return

    def _drop_old(self) -> None:
        self._drop_before(time() - self._bounds.age_s)

    def _drop_before(self, time_s: float) -> None:
        for table in (*TABLES, "pictures"):
            self._database.execute(f"DELETE FROM {table} WHERE time_s < ?", (time_s,))

    def _free(self) -> bool:
        """Let the oldest go; say whether that was all there is to do: the disk may be full too."""
        (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        spans = [
            self._database.execute(f"SELECT min(time_s), max(time_s) FROM {table}").fetchone()
            for table in (*TABLES, "pictures")
        ]
        known = [tuple(span) for span in spans if span[0] is not None]
        if pages < self._most_pages or not known:
            return False
        first, last = min(low for low, _ in known), max(high for _, high in known)
        with self._database:
            self._drop_before(first + max((last - first) * SHARE_FREED, LEAST_FREED_S))
        return True

    def _of_pair(self, table: str, pair: Pair, columns: str, latest: int) -> list[sqlite3.Row]:
        same = " AND ".join(f"{name} = ?" for name in PAIR_COLUMNS)
        command = f"SELECT {columns} FROM {table} WHERE {same} ORDER BY id DESC LIMIT ?"
        return self._all(command, (*_columns(pair), latest))[::-1]

    def _all(self, command: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(command, values).fetchall()


def _columns(pair: Pair) -> tuple[str, ...]:
    return tuple(getattr(pair, name) for name in PAIR_COLUMNS)


def _point(row: sqlite3.Row) -> Point:
    measured = [row[name] for name in PROBE_COLUMNS[:5]]
    times = {tuple(name.split()): seconds for name, seconds in json.loads(row["latency_s"]).items()}
    return Point(
        time_s=row["time_s"],
        sha256=row["sha256"],
        verdict=Verdict(row["verdict"]),
        parity=None if row["pictures"] is None else Parity(*measured),
        consistency=json.loads(row["consistency"]),
        latency_s={(path, int(size)): seconds for (path, size), seconds in times.items()},
    )


def _difference(pair: Pair, row: sqlite3.Row) -> Disagreement:
    about = json.loads(row["about"])
    return Disagreement(
        time_s=row["time_s"],
        model=pair.model,
        version=pair.candidate,
        sha256=pair.candidate_sha256,
        source=SHADOW,
        layout=about["layout"],
        picture=_unpacked(row["picture"]),
        served=_unpacked(row["candidate_answer"]),
        reference=_unpacked(row["baseline_answer"]),
        labels=tuple(about["labels"]),
        head=Head(*about["head"]),
        trace_id=about["trace_id"],
    )


def _packed(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _unpacked(packed: bytes) -> NDArray[Any]:
    unpacked: NDArray[Any] = np.load(io.BytesIO(packed), allow_pickle=False)
    return unpacked
