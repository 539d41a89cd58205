"""Pictures and texts of a compiled spec; reads only the report of a compilation.

``Picture`` is what a drawing shows, folded to what a reader wants to see; ``dot``, ``mermaid``
and ``svg`` are ways to write it down. ``manifest``, ``lock`` and ``source`` are the same facts
for machines: as data, as a resolved spec, and as Python.
"""

from kdgraph.visual.build import write_build
from kdgraph.visual.dot import dot
from kdgraph.visual.lock import lock
from kdgraph.visual.manifest import manifest
from kdgraph.visual.mermaid import mermaid
from kdgraph.visual.picture import Arrow, Box, Cluster, Picture, picture
from kdgraph.visual.python import python
from kdgraph.visual.scene import scene
from kdgraph.visual.svg import svg

__all__ = [
    "Arrow",
    "Box",
    "Cluster",
    "Picture",
    "dot",
    "lock",
    "manifest",
    "mermaid",
    "picture",
    "python",
    "scene",
    "svg",
    "write_build",
]
