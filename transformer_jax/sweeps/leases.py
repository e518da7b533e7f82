"""Which launcher has which point: a table of its own in the database of the study.

Optuna's `ask` gives one waiting trial to two processes now and then where the database is SQLite,
which ignores SELECT … FOR UPDATE, and it has no call for taking over a trial whose process died.
Every change here is one INSERT, or one UPDATE or DELETE that names what it expects to find: of
several that try, a database lets one succeed.

A lease whose launcher died is free again: at once on the same machine, which sees that the process
is gone; elsewhere after a minute in which it gave no sign of life. No clocks are compared.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator

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
_LOCK = "*"  # no point's name


class Leases:
    """Those of one study, for this process."""

    def __init__(self, engine: sqlalchemy.Engine, study: str) -> None:
        """Makes the table if need be."""
        _TABLE.metadata.create_all(engine)
        self._engine, self._study = engine, study
        self._me = {"host": host_id(), "pid": os.getpid(), "owner": uuid.uuid4().hex}
        # When each lease's owner and beat were first seen as they are, by this process's clock.
        self._seen: dict[str, tuple[str, int, float]] = {}

    def take(self, name: str) -> bool:
        """Whether the lease of `name` is now this process's, and was not before."""
        row = self._rows().get(name)
        if row is None:
            new = _TABLE.insert().values(study=self._study, name=name, beat=0, **self._me)
            try:
                return self._change(new) == 1
            except sqlalchemy.exc.IntegrityError:  # another one was faster
                return False
        if self._lives(row):
            return False
        unchanged = (_TABLE.c.owner == row.owner) & (_TABLE.c.beat == row.beat)
        taken = _TABLE.update().where(self._is(name) & unchanged).values(beat=0, **self._me)
        return self._change(taken) == 1

    def beat(self, names: Iterable[str]) -> list[str]:
        """A sign of life for this process's leases; returns those that another one has taken."""
        mine = _TABLE.c.owner == self._me["owner"]
        beat = _TABLE.update().values(beat=_TABLE.c.beat + 1)
        return [n for n in names if not self._change(beat.where(self._is(n) & mine))]

    def release(self, name: str) -> None:
        """Frees a lease of this process."""
        mine = _TABLE.c.owner == self._me["owner"]
        self._change(_TABLE.delete().where(self._is(name) & mine))

    def living(self) -> set[str]:
        """The names whose owners live, this process's among them."""
        return {name for name, row in self._rows().items() if self._lives(row)}

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Within the block this process alone adds trials to the study."""
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
        """The number of rows that it changed."""
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def _lives(self, row: sqlalchemy.Row) -> bool:
        if row.owner == self._me["owner"]:
            return True
        if row.host == self._me["host"] and not alive(row.pid):
            return False
        owner, beat, since = self._seen.get(row.name, ("", 0, 0.0))
        if (owner, beat) != (row.owner, row.beat):
            self._seen[row.name] = row.owner, row.beat, time.monotonic()
            return True
        return time.monotonic() - since < _DEAD_AFTER
