# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Values that are not finite, which a network made of finite slices."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.errors import NumericalError


def check_network_output(
    done: Tensor, given: Tensor, *, where: str, plane: str, first: int, sigma: float, precision: str
) -> None:
    """Refuse what is not finite, unless the slice was not when the network got it: then it is not its fault.

    Args:
        done: denoised slices (B, C, H, W).
        given: what they were made from, same shape.
        where: the network, for the message.
        plane: plane of the slices.
        first: index of the first of them in the volume.
        sigma: noise level.
        precision: that of the network's products.

    Raises:
        NumericalError: the network made a value that is not finite; the first such slice is named.
    """
    # One sum costs next to nothing. It may overflow where every value is finite, so it is not the last word.
    if bool(torch.isfinite(done.detach().sum())):
        return
    bad, spoilt = ((~torch.isfinite(x.detach())).flatten(1).sum(dim=1) for x in (done, given))
    blamed = torch.nonzero((bad > 0) & (spoilt == 0)).flatten().tolist()
    if not blamed:
        return
    raise NumericalError(
        f"the network made {int(bad[blamed[0]])} values that are not finite of {plane} slice {first + blamed[0]}, "
        f"whose values were finite, at sigma {sigma:.4g}",
        where=where,
        mend="set precision to float32"
        if precision != "float32"
        else "check the weights of the bundle and the scale of the measurement",
    )
