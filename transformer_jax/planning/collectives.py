"""The exchanges between chips in a compiled program: which, how large, among how many chips."""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Collective:
    """One or several equal exchanges between chips."""

    kind: str  # "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
    size: float  # bytes of the result on one chip; of the argument for a reduce-scatter
    group: int  # the number of chips that exchange with each other
    asynchronous: bool = False  # whether the program does other work meanwhile
    times: int = 1  # in a step

    @property
    def sent(self) -> float:
        """Bytes that each chip sends in a step, with the algorithm that sends the least.

        >>> Collective("all-reduce", size=100, group=4).sent
        150.0
        """
        if self.kind == "collective-permute":
            return self.times * self.size
        passes = 2 if self.kind == "all-reduce" else 1
        return self.times * passes * self.size * (self.group - 1) / self.group


_COLLECTIVE = re.compile(
    r"= (?P<type>\(.*?\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all"
    r"|collective-permute)(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8}


def collectives(program: str, *, chips: int, loops: int = 1) -> list[Collective]:
    """The exchanges in the text of a compiled program, with equal ones counted together.

    >>> collectives(
    ...     "%x = f32[3,5]{1,0} all-reduce(%y), replica_groups=[2,4]<=[8], to_apply=%add", chips=8
    ... )
    [Collective(kind='all-reduce', size=60, group=4, asynchronous=False, times=1)]

    `program` is `compiled.as_text()`, which `chips` run; the body of a loop runs `loops` times.
    """
    bodies = set(re.findall(r"\bbody=%?([\w.-]+)", program))
    found: dict[tuple, int] = {}
    times = 1
    for line in program.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if header:
            times = loops if header[1] in bodies else 1
        match = _COLLECTIVE.search(line)
        if not match:
            continue
        sizes = [_size(*array) for array in _ARRAY.findall(match["type"])]
        size = sum(sizes)
        group = _group(line, chips)
        if match["start"] and match["kind"] in ("all-gather", "collective-permute"):
            size = max(sizes)  # the type lists the argument as well
        if match["kind"] == "reduce-scatter":
            size *= group
        key = match["kind"], size, group, bool(match["start"])
        found[key] = found.get(key, 0) + times
    return [Collective(*key, number) for key, number in found.items() if key[2] > 1]


def _size(dtype: str, shape: str) -> int:
    return _BYTES.get(dtype, 1) * math.prod(map(int, filter(None, shape.split(","))))


def _group(line: str, chips: int) -> int:
    """The size of a group written "{{0,1},{2,3}}", "[2,4]<=[8]" or "mesh['a'=8,'b'=2] {'a'}"."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(iota[1])
    return chips
