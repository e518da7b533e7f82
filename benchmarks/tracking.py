"""The share of the quickstart's steps that metrics.jsonl and TensorBoard take, in processor time.

python benchmarks/tracking.py --steps=60 --log_every=1
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from absl import logging

import transformer_jax as tj
from transformer_jax.config.experiment_files import experiments_folder
from transformer_jax.training import run
from transformer_jax.workdir.tracking import Tracker


def timed(owner: Any, name: str, clock: Callable[[], float], seconds: list[float]) -> None:
    """Has every call of a function of `owner` append the time that it takes."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        start = clock()
        try:
            return function(*args, **options)
        finally:
            seconds.append(clock() - start)

    setattr(owner, name, call)


def main() -> None:
    """Trains, and prints the time of the steps, of the tracker, and its share."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--log_every", type=int, default=50)
    flags = parser.parse_args()
    logging.set_verbosity(logging.FATAL)  # orbax
    steps: list[float] = []
    tracker: list[float] = []
    timed(run, "run_steps", time.process_time, steps)
    timed(Tracker, "train_step", time.thread_time, tracker)
    timed(Tracker, "flush", time.thread_time, tracker)
    options = {"steps": flags.steps, "checkpoint_every": flags.steps, "evaluate_every": 0}
    options |= {"log_every": flags.log_every}
    overrides = {f"train.{name}": value for name, value in options.items()}
    config = tj.load_experiment(experiments_folder() / "quickstart.py", overrides)
    with tempfile.TemporaryDirectory() as folder:
        tj.train(config, folder)
        if not list(Path(folder).glob("tensorboard/events*")):
            raise SystemExit("TensorBoard's files are missing: pip install tensorboardX")
    share = 100 * sum(tracker) / sum(steps)
    print(f"steps {sum(steps):.2f} s, tracking {1000 * sum(tracker):.1f} ms: {share:.2f} %")


if __name__ == "__main__":
    main()
