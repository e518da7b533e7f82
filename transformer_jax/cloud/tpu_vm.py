"""A run on a Cloud TPU VM, through gcloud: request, wait, copy, install, run, follow, delete.

Pure functions build the commands as lists. `run` executes them, and requests another VM when Google
reclaims one. The user's text reaches a shell only through shlex.
"""

import dataclasses
import json
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from transformer_jax import console
from transformer_jax.cloud import checkout, launch_line
from transformer_jax.errors import UserError
from transformer_jax.parallel.host import signals_interrupt

# call(command, capture) → the exit status, and stdout if it is captured.
Call = Callable[[list[str], bool], tuple[int, str]]

_POLL_SECONDS = 20
_GRACE_SECONDS = 40  # a run fails a little before its VM is reported as reclaimed
_MAX_FAILURES = 30  # polls that fail in a row before giving up; gcloud retries ten times in each
_ARCHIVE = "checkout.tar.gz"
_FOLDER = "transformer_jax"


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """The VM to request, and the run on it."""

    name: str  # of the queued resource and of the VM
    accelerator: str  # v5litepod-16, …
    arguments: tuple[str, ...]  # of launch.py
    zone: str
    project: str = ""  # "" = gcloud's own setting
    runtime_version: str = ""  # the VM's software; "" = chosen by the accelerator
    spot: bool = False  # cheaper, but Google may reclaim the VM
    wait_hours: int = 24  # how long to queue; Google then drops the request
    max_preemptions: int = 20  # reclaimed VMs after which to give up
    keep: bool = False  # whether to leave the VM running at the end


# ------------------------------------------------------------------------------------- commands
def create(vm: TpuVm) -> list[str]:
    """Requests the VM. Here the option is --runtime-version, in `tpu-vm create` it is --version.

    Raises:
      UserError: if the name or the accelerator is invalid.
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
    """Prints the state of the queued resource as JSON."""
    return [*_gcloud(vm, "queued-resources", "describe", vm.name), "--format=json(state)"]


def delete(vm: TpuVm) -> list[str]:
    """Deletes the queued resource, and the VM with it."""
    return [*_gcloud(vm, "queued-resources", "delete", vm.name), "--force"]


def copy(vm: TpuVm, archive: str) -> list[str]:
    """Copies the packed checkout to every worker."""
    return [*_gcloud(vm, "tpu-vm", "scp", archive, f"{vm.name}:{_ARCHIVE}"), "--worker=all"]


def install(vm: TpuVm) -> list[str]:
    """Unpacks the checkout on every worker, and creates its .venv."""
    lines = [
        "set -e",
        f"rm -rf {_FOLDER}",
        f"mkdir {_FOLDER}",
        f"tar -xzf {_ARCHIVE} -C {_FOLDER}",
        f"cd {_FOLDER}",
        *checkout.install_commands("tpu"),
    ]
    return _ssh(vm, "all", "; ".join(lines))


def start(vm: TpuVm) -> list[str]:
    """Starts the run on every worker, such that it outlives the connection.

    The command does nothing if the run is started already: gcloud repeats a command when the
    connection drops, even if the command had arrived.
    """
    line = shlex.join([".venv/bin/python", "launch.py", *vm.arguments])
    # The status is written atomically, and before the process that `follow` watches ends.
    whole = f"{line}; echo $? > run.status.tmp; mv run.status.tmp run.status"
    background = (
        f"{{ nohup bash -c {shlex.quote(whole)} < /dev/null > run.log 2>&1 & echo $! > run.pid; }}"
    )
    return _ssh(vm, "all", f"cd {_FOLDER} && {{ [ -e run.log ] || {background}; }}")


def follow(vm: TpuVm, *, lines: str = "+1") -> list[str]:
    """Prints worker 0's log until its run ends; `lines` is where to start, as for tail -n."""
    tail = f'tail -n {lines} -f --pid="$(cat run.pid)" run.log'
    return _ssh(vm, "0", f"cd {_FOLDER} && {tail}")


def statuses(vm: TpuVm) -> list[str]:
    """Prints a line per worker: status=N, an exit status, or status=running, or status=lost."""
    # In this order: a run that ends between the two has written its status.
    alive = 'kill -0 "$(cat run.pid)" 2> /dev/null && alive=running || alive=lost'
    status = 'echo "status=$(cat run.status 2> /dev/null || echo $alive)"'
    return _ssh(vm, "all", f"cd {_FOLDER} && {{ {alive}; {status}; }}")


def log_tails(vm: TpuVm) -> list[str]:
    """Prints the end of every worker's log, each line with the worker's name."""
    return _ssh(vm, "all", f'tail -n 20 {_FOLDER}/run.log | sed "s/^/[$(hostname)] /"')


def dry_run(vm: TpuVm) -> str:
    """Every command of a run without failures, in order, quoted for a shell."""
    commands = [create(vm), describe(vm), copy(vm, _ARCHIVE), install(vm), start(vm)]
    commands += [follow(vm), statuses(vm), *([] if vm.keep else [delete(vm)])]
    return "\n".join(shlex.join(command) for command in commands)


def _gcloud(vm: TpuVm, *words: str) -> list[str]:
    place = [f"--zone={vm.zone}", *([f"--project={vm.project}"] if vm.project else [])]
    # --quiet: nobody would answer a question.
    return ["gcloud", "compute", "tpus", *words, *place, "--quiet"]


