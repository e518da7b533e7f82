"""A launch line on a Cloud TPU, through gcloud: ask, wait, copy, install, run, follow, delete.

The commands are lists that pure functions build; `run` runs them, and asks for another machine
when Google takes the machine away. Text of the user's goes into a shell only through shlex.
"""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from transformer_jax.cloud import launch_line
from transformer_jax.errors import UserError
from transformer_jax.parallel.host import signals_interrupt

# call(command, capture) → exit status, and what it wrote to stdout if that is captured.
Call = Callable[[list[str], bool], tuple[int, str]]

_POLL_SECONDS = 20
# A run fails a little before its machine is seen to be taken away.
_GRACE_SECONDS = 40
# Fruitless polls in a row before giving up; gcloud tries ten times in each.
_MAX_FRUITLESS = 30
_ARCHIVE = "checkout.tar.gz"
_FOLDER = "transformer_jax"


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """What is asked of Google Cloud, and what runs there.

    Attributes:
      name: of the queued resource, and of the machine.
      accelerator: v5litepod-16.
      arguments: of launch.py.
      zone, project: Google Cloud's; project "" = gcloud's own setting.
      runtime_version: the machine's software; "" = by the accelerator.
      spot: cheaper, and may be taken away.
      wait_hours: how long to queue; Google drops the request after that.
      max_preemptions: machines taken away before giving up.
      keep: leave the machine there at the end.
    """

    name: str
    accelerator: str
    arguments: tuple[str, ...]
    zone: str
    project: str = ""
    runtime_version: str = ""
    spot: bool = False
    wait_hours: int = 24
    max_preemptions: int = 20
    keep: bool = False


# ------------------------------------------------------------------------------------- commands
def create(vm: TpuVm) -> list[str]:
    """Asks for the machine. It is --runtime-version here, and --version in `tpu-vm create`.

    Raises:
      UserError: if the name or the accelerator is not one.
    """
    launch_line.check_name(vm.name)
    version = vm.runtime_version or launch_line.runtime_version(vm.accelerator)
    return [
        *_gcloud(vm, "queued-resources", "create", vm.name),
        f"--node-id={vm.name}",
        f"--accelerator-type={vm.accelerator}",
        f"--runtime-version={version}",
        f"--valid-until-duration={vm.wait_hours}h",
        *(["--spot"] if vm.spot else []),
    ]


def describe(vm: TpuVm) -> list[str]:
    """The state of the queued resource, as JSON."""
    return [*_gcloud(vm, "queued-resources", "describe", vm.name), "--format=json(state)"]


def delete(vm: TpuVm) -> list[str]:
    """The queued resource, and the machine with it."""
    return [*_gcloud(vm, "queued-resources", "delete", vm.name), "--force"]


def copy(vm: TpuVm, archive: str) -> list[str]:
    """The packed checkout, to every worker."""
    return [*_gcloud(vm, "tpu-vm", "scp", archive, f"{vm.name}:{_ARCHIVE}"), "--worker=all"]


def install(vm: TpuVm) -> list[str]:
    """Unpacks the checkout on every worker, and makes its .venv."""
    lines = [
        "set -e",
        f"rm -rf {_FOLDER}",
        f"mkdir {_FOLDER}",
        f"tar -xzf {_ARCHIVE} -C {_FOLDER}",
        f"cd {_FOLDER}",
        *launch_line.install_commands("tpu"),
    ]
    return _ssh(vm, "all", "; ".join(lines))


def start(vm: TpuVm) -> list[str]:
    """Starts the run on every worker, where it outlives the connection.

    It does nothing where the run has been started: gcloud repeats a command when the connection
    drops, even one that had arrived.
    """
    line = shlex.join([".venv/bin/python", "launch.py", *vm.arguments])
    # The status appears whole, and before the process that `follow` watches has gone.
    whole = f"{line}; echo $? > run.status.tmp; mv run.status.tmp run.status"
    background = (
        f"{{ nohup bash -c {shlex.quote(whole)} < /dev/null > run.log 2>&1 & echo $! > run.pid; }}"
    )
    return _ssh(vm, "all", f"cd {_FOLDER} && {{ [ -e run.log ] || {background}; }}")


