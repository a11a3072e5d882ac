# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A child process in which an example may crash, hang, allocate or write where it must not, and is told on."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import PluginError
from monai_diffrecon.errors.uncaught import chain_of, users_error

#: Seconds of computing that an example may take, and of waiting.
LONGEST, LONGEST_WAIT = 20.0, 60.0
#: Bytes that an example may have beside those that the process has when it begins.
MOST_MEMORY = 1 << 30
#: Characters of a message.
LONGEST_LINE = 600

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Audit events of the file system -> which of their arguments are paths that are changed.
_CHANGES = {
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
    "sqlite3.connect": (0,),
}
#: What no file and no option may lead to.
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pty.spawn")


class Stray(BaseException):
    """A write outside of the folder, or a program that was started; nothing that catches Exception hides it."""


class Hang(BaseException):
    """An example took too long."""


@dataclass(frozen=True)
class Outcome:
    """What became of an example: ``fine``, ``refused`` in one line, ``not ours`` (MONAI refused before any of our code
    ran), or ``failed``; and what it said."""

    index: int
    status: str
    text: str


class WriteGuard:
    """Refuses and notes what an example changes outside of ``folder``. An audit hook can never be taken off."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.active, self.strays = os.path.realpath(folder), False, []
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.active, self.strays = True, []
        try:
            yield
        finally:
            self.active = False
        if self.strays:
            raise Stray("; ".join(self.strays))

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in _NEVER:
            self._stray(f"{event} {arguments[0]!r:.80}")
        elif event == "open":
            path, mode, flags = arguments
            if (isinstance(flags, int) and flags & _WRITES) or (isinstance(mode, str) and set(mode) & set("wax+")):
                self._check(event, path)
        elif event in _CHANGES:
            for position in _CHANGES[event]:
                self._check(event, arguments[position])

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        name = os.fsdecode(path).removeprefix("file:").partition("?")[0]
        whole = os.path.realpath(name)
        if name != ":memory:" and whole != os.devnull and not f"{whole}/".startswith(f"{self.folder}/"):
            self._stray(f"{event} {name}")

    def _stray(self, what: str) -> None:
        self.strays.append(what)
        raise Stray(what)


def judge(index: int, example: Callable[[int], None], guard: WriteGuard, secret: str) -> Outcome:
    """Run an example and say what became of it.

    ``secret`` is part of the folder's name, and must not come out.
    """
    try:
        with guard.watching():
            example(index)
    except (Stray, Hang) as error:
        return Outcome(index, "failed", f"{type(error).__name__}: {error} {_place(error)}")
    except BaseException as error:
        return Outcome(index, *_verdict(error, secret))
    return Outcome(index, "fine", "")


def _verdict(error: BaseException, secret: str) -> tuple[str, str]:
    ours = users_error(error)
    if ours is None and not _is_ours(error):
        return "not ours", f"{type(error).__name__}: {error!s:.300}"
    if ours is None:
        return "failed", f"{type(error).__name__}: {error!s:.300} {_place(error)}"
    line = str(ours)
    if "\n" in line or len(line) >= LONGEST_LINE:
        return "failed", f"not one line of {LONGEST_LINE} characters but {len(line)}: {line:.700}"
    if secret in line:
        return "failed", f"names the folder: {line}"
    if isinstance(ours, PluginError) and "the reader failed" in line:
        return "failed", f"a reader of ours raised what it should not: {line} {_place(ours.__cause__)}"
    if any(isinstance(e, MemoryError) for e in _every_cause(error)):
        return "failed", f"tried to allocate: {line} {_place(error)}"
    return "refused", f"{type(ours).__name__}: {line}"


def _is_ours(error: BaseException) -> bool:
    """Say whether any of our code was running, not a test's, when an exception was raised."""
    for cause in chain_of(error):
        files = [Path(frame.filename) for frame in traceback.extract_tb(cause.__traceback__)]
        if any(part.startswith(("monai_diffrecon", "diffrecon_")) for file in files for part in file.parts[-3:-1]):
            return True
    return not any("monai" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def _every_cause(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and all behind it, those too that ``raise ... from None`` hides."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]


def _place(error: BaseException | None) -> str:
    """Return where an exception came from: the innermost frames."""
    causes = list(_every_cause(error))
    if not causes:
        return ""
    innermost = causes[-1]
    frames = traceback.extract_tb(innermost.__traceback__)[-5:]
    return (
        f"[{type(innermost).__name__} at "
        + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
        + "]"
    )


def run_examples(count: int, example: Callable[[int], None], folder: Path) -> list[Outcome]:
    """Run examples 0, 1, ... in forked children; one that dies or stands still is a failure, and the next goes on.

    Args:
        count: number of examples.
        example: gets the number; raises what it raises.
        folder: the only one in which it may write, and the working directory.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        outcomes += _run_child(len(outcomes), count, example, folder)
    return outcomes


def _run_child(first: int, count: int, example: Callable[[int], None], folder: Path) -> list[Outcome]:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: there is one
        child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _in_child(first, count, example, folder, writing)
        finally:
            os._exit(0)
    os.close(writing)
    outcomes: list[Outcome] = []
    with os.fdopen(reading, "rb", buffering=0) as stream:
        text = b""
        while True:
            ready = select.select([stream], [], [], LONGEST_WAIT)[0]
            part = stream.read(1 << 16) if ready else b""
            if not part:
                break
            text += part
            *lines, text = text.split(b"\n")
            outcomes += [Outcome(**json.loads(line)) for line in lines]
        if not ready:
            os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if first + len(outcomes) < count:
        how = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"ended with {status}"
        outcomes.append(Outcome(first + len(outcomes), "failed", f"the process {how}"))
    return outcomes


def _in_child(first: int, count: int, example: Callable[[int], None], folder: Path, writing: int) -> None:
    os.chdir(folder)
    faulthandler.disable()
    sys.dont_write_bytecode = True
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def hang(*_: object) -> None:
        raise Hang(f"more than {LONGEST:g} s")

    signal.signal(signal.SIGPROF, hang)
    guard = WriteGuard(folder)
    for index in range(first, count):
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        outcome = judge(index, example, guard, folder.name)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        os.write(writing, json.dumps(vars(outcome)).encode() + b"\n")
