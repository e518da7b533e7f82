"""Launches an experiment: `python launch.py` trains the quickstart; README.md has the rest."""

import logging
import os
import sys
from pathlib import Path

from absl import flags
from absl import logging as absl_logging

from transformer_jax import storage
from transformer_jax.cloud import launch
from transformer_jax.config import experiment_files
from transformer_jax.config.options import WEIGHTS
from transformer_jax.errors import UserError
from transformer_jax.modes import command_line
from transformer_jax.planning import accelerators
from transformer_jax.storage import is_remote

_MODES = [
    *("train", "evaluate", "translate", "score", "compare", "describe", "plan"),
    *("import", "export", "replay", "verify_resume", "sweep", "report"),
]
_FORMATS = ["marian", "ctranslate2", "safetensors"]
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; runs/<name> by default.")
flags.DEFINE_integer("sweep_index", None, "The point of the experiment's sweep() to run.")
_SWEEP_WORKERS = flags.DEFINE_integer("sweep_workers", 1, "sweep: runs at a time.", lower_bound=1)
_SWEEP_TRIALS = flags.DEFINE_integer(
    "sweep_trials", None, "sweep: points of the experiment's search_space().", lower_bound=1
)
_SWEEP_STORAGE = flags.DEFINE_string(
    "sweep_storage", None, "sweep: a database's URL, to share it; study.db in --workdir by default."
)
_SPLIT = flags.DEFINE_string("split", "test", "evaluate, score, compare: which split.")
_WEIGHTS = flags.DEFINE_enum("weights", "average", WEIGHTS, "Which checkpoints to use.")
_ENSEMBLE = flags.DEFINE_list(
    "ensemble", [], "evaluate, translate, score: further workdirs; the mean of probabilities."
)
_INPUT = flags.DEFINE_string(
    "input", None, "translate, score: a file of sentences; import: the model to import."
)
_TRANSLATIONS = flags.DEFINE_string(
    "translations", None, "score: a file of the translations of --input."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "translate, score, --target: a file instead of stdout; export: the folder to make.",
)
_PREFIXES = flags.DEFINE_string("prefixes", None, "translate: a file; how each line has to begin.")
_N_BEST = flags.DEFINE_integer("n_best", 1, "translate: translations of each line.", lower_bound=1)
_OTHER = flags.DEFINE_string("other", None, "compare: the workdir to compare --workdir with.")
_FORMAT = flags.DEFINE_enum("format", None, _FORMATS, "import (marian alone), export: of what.")
_QUANTIZATION = flags.DEFINE_string("quantization", "", "export to ctranslate2: int8, float16, ….")
_CHIP_HOUR_PRICE = flags.DEFINE_float(
    "chip_hour_price",
    None,
    "plan, sweep --dry_run: of a chip of --accelerator, to add the cost.",
    lower_bound=0,
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several processes: host:port of the first. Not needed on a TPU or Slurm."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several processes: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several processes: which this is, from 0.")
_PROFILE = flags.DEFINE_string("profile", None, "train: a folder for a jax profiler trace.")
_STEP = flags.DEFINE_integer("step", None, "replay: the step to look at.", lower_bound=1)
_KILLS = flags.DEFINE_integer("kills", 8, "verify_resume: how often to kill.", lower_bound=1)
_VERIFY_DEVICES = flags.DEFINE_list(
    "verify_devices", [], "verify_resume: numbers of CPU devices to go on with in turn, e.g. 1,2,4."
)
flags.adopt_module_key_flags(launch)  # for --help

# Elsewhere these would do nothing, and that would not be noticed.
_GOES_WITH = {
    "split": ("evaluate", "score", "compare"),
    "sweep_workers": ("sweep",),
    "sweep_trials": ("sweep",),
    "sweep_storage": ("sweep",),
    "weights": ("train", "sweep", "evaluate", "translate", "score", "export"),
    "ensemble": ("evaluate", "translate", "score"),
    "input": ("translate", "score", "import"),
    "translations": ("score",),
    "prefixes": ("translate",),
    "n_best": ("translate",),
    "other": ("compare",),
    "format": ("import", "export"),
    "quantization": ("export",),
    "chip_hour_price": ("plan", "sweep"),
    "profile": ("train",),
    "step": ("replay",),
    "kills": ("verify_resume",),
    "verify_devices": ("verify_resume",),
}


