# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Packages of new plugins, from the templates beside this file: one folder a kind, and what all kinds have."""
