# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A reader study from the spec to the unsealed results, through the command line."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image as mpimg
import numpy as np
import pytest
import torch

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, IntegrityError
from monai_diffrecon.evaluation.reader_study.pack import export_pack
from monai_diffrecon.evaluation.reader_study.results import unseal
from monai_diffrecon.evaluation.reader_study.spec import read_spec
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume

from ..raising import raises

SHAPE = (9, 8, 7)
AFFINE = np.array([[1.0, 0, 0, -9], [0, 1.0, 0, 5], [0, 0, 2.0, 2], [0, 0, 0, 1]])
CASES = tuple(f"Canaryman_John_{i}" for i in range(6))
METHODS = ("zeta_net", "omega_tv")
CRITERIA = ["noise", "overall"]


def spec_file(root: Path, name: str = "study.json", *, swapped: bool = False, **changes: Any) -> Path:
    """Write a spec of volumes that are there already."""
    cases = []
    for case in CASES:
        order = METHODS[::-1] if swapped else METHODS
        named = {m: f"scans/{case}_{o}.nii.gz" for m, o in zip(METHODS, order, strict=True)}
        cases.append({"name": case, "volumes": named, "reference": f"scans/{case}_truth.nii.gz"})
    spec = {"cases": cases, "criteria": CRITERIA, "repeats": 0.34, "slices_per_plane": 2, **changes}
    (root / name).write_text(json.dumps(spec))
    return root / name


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes whose mean says the case, and whose offset says the method, and a pack of them."""
    root = tmp_path_factory.mktemp("readers")
    (root / "scans").mkdir()
    for index, case in enumerate(CASES):
        truth = 100.0 * (index + 1) + 10 * torch.arange(9.0)[:, None, None].expand(SHAPE)
        volumes = {"truth": truth} | {m: truth + 1000.0 * (k + 1) for k, m in enumerate(METHODS)}
        for label, volume in volumes.items():
            affine = AFFINE + (1e-4 if label == METHODS[1] else 0.0) * np.eye(4)
            write_volume(root / "scans" / f"{case}_{label}.nii.gz", volume[None], geometry_of(SHAPE, affine))
    arguments = ["--output", str(root / "pack"), "--key", str(root / "key.sealed"), "--seed", "3"]
    assert cli.main(["reader-study", "--cohort", str(spec_file(root)), *arguments]) == 0
    return root


@pytest.fixture
def scans(exported: Path, tmp_path: Path) -> Path:
    """A folder with the volumes."""
    shutil.copytree(exported / "scans", tmp_path / "scans")
    return tmp_path


@pytest.fixture
def pack(exported: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the pack, its volumes and its key, to do harm to."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    return tmp_path / "pack", tmp_path / "key.sealed"


def method_of(path: Path) -> str:
    """The method behind a volume, by its voxels."""
    return METHODS[int(float(read_volume(path)[0].min()) // 1000) - 1]


def fill(
    pack: Path, output: Path, reader: str, judge: Callable[[str, str, int], tuple[str, int, int]], delimiter: str = ","
) -> Path:
    """Fill the sheet as a reader who sees through the blinding: (A, B, case) -> preference and overall scores."""
    with (pack / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        folder = pack / "items" / row["item"]
        case = int(float(read_volume(folder / "reference.nii.gz")[0].min()) // 100) - 1
        said = judge(method_of(folder / "A.nii.gz"), method_of(folder / "B.nii.gz"), case)
        row["preference"], row["A_overall"], row["B_overall"] = (str(v) for v in said)
        row["reader"] = reader
    with output.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return output


def prefer_first(a: str, b: str, case: int) -> tuple[str, int, int]:
    """The first method, but for the last case, which is a tie."""
    scores = {METHODS[0]: 4, METHODS[1]: 2 + case % 2}
    return "=" if case == 5 else "A" if a == METHODS[0] else "b", scores[a], scores[b]


def prefer_other(a: str, b: str, case: int) -> tuple[str, int, int]:
    """The second method in the cases 0 to 3."""
    chosen = METHODS[1] if case < 4 else METHODS[0]
    return "A" if a == chosen else "B", 3, 3


def test_pack_holds_pairs_of_the_same_case_in_random_order(pack: tuple[Path, Path]) -> None:
    folder, key = pack
    items = json.loads(key.read_text())["items"]
    assert len(items) == 8  # six pairs, two of them twice
    repeats = [item for item in items if item["repeat_of"]]
    assert len(repeats) == 2
    by_name = {item["item"]: item for item in items}
    assert all(by_name[r["repeat_of"]]["A"] == r["B"] and by_name[r["repeat_of"]]["item"] < r["item"] for r in repeats)
    assert {item["A"] for item in items} == set(METHODS)
    for item in items:
        shown = folder / "items" / item["item"]
        for side in "AB":
            assert method_of(shown / f"{side}.nii.gz") == item[side]
            volume, geometry = read_volume(shown / f"{side}.nii.gz")
            assert np.array_equal(affine_of(geometry), AFFINE)
            source, _ = read_volume(folder.parent / "scans" / f"{item['case']}_{item[side]}.nii.gz")
            assert torch.equal(volume, source)
    assert [item["case"] for item in items if not item["repeat_of"]] != list(CASES)
    files = sorted(p.name for p in (folder / "items" / "001").iterdir())
    sides = ("A", "B", "reference")
    pictures = [f"{s}_{p}_{n}.png" for s in sides for p in ("axial", "coronal", "sagittal") for n in (1, 2)]
    assert files == sorted([f"{s}.nii.gz" for s in sides] + pictures)


def test_packs_with_methods_swapped_look_alike(scans: Path) -> None:
    listings, bytes_of = [], []
    for swapped in (False, True):
        spec = read_spec(spec_file(scans, swapped=swapped, planes=["axial"], repeats=0))
        folder = scans / f"pack{swapped}"
        export_pack(spec, folder, scans / f"key{swapped}", seed=5)
        listings.append(
            sorted((p.relative_to(folder).as_posix(), p.stat().st_mtime, p.stat().st_mode) for p in folder.rglob("*"))
        )
        bytes_of.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert listings[0] == listings[1]
    assert len({mtime for _, mtime, _ in listings[0]}) == 1
    # Swapped files are swapped sides and nothing else: what differs is what was exchanged.
    item = Path("items/001")
    assert bytes_of[0][item / "A.nii.gz"] == bytes_of[1][item / "B.nii.gz"]
    assert bytes_of[0][item / "A_axial_1.png"] == bytes_of[1][item / "B_axial_1.png"]
    assert bytes_of[0][item / "A.nii.gz"] != bytes_of[1][item / "A.nii.gz"]


def test_no_byte_tells_a_method_or_a_case(pack: tuple[Path, Path]) -> None:
    folder, _ = pack
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 8 * 21 + 4
    words = [w.encode() for w in (*METHODS, *CASES, "Canaryman", "zeta", "omega", "scans", "truth", str(folder.parent))]
    for path in files:
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        assert not [w for w in words if w in content or w.decode() in str(path.relative_to(folder))], path
        if path.suffix == ".png":
            assert _chunks(path.read_bytes()) <= {b"IHDR", b"IDAT", b"IEND", b"pHYs"}
        if path.suffix == ".gz":
            header = path.read_bytes()[:10]
            assert header[3] == 0, "the gzip header names a file"
            assert header[4:8] == b"\0\0\0\0", "the gzip header tells the time"
            nifti = gzip.decompress(path.read_bytes())[:348]
            assert nifti[148:252] == bytes(104)  # descrip, aux_file


def _chunks(png: bytes) -> set[bytes]:
    found, at = set(), 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        found.add(kind)
        at += 12 + length
    return found


def test_both_pictures_have_one_window_and_true_proportions(scans: Path) -> None:
    spec = spec_file(scans, planes=["coronal"], positions=[0.0], window=[1000, 3000], repeats=0)
    export_pack(read_spec(spec), scans / "pack", scans / "key", seed=0)
    items = json.loads((scans / "key").read_text())["items"]
    for item in items:
        case = CASES.index(item["case"])
        for side in "AB":
            picture = mpimg.imread(scans / "pack/items" / item["item"] / f"{side}_coronal_1.png")
            # 9 voxels of 1 mm across, 7 of 2 mm up.
            assert picture.shape[0] / picture.shape[1] == pytest.approx(14 / 9, rel=0.01)
            left = 1000.0 * (METHODS.index(item[side]) + 1) + 100 * (case + 1)
            assert float(picture[5, 0, 0]) == pytest.approx((left - 1000) / 2000, abs=0.01)
            assert float(picture[5, -1, 0]) == pytest.approx((left + 80 - 1000) / 2000, abs=0.01)


def test_the_form_shows_every_picture_and_writes_the_same_columns(pack: tuple[Path, Path]) -> None:
    folder, _ = pack
    page = (folder / "form.html").read_text()
    study = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    header, first = (folder / "scores.csv").read_text().splitlines()[:2]
    assert study["columns"] == header.split(",")
    assert study["pack"] == first.split(",")[0]
    named = {f"items/{i['item']}/{side}_{v}.png" for i in study["items"] for side in i["sides"] for v in i["views"]}
    assert named == {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
    assert "http" not in page


def test_results_by_hand(pack: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, key = pack
    one = fill(folder, tmp_path / "one.csv", "R1", prefer_first)
    two = fill(folder, tmp_path / "two.csv", "", prefer_other, delimiter=";")
    command = ["reader-study", "--unseal", str(key), "--scores", str(one), str(two)]
    report = tmp_path / "r.json"
    assert cli.main([*command, "--pack", str(folder), "--report", str(report)]) == 0
    text = capsys.readouterr().out
    results = json.loads(report.read_text())
    rows = {row["reader"]: row for row in results["preference"]}
    assert (rows["R1"]["preferred"], rows["R1"]["ties"]) == ([5, 0], 1)
    assert (rows["two"]["preferred"], rows["two"]["ties"]) == ([2, 4], 0)
    assert rows["R1"]["p_sign_test"] == pytest.approx(2 / 32)
    assert rows["R1"]["interval_95"] == pytest.approx([0.5655, 1.0], abs=1e-4)
    # Together: the readers differ in cases 0 to 3; in 4 both, in 5 one of them prefer the first.
    assert (rows["all readers"]["preferred"], rows["all readers"]["ties"]) == ([2, 0], 4)
    scores = {(row["method"], row["criterion"]): row for row in results["scores"]}
    assert set(scores) == {(method, "overall") for method in METHODS}
    assert scores[METHODS[0], "overall"]["mean"] == pytest.approx((6 * 4 + 6 * 3) / 12)
    assert scores[METHODS[1], "overall"]["mean"] == pytest.approx((3 * 2 + 3 * 3 + 6 * 3) / 12)
    assert scores[METHODS[1], "overall"]["count"] == 12
    within = {(row["reader"], row["criterion"]): row for row in results["agreement"]["within"]}
    assert within["R1", "overall"]["kappa"] == 1.0
    assert within["R1", "overall"]["count"] == 4  # two repeats, two methods each
    assert within["two", "overall"]["kappa"] is None  # always 3
    between = {row["criterion"]: row for row in results["agreement"]["between"]}
    assert between["overall"]["kappa"] == pytest.approx(0.0)
    assert between["noise"] == {"readers": ["R1", "two"], "criterion": "noise", "kappa": None, "count": 0}
    assert "pack, key and sheets belong together" in text
    assert "zeta_net 5 : 0 omega_tv, 1 ties; R1: 100% for zeta_net, 95 % interval 57% to 100%" in text


def test_one_reader_who_left_some_items_out(pack: tuple[Path, Path], tmp_path: Path) -> None:
    folder, key = pack
    lines = fill(folder, tmp_path / "one.csv", "R1", prefer_first).read_text().splitlines()
    empty = (folder / "scores.csv").read_text().splitlines()
    (tmp_path / "part.csv").write_text("\n".join([*lines[:3], *empty[3:]]) + "\n")
    results = unseal(key, [tmp_path / "part.csv"])
    assert results["readers"] == {"R1": 2}
    assert len(results["preference"]) == 1
    assert sum(results["preference"][0]["preferred"]) + results["preference"][0]["ties"] == 2


def test_key_and_pack_must_belong_together(pack: tuple[Path, Path], tmp_path: Path) -> None:
    folder, key = pack
    sheet = fill(folder, tmp_path / "one.csv", "R1", prefer_first)
    assert json.loads((folder / "manifest.json").read_text())["key_sha256"] == unseal(key, [sheet])["key_sha256"]
    other = tmp_path / "other.sealed"
    export_pack(read_spec(spec_file(tmp_path, planes=["axial"])), tmp_path / "other", other, seed=3)
    with raises(IntegrityError, where="one.csv, item 001", got=...):
        unseal(other, [sheet])
    with raises(IntegrityError, where="pack", got=...):
        unseal(other, [sheet], pack=folder)
    changed = json.loads(key.read_text())
    changed["items"][0]["A"], changed["items"][0]["B"] = changed["items"][0]["B"], changed["items"][0]["A"]
    (tmp_path / "forged").write_text(json.dumps(changed, indent=2, sort_keys=True))
    with raises(IntegrityError, where="one.csv, item 001", got=...):
        unseal(tmp_path / "forged", [sheet])
    item = folder / "items" / "002"
    (item / "A.nii.gz").write_bytes((item / "B.nii.gz").read_bytes())
    with raises(IntegrityError, where="pack", got=None):
        unseal(key, [sheet], pack=folder)
    for strange in (
        json.loads(key.read_text()) | {"pairs": [1]},
        {"schema": "other"},
        [],
        json.loads(key.read_text()) | {"items": [{"item": "001"}]},
    ):
        (tmp_path / "strange").write_text(json.dumps(strange))
        with pytest.raises(IntegrityError) as caught:
            unseal(tmp_path / "strange", [sheet])
        assert str(caught.value.where).startswith("strange")
    with raises(InputError, where="--pack", got="test_key_and_pack_must_belong_0"):
        unseal(key, [sheet], pack=tmp_path)


def test_the_same_seed_gives_the_same_pack_and_another_key(pack: tuple[Path, Path], tmp_path: Path) -> None:
    _, key = pack
    export_pack(read_spec(tmp_path / "study.json"), tmp_path / "again", tmp_path / "again.sealed", seed=3)
    old, new = (json.loads(p.read_text()) for p in (key, tmp_path / "again.sealed"))
    assert old["items"] == new["items"]
    assert old["pack_sha256"] == new["pack_sha256"]
    assert old["nonce"] != new["nonce"]
    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("old", "new", "where", "got"),
    [
        (",A,4,", ",C,4,", "one.csv, item 001", "C"),
        (",4,", ",6,", "one.csv, item 001", "6"),
        ("A_overall", "A_all", "one.csv", "['A_overall']"),
        (",002,", ",001,", "one.csv", "001"),
        (",002,", ",099,", "one.csv", "099"),
        (",R1,", ",R2,", "one.csv", "R1, R2"),
    ],
)
def test_sheets_that_cannot_be_understood(
    pack: tuple[Path, Path], tmp_path: Path, old: str, new: str, where: str, got: str | None
) -> None:
    sheet = fill(pack[0], tmp_path / "one.csv", "R1", lambda a, b, case: ("A", 4, 4))
    text = sheet.read_text().replace(",A,,,4,", ",A,,,4,")
    if old == ",A,4,":
        old, new = ",A,,,4,", ",C,,,4,"
    assert old in text
    sheet.write_text(text.replace(old, new, 1))
    with raises(InputError, where=where, got=got):
        unseal(pack[1], [sheet])


def test_two_sheets_of_one_reader(pack: tuple[Path, Path], tmp_path: Path) -> None:
    sheet = fill(pack[0], tmp_path / "one.csv", "R1", prefer_first)
    with raises(InputError, where="one.csv", got="R1"):
        unseal(pack[1], [sheet, sheet])
    with raises(InputError, where="--scores", got=None):
        unseal(pack[1], [])
    with raises(InputError, where="--scores", got="none.csv"):
        unseal(pack[1], [tmp_path / "none.csv"])


@pytest.mark.parametrize(
    ("changes", "error", "where"),
    [
        ({"planes": ["transverse"]}, ConfigError, "planes#0"),
        ({"planes": []}, ConfigError, "planes"),
        ({"scale": [5, 1]}, ConfigError, "scale"),
        ({"scale": [1, 2.0]}, ConfigError, "scale#1"),
        ({"scale": [False, 5]}, ConfigError, "scale#0"),
        ({"repeats": 2}, ConfigError, "repeats"),
        ({"repeats": "0.5"}, ConfigError, "repeats"),
        ({"repeats": float("nan")}, ConfigError, "repeats"),
        ({"slices_per_plane": 10**12}, ConfigError, "slices_per_plane"),
        ({"criteria": ["a b"]}, ConfigError, "criteria"),
        ({"criteria": ["noise", 1]}, ConfigError, "criteria#1"),
        ({"pairs": [["zeta_net", "none"]]}, ConfigError, "pairs#0"),
        ({"pairs": [["zeta_net", "zeta_net"]]}, ConfigError, "pairs#0"),
        ({"pairs": [["zeta_net"]]}, ConfigError, "pairs#0#1"),
        ({"pairs": [["zeta_net", "omega_tv"], ["omega_tv", "zeta_net"]]}, ConfigError, "pairs"),
        ({"positions": [0.5, 1.5]}, ConfigError, "positions#1"),
        ({"window": [2, 1]}, ConfigError, "window"),
        ({"window": [-1e308, 1e308]}, ConfigError, "window"),
        ({"plane": ["axial"]}, ConfigError, "study.json#plane"),
        ({"cases": [{"name": "x"}]}, ConfigError, "cases#0#volumes"),
        ({"cases": ["x"]}, ConfigError, "cases#0"),
        ({"cases": [{"name": "x", "volumes": {"a": 3}}]}, InputError, "cases#0#volumes#a"),
        ({"cases": [{"name": "x", "volumes": {"a": "none.nii.gz"}}]}, InputError, "cases#0, a"),
    ],
)
def test_specs_that_cannot_be_understood(
    scans: Path, changes: dict[str, Any], error: type[DiffReconError], where: str
) -> None:
    with pytest.raises(error) as caught:
        read_spec(spec_file(scans, **changes))
    assert caught.value.where == where


def test_where_pack_and_key_may_go(pack: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, key = pack
    spec = read_spec(tmp_path / "study.json")
    with raises(ConfigError, where="--key", got=None):
        export_pack(spec, tmp_path / "new", tmp_path / "new" / "key")
    with raises(InputError, where="--output", got="pack"):
        export_pack(spec, folder, tmp_path / "key2")
    with raises(InputError, where="--key", got="key.sealed"):
        export_pack(spec, tmp_path / "new", key)
    other = geometry_of(SHAPE, np.diag([1.0, 1.0, 3.0, 1.0]))
    write_volume(tmp_path / "scans" / f"{CASES[0]}_{METHODS[0]}.nii.gz", torch.ones(1, *SHAPE), other)
    with raises(InputError, where="case Canaryman_John_0, zeta_net", got="another affine"):
        export_pack(spec, tmp_path / "new", tmp_path / "key2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key.sealed", "pack", "scans", "study.json"]
    assert cli.main(["reader-study", "--cohort", "x.json", "--unseal", "k"]) == 2
    assert "either export or unseal" in capsys.readouterr().err
    assert cli.main(["reader-study"]) == 2
