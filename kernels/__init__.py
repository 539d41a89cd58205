"""GPU kernels in Triton, one file each; Triton itself is imported on first use only."""

if __name__ != "kdgraph.kernels":
    # Found under its bare name, from the root of a checkout. transformers probes for a
    # distribution called "kernels" that way: it finds an empty package instead of ours, and
    # nothing here is loaded, and registered, a second time.
    __path__ = []
