# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cut prepared volumes down to a size that is easy to carry to another machine.

    python scripts/pack_training_data.py PREPARED OUT [--mebibytes 40]

PREPARED is what ``prepare_training_data.py`` wrote. OUT holds the middle of every volume, with axes as equal as they
can be, and a ``datalist.json`` that ``SlicePatches`` reads as it reads the first one.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np


def middle(volume: np.ndarray, bytes_: float) -> np.ndarray:
    """Return the largest box in the middle of a volume that takes no more than so many bytes."""
    edge = max(volume.shape)
    while edge > 1 and math.prod(min(n, edge) for n in volume.shape) * volume.itemsize > bytes_:
        edge -= 1
    box = tuple(slice((n - min(n, edge)) // 2, (n - min(n, edge)) // 2 + min(n, edge)) for n in volume.shape)
    return np.ascontiguousarray(volume[box])


def pack(prepared: Path, out: Path, mebibytes: float) -> int:
    """Write the boxes and the data list, and return their bytes; no file is larger than 15 MiB."""
    sections = json.loads((prepared / "datalist.json").read_text())
    rows = [row for section in sections.values() for row in section]
    total, left = 0, mebibytes * 2**20
    # Small volumes first: what they leave of their share, larger ones may use.
    sizes = {row["file"]: (prepared / row["file"]).stat().st_size for row in rows}
    out.mkdir(parents=True, exist_ok=True)
    for index, (file, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        share = min(left / (len(sizes) - index), 15 * 2**20) - 256  # less the header of the file
        box = middle(np.load(prepared / file, mmap_mode="r"), min(share, size))
        np.save(out / file, box)
        total += (out / file).stat().st_size
        left -= (out / file).stat().st_size
    (out / "datalist.json").write_text(json.dumps(sections, indent=1) + "\n")
    return total


def main() -> None:
    """Pack what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mebibytes", type=float, default=40.0)
    args = parser.parse_args()
    print(f"{pack(args.prepared, args.out, args.mebibytes) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
