"""Seeded random inputs, the same for calibration, reference and comparison."""

import numpy as np


def sample(shape, dtype=np.float32, seed=0):
    """One input of `shape`.

    Floats have mean 0 and deviation 1. Half of their variance is constant over blocks of 16 along each axis after the first two
    (batch and channels): filters see edges and flat parts, as they do in pictures and recordings. Integers are uniform over their
    whole range.
    """
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    coarse = rng.standard_normal([n if axis < 2 else -(-n // 16) for axis, n in enumerate(shape)])
    for axis in range(2, len(shape)):
        coarse = np.repeat(coarse, 16, axis).take(range(shape[axis]), axis)
    return ((rng.standard_normal(shape) + coarse) / np.sqrt(2)).astype(dtype)
