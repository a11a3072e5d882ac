# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The file of an SQLite store: checked before MLflow opens it, and created atomically."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from monai_diffrecon.errors import InputError

#: Timeout (seconds) for a database locked by another process.
LOCKED_SECONDS = 10.0
#: Timeout (seconds) while another process creates the store.
MAKING_SECONDS = 60.0


def store_file(uri: str) -> Path | None:
    """Return the database file of a store, or None when it is no SQLite file."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if not uri.startswith("sqlite"):
        return None
    try:
        name = make_url(uri).database
    except ArgumentError:
        return None  # MLflow says what is wrong with it
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name)


def check_store(path: Path) -> None:
    """Check that a database can be written to.

    MLflow waits 20 seconds for a locked one at every request, and retries one that it cannot open ten times, which
    takes two minutes.

    Raises:
        sqlite3.Error: it is locked, damaged, or not a database.
    """
    with closing(sqlite3.connect(path, timeout=LOCKED_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        connection.execute("ROLLBACK")


def make_store(path: Path) -> None:
    """Create an empty store unless it exists.

    It is created under a temporary name, so that a process that dies leaves no partial store, which MLflow could
    never open. If two processes start at once, one waits.

    Args:
        path: the database file.

    Raises:
        filelock.Timeout: another process has been making it for a minute.
    """

    def made() -> bool:
        return path.exists() and path.stat().st_size > 0

    if made():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = path.resolve().parent / ".diffrecon"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{path.name}.lock", timeout=MAKING_SECONDS):
        if made():
            return
        for left in folder.glob(f"{path.name}.*.new*"):  # of a process that died
            left.unlink(missing_ok=True)
        new = folder / f"{path.name}.{uuid4().hex}.new"
        try:
            store = SqlAlchemyStore(f"sqlite:///{new}", (path.resolve().parent / "mlartifacts").as_uri())
            store.engine.dispose()
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def check_address(folder: Path) -> None:
    """Refuse a folder whose path cannot be part of a store's URI: MLflow would write elsewhere.

    Raises:
        InputError: its path holds ``?``, ``%`` before two hexadecimal digits, or bytes that are no text.
    """
    path = str(folder.resolve())
    found = re.search(r"[?\udc80-\udcff]|%[0-9A-Fa-f]{2}", path)
    if found is not None:
        raise InputError(
            "a path that cannot be part of an MLflow store's URI",
            where="output_dir",
            expected="no ?, no % before two hexadecimal digits, and no bytes that are no text",
            got=ascii(found[0]),
            mend="choose another folder, or disable tracking (--evaluator#track false)",
        )


def relocate(path: Path) -> None:
    """Update the artifact paths of a store that was moved or copied with its folder.

    MLflow keeps whole paths, so a copy would write into the folder that it was copied from. Only what lay in
    ``mlartifacts`` beside the store, as :func:`make_store` has it, is changed.

    Args:
        path: the database file.

    Raises:
        sqlite3.Error: it cannot be written to.
    """
    now = (path.resolve().parent / "mlartifacts").as_uri()
    with closing(sqlite3.connect(path, timeout=LOCKED_SECONDS, isolation_level=None)) as connection:
        row = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
        before, end, _ = (row[0] if row else "").rpartition("/0")
        if not end or not before.endswith("/mlartifacts") or before == now:
            return
        connection.execute("BEGIN IMMEDIATE")
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = ?1 || substr({column}, ?2) WHERE substr({column} || '/', 1, ?2) = ?3",
                (now, len(before) + 1, f"{before}/"),
            )
        connection.execute("COMMIT")
