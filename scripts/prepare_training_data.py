# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Prepare volumes for training: RAS+, scaled to network units, cropped, one .npy each.

    python scripts/prepare_training_data.py {brain_mr,ct,body_mr,materials,brain,heads,body_ct} DATA OUT

DATA holds the folders ``mr/``, ``mr_lowres/``, ``mr_other/``, ``ct/`` and ``microct/`` (images) and ``mr_labels/``
(label maps). Written to OUT: the volumes and ``datalist.json`` with the sections ``training`` and ``validation`` that
``SlicePatches`` reads.

brain_mr, ct: every volume at the voxel size of its scan, for networks of a range of pixel sizes; three validation
subjects each. body_mr, materials: likewise, but of a subject or material with one volume a region is kept for
validation, with a gap between them. The others are what the bundles of one voxel size were trained on.

brain: heads and brains at 1 mm, cropped. heads: whole heads at 2 mm, each in a frame of 104 voxels per side, what a
network that draws whole slices is trained on. body_ct: chests and abdomens at 1.5 mm, -1000..1000 HU to 0..1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, Spacing
from scipy.ndimage import median_filter
from tqdm import tqdm

#: Volumes with isotropic voxels near 1 mm: every plane. Weights favour T1.
VOLUMES = {
    "ljubx07_T1": 1.0,
    "brainchop_T1": 2.0,
    "niimath_T1_brain": 1.0,
    "seg3d_T1": 2.0,
    "niivue_fsnorm_T1_brain": 1.0,
    "niivue_fsbrain_T1_brain": 1.0,
    "ljubx07_T2": 0.3,
    "clinical_T2": 0.3,
}
#: Scans with thick axial slices: the axial network only.
AXIAL = {"ljubl01_T1W": 1.0, "ljubl03_T1W": 1.0, "ljubl04_T1W": 1.0, "ljubl19_T1W": 1.0, "ljubl20_T1W": 1.0}
VALIDATION = {"ljubx19_T1": 1.0}
#: Whole heads for frames at 2 mm, by folder; one is kept for validation.
HEADS = {
    "mr/brainchop_T1": 1.0,
    "mr/seg3d_T1": 1.0,
    "mr_lowres/IXI012-HH-1211_T1_2mm": 1.5,
    "mr_lowres/IXI013-HH-1212_T1_2mm": 1.5,
    "mr_lowres/IXI014-HH-1236_T1_2mm": 1.5,
    "mr_lowres/IXI015-HH-1258_T1_2mm": 1.5,
    "mr_lowres/IXI034-HH-1260_T1_2mm": 1.5,
}
VALIDATION_HEAD = "mr_lowres/IXI033-HH-1259_T1_2mm"
FRAME = 104
#: CT scans whose slices are at most 2.5 mm apart: every plane.
BODY = {"cmbcrc_01068_chest": 1.0, "lungfcp_0001_chest": 1.0, "rider_0117_chest": 1.0}
#: CT scans with thicker slices: their axial slices serve the coronal network too, lying on their back, since what it
#: learns is local and three scans are few.
BODY_AXIAL = {"cptacpda_C3L00189_abdomen": 1.0, "acrinflt_013_thorax": 1.0, "lungdx_A0002_chest": 1.0}
VALIDATION_BODY = "totalseg_aorta_thorax"
WINDOW = (-1000.0, 1000.0)


@dataclass(frozen=True)
class Scan:
    """A volume to train on or to validate with: file below DATA, how often it is drawn, and whether slices are thick.

    Of a scan with thick slices only the slices themselves are used, in the plane they were measured in. ``part`` is a
    region: axis (RAS+), first and end voxel. ``air`` is the value of air in arbitrary units.
    """

    file: str
    weight: float = 1.0
    thick: bool = False
    validation: bool = False
    part: tuple[int, int, int] | None = None
    air: float = 0.0


def regions(file: str, axis: int, end: int, first: int, last: int, air: float = 0.0) -> tuple[Scan, Scan]:
    """Return the region before ``end`` to train on, and that from ``first`` to ``last`` to validate with."""
    return Scan(file, part=(axis, 0, end), air=air), Scan(file, part=(axis, first, last), air=air, validation=True)


