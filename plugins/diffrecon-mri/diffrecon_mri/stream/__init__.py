# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A server for the scanner side of the ISMRMRD protocol and of MRD 2: acquisitions in, images out."""
