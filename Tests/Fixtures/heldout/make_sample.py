#!/usr/bin/env python3
"""Cuts valid-*.npy: the first 1,024 token ids of three of the parts of Jane Austen's novels that the default model was not trained on.

python config/models/austen/text.py DATA && python Tests/Fixtures/heldout/make_sample.py DATA      needs numpy. Deterministic.
"""
import pathlib
import sys

import numpy as np

for name in ["emma", "northangerabbey", "prideprejudice"]:
    ids = np.load(pathlib.Path(sys.argv[1]) / f"valid-{name}.npy")
    np.save(pathlib.Path(__file__).parent / f"valid-{name}.npy", ids[:1024].astype("<u2"))
