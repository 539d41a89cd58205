"""Pictures and texts of a compiled spec; reads only the report of a compilation.

``Picture`` is what a drawing shows, folded to what a reader wants to see; ``dot``, ``mermaid``,
``svg`` and ``png`` are ways to write it down. ``scene`` is a picture that unfolds, of every stage
before and after each pass; ``html`` puts it on a page. ``Drawing`` makes any of them. ``manifest``,
``lock`` and ``python`` are the same facts for machines: as data, as a resolved spec, as Python.
"""

from kdgraph.visual.build import write_build
from kdgraph.visual.dot import dot
from kdgraph.visual.drawing import Drawing, bundle, form_of
from kdgraph.visual.graphviz import png, svg
from kdgraph.visual.html import html
from kdgraph.visual.lock import lock
from kdgraph.visual.manifest import manifest
from kdgraph.visual.mermaid import mermaid
from kdgraph.visual.picture import Arrow, Box, Cluster, Picture, picture
from kdgraph.visual.python import python
from kdgraph.visual.scene import scene

__all__ = [
    "Arrow",
    "Box",
    "Cluster",
    "Drawing",
    "Picture",
    "bundle",
    "dot",
    "form_of",
    "html",
    "lock",
    "manifest",
    "mermaid",
    "picture",
    "png",
    "python",
    "scene",
    "svg",
    "write_build",
]
