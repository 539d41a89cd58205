"""A model and the taps in it, as a graph."""

from kdgraph.capture.ladder import Captured, capture
from kdgraph.capture.taps import TapPath, parse_tap

__all__ = ["Captured", "TapPath", "capture", "parse_tap"]
