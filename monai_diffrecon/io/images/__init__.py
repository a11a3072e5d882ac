# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Images in the formats of other software: MetaImage, NRRD, FreeSurfer, Analyze, MINC, OME-Zarr."""
