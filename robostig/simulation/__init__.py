"""The built-in track: roads without end, a car, what its cameras see, and a driver to learn from.

>>> from robostig.simulation import Simulation, load_track
>>> drive = Simulation(load_track("mountain:17"))
>>> drive.look().shape
(160, 320, 3)
>>> drive.step(steering=0.1)
"""

from robostig.simulation.car import TOP_MPH, Car
from robostig.simulation.drive import FRAME_S, Simulation, check_laps
from robostig.simulation.expert import steer_towards
from robostig.simulation.recorder import record
from robostig.simulation.track import DIRECTIONS, LOOKS, Track, load_track, parse_tracks

__all__ = [
    "DIRECTIONS",
    "FRAME_S",
    "LOOKS",
    "TOP_MPH",
    "Car",
    "Simulation",
    "Track",
    "check_laps",
    "load_track",
    "parse_tracks",
    "record",
    "steer_towards",
]
