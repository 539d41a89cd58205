"""Builds a Triton kernel for a GPU that need not be there, and reads what came out.

ptxas and cuobjdump are part of Triton's wheel; nothing here is timed or run. What a kernel spills,
how wide it loads and which matrix units it uses can all be read from the machine code:

    found = build(_rows, {"X": "*bf16", "N": "i32"}, {"BLOCK": 4096}, num_warps=8, divisible=["X"])
    assert not found.faults()
    assert found.loads_128 == found.loads
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = (80, 90, 100)
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes that one program may take
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_WAITS = 16  # a loop of fewer instructions waits for a barrier


@dataclass(frozen=True)
class Build:
    """What ptxas made of a kernel.

    Machine code is only taken apart where something of it is asked for, since that takes as long
    as compiling. Counts are of instructions in it.

    Attributes:
        cc: the compute capability times ten.
        registers: of each thread.
        stack: bytes of each thread; not 0 where registers spill.
        shared: bytes of each program.
        ptx: what ptxas was given.
    """

    cc: int
    registers: int
    stack: int
    shared: int
    ptx: str = field(repr=False)
    cubin: bytes = field(repr=False)

    def faults(self) -> list[str]:
        """Why no kernel may be shipped that was built so; empty where it may."""
        found = []
        if self.stack:
            found.append(f"{self.stack} bytes of stack")
        if self.shared > SHARED[self.cc]:
            found.append(f"{self.shared} bytes of shared memory, of {SHARED[self.cc]}")
        return found

    def asked(self, instruction: str) -> int:
        """How often the PTX asks for 128 bits or more of global memory at once by ``ld`` or ``st``.

        As many of the machine's instructions come of it, or more, where ptxas unrolls a loop.
        """
        wide = re.findall(rf"\b{instruction}\.global[\w.:]*\.v(\d)\.\w(\d+)\b", self.ptx)
        return sum(int(count) * int(bits) >= 128 for count, bits in wide)

    @cached_property
    def sass(self) -> str:
        return _dumped(self.cubin, "--dump-sass")

    @cached_property
    def _code(self) -> list[tuple[int, str]]:
        """Addresses and instructions."""
        found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][^;]*);", self.sass)
        return [(int(at, 16), text) for at, text in found]

    def _count(self, pattern: str) -> int:
        return sum(re.match(pattern, text) is not None for _, text in self._code)

    @property
    def instructions(self) -> int:
        return len(self._code)

    @property
    def spills(self) -> int:
        """Loads and stores of the stack."""
        return self._count(r"LDL|STL")

    @property
    def loads(self) -> int:
        """From global memory, asynchronous copies among them."""
        return self._count(r"LDG")

    @property
    def loads_128(self) -> int:
        """Those of 128 bits or more."""
        return self._count(r"LDG[\w.]*\.(128|256)\b")

    @property
    def stores(self) -> int:
        """To global memory."""
        return self._count(r"STG")

    @property
    def stores_128(self) -> int:
        """Those of 128 bits or more."""
        return self._count(r"STG[\w.]*\.(128|256)\b")

    @property
    def wgmma(self) -> int:
        """Products of Hopper's matrix units."""
        return self._count(r"[HIQ]GMMA")

    @property
    def tcgen05(self) -> int:
        """Products of Blackwell's."""
        return self._count(r"UTC[A-Z]*MMA")

    @property
    def mma(self) -> int:
        """Products of Ampere's, which every later GPU can do too."""
        return self._count(r"[HIQ]MMA")

    @property
    def ex2(self) -> int:
        """Base-2 exponentials."""
        return self._count(r"MUFU\.EX2")

    @cached_property
    def loops(self) -> tuple[int, ...]:
        """Instructions of each innermost loop, in the order of the code.

        Per element, that is ``loops[i] / (elements of a step / (32 * num_warps))``.
        """
        return _loops(self._code)


def build(
    fn: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    num_warps: int,
    num_stages: int = 3,
    cc: int = 90,
    divisible: Collection[str] = (),
    maxnreg: int | None = None,
) -> Build:
    """Compiles a ``@triton.jit`` function ahead of time.

    Args:
        fn: the function.
        signature: the type of each argument that ``constants`` has not: ``"*bf16"``, ``"i32"``,
            ``"fp32"``, ``"tensordesc<bf16[128,64]>"``.
        constants: the ``tl.constexpr`` arguments, and what a launch specialises: an integer that
            is 1 (a stride, mostly), a pointer that is None.
        num_warps: as at the launch.
        num_stages: as at the launch.
        cc: 80, 90 or 100.
        divisible: the arguments that are multiples of 16 at the launch: pointers from PyTorch
            are, unless they point into a tensor.
        maxnreg: as at the launch.
    """
    names = list(fn.arg_names)
    if odd := [n for n in (*signature, *constants, *divisible) if n not in names]:
        raise TypeError(f"{fn.__name__} has no argument {odd}")
    source = ASTSource(
        fn=fn,
        signature={n: "constexpr" if n in constants else signature[n] for n in names},
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in divisible},
    )
    options = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": maxnreg}
    kernel = triton.compile(source, target=GPUTarget("cuda", cc, 32), options=options)
    cubin = kernel.asm["cubin"]
    usage = _dumped(cubin, "--dump-resource-usage")
    used = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert used, usage
    return Build(cc, int(used[1]), int(used[2]), kernel.metadata.shared, kernel.asm["ptx"], cubin)


def _dumped(cubin: bytes, what: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [_CUOBJDUMP, what, file.name], capture_output=True, text=True, check=True
        ).stdout


def _loops(code: list[tuple[int, str]]) -> tuple[int, ...]:
    """Instructions from the target of a jump backwards to the jump."""
    spans: dict[int, int] = {}
    for at, text in code:
        jump = re.match(r"BRA\b.*\b0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < at:  # a jump to itself fills the end
            spans[int(jump[1], 16)] = at
    sizes = {
        (start, end): sum(start <= at <= end for at, _ in code) for start, end in spans.items()
    }
    long = sorted(span for span, size in sizes.items() if size >= _WAITS)
    inner = [
        (start, end)
        for start, end in long
        if not any((start, end) != (a, b) and start <= a and b <= end for a, b in long)
    ]
    return tuple(sizes[span] for span in inner)