def follow(vm: TpuVm, *, lines: str = "+1") -> list[str]:
    """Prints worker 0's log until its run ends; `lines` is where to begin, as for tail -n."""
    tail = f'tail -n {lines} -f --pid="$(cat run.pid)" run.log'
    return _ssh(vm, "0", f"cd {_FOLDER} && {tail}")


def statuses(vm: TpuVm) -> list[str]:
    """Prints a line for each worker: status=0, or another exit status; status=running or lost."""
    # Looked at in this order: a run that ends in between has written its status.
    alive = 'kill -0 "$(cat run.pid)" 2> /dev/null && alive=running || alive=lost'
    status = 'echo "status=$(cat run.status 2> /dev/null || echo $alive)"'
    return _ssh(vm, "all", f"cd {_FOLDER} && {{ {alive}; {status}; }}")


def log_tails(vm: TpuVm) -> list[str]:
    """Prints the end of every worker's log, with the worker's name before each line."""
    return _ssh(vm, "all", f'tail -n 20 {_FOLDER}/run.log | sed "s/^/[$(hostname)] /"')


def dry_run(vm: TpuVm) -> str:
    """Every command of a run in which nothing goes wrong, in order, quoted for a shell."""
    commands = [create(vm), describe(vm), copy(vm, _ARCHIVE), install(vm), start(vm)]
    commands += [follow(vm), statuses(vm), *([] if vm.keep else [delete(vm)])]
    return "\n".join(shlex.join(command) for command in commands)


def _gcloud(vm: TpuVm, *words: str) -> list[str]:
    place = [f"--zone={vm.zone}", *([f"--project={vm.project}"] if vm.project else [])]
    # --quiet: a question would wait for an answer that nobody gives.
    return ["gcloud", "compute", "tpus", *words, *place, "--quiet"]


def _ssh(vm: TpuVm, worker: str, command: str) -> list[str]:
    return [
        *_gcloud(vm, "tpu-vm", "ssh", vm.name),
        f"--worker={worker}",
        # A machine that is taken away does not say goodbye: ssh has to notice.
        "--ssh-flag=-oConnectTimeout=20",
        "--ssh-flag=-oServerAliveInterval=30",
        f"--command={command}",
    ]


# --------------------------------------------------------------------------------------- driver
def run(vm: TpuVm, checkout: Path) -> int:
    """Makes the machine, runs the launch line there, follows it, deletes the machine.

    Returns:
      the run's exit status: 0, or that of the first worker that failed.

    Raises:
      UserError: if the machine cannot be had, or is taken away more than vm.max_preemptions times.
      KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after the machine is deleted.
    """
    create(vm)  # raises before anything is packed
    with tempfile.TemporaryDirectory() as folder, signals_interrupt():
        archive = Path(folder) / _ARCHIVE
        number = launch_line.pack_checkout(checkout, archive)
        _say(f"{number} files of the checkout, {archive.stat().st_size / 1e6:.1f} MB, to be copied")
        return Driver(vm, str(archive)).run()


class _Preempted(Exception):
    """The machine is not ours any more."""