#: Brain MR at any voxel size. Volumes that may show one person are on one side: brainchop, niimath, clinical; cstar,
#: M2208, M2307, clinical. Colin27, the public example, is on none.
BRAIN_MR = (
    *(Scan(f"mr/{n}") for n in ("ljubx07_T1", "niimath_T1_brain", "cstar_T1_brain")),
    *(Scan(f"mr/{n}", 2.0) for n in ("brainchop_T1", "seg3d_T1")),
    *(Scan(f"mr/{n}", 0.7) for n in ("niivue_fsnorm_T1_brain", "niivue_fsbrain_T1_brain")),
    Scan("mr/vsseg_001_T1c", 1.5),
    *(Scan(f"mr/{n}", 0.7, thick=True) for n in ("ljubl01_T1W", "ljubl03_T1W", "ljubl19_T1W", "ljubl20_T1W")),
    *(Scan(f"mr/{n}", 0.7) for n in ("ljubx07_T2", "clinical_T2", "cstar_T2_brain", "M2208_T2_brain")),
    Scan("mr/M2307_T2_brain", 0.7),
    Scan("mr/ljubl01_T2W", 1.5, thick=True),
    *(Scan(f"mr/{n}", 0.8) for n in ("ljubx07_FLAIR", "cstar_FLAIR_brain")),
    *(Scan(f"mr/{n}", 0.8, thick=True) for n in ("ljubl01_FLAIR", "ljubl03_FLAIR", "ljubl20_FLAIR")),
    *(Scan(f"mr/{n}", validation=True) for n in ("ljubx19_T1", "fnndsc_eun_T1", "fsformats_T1_brain")),
    *(Scan(f"mr/{n}", validation=True) for n in ("ljubx19_T2", "upenngbm_00002_T2_brain", "ljubx19_FLAIR")),
    *(Scan(f"mr/{n}", thick=True, validation=True) for n in ("ljubl04_T1W", "ljubl04_FLAIR")),
)
#: CT at any voxel size. The halves of nsclcrg_R01001 are one subject.
CT = (
    *(Scan(f"ct/{n}", 2.0) for n in ("cmbcrc_01068_chest", "lungfcp_0001_chest", "rider_0117_chest")),
    *(Scan(f"ct/{n}", 1.0) for n in ("sts_002", "sts_015", "sts_018", "sts_028", "sts_036", "sts_040", "sts_044")),
    Scan("ct/sts_051"),
    *(Scan(f"ct/{n}", thick=True) for n in ("cptacpda_C3L00189_abdomen", "acrinflt_013_thorax", "lungdx_A0002_chest")),
    *(Scan(f"ct/{n}", thick=True) for n in ("crlm_1004_abdomen", "rider_0109_chestabdomen", "tcgalusc_342605_chest")),
    *(Scan(f"ct/{n}", validation=True) for n in ("totalseg_aorta_thorax", "4dlung_113HM10395_chest")),
    *(Scan(f"ct/{n}", validation=True) for n in ("nsclcrg_R01001_upper", "nsclcrg_R01001_lower")),
    Scan("ct/crlm_1006_abdomen", thick=True, validation=True),
)
#: Prostate, breast and limb. Only limbs have two subjects.
BODY_MR = (
    *regions("mr_other/prostateusbx_0001_T2", 2, 36, 42, 60),
    *regions("mr_other/ucsfbr_06_DCE2", 0, 38, 42, 60),
    Scan("mr_other/sts_036_T1", thick=True),
    Scan("mr_other/sts_044_T1", thick=True, validation=True),
)
#: Four materials with one volume each.
MATERIALS = (
    *regions("microct/ciclope_trabecular_bone", 2, 130, 140, 200),
    *regions("microct/puma_weave", 2, 96, 104, 150),
    *regions("microct/quanfima_polymer", 2, 84, 92, 128),
    *regions("microct/tooth", 0, 64, 72, 103, air=1230.0),
)


def load(path: Path, spacing: tuple[float, float, float], mode: str | int) -> np.ndarray:
    """Return a volume (X, Y, Z) in RAS+ at ``spacing`` mm; -1 keeps an axis as it is."""
    read = Compose(
        [
            LoadImage(image_only=True, ensure_channel_first=False),
            EnsureChannelFirst(),
            Orientation(axcodes="RAS", labels=None),
            Spacing(pixdim=spacing, mode=mode),
        ]
    )
    return np.asarray(torch.as_tensor(read(path)))[0]


