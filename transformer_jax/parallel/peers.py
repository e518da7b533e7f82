"""The processes of a run that are started together: their number, their address, and which is this.

The flags describe them, or the environment of the program that started them, srun or mpirun.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping

from transformer_jax.errors import UserError

_FLAGS = ("coordinator", "num_processes", "process_id")


@dataclasses.dataclass(frozen=True)
class Peers:
    """The processes of a run.

    Attributes:
      coordinator: "host:port" of process 0.
      number: how many there are.
      index: the number of this one, from 0.
      local_device: the only GPU of this machine that this one uses; None = all of them.
      origin: where the number comes from, "SLURM_NTASKS=4".
      remedy: what to do if the others do not come.
    """

    coordinator: str
    number: int
    index: int
    local_device: int | None
    origin: str
    remedy: str

    def __post_init__(self) -> None:
        """Raises UserError if there cannot be such a process."""
        if not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise UserError(
                f"--coordinator={self.coordinator} must be host:port, e.g. localhost:1234"
            )
        if not 0 <= self.index < self.number:
            raise UserError(
                f"process {self.index} cannot be one of {self.number} ({self.origin}): they are "
                "numbered from 0"
            )

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def __str__(self) -> str:
        others = f"{self.number - 1} other{'s' if self.number > 2 else ''}"
        return f"process {self.index} of {self.number} waits for {others} at {self.coordinator}"


def find(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Peers | None:
    """The processes that the flags describe, with the environment for what they leave out.

    Returns:
      None if this process is the only one.

    Raises:
      UserError: if something is missing, with its name.
    """
    given = dict(zip(_FLAGS, (coordinator, num_processes, process_id), strict=True))
    environment = os.environ
    starter = next((s for s in _STARTERS if s.found(environment)), None)
    if all(value is None for value in given.values()):
        return starter.peers(environment) if starter else None
    if starter and coordinator and num_processes is process_id is None:
        found = starter.peers(environment, coordinator)
        if found:
            return found
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{' and '.join(missing)} {verb} missing: --coordinator, --num_processes and "
            "--process_id go together"
        )
    return Peers(
        str(coordinator),
        int(num_processes or 0),
        int(process_id or 0),
        None,
        f"--num_processes={num_processes}",
        "give each the same --coordinator and its own --process_id",
    )


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a child process that is a run of its own, whatever started its parent."""
    described = {name for starter in _STARTERS for name in (*starter.numbers, starter.index)}
    return {name: value for name, value in environment.items() if name not in described}


@dataclasses.dataclass(frozen=True)
class _Starter:
    """A program that starts processes, and the variables by which it describes them.

    Attributes:
      program: its name.
      numbers: variables that hold the number of processes, the most precise one first.
      index, local: that hold the number of this one, and its number on this machine.
      address: variables from which `coordinator` makes the address of process 0.
    """

    program: str
    numbers: tuple[str, ...]
    index: str
    local: str
    address: tuple[str, ...]
    coordinator: Callable[[Mapping[str, str]], str]

    def found(self, environment: Mapping[str, str]) -> bool:
        """Whether it may have started this process."""
        return any(name in environment for name in (*self.numbers, self.index))

    def peers(self, environment: Mapping[str, str], coordinator: str = "") -> Peers | None:
        """The processes that it describes; None if this one is alone.

        An interactive allocation, or a shell on one of its machines, has some of the variables,
        without a number of processes or with the number 1.
        """
        name = next((name for name in self.numbers if name in environment), self.numbers[-1])
        number = _whole(environment, name, 1)
        if number == 1 and (name in environment or _whole(environment, self.index, 0) == 0):
            return None
        needed = [name, self.index, self.local, *(() if coordinator else self.address)]
        remedy = f"start it with {self.program}, or unset it"
        missing = [name for name in needed if name not in environment]
        if missing:
            known = name if name in environment else self.index
            if set(missing) <= set(self.address):
                remedy = f"start it with {self.program}, give --coordinator=HOST:PORT, or unset it"
            raise UserError(
                f"{known}={environment[known]} is for one of several processes, but "
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: {remedy}"
            )
        index, local = (_whole(environment, name, 0) for name in (self.index, self.local))
        address = coordinator or self.coordinator(environment)
        return Peers(address, number, index, local, f"{name}={number}", remedy)


def _whole(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not re.fullmatch(r"\d+", text):
        raise UserError(f"{name}={text!r} is not a whole number: unset it")
    return int(text)


def _port(environment: Mapping[str, str], job: int) -> str:
    """JAX_COORDINATOR_PORT, or one of 4,096 high ports by the number of the job, as jax does."""
    return environment.get("JAX_COORDINATOR_PORT") or str(61440 + job % 4096)


def _slurm_coordinator(environment: Mapping[str, str]) -> str:
    """The first machine of the step: node001 of "node[001-004,007]-gpu,other"."""
    machines = environment["SLURM_STEP_NODELIST"]
    first = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", machines)
    if not first:
        raise UserError(f"SLURM_STEP_NODELIST={machines!r} names no machine: unset SLURM_NTASKS")
    job = _whole(environment, "SLURM_JOB_ID", 0)
    return f"{''.join(part or '' for part in first.groups())}:{_port(environment, job)}"


def _mpi_coordinator(environment: Mapping[str, str]) -> str:
    """The machine of mpirun, from "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"."""
    uri = environment["OMPI_MCA_orte_hnp_uri"]
    found = re.match(r"(\d+)\..*?(?:tcp://(.+?)[,:]|tcp6://\[(.+?)[,\]])", uri)
    if not found:
        raise UserError(f"OMPI_MCA_orte_hnp_uri={uri!r} names no machine: give --coordinator=…")
    # Open MPI counts jobs in multiples of 4,096.
    return f"{found[2] or found[3]}:{_port(environment, int(found[1]) // 4096)}"


# mpirun first: inside of a Slurm job its processes have Slurm's variables, too.
_STARTERS = (
    _Starter(
        "mpirun",
        ("OMPI_COMM_WORLD_SIZE",),
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        ("OMPI_MCA_orte_hnp_uri",),
        _mpi_coordinator,
    ),
    # An allocation's number of tasks is not that of a step of it, such as an interactive one.
    _Starter(
        "srun",
        ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        "SLURM_PROCID",
        "SLURM_LOCALID",
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST"),
        _slurm_coordinator,
    ),
)