def call_gcloud(command: list[str], capture: bool) -> tuple[int, str]:
    """Runs a command; its messages go to the terminal.

    Raises:
      UserError: if there is no such program.
    """
    out = subprocess.PIPE if capture else None
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: --target=tpu-vm needs it") from None
    return done.returncode, (done.stdout or b"").decode(errors="replace")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Driver:
    """Runs the commands above for one launch, through `call`, `say` and `sleep` alone."""

    vm: TpuVm
    archive: str
    call: Call = call_gcloud
    say: Callable[[str], None] = _say
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> int:
        """One machine after another, until one is not taken away."""
        vm = self.vm
        for number in range(vm.max_preemptions + 1):
            # Not in the `try`: a name that is taken is not ours to delete.
            self._create()
            keep = vm.keep
            try:
                return self._one_machine()
            except _Preempted as e:
                keep = False  # its name is needed
                self.say(f"{vm.name} was taken away ({e}), {number + 1} so far")
            finally:
                self._delete(keep)
        raise UserError(
            f"{vm.name} was taken away {vm.max_preemptions + 1} times, --max_preemptions="
            f"{vm.max_preemptions}: the same line goes on from the workdir"
        )

    def _create(self) -> None:
        command = create(self.vm)
        self.say(f"asking for {self.vm.accelerator} as {self.vm.name}")
        try:
            status, _ = self.call(command, False)
        except KeyboardInterrupt:
            self.say(f"{self.vm.name} may have been asked for: {shlex.join(delete(self.vm))}")
            raise
        if status:
            raise UserError(
                f"{self.vm.name} could not be asked for (gcloud says why above); if that name is "
                f"taken, give another --name, or delete it: {shlex.join(delete(self.vm))}"
            )

    def _one_machine(self) -> int:
        self._wait()
        self._on_workers(copy(self.vm, self.archive), "copying the checkout")
        self._on_workers(install(self.vm), "installing")
        self._on_workers(start(self.vm), "starting the run")
        return self._follow()

    def _wait(self) -> None:
        """Returns when the machine is there."""
        before = None
        for _ in range(self.vm.wait_hours * 3600 // _POLL_SECONDS):
            state, reason = self._state()
            if state != before:
                self.say(f"{self.vm.name}: {state}")
            before = state
            if state == "ACTIVE":
                return
            if state in ("SUSPENDING", "SUSPENDED"):
                raise _Preempted(state)
            if state in ("FAILED", "DELETING"):
                raise UserError(f"{self.vm.name} is {state}{reason and ': '}{reason}")
            self.sleep(_POLL_SECONDS)
        raise UserError(
            f"{self.vm.name} is still {before} after --wait_hours={self.vm.wait_hours}: try "
            "another --zone, or --spot"
        )

    def _state(self) -> tuple[str, str]:
        """The queued resource's state, and the reason if it failed."""
        for _ in range(_MAX_FRUITLESS):
            status, out = self.call(describe(self.vm), True)
            if not status:
                state = json.loads(out)["state"]
                error = state.get("failedData", {}).get("error", {})
                return state["state"], " ".join(error.get("message", "").split())
            self.sleep(_POLL_SECONDS)
        raise UserError(f"gcloud cannot tell the state of {self.vm.name}: it says why above")

    def _refuse_preempted(self) -> None:
        state, _ = self._state()
        if state != "ACTIVE":
            raise _Preempted(state)

    def _on_workers(self, command: list[str], what: str) -> None:
        self.say(f"{what} on {self.vm.name}")
        status, _ = self.call(command, False)
        if status:
            self._refuse_preempted()
            raise UserError(f"{what} failed on {self.vm.name}, with status {status}: see above")

    def _follow(self) -> int:
        """The run's exit status, after its log."""
        followed, fruitless, lines = False, 0, "+1"
        while fruitless < _MAX_FRUITLESS:
            if not followed:
                followed = self.call(follow(self.vm, lines=lines), False)[0] == 0
                lines = "10"
            status, out = self.call(statuses(self.vm), True)
            found = re.findall(r"^status=(\w+)\r?$", out, flags=re.MULTILINE)
            failed = [one for one in found if one not in ("0", "running")]
            if failed:
                return self._failed(failed[0])
            if status == 0 and found and set(found) == {"0"}:
                return 0
            self._refuse_preempted()
            # A run whose log can be read may take days; one that cannot be reached, or whose
            # workers do not end together, may not.
            fruitless = fruitless + 1 if status or followed else 0
            self.sleep(_POLL_SECONDS)
        raise UserError(f"{self.vm.name} is ACTIVE, but its run can be neither followed nor ended")

    def _failed(self, status: str) -> int:
        self.sleep(_GRACE_SECONDS)
        self._refuse_preempted()
        self.say(f"the run failed on {self.vm.name}, exit status {status}; the ends of the logs:")
        self.call(log_tails(self.vm), False)
        return int(status) if status.isdecimal() else 1

    def _delete(self, keep: bool) -> None:
        command = shlex.join(delete(self.vm))
        if keep:
            self.say(f"{self.vm.name} is kept, and costs money until: {command}")
            return
        self.say(f"deleting {self.vm.name}")
        status = None
        try:
            status, _ = self.call(delete(self.vm), False)
        finally:
            if status != 0:
                self.say(f"{self.vm.name} may still be there, and cost money: {command}")
