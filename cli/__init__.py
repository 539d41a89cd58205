"""The command line, one file per command; uses only what the library offers everyone."""

if __name__ != "kdgraph.cli":
    raise ImportError("import kdgraph.cli: this folder is not a package of its own")
