"""Data for the digits model: the 1797 handwritten digits that come with scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .dataset import Dataset, Split

SPLIT_SEED = 7
SHIFT_COPIES = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
"""Training images are also shown moved by one pixel (rows, columns)."""


def gray(images: np.ndarray) -> np.ndarray:
    """8-bit gray levels of the data set's levels 0..16."""
    return np.round(images * (255 / 16)).astype(np.uint8)


def as_input(levels: np.ndarray) -> np.ndarray:
    """float32 [K, 1, 8, 8] in 0..1 (white ink on black) of 8-bit images [K, 8, 8]."""
    return (levels[:, None].astype(np.float32) / np.float32(255)).astype(np.float32)


def shifted(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Images [K, 8, 8] moved by whole pixels, with black moved in."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - rows : 9 - rows, 1 - columns : 9 - columns]


def load() -> Dataset:
    """1077 train images (each in 5 positions), 180 validation and 540 test images, stratified."""
    data = load_digits()
    images, classes = gray(data.images), data.target.astype(np.int64)
    rest, test, rest_classes, test_classes = train_test_split(
        images, classes, test_size=540, random_state=SPLIT_SEED, stratify=classes
    )
    train, validation, train_classes, validation_classes = train_test_split(
        rest, rest_classes, test_size=180, random_state=SPLIT_SEED, stratify=rest_classes
    )
    moved = np.concatenate([shifted(train, *shift) for shift in SHIFT_COPIES])
    return Dataset(
        train=Split(as_input(moved), np.tile(train_classes, len(SHIFT_COPIES))),
        validation=Split(as_input(validation), validation_classes),
        test=Split(as_input(test), test_classes),
        labels=tuple(str(digit) for digit in range(10)),
    )
