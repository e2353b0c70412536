"""How often a rolling element passes a defect in a bearing ring.

With n rolling elements of diameter d on a pitch circle of diameter D, contact
angle a, and a stationary outer ring (Randall & Antoni 2011, eq. 1 and 2):

    BPFO / f_shaft = n/2 * (1 - d/D * cos a)    (defect in the outer ring)
    BPFI / f_shaft = n/2 * (1 + d/D * cos a)    (defect in the inner ring)
"""

from dataclasses import dataclass
from math import cos, radians


@dataclass(frozen=True)
class Bearing:
    """Geometry of a rolling-element bearing; lengths in mm, angle in degrees."""

    balls: int
    ball_diameter: float
    pitch_diameter: float
    contact_angle: float

    def _ratio(self) -> float:
        return self.ball_diameter / self.pitch_diameter * cos(radians(self.contact_angle))

    @property
    def outer_passes(self) -> float:
        """BPFO as a multiple of the shaft speed."""
        return self.balls / 2 * (1 - self._ratio())

    @property
    def inner_passes(self) -> float:
        """BPFI as a multiple of the shaft speed."""
        return self.balls / 2 * (1 + self._ratio())


# 6205 deep-groove ball bearing: 9 balls of 7.94 mm (5/16 in) on 39.04 mm.
# Gives BPFO 3.585 and BPFI 5.415 times the shaft speed, the values that the
# Case Western Reserve University bearing data centre publishes for its SKF 6205.
SKF_6205 = Bearing(balls=9, ball_diameter=7.94, pitch_diameter=39.04, contact_angle=0.0)
