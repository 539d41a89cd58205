"""What one way to compute a loss takes, and how two ways are compared."""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """What one way to compute a loss takes, forward and backward, for a whole batch.

    Attributes:
        flops: floating-point operations of its matrix products.
        numbers: size of the largest tensor made on the way, in float32 elements.
        moved: elements read and written, all operations together.
    """

    flops: int
    numbers: int
    moved: int = 0

    @property
    def time(self) -> float:
        """What forms are compared by: the time it takes, in units of one operation.

        A number moved weighs 32 operations. So much was fitted to losses timed on one core of a
        CPU, from sizes that fit its caches to some that do not; the choice between two forms
        seldom hangs on it. A GPU with 60 TFLOP/s in float32 and 4.8 TB/s would have 50.
        """
        return self.flops + 32 * self.moved

    def __add__(self, other: object) -> Work:
        """One after the other; what is largest in one is no larger in both."""
        if not isinstance(other, Work):
            return NotImplemented
        largest = max(self.numbers, other.numbers)
        return Work(self.flops + other.flops, largest, self.moved + other.moved)
