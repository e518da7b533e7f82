"""Reads the runs of a folder, and groups those that differ only in the seed."""

import collections
import dataclasses
import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax.config.files import CONFIG_FILE, load_config
from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError
from transformer_jax.sweeps.summary import SUMMARY
from transformer_jax.workdir import average
from transformer_jax.workdir import card as workdir_card
from transformer_jax.workdir.metrics import METRICS_FILE, SAMPLES_FILE, read_metrics

_SEED = "seed"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, or a point of a sweep; what it has not written is None or empty.

    Attributes:
      name: the name of the point, or of a single run's configuration.
      workdir: its workdir.
      state: as in sweep.json, or else the card: waiting, running, interrupted, finished, ….
      reason: why it failed.
      overrides: the options that a point changes, by dotted name.
      options: the options of the configuration, by dotted name.
      card: the content of card.json.
      rows: the rows of metrics.jsonl.
      samples: the rows of samples.jsonl.
      validation: of the weights that it is used with; see `average.validation`.
      seconds: its wall time.
      value: the validation loss in sweep.json.
    """

    name: str
    workdir: Path
    state: str
    reason: str
    overrides: dict[str, Any]
    options: dict[str, Any]
    card: dict[str, Any]
    rows: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    validation: dict[str, Any]
    seconds: float | None
    value: float | None

    @property
    def seed(self) -> Any:
        """The seed of the configuration; None if it is not known."""
        return self.options.get(_SEED, self.overrides.get(_SEED))

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The scores.json of every --mode=evaluate."""
        return self.card.get("results", {}).get("evaluations", [])

    def series(self, group: str, name: str) -> tuple[list[int], list[float]]:
        """The steps and values of one metric; nan where it was not finite."""
        found = [(row["step"], row[group][name]) for row in self.rows if name in row.get(group, {})]
        return [s for s, _ in found], [math.nan if v is None else float(v) for _, v in found]

    def score(self, metric: str) -> float | None:
        """The "loss" or "bleu" of `validation`; None if missing or not finite."""
        if not self.rows and metric == "loss":  # its workdir is on another machine's disk
            return self.value
        value = self.validation.get(metric)
        return None if value is None or not math.isfinite(value) else value


@dataclasses.dataclass(frozen=True)
class Group:
    """The points of a sweep that differ in nothing but the seed."""

    name: str
    runs: Sequence[Run]

    @property
    def overrides(self) -> dict[str, Any]:
        """The options that all of them change."""
        return _without_seed(self.runs[0].overrides)

    @property
    def card(self) -> dict[str, Any]:
        """The card of the first run that has one; else empty."""
        return next((run.card for run in self.runs if run.card), {})

    @property
    def finished(self) -> list[Run]:
        """The finished runs, one for each seed: repeating a seed adds no evidence."""
        found: dict[Any, Run] = {}
        for run in self.runs:
            if run.state == "finished":
                found.setdefault(run.name if run.seed is None else run.seed, run)
        return list(found.values())

    def values(self, metric: str) -> list[float]:
        """The "loss" or "bleu" by validation, of each finished seed."""
        found = [run.score(metric) for run in self.finished]
        return [value for value in found if value is not None]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a folder holds.

    Attributes:
      title: its name, or the run's.
      runs: one run, or the points of a sweep.
      is_sweep: whether they are a sweep's.
      experiment: the experiment file of the sweep, "file.py:argument"; "" if it is not known.
      note: how the points were found, for the reader of the report.
    """

    title: str
    runs: Sequence[Run]
    is_sweep: bool
    experiment: str = ""
    note: str = ""


def read(folder: Path, base: Config | None = None) -> Contents:
    """Reads a workdir, the folder of a sweep, or a folder of workdirs.

    --sweep_index makes the last on machines that share only a disk. A point then changes those
    options that differ from `base`, or, if it is None, from most runs.

    Raises:
      UserError: if the folder is none of these, or a file in it is damaged.
    """
    if (folder / SUMMARY).exists():
        return _read_sweep(folder)
    if any((folder / name).exists() for name in (CONFIG_FILE, METRICS_FILE)):
        run = _read_run(folder, {"name": folder.absolute().name})
        return Contents(run.options.get("name") or run.name, [run], False)
    if workdirs := sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}")):
        return _read_workdirs(folder, workdirs, base)
    raise UserError(
        f"{folder} is not a workdir, a sweep or a folder of workdirs (it has no {CONFIG_FILE}, no "
        f"{SUMMARY}, and no */{CONFIG_FILE}): train there first"
    )


def _read_sweep(folder: Path) -> Contents:
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is damaged: run the sweep again, which rewrites it") from None
    runs = [_read_run(folder / point["name"], point) for point in summary["points"]]
    return Contents(folder.absolute().name, runs, True, summary.get("config", ""))


def _read_workdirs(folder: Path, workdirs: Sequence[Path], base: Config | None) -> Contents:
    runs = [_read_run(workdir, {"name": workdir.name}) for workdir in workdirs]
    usual = flatten(base) if base else _usual([run.options for run in runs])
    names = [run.options["name"] for run in runs]
    points = []
    for run, name in zip(runs, names, strict=True):
        changed = {o: v for o, v in run.options.items() if o != "name" and v != usual[o]}
        # The folder of an array's task is called 3; its configuration has the better name.
        name = name if names.count(name) == 1 else run.name
        points.append(dataclasses.replace(run, name=name, overrides=changed))
    of_what = "the experiment" if base else "most runs"
    note = f"A folder of workdirs: a point changes the options that differ from {of_what}."
    sweeps = sorted(path.parent.name for path in folder.glob(f"*/{SUMMARY}"))
    left_out = f" Sweeps in this folder are left out: {', '.join(sweeps)}." if sweeps else ""
    return Contents(folder.absolute().name, points, True, note=note + left_out)


def _usual(listed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The commonest value of each option, the default among equally common ones.

    Runs that differ only in the seed count once.
    """
    once = {repr({**options, _SEED: 0, "name": ""}): options for options in listed}.values()
    usual = flatten(Config())
    for option, default in usual.items():
        values = [options[option] for options in once]
        usual[option] = max([default, *values], key=values.count)
    return usual


