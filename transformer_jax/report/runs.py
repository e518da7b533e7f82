"""What a report is made of: the runs of a folder, as they wrote it down themselves."""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax.config.files import CONFIG_FILE, load_config
from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError
from transformer_jax.sweeps.summary import SUMMARY
from transformer_jax.workdir import card as workdir_card
from transformer_jax.workdir.metrics import METRICS_FILE, SAMPLES_FILE, is_number, read_metrics

_SEED = "seed"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, or a point of a sweep; what it has not written is None or empty.

    Attributes:
      name: the point's; of a single run its configuration's.
      workdir: of the run.
      state: the card's, or what the sweep knows: waiting, running, interrupted, finished, ….
      reason: why it failed.
      overrides: a point's, by dotted name.
      options: of the configuration, by dotted name.
      card: see `card`.
      rows: of metrics.jsonl.
      samples: of samples.jsonl.
      seconds: of wall time.
      value: a point's last validation loss, as the sweep knows it.
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
    seconds: float | None
    value: float | None = None

    @property
    def seed(self) -> Any:
        """Of the configuration; None = not known."""
        return self.options.get(_SEED, self.overrides.get(_SEED))

    def series(self, group: str, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric; nan where it was not finite."""
        found = [(row["step"], row[group][name]) for row in self.rows if name in row.get(group, {})]
        return [s for s, _ in found], [math.nan if v is None else float(v) for _, v in found]

    def last(self, metric: str) -> float | None:
        """The last validation's "loss" or "bleu"; None if there is none that is finite."""
        _, values = self.series("valid", metric)
        if not self.rows and metric == "loss":  # its workdir is on another machine's disk
            return self.value
        return values[-1] if values and math.isfinite(values[-1]) else None


@dataclasses.dataclass(frozen=True)
class Group:
    """The points of a sweep that differ in nothing but the seed."""

    name: str
    runs: Sequence[Run]

    @property
    def overrides(self) -> dict[str, Any]:
        """What all of them change."""
        return {name: v for name, v in self.runs[0].overrides.items() if name != _SEED}

    @property
    def card(self) -> dict[str, Any]:
        """That of the first run that has one; else empty."""
        return next((run.card for run in self.runs if run.card), {})

    def values(self, metric: str) -> list[float]:
        """The last validation's `metric` of each seed that is finished."""
        found = [run.last(metric) for run in self.finished]
        return [value for value in found if value is not None]

    @property
    def finished(self) -> list[Run]:
        """The runs that got through, one of each seed: the same seed again says nothing new."""
        found: dict[Any, Run] = {}
        for run in self.runs:
            if run.state == "finished":
                found.setdefault(run.name if run.seed is None else run.seed, run)
        return list(found.values())


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a folder holds.

    Attributes:
      title: its name, or the run's.
      runs: one, or the points of a sweep.
      is_sweep: which of both.
      experiment: the file that the sweep was started with, "file.py:arg"; "" = not known.
      note: what a reader has to know of how it was put together.
    """

    title: str
    runs: Sequence[Run]
    is_sweep: bool
    experiment: str
    note: str = ""


def read(folder: Path, base: Config | None = None) -> Reading:
    """Reads a workdir, the folder of a sweep, or a folder of workdirs.

    Those are what --sweep_index makes, on machines that share nothing but a disk. A point's
    overrides are then the options in which it differs from `base`, or, if that is None, from most.

    Raises:
      UserError: if it is neither, or something in it is damaged.
    """
    if (folder / SUMMARY).exists():
        return _read_sweep(folder)
    if not any((folder / name).exists() for name in (CONFIG_FILE, METRICS_FILE)):
        within = sorted(folder.glob(f"*/{CONFIG_FILE}")) if folder.is_dir() else []
        if within:
            return _read_workdirs(folder, [path.parent for path in within], base)
        raise UserError(
            f"{folder} is no workdir and no sweep (it has neither {CONFIG_FILE} nor {SUMMARY}), "
            "and holds no workdirs: train there first"
        )
    run = _read_run(folder, folder.absolute().name, {})
    return Reading(run.options.get("name") or run.name, [run], False, "")


def _read_sweep(folder: Path) -> Reading:
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_bytes().decode())
        points, experiment = summary["points"], str(summary.get("config", ""))
        good = all(_is_point(point) for point in points)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from None
    if not good:
        raise UserError(f"{path} is damaged: run the sweep again, which rewrites it")
    runs = [_read_point(folder, point) for point in points]
    return Reading(folder.absolute().name, runs, True, experiment)


def _read_workdirs(folder: Path, workdirs: Sequence[Path], base: Config | None) -> Reading:
    runs = [_read_point(folder, {"name": workdir.name}) for workdir in workdirs]
    usual = flatten(base) if base else _usual([run.options for run in runs if run.options])
    names = [run.options.get("name", run.name) for run in runs]
    points = []
    for run, name in zip(runs, names, strict=True):
        changed = {
            option: value
            for option, value in run.options.items()
            if option != "name" and repr(value) != repr(usual.get(option))
        }
        # A task of an array is called 3, and its run after what it is.
        name = name if names.count(name) == 1 else run.name
        points.append(dataclasses.replace(run, name=name, overrides=changed))
    of_what = "the experiment" if base else "most runs"
    note = f"A folder of workdirs: what a point changes is what differs from {of_what}."
    sweeps = sorted(path.parent.name for path in folder.glob(f"*/{SUMMARY}"))
    left_out = f" Left out, being sweeps: {', '.join(sweeps)}." if sweeps else ""
    return Reading(folder.absolute().name, points, True, "", note + left_out)


def _usual(listed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The commonest value of each option, the default among equally common ones.

    Runs that differ in the seed alone count once.
    """
    once = {repr({**options, _SEED: 0, "name": ""}): options for options in listed}.values()
    found = flatten(Config())
    for option in found:
        values = [options[option] for options in once if option in options]
        counts = collections.Counter(map(repr, values))
        counts[repr(found[option])] += 0.5
        most = max(counts, key=counts.__getitem__) if values else None
        found[option] = next((v for v in values if repr(v) == most), found[option])
    return found


def _read_point(folder: Path, point: dict[str, Any]) -> Run:
    """A point's run; of one that is damaged, what the sweep knows: the others have a page."""
    try:
        return _read_run(folder / point["name"], point["name"], point)
    except UserError as e:
        damaged = {"state": "damaged", "reason": str(e)}
        return _read_run(folder / point["name"] / "nothing", point["name"], point | damaged)


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, dict)
        and isinstance(point["name"], str)
        and re.fullmatch(r"\w[\w.+-]*", point["name"]) is not None  # it stays in the folder
        and isinstance(point["overrides"], dict)
        and all(isinstance(v, bool | str) or is_number(v) for v in point["overrides"].values())
        and isinstance(point["state"], str)
        and isinstance(point.get("reason", ""), str)
        and type(point.get("seconds", 0)) in (int, float)
        and (point.get("value") is None or is_number(point["value"]))
    )


