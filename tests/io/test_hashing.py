# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.numerics.hashing import keyed_name, sha256_file, sha256_tensor


def test_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    with pytest.raises(InputError) as caught:
        sha256_file(tmp_path / "b")
    assert caught.value.where == "b"
    with pytest.raises(InputError) as caught:
        sha256_file(tmp_path)
    assert caught.value.where == tmp_path.name


def test_tensor_hash_is_of_type_shape_and_bytes() -> None:
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert sha256_tensor(x) == hashlib.sha256(b"float32(2, 3)" + x.numpy().tobytes()).hexdigest()
    different = [x.reshape(3, 2), x.double(), x.int(), x + 1e-6, x.T, torch.empty(0), torch.empty(0, 3)]
    assert len({sha256_tensor(t) for t in [x, *different]}) == len(different) + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.complex64, torch.uint8])
def test_tensor_hash_ignores_strides(dtype: torch.dtype) -> None:
    x = torch.arange(12).reshape(3, 4).to(dtype)
    assert sha256_tensor(x.T.contiguous().T) == sha256_tensor(x)
    assert sha256_tensor(torch.nn.Parameter(x, requires_grad=False)) == sha256_tensor(x)


def test_tensor_hash_resolves_lazy_views() -> None:
    x = torch.tensor([1 + 2j, 3 - 1j])
    assert sha256_tensor(x.conj()) == sha256_tensor(x.conj().resolve_conj()) != sha256_tensor(x)
    assert sha256_tensor(torch.tensor(2.0)) != sha256_tensor(torch.tensor([2.0]))


def test_keyed_name() -> None:
    assert keyed_name("Doe^John", "key") == hmac.new(b"key", b"Doe^John", "sha256").hexdigest()[:16]
    assert keyed_name("Doe^John", b"key") == keyed_name("Doe^John", "key") != keyed_name("Doe^John", "other")
    with pytest.raises(ConfigError) as caught:
        keyed_name("Doe^John", "")
    assert caught.value.where == "keyed_name"
