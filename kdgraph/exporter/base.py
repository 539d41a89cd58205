"""What a file format of exported students is, and the registry that holds all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from kdgraph.registry import Registry
from kdgraph.spec.language import Spec

Run = Callable[[Mapping[str, Tensor]], Any]


@dataclass(frozen=True)
class Student:
    """What is exported.

    Attributes:
        spec: what it was trained by.
        name: of the model in it.
        trained: as training left it, but in eval mode, in float32 and on the CPU.
        plain: the same without what actions and ``lora`` put in; may be the same module.
        entries: the batch entry of each argument of forward.
        positional: the arguments that are given by position, all others by keyword.
        trust: Python modules that ``python/`` sources may come from.
        other: the tensors that training left in another type than float32, by name.
        sizes: of each letter, with which shapes are followed.
        vocabularies: of the arguments that are looked up, how many rows the table has.
        outputs: the names of the tensors that it gives.
    """

    spec: Spec
    name: str
    trained: nn.Module
    plain: nn.Module
    entries: Mapping[str, str]
    positional: frozenset[str]
    trust: Collection[str] = ()
    other: Mapping[str, Tensor] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    vocabularies: Mapping[str, int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    @property
    def letters(self) -> list[str]:
        """The free sizes of what it reads, each once."""
        shapes = [self.spec.batch[entry].shape for entry in self.entries.values()]
        return list(dict.fromkeys(s for shape in shapes for s in shape if isinstance(s, str)))

    @property
    def batch_letters(self) -> list[str]:
        """Those that stand first in a shape: how many rows there are."""
        first = [self.spec.batch[entry].shape[0] for entry in self.entries.values()]
        return [letter for letter in self.letters if letter in first]


@dataclass(frozen=True)
class Sizes:
    """Which sizes a file takes.

    Attributes:
        fixed: letters that became one number.
        least: the smallest size of a letter, where there is one above 2.
        most: the largest size of a letter, where there is one.
    """

    fixed: Mapping[str, int] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)

    def nearest(self, letter: str, size: int) -> int:
        """The size that is allowed and nearest to one."""
        size = self.fixed.get(letter, max(size, self.least.get(letter, 0)))
        return min(size, self.most.get(letter, size))


class Format(ABC):
    """Writes a student to one kind of file, and reads it as somebody without kdgraph would."""

    suffix: ClassVar[str]
    """How names of such files end."""

    tolerance: ClassVar[float]
    """The largest difference from the trained student that may be, as a share of the largest
    absolute value of an output."""

    reader: ClassVar[str]
    """What reads the file back, in words."""

    libraries: ClassVar[tuple[str, ...]] = ()
    """What it needs of the extra ``export``."""

    @abstractmethod
    def write(self, student: Student, path: Path) -> Sizes:
        """Writes ``path``, and beside it, under names that begin with its own, what belongs to it.

        Raises:
            ExportError: KD781 where the format cannot hold this student.
        """

    @abstractmethod
    def read(self, path: Path, student: Student) -> tuple[Run, list[str]]:
        """Reads a file back.

        Returns:
            What runs it on inputs by the names of forward's arguments, and notes on how somebody
            loads it, where that is not plain.

        Raises:
            ExportError: KD782 where it cannot be read.
        """


FORMATS: Registry[Format] = Registry("export format", "kdgraph.exporter")

F = TypeVar("F", bound=Format)


def register_format(kind: type[F]) -> type[F]:
    """Class decorator: makes a format known under its suffix."""
    FORMATS.add(kind.suffix, kind())
    return kind
