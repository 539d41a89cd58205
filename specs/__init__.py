"""The specs that ship; a package only so that an installed kdgraph has them too."""

if __name__ != "kdgraph.specs":
    raise ImportError("import kdgraph.specs: this folder is not a package of its own")