def _read_run(workdir: Path, point: dict[str, Any]) -> Run:
    """The run of a point, {"name": …, "overrides": …, …} as in sweep.json."""
    saved = workdir / CONFIG_FILE
    card = workdir_card.read(workdir) or {}
    rows = read_metrics(workdir / METRICS_FILE)
    return Run(
        name=point["name"],
        workdir=workdir,
        state=point.get("state") or card.get("state", "not known"),
        reason=point.get("reason", ""),
        overrides=point.get("overrides", {}),
        options=flatten(load_config(saved)) if saved.exists() else {},
        card=card,
        rows=rows,
        samples=read_metrics(workdir / SAMPLES_FILE),
        validation=average.validation(workdir, rows),
        seconds=card.get("wall_seconds", point.get("seconds")),
        value=point.get("value"),
    )


def groups(runs: Sequence[Run]) -> list[Group]:
    """Groups the runs that differ in nothing but the seed, in the order of their first ones."""
    together = collections.defaultdict(list)
    for run in runs:
        together[json.dumps(_without_seed(run.overrides), sort_keys=True)].append(run)
    return [Group(_name(members), members) for members in together.values()]


def _without_seed(overrides: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in overrides.items() if name != _SEED}


def _name(runs: Sequence[Run]) -> str:
    """What the names share: table3_base for table3_base_seed_0 and table3_base_seed_1."""
    if len(runs) == 1:
        return runs[0].name
    common = {re.sub(rf"(^|_)seed_{r.seed}(?=_|$)", "", r.name) for r in runs}
    return common.pop().strip("_") or "base" if len(common) == 1 else runs[0].name


def baseline(groups: Sequence[Group]) -> Group:
    """The group that changes nothing; else the first."""
    return next((group for group in groups if not group.overrides), groups[0])


def differ(runs: Sequence[Run], name: str) -> bool:
    """Whether their cards name different texts or tokenizers, "validation_text" or "tokenizer"."""
    found = (run.card.get("data", {}).get(name) for run in runs)
    return len({json.dumps(value, sort_keys=True) for value in found if value}) > 1


CRITERIA = {"loss": "validation loss", "bleu": "validation BLEU"}  # what may rank runs


def criterion(runs: Sequence[Run]) -> str:
    """What ranks them: "loss"; "bleu" where vocabularies, and so the losses, do not compare."""
    return "bleu" if differ(runs, "tokenizer") else "loss"


def all_runs(groups: Sequence[Group]) -> list[Run]:
    """The runs of all groups."""
    return [run for group in groups for run in group.runs]


def ranking(groups: Sequence[Group]) -> list[Group]:
    """The groups by the mean of their criterion, the best first; those without it are last."""
    metric = criterion(all_runs(groups))
    sign = -1 if metric == "bleu" else 1
    worst = sign * math.inf
    return sorted(groups, key=lambda g: sign * statistics.fmean(g.values(metric) or [worst]))
