"""Picks the test inputs whose outputs ship as a reference for other runtimes."""

import numpy as np

from .dataset import Dataset


def first_of_each_class(
    each: int, correct_only: bool, data: Dataset, logits: np.ndarray
) -> np.ndarray:
    """[K] test indices, class by class: the first `each`, on request only those int8 gets right."""
    right = logits.argmax(1) == data.test.classes
    usable = right if correct_only else np.ones_like(right)
    chosen = [
        np.flatnonzero(usable & (data.test.classes == index))[:each]
        for index in range(len(data.labels))
    ]
    return np.concatenate(chosen)
