"""What a compiler made of a program, read from its text: kernels, bytes that they move, messages between devices.

XLA's own counts see a loop's body once, however often it runs, and are missing for GPUs. Here a loop counts as often as
it runs, and a kernel that reads or writes a part of an array counts that part.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_TRIPS = re.compile(r'known_trip_count["\s:={]+n["\s:]+(\d+)')
_GROUP = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[(\d+),(\d+)\])")

# What the device does nothing for; the end of what began before.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
} | {
    "opt-barrier",
    "domain",
    "add-dependency",
}
_PARTS = ("dynamic-slice", "slice", "gather")  # read no more of their first operand than they give
# What each of n devices in a ring sends, of what it gives to a collective.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


class Kernel(NamedTuple):
    """What one instruction of a program does in a step.

    Attributes:
      name: of the instruction.
      operation: "fusion", "custom-call", "all-reduce", …
      bytes: read and written in the device's memory, each time.
      times: how often it runs in a step.
      source: where it comes from in the model, as jax names it.
      devices: of a collective: among how many.
      given: bytes that a device gives to a collective, wherever they lie.
    """

    name: str
    operation: str
    bytes: int
    times: int
    source: str
    devices: int = 1
    given: int = 0


class Message(NamedTuple):
    """The collectives of one kind in a step.

    Attributes:
      count: how many.
      bytes: that each device sends for them, by the ring that moves the least.
    """

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What a device does in a step.

    Attributes:
      kernels: that are started.
      bytes: that they read and write in the device's memory.
      messages: {"all-reduce": …}, the collectives by kind.
      unknown_loops: loops of which the text does not tell how often they run; their bodies are counted once.
    """

    kernels: int
    bytes: int
    messages: dict[str, Message]
    unknown_loops: int


def work(text: str, *, devices: int) -> Work:
    """Returns what a program does in a step.

    Args:
      text: of the compiled program, `jax.stages.Compiled.as_text`.
      devices: that it is compiled for.
    """
    program = _Program(text, devices)
    kernels, messages = list(program.kernels()), {}
    for kernel in kernels:
        kind = next((kind for kind in _SENT if kernel.operation.startswith(kind)), None)
        if kind:
            count, sent = messages.get(kind, (0, 0))
            share = _SENT[kind](kernel.devices) * kernel.given
            messages[kind] = Message(count + kernel.times, sent + kernel.times * int(share))
    moved = sum(kernel.bytes * kernel.times for kernel in kernels)
    return Work(sum(kernel.times for kernel in kernels), moved, messages, program.unknown_loops)


def largest(text: str, *, devices: int, count: int = 30) -> list[Kernel]:
    """Returns the kernels of a program that move the most bytes in a step, the first of them first."""
    kernels = _Program(text, devices).kernels()
    return sorted(kernels, key=lambda kernel: -kernel.bytes * kernel.times)[:count]


class _Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    operands: list[str]
    rest: str  # attributes
    is_root: bool


