"""Recordings as people really have them, read, checked, joined, packed and written: every one becomes a driving log.

:func:`read_driving_log` recognises the format by what is in the folder. A new format is one file here, and one line in
the table of ``reading.py``.
"""

from robostig.driving_log.log import CAMERAS, RECORDING_HZ, Drive, DrivingLog, SkippedRow, name_places
from robostig.driving_log.packed import SHARD_MB, pack_driving_log
from robostig.driving_log.reading import FORMATS, Format, Place, Places, read_driving_log, read_picture
from robostig.driving_log.udacity import LOG_NAME, DrivingLogWriter

__all__ = [
    "CAMERAS",
    "FORMATS",
    "LOG_NAME",
    "RECORDING_HZ",
    "SHARD_MB",
    "Drive",
    "DrivingLog",
    "DrivingLogWriter",
    "Format",
    "Place",
    "Places",
    "SkippedRow",
    "name_places",
    "pack_driving_log",
    "read_driving_log",
    "read_picture",
]
