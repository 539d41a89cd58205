"""A model and the taps in it, as a graph."""

from kdgraph.capture.inspect import TapInfo, list_taps
from kdgraph.capture.ladder import Captured, capture
from kdgraph.capture.taps import TapPath, near_paths, parse_tap, resolve_taps

__all__ = [
    "Captured",
    "TapInfo",
    "TapPath",
    "capture",
    "list_taps",
    "near_paths",
    "parse_tap",
    "resolve_taps",
]