def _ssh(vm: TpuVm, worker: str, command: str) -> list[str]:
    return [
        *_gcloud(vm, "tpu-vm", "ssh", vm.name),
        f"--worker={worker}",
        # A reclaimed VM does not close its connections, so ssh must notice.
        "--ssh-flag=-oConnectTimeout=20",
        "--ssh-flag=-oServerAliveInterval=30",
        f"--command={command}",
    ]


# --------------------------------------------------------------------------------------- driver
def run(vm: TpuVm, folder: Path) -> int:
    """Requests the VM, runs the launch line of the checkout `folder` on it, and deletes the VM.

    Returns:
      The run's exit status: 0, or that of the first worker that failed.

    Raises:
      UserError: if there is no VM, or it is reclaimed more than vm.max_preemptions times.
      KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after the VM is deleted.
    """
    create(vm)  # raises before anything is packed
    with tempfile.TemporaryDirectory() as temporary, signals_interrupt():
        archive = Path(temporary) / _ARCHIVE
        number = checkout.pack(folder, archive)
        size = archive.stat().st_size / 1e6
        console.log(f"the checkout to copy has {number} files, {size:.1f} MB")
        return Driver(vm, str(archive)).run()


class _Preempted(Exception):
    """Google has reclaimed the VM."""


def call_gcloud(command: list[str], capture: bool) -> tuple[int, str]:
    """Runs a command, whose messages go to the terminal.

    Raises:
      UserError: if gcloud is not installed.
    """
    out = subprocess.PIPE if capture else None
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: --target=tpu-vm needs it") from None
    return done.returncode, (done.stdout or b"").decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class Driver:
    """Runs the commands above for one launch; all effects are in `call`, `log` and `sleep`."""

    vm: TpuVm
    archive: str
    call: Call = call_gcloud
    log: Callable[[str], None] = console.log
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> int:
        """Runs on one VM after another, until one is not reclaimed."""
        vm = self.vm
        for number in range(vm.max_preemptions + 1):
            # Outside of the `try`: a VM that already had this name must not be deleted.
            self._create()
            keep = vm.keep
            try:
                return self._run_on_vm()
            except _Preempted as e:
                keep = False  # the next VM needs its name
                self.log(f"{vm.name} was reclaimed ({e}), {number + 1} times so far")
            finally:
                self._delete(keep)
        raise UserError(
            f"{vm.name} was reclaimed {vm.max_preemptions + 1} times, and --max_preemptions="
            f"{vm.max_preemptions}: run the same command to resume"
        )

    def _create(self) -> None:
        command = create(self.vm)
        self.log(f"requesting {self.vm.accelerator} as {self.vm.name}")
        try:
            status, _ = self.call(command, False)
        except KeyboardInterrupt:
            command = delete(self.vm)
            self.log(f"{self.vm.name} may have been requested; delete it: {shlex.join(command)}")
            raise
        if status:
            raise UserError(
                f"{self.vm.name} could not be requested (see gcloud's error above); if the name is "
                f"taken, give another --name, or delete it: {shlex.join(delete(self.vm))}"
            )

    def _run_on_vm(self) -> int:
        self._wait()
        self._on_workers(copy(self.vm, self.archive), "copying the checkout")
        self._on_workers(install(self.vm), "installing")
        self._on_workers(start(self.vm), "starting the run")
        return self._follow()

    def _wait(self) -> None:
        """Returns when the VM is ready."""
        before = None
        for _ in range(self.vm.wait_hours * 3600 // _POLL_SECONDS):
            state, reason = self._state()
            if state != before:
                self.log(f"{self.vm.name}: {state}")
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
        """The state of the queued resource, and the reason if it failed."""
        for _ in range(_MAX_FAILURES):
            status, out = self.call(describe(self.vm), True)
            if not status:
                state = json.loads(out)["state"]
                error = state.get("failedData", {}).get("error", {})
                return state["state"], " ".join(error.get("message", "").split())
            self.sleep(_POLL_SECONDS)
        raise UserError(f"gcloud cannot read the state of {self.vm.name}: see its error above")

    def _check_active(self) -> None:
        state, _ = self._state()
        if state != "ACTIVE":
            raise _Preempted(state)

    def _on_workers(self, command: list[str], what: str) -> None:
        self.log(f"{what} on {self.vm.name}")
        status, _ = self.call(command, False)
        if status:
            self._check_active()
            raise UserError(f"{what} failed on {self.vm.name}, with status {status}: see above")

    def _follow(self) -> int:
        """Prints the run's log, and returns the run's exit status."""
        followed, failures, lines = False, 0, "+1"
        while failures < _MAX_FAILURES:
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
            self._check_active()
            # A run whose log can be read may take days. A failure is a run that cannot be reached,
            # or one whose log has ended and whose other workers still run.
            failures = failures + 1 if status or followed else 0
            self.sleep(_POLL_SECONDS)
        raise UserError(f"{self.vm.name} is ACTIVE, but the end of its run cannot be observed")

    def _failed(self, status: str) -> int:
        self.sleep(_GRACE_SECONDS)
        self._check_active()
        self.log(f"the run failed on {self.vm.name}, exit status {status}; the ends of the logs:")
        self.call(log_tails(self.vm), False)
        return int(status) if status.isdecimal() else 1

    def _delete(self, keep: bool) -> None:
        command = shlex.join(delete(self.vm))
        if keep:
            self.log(
                f"{self.vm.name} keeps running, and costs money until you delete it: {command}"
            )
            return
        self.log(f"deleting {self.vm.name}")
        status = None
        try:
            status, _ = self.call(delete(self.vm), False)
        finally:
            if status != 0:
                self.log(f"{self.vm.name} may still exist, and cost money; delete it: {command}")
