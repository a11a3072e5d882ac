# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A sparse matrix that multiplies tensors."""

from __future__ import annotations

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F


class SparseMatrix(nn.Module):
    """A fixed sparse matrix (M, N) that multiplies dense matrices (N, K).

    The rows are the bags of ``embedding_bag``, which is faster than torch's own CSR product at single precision.
    Its three plain buffers move, convert, copy and pickle with the module; a sparse CSR tensor does not.

    Args:
        matrix: the matrix; its values' type is the type it computes in.
    """

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        self.starts: Tensor
        self.columns: Tensor
        self.values: Tensor
        self.register_buffer("starts", torch.from_numpy(matrix.indptr), persistent=False)
        self.register_buffer("columns", torch.from_numpy(matrix.indices), persistent=False)
        self.register_buffer("values", torch.from_numpy(matrix.data), persistent=False)

    def forward(self, dense: Tensor) -> Tensor:
        """Return the product (M, K), computed in the matrix's type and returned in that of ``dense`` (N, K)."""
        product = F.embedding_bag(
            self.columns,
            dense.to(self.values.dtype).contiguous(),
            self.starts,
            mode="sum",
            per_sample_weights=self.values,
            include_last_offset=True,
        )
        return product.to(dense.dtype)
