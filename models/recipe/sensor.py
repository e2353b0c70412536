"""A MEMS accelerometer of the ADXL345 class: mounting, gravity, offset, noise, range, resolution.

Figures from the ADXL345 data sheet: 256 LSB/g in full resolution, +-16 g; typical noise at
100 Hz output rate 0.75 LSB rms on x and y, 1.1 LSB rms on z, growing by sqrt(2) for each
doubling of the rate; at 3200 Hz the lowest bit always reads 0.
"""

import numpy as np
from numpy.random import Generator

from .machine import Machine
from .signals import SAMPLE_RATE

STANDARD_GRAVITY = 9.80665
LSB = STANDARD_GRAVITY / 256
STEP = 2 * LSB
RANGE = 16 * STANDARD_GRAVITY
NOISE = np.array([0.75, 0.75, 1.1]) * LSB * np.sqrt(SAMPLE_RATE / 100)


def measure(machine: Machine, vibration: np.ndarray, rng: Generator) -> np.ndarray:
    """Sensor reading, m/s^2, float32 [T, 3] on axes x, y, z, of a housing vibration [T, 3].

    A sensor at rest reads +1 g along the axis that points up.
    """
    gravity = np.array([0.0, STANDARD_GRAVITY, 0.0])
    true = (machine.mount_gain * vibration + gravity) @ machine.rotation.T
    read = true + machine.offset + NOISE * rng.standard_normal(true.shape)
    return (np.round(np.clip(read, -RANGE, RANGE) / STEP) * STEP).astype(np.float32)
