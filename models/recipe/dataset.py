"""What a model is trained and judged on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """Inputs float32 [K, ...] and their classes int64 [K]."""

    inputs: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits; `labels[c]` is the name of class c."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
