# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a reconstruction method keeps, blurs, and invents: phantoms, measures and the report."""
