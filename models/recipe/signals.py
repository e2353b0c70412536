"""What each state of the machine does to its housing, in m/s^2 along [horizontal, vertical, axial].

Everything is a function of the shaft angle, so a change of speed changes all of it.
"""

import numpy as np
from numpy.random import Generator

from .bearing import SKF_6205
from .machine import FAULT_VELOCITY, HEALTHY_VELOCITY, Machine, log_uniform

SAMPLE_RATE = 3200.0
"""Hz; the highest output data rate of the ADXL345."""
STATES = ("healthy", "imbalance", "bearing_fault", "loose_mount")


def shaft_angle(machine: Machine, samples: int, rng: Generator) -> np.ndarray:
    """[samples] shaft angle in radians: speed within 3 % of nominal, drifting by up to 1 %."""
    start = machine.speed * rng.uniform(0.97, 1.03)
    drift = np.linspace(0, rng.uniform(-0.01, 0.01), samples)
    return rng.uniform(0, 2 * np.pi) + np.cumsum(2 * np.pi * start * (1 + drift)) / SAMPLE_RATE


def acceleration(velocity_rms: float, angle: np.ndarray) -> float:
    """Peak acceleration (m/s^2) of a 1x sine of the given velocity (mm/s rms): sqrt(2) w v."""
    omega = (angle[-1] - angle[0]) / (len(angle) - 1) * SAMPLE_RATE
    return float(np.sqrt(2) * omega * velocity_rms * 1e-3)


def whirl(machine: Machine, angle: np.ndarray, velocity: float, rng: Generator) -> np.ndarray:
    """[T, 3] force turning with the shaft: 1x, horizontal and vertical about 90 degrees apart."""
    peak = acceleration(velocity, angle)
    lag = np.radians(90 + rng.uniform(-15, 15))
    axial_lag = rng.uniform(0, 2 * np.pi)
    return peak * np.stack(
        [
            machine.stiffness_ratio * np.cos(angle),
            np.cos(angle - lag),
            machine.axial_share * np.cos(angle - axial_lag),
        ],
        axis=1,
    )


def background(machine: Machine, angle: np.ndarray, rng: Generator) -> np.ndarray:
    """[T, 3] what a good machine does as well: 2x and 3x of misalignment, hum, flow noise."""
    samples = len(angle)
    time = np.arange(samples) / SAMPLE_RATE
    out = machine.flow_noise * rng.standard_normal((samples, 3))
    for order in (2, 3):
        velocity = rng.uniform(0.0, 0.3) / order
        peak = order * acceleration(velocity, angle)
        phases = rng.uniform(0, 2 * np.pi, 3)
        out += peak * np.cos(order * angle[:, None] + phases) * np.array([1.0, 1.0, 0.6])
    hum = np.cos(2 * np.pi * machine.hum_frequency * time + rng.uniform(0, 2 * np.pi))
    return out + machine.hum * hum[:, None] * np.array([1.0, 1.0, 0.2])


def impacts(machine: Machine, angle: np.ndarray, rng: Generator) -> np.ndarray:
    """[T, 3] ringing of the housing each time a ball passes a defect of the inner or outer ring.

    Each gap between impacts varies by 1.5 % (slip of the cage, Randall & Antoni 2011). A
    defect of the turning inner ring goes through the load zone once per revolution.
    """
    inner = bool(rng.integers(2))
    passes = SKF_6205.inner_passes if inner else SKF_6205.outer_passes
    gap = 2 * np.pi / passes
    count = int((angle[-1] - angle[0]) / gap) + 4
    gaps = gap * (1 + 0.015 * rng.standard_normal(count))
    at_angle = angle[0] - rng.uniform(1, 2) * gap + np.cumsum(gaps)
    samples = np.arange(len(angle), dtype=float)
    at = np.interp(at_angle, angle, samples, left=np.nan, right=np.nan)
    # Impacts from before the first sample still ring: extrapolate with the first step.
    before = at_angle < angle[0]
    at[before] = (at_angle[before] - angle[0]) / (angle[1] - angle[0])
    kept = ~np.isnan(at)
    height = log_uniform(rng, 1.0, 7.0) * rng.uniform(0.75, 1.25, count)
    if inner:
        height = height * (1 + 0.8 * np.cos(at_angle + rng.uniform(0, 2 * np.pi))) / 1.4
    return ring(machine, len(angle), at[kept], height[kept])


def ring(machine: Machine, samples: int, at: np.ndarray, height: np.ndarray) -> np.ndarray:
    """[samples, 3] sum of decaying sines: one for each start `at` (samples) of `height` (m/s^2)."""
    omega = 2 * np.pi * machine.resonance
    since = (np.arange(samples)[:, None] - at) / SAMPLE_RATE
    after = np.maximum(since, 0)
    envelope = np.exp(-machine.damping * omega * after) * (since >= 0)
    damped = omega * np.sqrt(1 - machine.damping**2)
    wave = (envelope * np.sin(damped * after)) @ height
    return wave[:, None] * machine.path


def rattle(machine: Machine, angle: np.ndarray, rng: Generator) -> np.ndarray:
    """[T, 3] loose feet: 1x and 0.5x cut off where the foot meets its stop, mostly vertical.

    Cutting the wave on one side is what makes the row of harmonics and half harmonics.
    """
    half = rng.uniform(0.3, 0.9) * np.cos(angle / 2 + rng.uniform(0, 2 * np.pi))
    wave = np.cos(angle) + half
    cut = np.clip(wave, -rng.uniform(0.8, 1.2), rng.uniform(0.15, 0.5))
    steps = np.diff(cut, prepend=cut[0]) * SAMPLE_RATE / (2 * np.pi * machine.speed)
    knock = rng.uniform(0.2, 0.6) * steps
    peak = acceleration(log_uniform(rng, *FAULT_VELOCITY), angle)
    sideways = rng.uniform(0.2, 0.6) * rng.choice([-1.0, 1.0])
    direction = np.array([sideways, 1.0, rng.uniform(0.05, 0.3)])
    shape = cut + knock
    return peak * (shape - shape.mean())[:, None] * direction


def housing(machine: Machine, state: str, angle: np.ndarray, rng: Generator) -> np.ndarray:
    """[T, 3] vibration of the housing (m/s^2, without gravity) in one state."""
    velocity = FAULT_VELOCITY if state == "imbalance" else HEALTHY_VELOCITY
    out = background(machine, angle, rng)
    out += whirl(machine, angle, log_uniform(rng, *velocity), rng)
    if state == "bearing_fault":
        out += impacts(machine, angle, rng)
    if state == "loose_mount":
        out += rattle(machine, angle, rng)
    return out
