# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A disk that is full: what is on it is whole, the run says so in one line, and the same command ends it later."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import monai.bundle
import pytest
import torch

from monai_diffrecon.engine.cases.case_lock import case_lock
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.resume.run_point import RunPoint
from monai_diffrecon.errors import DiffReconError, ResourceError
from monai_diffrecon.errors.uncaught import chain_of
from monai_diffrecon.io import atomic
from monai_diffrecon.io.atomic import atomic_write, remove_leftovers
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import SamplerState
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

#: Set in the namespace in which a user who is not root may mount.
_INSIDE = "DIFFRECON_TESTS_UNSHARED"
_STEPS = 6
_RECORD = "a_recon.provenance.json"

# MONAI warns of every config it evaluates.
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class AtStep:
    """Handler of the reconstruction engine that does something when a step is completed, before its checkpoint."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.left, self.act = step, act

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self._count)

    def _count(self, engine: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def at_step(step: int, act: str) -> dict[str, str]:
    """Return the option of a bundle run in another process for a call of this file."""
    this = f"__import__('runpy').run_path({__file__!r})"
    return {"inferer#handlers": f"$(lambda here: [here['AtStep']({step}, lambda: {act})])({this})"}


def fill(disk: str | Path, room: int = 0) -> None:
    """Leave so many KiB free."""
    disk = Path(disk)
    with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free == 0
    if room:
        os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - room * 1024)


def whole(output: Path) -> dict[str, Any] | None:
    """Check that nothing half-written is there; return the record when there is one."""
    assert not list(output.rglob(".*.tmp*"))
    for record in output.glob("*.provenance.json"):
        verify_record(record)
    for series in output.glob("*/dicom"):
        assert len(list(series.iterdir())) == 12
    path = output / _RECORD
    return verify_record(path) if path.exists() else None


def statuses(output: Path) -> set[tuple[str, str]]:
    """Return (name, status) of the runs in the store of an output folder."""
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return {(run.info.run_name, run.info.status) for run in client.search_runs(experiments)}


def told(said: str) -> str:
    """Return the one line that says what is wrong."""
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in said
    assert "Errno" not in line
    return line


@pytest.fixture
def disk(tmp_path: Path, empty_store: Callable[[Path], Path]) -> Iterator[Path]:
    """Mount a small disk that has an output folder with an empty MLflow store."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount: {error}")
    if done.returncode:
        pytest.skip("may not mount: done in a namespace of its own")
    empty_store(folder / "out")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(server: Any, job: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the hash of the volume of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed")
    code, said = server.run(output / "log", bundle=arguments(job, output))
    assert code == 0, said
    return sha256_file(output / "a_recon.nii.gz")


def arguments(job: Any, output: Path, **options: Any) -> dict[str, Any]:
    return job.reconstruction(output, steps=_STEPS, reference=str(job.scans / "Doe_0.nii.gz"), **options)


@pytest.mark.skipif(os.geteuid() == 0 or _INSIDE in os.environ, reason="the tests mount themselves")
def test_small_disks_in_a_namespace_of_its_own() -> None:
    inner = [sys.executable, "-m", "pytest", "-q", "-k", "a_small_disk", "-p", "no:cacheprovider", __file__]
    try:
        probe = subprocess.run(
            ["unshare", "-rm", sys.executable, "-c", ""], capture_output=True, text=True, check=False
        )
    except OSError as error:
        pytest.skip(f"no unshare: {error}")
    if probe.returncode:
        pytest.skip(f"no namespaces: {probe.stderr.strip()}")
    done = subprocess.run(
        ["unshare", "-rm", *inner],
        env=os.environ | {_INSIDE: "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_small_disk_that_is_full_from_the_start_ends_in_one_line(
    disk: Path, server: Any, job: Any, undisturbed: str, tmp_path: Path
) -> None:
    output = disk / "out"
    fill(disk)
    code, said = server.run(tmp_path / "log", bundle=arguments(job, output))
    assert code == ResourceError.exit_code, said
    assert "the disk is full" in told(said)
    assert whole(output) is None
    assert not list(output.glob("a_*"))
    (disk / "ballast").unlink()
    assert not {status for _, status in statuses(output)} & {"FINISHED"}
    code, said = server.run(tmp_path / "log", bundle=arguments(job, output))
    assert code == 0, said
    assert whole(output) is not None
    assert sha256_file(output / "a_recon.nii.gz") == undisturbed
    assert statuses(output) == {("a", "FINISHED")}


@pytest.mark.slow
def test_a_small_disk_that_fills_up_midway_loses_no_step(
    disk: Path, server: Any, job: Any, undisturbed: str, tmp_path: Path
) -> None:
    output = disk / "out"
    filled = at_step(4, f"here['fill']({str(disk)!r})")
    code, said = server.run(tmp_path / "log", bundle=arguments(job, output, **filled))
    assert code == ResourceError.exit_code, said
    assert "a_recon.nii.gz: the disk is full" in told(said)
    assert "no checkpoint after step 3" not in said
    assert "no checkpoint after step 4: the disk is full" in said
    assert whole(output) is None
    assert [path.name for path in output.glob("a_*")] == ["a_checkpoint.pt"]
    (disk / "ballast").unlink()
    assert ("a", "FINISHED") not in statuses(output)
    code, said = server.run(tmp_path / "log", bundle=arguments(job, output, resume="require"))
    assert code == 0, said
    record = whole(output)
    assert record is not None
    assert record["report"]["execution"]["resumed"] == 1
    assert sha256_file(output / "a_recon.nii.gz") == undisturbed
    assert statuses(output) == {("a", "FAILED"), ("a", "FINISHED")}
    assert not list(output.glob("*checkpoint*"))


@pytest.mark.slow
def test_a_small_disk_without_room_for_checkpoints_ends_well(
    disk: Path, server: Any, job: Any, undisturbed: str, tmp_path: Path
) -> None:
    output = disk / "out"
    fill(disk)
    freed = at_step(_STEPS, f"here['os'].unlink({str(disk / 'ballast')!r})")
    code, said = server.run(tmp_path / "log", bundle=arguments(job, output, **freed))
    assert code == 0, said
    record = whole(output)
    assert record is not None
    assert [f for f in record["report"]["fallbacks"] if "checkpoint" in f] == [
        f"no checkpoint after step {step}: the disk is full" for step in range(1, _STEPS)
    ]
    assert sha256_file(output / "a_recon.nii.gz") == undisturbed
    assert {status for _, status in statuses(output)} <= {"FAILED"}


@pytest.mark.slow
@pytest.mark.parametrize("room", [8, 40, 56, 112, 152])
def test_a_small_disk_with_little_room_holds_what_is_whole(
    room: int, disk: Path, server: Any, job: Any, tmp_path: Path
) -> None:
    output = disk / "out"
    filled = at_step(3, f"here['fill']({str(disk)!r}, {room})")
    code, said = server.run(tmp_path / "log", bundle=arguments(job, output, output_format="both", **filled))
    assert code in (0, ResourceError.exit_code), said
    record = whole(output)
    assert (record is None) == (code != 0)
    if code:
        told(said)
    (disk / "ballast").unlink()
    assert code == 0 or ("a", "FINISHED") not in statuses(output)


def run_here(job: Any, output: Path, **options: Any) -> None:
    """Run a bundle in this process; raise what it would say in one line."""
    settings = arguments(job, output, **{"evaluator#track": False, "output_format": "both", **options})
    try:
        monai.bundle.run(**settings | {"initialize": []})
    except Exception as error:
        raise next((e for e in chain_of(error) if isinstance(e, DiffReconError)), error) from None


def refuse(monkeypatch: pytest.MonkeyPatch, suffix: str) -> list[str]:
    """Let no file of this name be written more than half; return the names of those that were."""
    replace, done = os.replace, []

    def refused(source: Any, target: Any) -> None:
        if str(target).endswith(suffix):
            os.truncate(source, Path(source).stat().st_size // 2)
            full()
        done.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", refused)
    return done


def break_writer(monkeypatch: pytest.MonkeyPatch, name: str, count: int = 1) -> None:
    """Let a method that writes a file stop half-way with a full disk, the n-th time it is called."""
    before, left = resolve_name(name), [count]

    def broken(target: Any, *arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0]:
            return before(target, *arguments, **options)
        path = next((a for a in (target, *arguments) if isinstance(a, Path)), None)
        if path is not None:
            path.write_bytes(b"half")
        return full()

    monkeypatch.setattr(name, broken)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writer", "count", "name", "left"),
    [
        ("gzip.GzipFile.write", 2, "a_recon.nii.gz", ["a_checkpoint.pt"]),
        ("pydicom.dataset.FileDataset.save_as", 7, "0007.dcm", ["a_checkpoint.pt", "a_recon.nii.gz"]),
        ("matplotlib.figure.Figure.savefig", 1, "a_montage.png", ["a_checkpoint.pt", "a_recon.nii.gz"]),
        ("pathlib.Path.write_text", 1, "a_view.html", ["a_checkpoint.pt", "a_montage.png", "a_recon.nii.gz"]),
        ("pathlib.Path.write_text", 2, _RECORD, ["a_checkpoint.pt", "a_montage.png", "a_recon.nii.gz", "a_view.html"]),
    ],
    ids=["volume", "DICOM series", "picture", "page", "record"],
)
def test_an_output_that_does_not_fit_is_not_there_and_made_by_the_next_run(
    writer: str, count: int, name: str, left: list[str], job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_writer(monkeypatch, writer, count)
    with pytest.raises(ResourceError) as caught:
        run_here(job, tmp_path)
    assert caught.value.where == name
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert whole(tmp_path) is None
    assert sorted(path.name for path in tmp_path.glob("a_*")) == left
    monkeypatch.undo()
    run_here(job, tmp_path, resume="require")
    record = whole(tmp_path)
    assert record is not None
    assert record["report"]["execution"]["resumed"] == 1
    assert not (tmp_path / "a_checkpoint.pt").exists()


def test_checkpoints_that_do_not_fit_cost_no_run(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = refuse(monkeypatch, "checkpoint.pt")
    run_here(job, tmp_path)
    record = whole(tmp_path)
    assert record is not None
    lost = [f"no checkpoint after step {step}: the disk is full" for step in range(1, _STEPS + 1)]
    assert record["report"]["fallbacks"] == lost
    assert "a_recon.nii.gz" in done


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["a_recon.nii.gz", "0007.dcm", "a_montage.png", "a_view.html", _RECORD])
def test_what_was_there_before_is_whole_or_without_a_record(
    suffix: str, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(job, tmp_path)
    before = whole(tmp_path)
    refuse(monkeypatch, suffix)
    with pytest.raises(ResourceError) as caught:
        run_here(job, tmp_path, seed=1)
    assert caught.value.where == suffix
    assert whole(tmp_path) == (before if suffix == "a_recon.nii.gz" else None)


class Unwritable:
    """Serializes as torch does until the disk is full: torch's own writer raises a RuntimeError that names no cause."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, path: Path) -> None:
        path.write_bytes(b"half")
        raise self.error


def test_torch_does_not_say_that_the_disk_is_full_and_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    with pytest.raises(RuntimeError, match="unexpected pos"):
        atomic_write(tmp_path / "a.pt", Unwritable(error))  # the disk has room: something else is wrong
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        atomic_write(tmp_path / "a.pt", Unwritable(error))
    assert caught.value.where == "a.pt"
    assert caught.value.__cause__ is error
    assert not list(tmp_path.iterdir())


def test_a_small_disk_takes_no_half_of_a_state(disk: Path) -> None:
    fill(disk, 64)
    with pytest.raises(ResourceError) as caught:
        atomic_write(disk / "a.pt", lambda path: torch.save({"x": torch.rand(100_000)}, path))
    assert caught.value.where == "a.pt"
    assert sorted(path.name for path in disk.iterdir()) == ["ballast", "out"]


def test_a_lock_or_folder_that_cannot_be_made_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = RunCheckpoint(tmp_path / "new" / "checkpoint.pt", every=1)
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ResourceError) as caught:
        checkpoint.write(RunPoint(SamplerState(x=torch.zeros(1, 2, 2, 2), step=1, sigma=0.1)))
    assert caught.value.where == "folder new"
    monkeypatch.undo()
    (tmp_path / ".diffrecon" / "locks").mkdir(parents=True)
    monkeypatch.setattr("os.open", full)
    with pytest.raises(ResourceError) as caught, case_lock(tmp_path, "a"):
        pass
    assert caught.value.where == "lock of case a"


def test_what_killed_writers_have_left_is_removed_by_the_next_run_of_the_case(job: Any, tmp_path: Path) -> None:
    for folder in (tmp_path / "a" / ".0123456789ab.tmp", tmp_path / ".0123456789ac.tmp"):
        folder.mkdir(parents=True)
        os.utime(folder, (1, 1))
    run_here(job, tmp_path)
    assert whole(tmp_path) is not None


def test_what_killed_writers_have_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    series, file, other = tmp_path / ".0123456789ab.tmp", tmp_path / ".0123456789ac.tmp.nii.gz", tmp_path / ".x.tmp"
    series.mkdir()
    (series / "0001.dcm").write_bytes(b"voxels")
    for path in (file, other):
        path.write_bytes(b"voxels")
    assert remove_leftovers(tmp_path) == 0  # a writer may be at work
    for path in (series, file, other):
        os.utime(path, (1, 1))
    assert remove_leftovers(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == [".x.tmp"]
