"""From a training to a file of the student alone, which needs no kdgraph to be used."""

from kdgraph.exporter.base import FORMATS, Format
from kdgraph.exporter.write import Exported, export

__all__ = ["FORMATS", "Exported", "Format", "export"]
