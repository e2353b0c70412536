"""Writes the files that ship beside the models."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

MAX_BYTES = 500_000


def write_labels(to: Path, labels: tuple[str, ...]) -> None:
    """One label a line; the line number, from 0, is the class index."""
    to.write_text("".join(f"{label}\n" for label in labels))


def write_json(to: Path, content: object) -> None:
    """Indented JSON, lists of numbers on one line."""
    to.write_text(json.dumps(content, indent=2) + "\n")


def write_golden(folder: Path, name: str, inputs: np.ndarray, outputs: np.ndarray) -> None:
    """float32 inputs [K, ...] and outputs [K, classes] as .npy files."""
    for kind, array in (("input", inputs), ("output", outputs)):
        np.save(folder / f"{name}.golden.{kind}.npy", np.ascontiguousarray(array, np.float32))


def write_digit(folder: Path, label: int, levels: np.ndarray) -> None:
    """An 8-bit image [8, 8] as it is, and 8 times as large (nearest neighbour) for people."""
    image = Image.fromarray(levels)
    image.save(folder / f"digits.sample-{label}.png")
    image.resize((64, 64), Image.Resampling.NEAREST).save(folder / f"digits.preview-{label}.png")


def check_sizes(folder: Path) -> None:
    """No shipped file may be large."""
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_size >= MAX_BYTES:
            raise SystemExit(f"{path.name} has {path.stat().st_size} bytes, {MAX_BYTES} allowed")
