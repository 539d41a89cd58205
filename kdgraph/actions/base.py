"""What an action is: something done to networks at the edge of a stage, or within one.

It comes in two halves. ``decide`` looks at values and data and says what is to be done, as a
mapping that a checkpoint can hold; ``apply`` does that, without looking at values again. A run
that is resumed applies the decisions of its checkpoint to fresh networks, and then loads the
weights into what they have become.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from kdgraph.spec.entry import ActionEntry

if TYPE_CHECKING:
    from kdgraph.actions._world import World


class Action(ActionEntry):
    """Something done to networks. What it does is told in lines, for the log and the report.

    Attributes:
        rebuilds: it changes modules, parameters or their shapes, and not values alone: it is
            applied again when a run is resumed, and the graph is compiled anew after it.
    """

    rebuilds: ClassVar[bool] = False

    def decide(self, world: World) -> dict[str, Any]:
        """What is to be done: tensors, numbers, text, and lists and mappings of those.

        Raises:
            ActionError: by ``world.wrong``, when it cannot be done.
        """
        return {}

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        """Does it, in place: the networks stay the objects they are.

        Args:
            world: the networks.
            decided: what ``decide`` said, here or before a run was interrupted.

        Returns:
            What changed, a line each; empty where nothing did.

        Raises:
            ActionError: by ``world.wrong``, when it cannot be done; nothing is changed then.
        """
        raise NotImplementedError  # every registered action defines it
