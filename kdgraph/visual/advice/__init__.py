"""What an expert would say of a spec that is right: one warning in each file."""

from kdgraph.visual.advice.base import ADVICE, Advice, Sight, advise, advise_of_plan

__all__ = ["ADVICE", "Advice", "Sight", "advise", "advise_of_plan"]
