"""Leases record which launcher holds which point, in a table of the study's database.

Optuna cannot do this: where the database is SQLite, which ignores SELECT … FOR UPDATE, `ask` gives
one waiting trial to two processes now and then, and no call takes over the trial of a process that
died. Here every change is one INSERT, or one UPDATE or DELETE that names what it expects to find:
of several launchers that try, one succeeds.

The lease of a dead launcher is free again: at once on the same machine, where its process is seen
to be gone; elsewhere after a minute without a heartbeat. Clocks of two machines are never compared.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, String, Table

from transformer_jax.parallel.host import alive, host_id

BEAT_EVERY = 5.0  # seconds
_DEAD_AFTER = 60.0

_TABLE = Table(
    "transformer_jax_leases",
    MetaData(),
    Column("study", String(200), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("owner", String(32), nullable=False),
    Column("beat", Integer, nullable=False),
)
_LOCK = "*"  # no point has this name


class Leases:
    """The leases of one study, as one launcher sees them."""

    def __init__(
        self,
        engine: sqlalchemy.Engine,
        study: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        host: str | None = None,
        pid: int | None = None,
    ) -> None:
        """Creates the table if it does not exist; a test may be another process than this one."""
        _TABLE.metadata.create_all(engine)
        self._engine, self._study, self._clock = engine, study, clock
        self._me = {"host": host or host_id(), "pid": pid or os.getpid(), "owner": uuid.uuid4().hex}
        # The owner and the beat of each lease, and when they were first seen so, by `clock`.
        self._seen: dict[str, tuple[str, int, float]] = {}

    def take(self, name: str) -> bool:
        """Takes the lease of `name`; returns False if a launcher has it, even this one."""
        row = self._rows().get(name)
        if row is None:
            new = _TABLE.insert().values(study=self._study, name=name, beat=0, **self._me)
            try:
                return self._change(new) == 1
            except sqlalchemy.exc.IntegrityError:  # another launcher was faster
                return False
        if self._lives(row):
            return False
        unchanged = (_TABLE.c.owner == row.owner) & (_TABLE.c.beat == row.beat)
        taken = _TABLE.update().where(self._is(name) & unchanged).values(beat=0, **self._me)
        return self._change(taken) == 1

    def beat(self, names: Iterable[str]) -> list[str]:
        """Renews the leases of `names`; returns the names that another launcher has taken."""
        mine = _TABLE.c.owner == self._me["owner"]
        beat = _TABLE.update().values(beat=_TABLE.c.beat + 1)
        return [n for n in names if not self._change(beat.where(self._is(n) & mine))]

    def release(self, name: str) -> None:
        """Gives the lease of `name` back, if this launcher has it."""
        mine = _TABLE.c.owner == self._me["owner"]
        self._change(_TABLE.delete().where(self._is(name) & mine))

    def living(self) -> set[str]:
        """The names whose leases are held by living launchers, including this one."""
        return {name for name, row in self._rows().items() if self._lives(row)}

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Within the block no other launcher adds trials to the study."""
        while not self.take(_LOCK):
            time.sleep(0.05)
        try:
            yield
        finally:
            self.release(_LOCK)

    def _is(self, name: str) -> sqlalchemy.ColumnElement[bool]:
        return (_TABLE.c.study == self._study) & (_TABLE.c.name == name)

    def _rows(self) -> dict[str, sqlalchemy.Row]:
        with self._engine.begin() as connection:
            found = connection.execute(_TABLE.select().where(_TABLE.c.study == self._study))
            return {row.name: row for row in found}

    def _change(self, statement: sqlalchemy.Executable) -> int:
        """Returns the number of rows that the statement changed."""
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def _lives(self, row: sqlalchemy.Row) -> bool:
        if row.owner == self._me["owner"]:
            return True
        if row.host == self._me["host"] and not alive(row.pid):
            return False
        owner, beat, since = self._seen.get(row.name, ("", 0, 0.0))
        if (owner, beat) != (row.owner, row.beat):
            self._seen[row.name] = row.owner, row.beat, self._clock()
            return True
        return self._clock() - since < _DEAD_AFTER
