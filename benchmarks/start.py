"""Start-up times, each of a process of its own: the first one fills the cache of compiled programs.

python benchmarks/start.py --workdir=runs/quickstart --rounds=5
"""

import argparse
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from transformer_jax.console import table
from transformer_jax.data.small_world import grammar

ROOT = Path(__file__).resolve().parent.parent
Start = tuple[float, float]  # seconds on the clock and of the processors
SENTENCE = "我有一只猫\n"


def measured(command: list[str], *, given: str = "", since: str = "", until: str = "") -> Start:
    """Runs a command to its end, or to the first line of its output that contains `until`.

    The clock starts with the command, or at the first line that contains `since`.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-u", *command], cwd=ROOT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        process.stdin.write(given)
        process.stdin.close()
        lines = []
        for line in process.stdout:
            lines.append(line)
            if since and since in line:
                start = time.perf_counter()
            if until and until in line:
                break
        else:
            if until:
                raise SystemExit(f"{command} printed no {until!r}: {''.join(lines)}")
        seconds = time.perf_counter() - start
        if until:
            process.kill()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, sum(after[:2]) - sum(before[:2])


def first_step() -> Start:
    """From the command to the metrics of the first step of a new run, its text tokenised."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["launch.py", f"--workdir={folder}/run", "--config.train.log_every=1"]
        return measured(command, until="step 1/")


def end_of_training(workdir: str) -> Start:
    """From the last step of a run to the end of its command, which evaluates it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(workdir, f"{folder}/run")
        seconds, _ = measured(["launch.py", f"--workdir={copy}"], since="trained in")
        return seconds, math.nan  # the processor's are of the whole command


def answers(workdir: str) -> tuple[float, ...]:
    """Milliseconds of 200 answers of a translator that is kept running: the first, median, 99 %."""
    command = [sys.executable, "launch.py", "--mode=translate", f"--workdir={workdir}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    seconds = []
    with subprocess.Popen([*command, "--batch_lines=1"], cwd=ROOT, **pipes) as process:
        for line, _ in grammar.pairs("test", size=200):
            start = time.perf_counter()
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            if not process.stdout.readline():
                raise SystemExit(f"{command} did not answer")
            seconds.append(1000 * (time.perf_counter() - start))
        process.stdin.close()
    ordered = sorted(seconds)
    return seconds[0], statistics.median(seconds), ordered[int(0.99 * len(ordered))]


def starts(workdir: str) -> dict[str, Callable[[], Start]]:
    """What to measure, by its row's name."""
    translate = ["launch.py", "--mode=translate", f"--workdir={workdir}"]
    return {
        "python": lambda: measured(["-c", ""]),
        "import jax": lambda: measured(["-c", "import jax"]),
        "import transformer_jax": lambda: measured(["-c", "import transformer_jax"]),
        "--help": lambda: measured(["launch.py", "--help"]),
        # The mode runs, and has not imported jax yet.
        "first line of a mode": lambda: measured([*translate, "--num_processes=2"]),
        "echo … | --mode=translate": lambda: measured(translate, given=SENTENCE),
        "first step of training": first_step,
        "end of training": lambda: end_of_training(workdir),
    }


def main() -> None:
    """Prints the table: the first start, and the median of those after it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True, help="a trained quickstart")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="what the names of the rows contain")
    flags = parser.parse_args()
    workdir = os.path.abspath(flags.workdir)
    rows = [("seconds", "first start", "second start", "of processor")]
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    for name, start in starts(workdir).items():
        if flags.only not in name:
            continue
        with tempfile.TemporaryDirectory() as cache:
            os.environ["XDG_CACHE_HOME"] = cache  # the first start also asks whether a cache works
            first = start()[0]
            wall, processor = zip(*(start() for _ in range(flags.rounds)), strict=True)
        numbers = first, statistics.median(wall), statistics.median(processor)
        rows.append((name, *(f"{n:.2f}" for n in numbers)))
    print(*table(rows), sep="\n")
    rows = [("milliseconds of an answer", "the first, with its start", "median", "99th percentile")]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for name in ("first start", "second start"):
            rows.append((name, *(f"{n:.1f}" for n in answers(workdir))))
    print("", *table(rows), sep="\n")


if __name__ == "__main__":
    main()
