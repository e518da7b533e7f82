"""Eight models as the lanes of one step, against eight runs in turn.

    python benchmarks/vectorize.py            # the steps alone
    python benchmarks/vectorize.py --whole    # launch.py: eight runs in turn, and one sweep

The points are the first of an experiment's sweep(), of one program; the quickstart's are 4 learning
rates × 2 seeds. The contestants take their steps in turn, round after round, and what counts are
medians: machines are noisy. Speed is models × real (non-padding) tokens a second.

    alone    the step of one run, compiled once, for one model after the other
    in turn  lanes, one after the other within one program: what --sweep_vectorize does on a CPU
    at once  lanes under vmap: what it does elsewhere
"""

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from transformer_jax import (  # noqa: E402
    command_line,
    lanes,
    parallel,
    preparation,
    resume_proof,
    sweeps,
    training,
)
from transformer_jax.data import corpora  # noqa: E402
from transformer_jax.preparation import Prepared  # noqa: E402


@dataclasses.dataclass
class Way:
    """One contestant: `step(n)` makes step n of every model; `state` is what it has made."""

    name: str
    step: Callable[[int], Any]
    state: Any = None


def prepare(file: Path, number: int, arguments: list[str], folder: Path) -> list[Prepared]:
    """The first points of the experiment's sweep(), with one text."""
    config = command_line.load_experiment(file)
    command_line.apply_overrides(config, _overrides(arguments), origin="the command line")
    names = [name for name, _ in sweeps.load_points(file, config, [])][:number]
    points = sweeps.lanes(config, file, [], names)
    texts = [corpora.load_split(config.data, split) for split in ("train", "valid")]
    devices = parallel.choose(config.parallel, batch_rows=config.data.batch_rows)
    first = preparation.prepare(points[0], folder, devices, *texts, begun=False)
    return [first] + [preparation.share(first, point, folder, begun=False) for point in points[1:]]


def _overrides(arguments: list[str]) -> dict[str, Any]:
    """--config.train.steps=20 → {"train.steps": 20}; numbers alone."""
    found = command_line.overrides_in(arguments)
    return {option: float(v) if "." in v or "e" in v else int(v) for option, v in found}


def make_ways(models: list[Prepared]) -> list[Way]:
    """The contestants, each with states of its own; nothing is compiled yet."""
    config, model = models[0].config, models[0].model
    create, train_step = (
        training.make_create_state(config, model),
        training.make_train_step(config, model),
    )
    states = lambda: [create(training.hyperparameters(m.config)) for m in models]  # noqa: E731
    one = jax.jit(train_step, donate_argnums=0)

    def alone(number: int) -> Any:
        for n, each in enumerate(models):
            batch = jax.device_put(each.data.batch(number))
            ways[0].state[n], metrics = one(ways[0].state[n], batch)
        return metrics

    def together(way: int, in_turn: bool) -> Callable[[int], Any]:
        step = jax.jit(lanes.make_lanes_step(train_step, in_turn=in_turn), donate_argnums=0)

        def make_step(number: int) -> Any:
            batch = next(lanes.batches(models, number))
            ways[way].state, metrics = step(ways[way].state, batch, np.ones(len(models), bool))
            return metrics

        return make_step

    ways = [
        Way("alone", alone, states()),
        Way("in turn", together(1, True), lanes.stack(states())),
        Way("at once", together(2, False), lanes.stack(states())),
    ]
    return ways


def measure_steps(models: list[Prepared], *, rounds: int, steps: int) -> None:
    """Prints speed and compile time of each way, and how far their parameters are apart."""
    ways = make_ways(models)
    for way in ways:
        started = time.perf_counter()
        jax.block_until_ready(way.step(0))
        print(f"{way.name:8}  first step, with compiling: {time.perf_counter() - started:.1f} s")
    tokens = [[_tokens(m.data.batch(n)) for m in models] for n in range(1 + rounds * steps)]
    speeds: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds):
        first = 1 + number * steps
        for way in ways:
            started = time.perf_counter()
            for n in range(first, first + steps):
                metrics = way.step(n)
            jax.block_until_ready((way.state, metrics))
            seconds = time.perf_counter() - started
            speeds[way.name].append(sum(map(sum, tokens[first : first + steps])) / seconds)
        said = "  ".join(f"{name} {each[-1]:,.0f}" for name, each in speeds.items())
        print(f"round {number}: {said}", flush=True)
    reference = lanes.stack(ways[0].state).params
    print(f"\n{len(models)} models, {jax.local_devices()[0].device_kind}, jax {jax.__version__}")
    for way in ways:
        ratios = sorted(a / b for a, b in zip(speeds[way.name], speeds["alone"], strict=True))
        params = lanes.stack(way.state).params if way.name == "alone" else way.state.params
        apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), params, reference)
        print(
            f"{way.name:8}  {statistics.median(speeds[way.name]):10,.0f} models × tokens/s  "
            f"{statistics.median(ratios):.2f}× alone ({ratios[0]:.2f} to {ratios[-1]:.2f})  "
            f"parameters apart by {max(jax.tree.leaves(apart)):.1e}"
        )


def _tokens(batch: dict[str, np.ndarray]) -> int:
    return int(sum((batch[f"{side}_segments"] != 0).sum() for side in ("source", "target")))


def measure_whole(file: Path, number: int, arguments: list[str], folder: Path) -> None:
    """launch.py for each point in turn, and one sweep; prints seconds and differences."""
    config = command_line.load_experiment(file)
    names = [name for name, _ in sweeps.load_points(file, config, [])]
    launch = [sys.executable, str(ROOT / "launch.py"), f"--config={file}"]

    def run(*line: str) -> float:
        started = time.perf_counter()
        subprocess.run([*launch, *line, *arguments], check=True, capture_output=True)
        return time.perf_counter() - started

    sweep = ["--mode=sweep", f"--sweep_vectorize={number}"]
    together = run(f"--workdir={folder}/lanes", *sweep)
    print(f"{len(names)} points, {number} in a child: {together:.0f} s, all included", flush=True)
    alone = []
    for n, name in enumerate(names):
        alone.append(run(f"--workdir={folder}/alone/{name}", f"--sweep_index={n}"))
        print(f"{name} alone: {alone[-1]:.0f} s", flush=True)
    print(f"in turn: {sum(alone):.0f} s, {sum(alone) / together:.2f}× as long")
    for name in names:
        workdirs = [folder / "alone" / name, folder / "lanes" / name]
        arrays = resume_proof.differing_arrays(*map(resume_proof.last_state, workdirs))
        losses = max(resume_proof.losses_apart(*workdirs))
        largest = max((by for _, by in arrays), default=0.0)
        print(f"{name}: arrays apart by {largest:.1e}, losses by {losses:.1e}")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, default=ROOT / "experiments" / "quickstart.py")
    parser.add_argument("--lanes", type=int, default=8, help="models")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="of each way in each round")
    parser.add_argument("--whole", action="store_true", help="whole processes instead of steps")
    flags, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        if flags.whole:
            measure_whole(flags.config, flags.lanes, arguments, Path(folder))
            return
        models = prepare(flags.config, flags.lanes, arguments, Path(folder))
        measure_steps(models, rounds=flags.rounds, steps=flags.steps)


if __name__ == "__main__":
    main()
