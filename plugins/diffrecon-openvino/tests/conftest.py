# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""These tests need OpenVINO, which the environment of the other packages does not have."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("openvino") else ["test_*.py"]