def main(argv: list[str]) -> None:
    """Does what --mode says."""
    if argv[1:]:
        raise UserError(f"what is {argv[1]!r}? Options are written --name=value")
    for name, modes in _GOES_WITH.items():
        if flags.FLAGS[name].present and _MODE.value not in modes:
            raise UserError(f"--{name} goes with --mode={' or '.join(modes)}, not {_MODE.value}")
    if launch.wanted(_MODE.value):
        at = Path(__file__).parent, _MODE.value, _WORKDIR.value, _OUTPUT.value
        sys.exit(launch.launch(flags.FLAGS.config, *at))
    if _MODE.value == "plan":
        print(_plan())
        return
    if _MODE.value == "verify_resume":
        sys.exit(_verify_resume(argv[0]))
    if _MODE.value == "sweep":
        sys.exit(_sweep(argv[0]))
    if _MODE.value == "report":
        _report()
        return
    # Imported here: a wrong flag should not wait for jax.
    from transformer_jax.evaluation import comparison
    from transformer_jax.inference.trained import demo, evaluate, load_trained, score, translate
    from transformer_jax.interop import formats
    from transformer_jax.parallel import processes
    from transformer_jax.training import preemption
    from transformer_jax.training.run import describe, replay_step, train

    _let_orbax_be_silent()
    processes.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    config = flags.FLAGS.config
    workdir = storage.path(_WORKDIR.value or f"runs/{config.name}")
    weights = _WEIGHTS.value
    options = {"weights": weights, "ensemble": [storage.path(name) for name in _ENSEMBLE.value]}
    if _MODE.value == "train":
        with preemption.handled(config.train.grace_seconds):
            train(config, workdir, profile=_PROFILE.value)
            evaluate(config, workdir, split="test", weights=weights)
            demo(config, workdir)
    elif _MODE.value == "evaluate":
        evaluate(config, workdir, split=_SPLIT.value, **options)
    elif _MODE.value == "translate":
        files = _INPUT.value, _OUTPUT.value
        translate(
            config,
            workdir,
            *files,
            prefix_file=_PREFIXES.value,
            n_best=_N_BEST.value,
            **options,
        )
    elif _MODE.value == "score":
        files = _INPUT.value, _TRANSLATIONS.value, _OUTPUT.value
        score(config, workdir, *files, split=_SPLIT.value, **options)
    elif _MODE.value == "compare":
        print(comparison.compare(workdir, _path(_OTHER), split=_SPLIT.value))
    elif _MODE.value == "import":
        formats.import_model(_FORMAT.value, _local_path(_INPUT), workdir)
    elif _MODE.value == "export":
        model = load_trained(config, workdir, weights=weights)
        formats.export_model(_FORMAT.value, model, _local_path(_OUTPUT), _QUANTIZATION.value)
    elif _MODE.value == "replay":
        if _STEP.value is None:
            raise UserError("--mode=replay needs --step=…: a skipped step, as its warning says")
        print(replay_step(config, workdir, _STEP.value))
    elif processes.is_writer():
        print(describe(config))


def _plan() -> str:
    os.environ.update(accelerators.COMPILE_ONLY)  # before jax is imported
    from transformer_jax.planning import plan

    config, name = flags.FLAGS.config, flags.FLAGS.accelerator
    if not name:
        raise UserError("--mode=plan needs --accelerator=…, e.g. --accelerator=v5litepod-16")
    workdir = storage.path(_WORKDIR.value or f"runs/{config.name}")
    return plan.plan(config, name, workdir=workdir, chip_hour_price=_CHIP_HOUR_PRICE.value)


