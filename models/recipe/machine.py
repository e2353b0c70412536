"""One machine and one way of mounting the sensor on it: what stays the same between windows."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

# Vibration velocities, mm/s rms, against the zone borders of ISO 10816-1 for
# class I (small) machines: A/B 0.71, B/C 1.8, C/D 4.5. A healthy machine lies in
# zones A and B, an unbalanced or loose one in C and D.
HEALTHY_VELOCITY = (0.2, 1.5)
FAULT_VELOCITY = (1.8, 9.0)
SHAFT_SPEED_HZ = (20.0, 60.0)


@dataclass(frozen=True)
class Machine:
    """Constants of a machine and of its sensor. Axes: horizontal, vertical, axial."""

    speed: float
    """Nominal shaft speed, Hz."""
    stiffness_ratio: float
    """Horizontal over vertical 1x response; below 1 the feet are stiffer sideways."""
    axial_share: float
    """Share of the radial 1x vibration that is seen along the shaft."""
    resonance: float
    """Housing resonance that a bearing defect excites, Hz."""
    damping: float
    """Damping ratio of that resonance."""
    path: np.ndarray
    """[3] how strongly that resonance moves each axis."""
    hum_frequency: float
    """Twice the mains frequency, Hz."""
    hum: float
    """Amplitude of the magnetic hum, m/s^2."""
    flow_noise: float
    """Broadband noise of the process (flow, friction), m/s^2 rms."""
    mount_gain: float
    """Gain of the path from the bearing to the sensor."""
    rotation: np.ndarray
    """[3, 3] from machine axes to sensor axes."""
    offset: np.ndarray
    """[3] zero-g offset of the sensor, m/s^2."""


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A draw whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def mounting(rng: Generator, tilt_degrees: float = 5.0) -> np.ndarray:
    """[3, 3] rotation: any angle about the shaft (sensor z along it), then a small tilt."""
    about_shaft = rng.uniform(0, 2 * np.pi)
    tilts = np.radians(rng.uniform(-tilt_degrees, tilt_degrees, 2))
    c, s = np.cos(about_shaft), np.sin(about_shaft)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    (cx, cy), (sx, sy) = np.cos(tilts), np.sin(tilts)
    tilt_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    tilt_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    return tilt_y @ tilt_x @ turn


def draw_machine(rng: Generator) -> Machine:
    """A random machine with a random sensor mounting."""
    return Machine(
        speed=rng.uniform(*SHAFT_SPEED_HZ),
        stiffness_ratio=rng.uniform(0.7, 1.0),
        axial_share=rng.uniform(0.03, 0.15),
        resonance=rng.uniform(700.0, 1400.0),
        damping=rng.uniform(0.03, 0.08),
        path=rng.uniform(0.4, 1.0, 3) * np.array([1.0, 1.0, 0.5]),
        hum_frequency=float(rng.choice([100.0, 120.0])),
        hum=rng.uniform(0.0, 0.15),
        flow_noise=log_uniform(rng, 0.03, 0.2),
        mount_gain=log_uniform(rng, 0.8, 1.25),
        rotation=mounting(rng),
        offset=rng.uniform(-0.35, 0.35, 3),
    )
