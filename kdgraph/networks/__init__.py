"""The networks of a spec: built or handed over, frozen where they are not trained, captured."""

from kdgraph.networks.build import build_network, build_networks
from kdgraph.networks.captures import capture_networks

__all__ = ["build_network", "build_networks", "capture_networks"]