def _sweep(launcher: str) -> int:
    config, file = flags.FLAGS.config, command_line.named_experiment()
    if file is None:
        raise UserError("--mode=sweep needs --config=FILE.py, with a sweep() or search_space()")
    if flags.FLAGS.sweep_index is not None:
        raise UserError("--mode=sweep runs all points: --sweep_index is for one, by --mode=train")
    try:
        from transformer_jax.sweeps import sweep
    except ModuleNotFoundError as e:
        raise UserError(f"--mode=sweep needs optuna: pip install optuna ({e})") from None
    # What was typed, but what concerns the sweep: each run is given it.
    ours = [
        *("mode", "config", "workdir", "sweep_workers", "sweep_trials", "sweep_storage"),
        *("dry_run", "accelerator", "chip_hour_price"),
    ]
    given = command_line.arguments_without(ours)
    price = _CHIP_HOUR_PRICE.value
    if price is not None and not (flags.FLAGS.dry_run and flags.FLAGS.accelerator):
        raise UserError("--chip_hour_price goes with --mode=sweep --dry_run --accelerator=…")
    if flags.FLAGS.dry_run:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported
        from transformer_jax.sweeps import cost

        options = {
            "accelerator": flags.FLAGS.accelerator,
            "chip_hour_price": price,
        }
        print(cost.dry_run(config, file, given, _SWEEP_TRIALS.value, **options))
        return 0
    if flags.FLAGS.accelerator:
        raise UserError("--accelerator goes with --mode=sweep --dry_run, to estimate hours")
    workdir = _WORKDIR.value or f"runs/{config.name}"
    if workdir.startswith(storage.BUCKET):  # SQLite and the logs need a file system
        raise UserError(f"--mode=sweep needs a folder of this machine, not {workdir}")
    return sweep.run(
        config,
        file,
        Path(workdir),
        workers=_SWEEP_WORKERS.value,
        num_trials=_SWEEP_TRIALS.value,
        url=_SWEEP_STORAGE.value,
        arguments=given,
        launcher=[sys.executable, launcher],
    )


def _report() -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: the devices may be in use
    try:
        from transformer_jax.parallel import processes
        from transformer_jax.report import page, runs
    except ModuleNotFoundError as e:
        needed = "matplotlib optuna scikit-learn"
        raise UserError(f"--mode=report needs {e.name}: pip install {needed}") from None
    processes.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not processes.is_writer():
        return
    folder = storage.path(_WORKDIR.value or f"runs/{flags.FLAGS.config.name}")
    named = command_line.named_experiment()
    reading = runs.read(folder, flags.FLAGS.config if named else None)
    file = named or _own_experiment(reading.experiment)
    paper = experiment_files.load_paper(file) if file else None
    page.write(reading, folder, paper, file.name if file else "")
    print(f"{folder / page.HTML}\n{folder / page.MARKDOWN}")


def _own_experiment(name: str) -> Path | None:
    """The experiment file that a sweep's folder names, if it is one of this project's.

    Another one, which a folder from elsewhere may name, is not run unless --config names it too.
    """
    written, colon, argument = name.partition(":")
    file = Path(__file__).parent / "experiments" / Path(written).name
    ours = Path(written).parent.name == "experiments" and file.is_file()
    return Path(f"{file}{colon}{argument}") if ours else None


def _let_orbax_be_silent() -> None:
    """What it fails with, Checkpoints tells in one line; it would tell pages."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def _verify_resume(launcher: str) -> int:
    from transformer_jax.training import resume_proof

    _let_orbax_be_silent()
    config = flags.FLAGS.config
    # What was typed, but what concerns the proof: each run is given it.
    given = command_line.arguments_without(["mode", "workdir", "kills", "verify_devices"])
    given_devices = ",".join(_VERIFY_DEVICES.value)
    if not all(number.isdecimal() and int(number) for number in _VERIFY_DEVICES.value):
        raise UserError(f"--verify_devices={given_devices}: give numbers of devices, as 1,2,4")
    devices = [int(number) for number in _VERIFY_DEVICES.value]
    rows = config.data.batch_rows
    if any(rows % number for number in devices):
        raise UserError(
            f"--verify_devices={given_devices}: data.batch_rows={rows} is not divisible by each"
        )
    report = resume_proof.prove(
        config,
        [sys.executable, launcher, *given],
        storage.path(_WORKDIR.value or f"runs/{config.name}_resume"),
        kills=_KILLS.value,
        devices=devices,
    )
    print(report.text)
    return 0 if report.passed else 1


def _path(flag: flags.FlagHolder) -> Path:
    if not flag.value:
        raise UserError(f"--mode={_MODE.value} needs --{flag.name}=…")
    return storage.path(flag.value)


def _local_path(flag: flags.FlagHolder) -> Path:
    path = _path(flag)
    if is_remote(path):  # what reads and writes other programs' formats knows no buckets
        raise UserError(f"--mode={_MODE.value} needs a folder of this machine, not {path}: copy it")
    return path


if __name__ == "__main__":
    command_line.run(
        main, default_experiment=Path(__file__).parent / "experiments" / "quickstart.py"
    )
