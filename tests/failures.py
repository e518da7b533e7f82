"""How tests make a run fail: a signal at a place in it, a loss that is not a number."""

import os

import fork_server
import jax.numpy as jnp
from launching import ROOT

from transformer_jax.data.batches import PackedDataset
from transformer_jax.training import replay
from transformer_jax.training import step as training_step

# The launcher, which sends itself signals when it comes to a function for the nth time.
_DRIVER = """
import importlib, os, signal, sys
sys.path.insert(0, {root!r})
import launch
from transformer_jax.modes import command_line
home = importlib.import_module("transformer_jax.{module}")
for user in {users}:
    importlib.import_module("transformer_jax." + user)
owner, _, name = "{function}".rpartition(".")
owner = getattr(home, owner) if owner else home
original, calls = getattr(owner, name), 0

def signalled(*arguments, **options):
    global calls
    calls += 1
    if calls == {call}:
        for number in {signals}:
            os.kill(os.getpid(), number)
        {then}
    return original(*arguments, **options)

for place in [owner, *(m for n, m in sys.modules.items() if n.startswith("transformer_jax"))]:
    if getattr(place, name, None) is original:
        setattr(place, name, signalled)
command_line.main()
"""
# What imports functions by their names: they are replaced there, too.
_USERS = ["training.run", "inference.evaluate", "modes.evaluate", "modes.train"]


def launch_signalled(*arguments, at, signals, then="pass"):
    """A launch that gets `signals` at a place, and then does `then`.

    `at` is a module of the package, a function in it, and which call of it, from 1.
    """
    module, function, call = at
    code = _DRIVER.format(
        root=str(ROOT),
        module=module,
        users=_USERS,
        function=function,
        call=call,
        signals=[int(s) for s in signals],
        then=then,
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return fork_server.run(code, *arguments, environment=environment, cwd=ROOT)


_MARK = 77  # takes the place of the row's number; batches of the tests have fewer rows


def poison(monkeypatch, *, step, row):
    """From here on the loss of one row of one step, from 1, is not a number."""
    batch, make_loss = PackedDataset.batch, training_step.make_loss

    def marked(data, number, rows=None):
        found = batch(data, number, rows)
        if number == step - 1:
            found["row"][row] = _MARK
        return found

    def poisoned(model, **options):
        loss = make_loss(model, **options)

        def with_nan(params, batch, *rest):
            loss_sum, counts = loss(params, batch, *rest)
            return jnp.where((batch["row"] == _MARK).any(), jnp.nan, loss_sum), counts

        return with_nan

    monkeypatch.setattr(PackedDataset, "batch", marked)
    for module in (training_step, replay):
        monkeypatch.setattr(module, "make_loss", poisoned)
