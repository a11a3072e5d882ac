# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A worker that reconstructs the series of an Orthanc server, which receives, stores, secures and routes."""
