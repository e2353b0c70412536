"""Data for the vibration model: windows from random machines, and one recorded stream."""

from dataclasses import dataclass

import numpy as np

from .dataset import Dataset, Split
from .machine import draw_machine
from .sensor import measure
from .signals import SAMPLE_RATE, STATES, housing, shaft_angle

WINDOW = 512
"""Samples: 160 ms, that is 3.2 to 9.6 turns of the shaft."""
TRAIN_SEED, VALIDATION_SEED, TEST_SEED, STREAM_SEED = 101, 202, 303, 404
STREAM_STATES = ("healthy", "imbalance", "bearing_fault", "loose_mount", "healthy")
STREAM_WINDOWS = 6
"""Windows in each segment of the stream."""


def windows(seed: int, machines: int, windows_each: int) -> Split:
    """Windows float32 [K, WINDOW, 3] in m/s^2 with classes: `windows_each` a machine and state."""
    rng = np.random.default_rng(seed)
    inputs, classes = [], []
    for _ in range(machines):
        machine = draw_machine(rng)
        for index, state in enumerate(STATES):
            for _ in range(windows_each):
                angle = shaft_angle(machine, WINDOW, rng)
                inputs.append(measure(machine, housing(machine, state, angle, rng), rng))
                classes.append(index)
    return Split(np.stack(inputs), np.array(classes))


def load() -> Dataset:
    """Train, validation and test windows; no machine is in two of them."""
    return Dataset(
        train=windows(TRAIN_SEED, machines=500, windows_each=5),
        validation=windows(VALIDATION_SEED, machines=100, windows_each=5),
        test=windows(TEST_SEED, machines=200, windows_each=5),
        labels=STATES,
    )


@dataclass(frozen=True)
class Stream:
    """A recording: samples float32 [T, 3] in m/s^2, with the state of each segment."""

    samples: np.ndarray
    segments: list[tuple[int, int, str]]
    """(first sample, sample after the last, state)"""


def stream(seed: int = STREAM_SEED) -> Stream:
    """One machine, not in any split, that goes through STREAM_STATES at a steady shaft angle."""
    rng = np.random.default_rng(seed)
    machine = draw_machine(rng)
    length = STREAM_WINDOWS * WINDOW
    angle = shaft_angle(machine, length * len(STREAM_STATES), rng)
    parts, segments = [], []
    for number, state in enumerate(STREAM_STATES):
        first, end = number * length, (number + 1) * length
        parts.append(measure(machine, housing(machine, state, angle[first:end], rng), rng))
        segments.append((first, end, state))
    return Stream(np.concatenate(parts), segments)


def stream_csv(recording: Stream) -> str:
    """The recording as text: seconds with 7 decimals (exact at 3200 Hz), m/s^2 with 3."""
    rows = ["t,ax,ay,az"]
    for index, (x, y, z) in enumerate(recording.samples):
        rows.append(f"{index / SAMPLE_RATE:.7f},{x:.3f},{y:.3f},{z:.3f}")
    return "\n".join(rows) + "\n"


def stream_facts(recording: Stream) -> dict[str, object]:
    """What a reader of the CSV file has to know."""
    return {
        "file": "vibration.stream.csv",
        "columns": ["t", "ax", "ay", "az"],
        "units": ["s", "m/s^2", "m/s^2", "m/s^2"],
        "sample_rate_hz": SAMPLE_RATE,
        "samples": len(recording.samples),
        "window": WINDOW,
        "hop": WINDOW // 2,
        "segments": [
            {
                "first_sample": first,
                "end_sample": end,
                "start_s": first / SAMPLE_RATE,
                "end_s": end / SAMPLE_RATE,
                "label": state,
                "class": STATES.index(state),
            }
            for first, end, state in recording.segments
        ],
    }
