"""Proofs, on the user's own machine, that a compiled spec does what it has to: one file each."""

from kdgraph.verify._run import Verdict, verify
from kdgraph.verify.base import CHECKS, Row

__all__ = ["CHECKS", "Row", "Verdict", "verify"]
