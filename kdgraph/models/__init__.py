"""Where models come from: one file per source, found by name.

A spec says ``source: PREFIX/NAME``. ``base.py`` says what a source is; ``load.py`` builds one,
for real or as a skeleton for shape checks; ``weights.py`` reads and writes its weights.
No module here imports torch or a model library until a model is built.
"""

from __future__ import annotations

from kdgraph.models.base import SOURCES, Source, register_source

__all__ = ["SOURCES", "Source", "register_source"]