class _Program:
    """The computations of a program's text."""

    def __init__(self, text: str, devices: int):
        self._devices, self.unknown_loops = devices, 0
        self._computations: dict[str, dict[str, _Instruction]] = {}
        body = None
        for line in text.splitlines():
            if not line.startswith(" "):
                if found := _COMPUTATION.match(line):
                    body = self._computations.setdefault(found[2], {})
                    if found[1]:
                        self._entry = found[2]
            elif body is not None and (found := _INSTRUCTION.match(line)):
                instruction = _read(line, found)
                body[instruction.name] = instruction

    def kernels(self) -> Iterator[Kernel]:
        """Yields what the program starts, that of loops with how often."""
        return self._kernels(self._entry, 1)

    def _kernels(self, computation: str, times: int) -> Iterator[Kernel]:
        body = self._computations[computation]
        for one in body.values():
            called = self._called(one)
            if one.opcode == "while":
                trips = _TRIPS.search(one.rest)
                self.unknown_loops += trips is None
                for name in called:
                    yield from self._kernels(name, times * (int(trips[1]) if trips else 1))
            elif one.opcode == "conditional":  # the branch that does the most
                branches = [list(self._kernels(name, times)) for name in called]
                yield from max(branches, key=lambda kernels: sum(kernel.bytes for kernel in kernels))
            elif one.opcode in ("call", "async-start"):
                for name in called:
                    yield from self._kernels(name, times)
            elif one.opcode not in _FREE and not one.opcode.endswith(("-done", "-update")):
                yield self._kernel(one, body, called, times)

    def _kernel(self, one: _Instruction, body: dict, called: list[str], times: int) -> Kernel:
        source = re.search(r'op_name="([^"]*)"', one.rest)
        given = sum(_size(body[name].shape, on_chip=True) for name in one.operands if name in body)
        moved = sum(self._moved(one, body, called))
        if one.opcode.endswith("-start") and one.opcode != "all-reduce-start":  # its result holds its operand too
            moved = _size(one.shape)
        return Kernel(one.name, one.opcode, moved, times, source[1] if source else "", self._among(one), given)

    def _moved(self, one: _Instruction, body: dict, called: list[str]) -> Iterator[int]:
        """Yields the bytes of what an instruction reads, and of what it writes."""
        fused = self._computations[called[0]] if one.opcode == "fusion" and called else None
        if one.opcode in _PARTS:
            yield 2 * _size(one.shape)
            return
        if one.opcode == "dynamic-update-slice":
            yield 2 * _size(body[one.operands[1]].shape)
            return
        if fused is None:
            yield from (_size(body[name].shape) for name in one.operands if name in body)
            yield _size(one.shape)
            return
        users = _users(fused)
        parameters = [x for x in fused.values() if x.opcode == "parameter"]
        yield from (_size_read(parameter, users, fused) for parameter in parameters)
        root = next(x for x in fused.values() if x.is_root)
        roots = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
        yield from (_size_written(x, fused) for x in roots)

    def _called(self, one: _Instruction) -> list[str]:
        """Names of the computations that an instruction runs; not of those that only say how to reduce."""
        if one.opcode not in ("fusion", "while", "conditional", "call", "async-start"):
            return []
        found = re.findall(r"(?:calls|body|condition|to_apply|\w+_computation)=%?([\w.\-]+)", one.rest)
        branches = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
        return found + (_NAME.findall(branches[1]) if branches else [])

    def _among(self, one: _Instruction) -> int:
        group = _GROUP.search(one.rest)
        if group is None or not any(group.groups()):
            return self._devices
        return group[1].count(",") + 1 if group[1] else int(group[3])


def _read(line: str, found: re.Match) -> _Instruction:
    """Reads "%name = shape opcode(operands), attributes"; a shape may be a tuple of shapes with layouts."""
    start = found.end()
    shape_end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    opcode = _OPCODE.match(line, shape_end)
    end = _closing(line, opcode.end() - 1)
    operands = _NAME.findall(line[opcode.end() : end])
    return _Instruction(found[2], line[start:shape_end], opcode[1], operands, line[end:], bool(found[1]))


def _closing(line: str, start: int) -> int:
    """Returns the place behind the parenthesis that closes the one at ``start``."""
    depth = 0
    for place in range(start, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"parentheses do not close: {line[start : start + 80]!r}")


@functools.cache
def _size(shape: str, *, on_chip: bool = False) -> int:
    """Bytes of a shape in the device's memory; S(1), S(2), … are memories on the chip, counted where asked for."""
    arrays = (found for found in _ARRAY.finditer(shape) if on_chip or not re.search(r"S\([1-9]", found[3] or ""))
    return sum(math.prod(int(n) for n in x[2].split(",") if n) * _bits(x[1]) // 8 for x in arrays)


def _bits(kind: str) -> int:
    if kind in _BITS:
        return _BITS[kind]
    digits = re.search(r"\d+", kind)
    return int(digits[0]) if digits else 0  # tokens have no bytes


def _users(fused: dict[str, _Instruction]) -> dict[str, list[_Instruction]]:
    """Returns {name: the instructions that take it}; a bitcast counts as what it is made of."""
    users: dict[str, list[_Instruction]] = {}
    for one in reversed(fused.values()):
        mine = users.get(one.name, []) if one.opcode == "bitcast" else [one]
        for operand in one.operands:
            users.setdefault(operand, []).extend(mine)
    return users


def _size_read(parameter: _Instruction, users: dict[str, list[_Instruction]], fused: dict) -> int:
    """Bytes that a fusion reads of one of its operands."""
    whole, read = _size(parameter.shape), 0
    for user in users.get(parameter.name, []):
        if user.opcode in _PARTS and _comes_from(user.operands[0], parameter, fused):
            read += _size(user.shape)
        elif not (user.opcode == "dynamic-update-slice" and _comes_from(user.operands[0], parameter, fused)):
            return whole
    return min(read, whole)


def _comes_from(name: str, parameter: _Instruction, fused: dict[str, _Instruction]) -> bool:
    while name in fused and fused[name].opcode == "bitcast":
        name = fused[name].operands[0]
    return name == parameter.name


def _size_written(root: _Instruction, fused: dict[str, _Instruction]) -> int:
    while root.opcode == "bitcast" and root.operands and root.operands[0] in fused:
        root = fused[root.operands[0]]
    if root.opcode == "parameter":
        return 0
    if root.opcode == "dynamic-update-slice":
        return _size(fused[root.operands[1]].shape)
    return _size(root.shape)