def load_native(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume (X, Y, Z) in RAS+ and its voxel size in mm."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.header.get_zooms()[:3])


def crop(volume: np.ndarray, mask: np.ndarray, margin: int = 6) -> np.ndarray:
    """Return the bounding box of ``mask`` with a margin in voxels."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(hit[0] - margin, 0), hit[-1] + 1 + margin))
    return volume[tuple(box)]


def image(path: Path, spacing: tuple[float, float, float]) -> np.ndarray:
    """Return an image in network units: the 99.5th percentile of the head is 1."""
    volume = np.clip(load(path, spacing, 3), 0, None)  # cubic splines keep the sharpness of finer voxels
    head = volume > 0.02 * volume.max()
    scaled = volume / np.percentile(volume[head], 99.5)
    return np.ascontiguousarray(crop(scaled, scaled > 0.05)).astype(np.float16)


def frame(volume: np.ndarray, mask: np.ndarray, size: int, margin: int = 4) -> np.ndarray:
    """Return ``volume`` in a cube of ``size`` voxels: the vertex ``margin`` below the top, the head in the middle."""
    top = np.flatnonzero(mask.any(axis=(0, 1)))[-1] + 1
    upper = mask[:, :, max(top - 50, 0) : top]
    center = [np.flatnonzero(upper.any(axis=(1 - a, 2)))[[0, -1]].mean() for a in (0, 1)]
    first = [round(c - size / 2) for c in center] + [int(top) + margin - size]
    framed = np.zeros((size, size, size), dtype=volume.dtype)
    source = tuple(slice(max(f, 0), min(f + size, n)) for f, n in zip(first, volume.shape, strict=True))
    target = tuple(slice(s.start - f, s.stop - f) for s, f in zip(source, first, strict=True))
    framed[target] = volume[source]
    return framed


def prepare_heads(data: Path, out: Path, size: int = FRAME) -> dict[str, list[dict]]:
    """Write whole heads at 2 mm in frames and return the data list."""
    every = ["sagittal", "coronal", "axial"]
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    for name, weight in tqdm((HEADS | {VALIDATION_HEAD: 1.0}).items(), desc="heads"):
        volume = np.clip(load(data / f"{name}.nii.gz", (2.0, 2.0, 2.0), 3), 0, None)
        head = median_filter(volume, 3) > 0.08 * np.percentile(volume, 99)
        scaled = volume / np.percentile(volume[head], 99.5)
        file = f"{Path(name).name}.npy"
        np.save(out / file, frame(np.clip(scaled, 0, 1.5), head, size).astype(np.float16))
        section = "validation" if name == VALIDATION_HEAD else "training"
        sections[section].append({"file": file, "planes": every, "weight": weight})
    for path in tqdm(sorted((data / "mr_labels").glob("*.nii.gz")), desc="label maps"):
        labels = load(path, (2.0, 2.0, 2.0), "nearest").astype(np.int64)
        values, index = np.unique(labels, return_inverse=True)
        file = f"{path.name.removesuffix('.nii.gz')}.npy"
        np.save(out / file, frame(index.reshape(labels.shape).astype(np.uint8), labels > 0, size))
        sections["training"].append({"file": file, "planes": every, "labels": values.tolist()})
    return sections


def prepare_brain(data: Path, out: Path) -> dict[str, list[dict]]:
    """Write heads at 1 mm, cropped, and return the data list."""
    every = ["sagittal", "coronal", "axial"]
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    jobs = [("training", n, w, every) for n, w in VOLUMES.items()]
    jobs += [("training", n, w, ["axial"]) for n, w in AXIAL.items()]
    jobs += [("validation", n, w, every) for n, w in VALIDATION.items()]
    for section, name, weight, planes in tqdm(jobs, desc="images"):
        spacing = (1.0, 1.0, 1.0 if planes == every else -1.0)
        np.save(out / f"{name}.npy", image(data / "mr" / f"{name}.nii.gz", spacing))
        sections[section].append({"file": f"{name}.npy", "planes": planes, "weight": weight})
    sections["training"] += prepare_labels(data, out)
    return sections


def prepare_labels(data: Path, out: Path) -> list[dict]:
    """Write label maps at 1 mm, cropped, and return their rows."""
    rows = []
    for path in tqdm(sorted((data / "mr_labels").glob("*.nii.gz")), desc="label maps"):
        labels = load(path, (1.0, 1.0, 1.0), "nearest").astype(np.int64)
        values, index = np.unique(labels, return_inverse=True)
        index = index.reshape(labels.shape).astype(np.uint8)
        name = path.name.removesuffix(".nii.gz")
        np.save(out / f"{name}.npy", np.ascontiguousarray(crop(index, labels > 0)))
        rows.append({"file": f"{name}.npy", "planes": ["sagittal", "coronal", "axial"], "labels": values.tolist()})
    return rows


def prepare_body(data: Path, out: Path) -> dict[str, list[dict]]:
    """Write CT scans at 1.5 mm in network units and return the data list."""
    every = ["sagittal", "coronal", "axial"]
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    low, high = WINDOW
    for name, weight in tqdm((BODY | BODY_AXIAL | {VALIDATION_BODY: 1.0}).items(), desc="scans"):
        thick = name in BODY_AXIAL
        volume = load(data / "ct" / f"{name}.nii.gz", (1.5, 1.5, -1.0 if thick else 1.5), 3)
        scaled = np.clip((volume - low) / (high - low), 0.0, 2.0)
        body = crop(scaled, median_filter(scaled, 3) > 0.3, margin=10).astype(np.float16)
        section = "validation" if name == VALIDATION_BODY else "training"
        np.save(out / f"{name}.npy", np.ascontiguousarray(body))
        sections[section].append({"file": f"{name}.npy", "planes": ["axial"] if thick else every, "weight": weight})
        if thick:
            np.save(out / f"{name}_lying.npy", np.ascontiguousarray(body.transpose(0, 2, 1)))
            sections[section].append({"file": f"{name}_lying.npy", "planes": ["coronal"], "weight": weight / 2})
    return sections


def prepare_scans(scans: Iterable[Scan], data: Path, out: Path) -> dict[str, list[dict]]:
    """Write each scan at its own voxel size in network units and return the data list."""
    every = ["sagittal", "coronal", "axial"]
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    low, high = WINDOW
    for scan in tqdm(tuple(scans), desc="scans"):
        path = data / f"{scan.file}.nii.gz"
        volume, spacing = load_native(path)
        if scan.file.startswith("ct/"):
            scaled = np.clip((volume - low) / (high - low), 0.0, 2.0)
            body = crop(scaled, median_filter(scaled, 3) > 0.3, margin=10)
        else:
            volume = np.clip(volume - scan.air, 0, None)
            scaled = volume / np.percentile(volume[volume > 0.02 * volume.max()], 99.5)
            if scan.part is not None:
                axis, first, end = scan.part
                scaled = scaled[(slice(None),) * axis + (slice(first, end),)]
            body = crop(scaled, scaled > 0.05)
        section = "validation" if scan.validation else "training"
        file = f"{Path(scan.file).name}{'' if scan.part is None else f'_{section}'}.npy"
        np.save(out / file, np.ascontiguousarray(body).astype(np.float16))
        thickest = ("sagittal", "coronal", "axial")[int(np.argmax(spacing))]
        if scan.file.startswith("microct/"):  # what counts is the blur in voxels of the scan
            spacing = np.ones(3)
        sections[section].append(
            {
                "file": file,
                "planes": [thickest] if scan.thick else every,
                "spacing": [round(float(s), 4) for s in spacing],
                "weight": scan.weight,
            }
        )
    return sections


def prepare_brain_mr(data: Path, out: Path) -> dict[str, list[dict]]:
    """Write heads and brains at their own voxel sizes, and label maps at 1 mm."""
    sections = prepare_scans(BRAIN_MR, data, out)
    sections["training"] += [row | {"spacing": [1.0, 1.0, 1.0]} for row in prepare_labels(data, out)]
    return sections


def prepare_ct(data: Path, out: Path) -> dict[str, list[dict]]:
    """Write CT scans at their own voxel sizes."""
    return prepare_scans(CT, data, out)


def prepare_body_mr(data: Path, out: Path) -> dict[str, list[dict]]:
    """Write MR of prostate, breast and limb at their own voxel sizes."""
    return prepare_scans(BODY_MR, data, out)


def prepare_materials(data: Path, out: Path) -> dict[str, list[dict]]:
    """Write CT of materials in voxels of the scan, air to 0 and the 99.5th percentile of the material to 1."""
    return prepare_scans(MATERIALS, data, out)


SETS = {
    "brain_mr": prepare_brain_mr,
    "ct": prepare_ct,
    "body_mr": prepare_body_mr,
    "materials": prepare_materials,
    "brain": prepare_brain,
    "heads": prepare_heads,
    "body_ct": prepare_body,
}


def main() -> None:
    """Prepare everything that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("data", type=Path, help="folder with mr/, mr_lowres/, mr_labels/, mr_other/, ct/ and microct/")
    parser.add_argument("out", type=Path, help="folder for the prepared volumes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sections = SETS[args.set](args.data, args.out)
    (args.out / "datalist.json").write_text(json.dumps(sections, indent=1) + "\n")


if __name__ == "__main__":
    main()
