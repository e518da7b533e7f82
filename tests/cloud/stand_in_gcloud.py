"""A stand-in for gcloud: two hosts are two folders, and a command over ssh runs in each.

$STAND_IN is its folder. It reads `scenario.json` ({"states": [[…], …]}: of each machine in turn,
what describe says, the last again and again; {"fail": words}: a command that fails), and writes
`log.jsonl`. A file `preempted` takes the machine away; `dropped` breaks one connection, once.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["STAND_IN"])
HOSTS = [HERE / "host0", HERE / "host1"]


def machines():
    return sum(1 for command in log() if "create" in command)


def log():
    return [json.loads(line) for line in (HERE / "log.jsonl").read_text().splitlines()]


def describe(scenario):
    asked = (HERE / "asked").read_text() if (HERE / "asked").exists() else ""
    (HERE / "asked").write_text(asked + "x")
    states = scenario["states"][machines() - 1]
    state = (
        "SUSPENDED" if (HERE / "preempted").exists() else states[min(len(asked), len(states) - 1)]
    )
    failed = {"failedData": {"error": {"message": "no\n capacity"}}} if state == "FAILED" else {}
    print(json.dumps({"state": {"state": state, **failed}}))


def end_hosts():
    sessions = HERE / "sessions"
    for session in sessions.read_text().split() if sessions.exists() else []:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(session), signal.SIGKILL)
    for host in HOSTS:
        shutil.rmtree(host)
    for name in ("asked", "preempted", "sessions"):
        (HERE / name).unlink(missing_ok=True)


def ssh(worker, command):
    hosts = HOSTS if worker == "all" else [HOSTS[int(worker)]]
    running = []
    for host in hosts:
        environment = os.environ | {
            "HOME": str(host),
            "HOST": host.name,
            "PATH": f"{HERE / 'host_bin'}:{os.environ['PATH']}",
        }
        running.append(
            subprocess.Popen(
                ["bash", "-c", command], cwd=host, env=environment, start_new_session=True
            )
        )
    with (HERE / "sessions").open("a") as file:
        file.writelines(f"{process.pid}\n" for process in running)
    while any(process.poll() is None for process in running):
        time.sleep(0.01)
        dropped = HERE / "dropped"
        if (HERE / "preempted").exists() or (worker == "0" and dropped.exists()):
            dropped.unlink(missing_ok=True)
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            return 255
    return next((process.returncode for process in running if process.returncode), 0)


def main(words):
    with (HERE / "log.jsonl").open("a") as file:
        file.write(json.dumps(words) + "\n")
    scenario = json.loads((HERE / "scenario.json").read_text())
    options = dict(
        word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word
    )
    verb = words[3]
    if verb == scenario.get("fail"):
        return 1
    if verb == "create":
        for host in HOSTS:
            host.mkdir()
    elif verb == "describe":
        describe(scenario)
    elif verb == "delete":
        end_hosts()
    elif (HERE / "preempted").exists():
        return 255
    elif verb == "scp":
        for host in HOSTS:
            shutil.copy(words[4], host / words[5].partition(":")[2])
    elif verb == "ssh":
        return ssh(options["worker"], options["command"])
    return 0


sys.exit(main(sys.argv[1:]))