def _read_run(workdir: Path, name: str, point: dict[str, Any]) -> Run:
    saved = workdir / CONFIG_FILE
    options = flatten(load_config(saved)) if saved.exists() else {}
    found = workdir_card.read(workdir) or {}
    seconds = found.get("wall_seconds", point.get("seconds"))
    return Run(
        name=name,
        workdir=workdir,
        state=point.get("state") or str(found.get("state", "not known")),
        reason=point.get("reason", ""),
        overrides=point.get("overrides", {}),
        options=options,
        card=found,
        rows=read_metrics(workdir / METRICS_FILE),
        samples=_samples(workdir / SAMPLES_FILE),
        seconds=seconds if isinstance(seconds, int | float) else None,
        value=point.get("value"),
    )


def _samples(path: Path) -> list[dict[str, Any]]:
    rows = read_metrics(path)
    names = ("source", "reference", "translation")
    if not all(isinstance(row.get(name), str) for row in rows for name in names):
        raise UserError(f"{path} is damaged: remove it, and the run continues without it")
    return rows


def groups(runs: Sequence[Run]) -> list[Group]:
    """The runs, those together that differ in nothing but the seed, in their first one's order."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        rest = {name: value for name, value in run.overrides.items() if name != _SEED}
        together.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    return [Group(_name(members), members) for members in together.values()]


def _name(runs: Sequence[Run]) -> str:
    """What the runs' names have in common: table3_base of table3_base_seed_0 and …_seed_1."""
    if len(runs) == 1:
        return runs[0].name
    common = {re.sub(rf"(^|_)seed_{r.seed}(?=_|$)", "", r.name) for r in runs}
    return common.pop().strip("_") or "base" if len(common) == 1 else runs[0].name


def baseline(groups: Sequence[Group]) -> Group:
    """The group that changes nothing; else the first."""
    return next((group for group in groups if not group.overrides), groups[0])


def best(groups: Sequence[Group]) -> Group | None:
    """The group whose mean validation loss is least; None if none is finished."""
    losses = [(sum(v) / len(v), n) for n, g in enumerate(groups) if (v := g.values("loss"))]
    return groups[min(losses)[1]] if losses else None
