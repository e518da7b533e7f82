"""`--mode=plan`; this file is also the program that compiles for TPUs."""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from launching import FLAGS, ROOT, TINY, launch, refusal

from transformer_jax.config.options import Config, DataConfig, ModelConfig, TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.model import size
from transformer_jax.model.transformer import Transformer
from transformer_jax.planning import accelerators, roofline
from transformer_jax.planning.accelerators import Accelerator, Chip, find
from transformer_jax.planning.collectives import Collective, collectives
from transformer_jax.planning.plan import plan, real_share
from transformer_jax.planning.program import OutOfMemory, batch_shapes, compile_program
from transformer_jax.training.step import create_state, make_train_step
from transformer_jax.workdir import manifest

B, S, T, D, N, H, HV, F, V, L = 3, 5, 7, 22, 11, 2, 13, 17, 19, 2
PRIMES = Config(
    data=DataConfig(vocab_size=V, source_row_length=S, target_row_length=T, batch_rows=B),
    model=ModelConfig(
        num_layers=L, d_model=D, d_ff=F, num_heads=N, d_key=H, d_value=HV, dropout_rate=0.1
    ),
)
UNEVEN = dataclasses.replace(
    PRIMES, model=dataclasses.replace(PRIMES.model, num_encoder_layers=5, num_decoder_layers=3)
)
DEPTHS = pytest.mark.parametrize(("config", "depths"), [(PRIMES, (L, L)), (UNEVEN, (5, 3))])
NOWHERE = pathlib.Path("nowhere")
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no compiler for TPUs: pip install jax[tpu]"
)


def changed(config, **options):
    """A copy of `config` with options of its sections replaced: model={"remat": True}."""
    sections = {k: dataclasses.replace(getattr(config, k), **v) for k, v in options.items()}
    return dataclasses.replace(config, **sections)


def test_without_the_compiler_the_error_names_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'^--accelerator=v4-8 needs .*: pip install "jax\[tpu\]"$'):
        plan(PRIMES, "v4-8", workdir=NOWHERE, chip_hour_price=None)


# ------------------------------------------------------------------------------------------ names
MEGACORE, ONE_HOST = {"chip_config_name": "megacore"}, {"chips_per_host_bounds": [2, 4, 1]}


@pytest.mark.parametrize(
    ("name", "topology", "chips", "links", "options"),
    [
        ("v5litepod-1", "v5e:1x1", 1, 0, {"chips_per_host_bounds": [1, 1, 1]}),
        ("v5litepod-8", "v5e:2x4", 8, 2, ONE_HOST),
        ("v5litepod-16", "v5e:4x4", 16, 2, {}),
        ("v5litepod-128", "v5e:8x16", 128, 3, {}),
        ("v5litepod-256", "v5e:16x16", 256, 4, {}),
        ("v6e-8", "v6e:2x4", 8, 2, ONE_HOST),
        ("v6e-32", "v6e:4x8", 32, 2, {}),
        # Their number is of cores, two to a chip; from 4 x 4 x 4 chips every axis is a ring.
        ("v4-8", "v4:2x2x1", 4, 2, MEGACORE),
        ("v4-64", "v4:2x4x4", 32, 3, MEGACORE),
        ("v4-128", "v4:4x4x4", 64, 6, MEGACORE),
        ("v5p-512", "v5p:4x8x8", 256, 6, {}),
    ],
)
def test_product_names_are_the_topologies_that_libtpu_knows(name, topology, chips, links, options):
    found = find(name)
    assert found.topology == {"topology_name": topology, "platform": "tpu", **options}
    assert (found.num_chips, found.links) == (chips, links)


# --------------------------------------------------------------------------------------- operations
@DEPTHS
def test_operations_are_those_of_each_matmul(config, depths):
    """Every matmul of the paper's section 3, written out: (rows, contracted, columns)."""
    encoders, decoders = depths

    def flops(*matmuls):
        return sum(2 * B * rows * contracted * columns for rows, contracted, columns in matmuls)

    encoder = [(S, D, N * H), (S, D, N * H), (S, D, N * HV), (S, N * HV, D), (S, D, F), (S, F, D)]
    decoder = [(T, D, N * H), (T, D, N * H), (T, D, N * HV), (T, N * HV, D), (T, D, F), (T, F, D)]
    cross = [(T, D, N * H), (S, D, N * H), (S, D, N * HV), (T, N * HV, D)]
    over_source = [(N * S, H, S), (N * S, S, HV)]
    over_both = [(N * T, H, T), (N * T, T, HV), (N * T, H, S), (N * T, S, HV)]
    assert size.forward_flops(config) == {
        "encoder": encoders * flops(*encoder),
        "decoder": decoders * flops(*decoder, *cross),
        "attention": encoders * flops(*over_source) + decoders * flops(*over_both),
        "logits": flops((T, D, V)),
    }


def matmul_flops(jaxpr):
    """Of all dot_generals in a jaxpr and in what it calls."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            total += matmul_flops(inner) if hasattr(inner, "eqns") else 0
    return total


def traced_step(config):
    model = Transformer(config.model, config.data.vocab_size)
    state = jax.eval_shape(lambda: create_state(config, model))
    step = make_train_step(config, model)
    return jax.jit(step), state, batch_shapes(config)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@DEPTHS
def test_operations_are_those_of_the_training_step(config, depths, remat, dtype):
    """Counted in the program that jax traces: to the last one."""
    needed = size.step_flops(config)[0]
    config = changed(config, model={"remat": remat, "compute_dtype": dtype})
    step, *shapes = traced_step(config)
    found = matmul_flops(step.trace(*shapes).jaxpr.jaxpr)
    assert found == size.step_flops(config)[1]
    assert size.step_flops(config)[0] == needed


# ------------------------------------------------------------------------------------------- memory
@DEPTHS
def test_memory_by_hand(config, depths):
    """Three rows on one chip, float32: 5 source and 7 target positions, of 22 numbers."""
    memory = roofline.estimate_memory(config, 1000, 1)
    assert (memory.parameters, memory.optimizer_state, memory.gradients) == (4000, 8000, 4000)
    assert memory.logits == 4 * B * T * V
    residual = 9 * D  # two float32 and a bool for each number
    encoder = 4 * S * 2 * N * (H + HV) + N * S * S * 8 + S * residual + 4 * S * F + S * residual
    decoder = 4 * 2 * T * N * (H + HV) + N * T * T * 8 + T * residual
    decoder += 4 * (S + T) * N * (H + HV) + N * T * S * 8 + T * residual
    decoder += 4 * T * F + T * residual
    assert memory.activations == B * (depths[0] * encoder + depths[1] * decoder)
    assert memory.total == 12000 + memory.activations + memory.logits
    passes = 3 * memory.activations + 6 * memory.logits
    assert roofline.memory_traffic(config, memory) == 4 * 4000 + 2 * 4000 + 2 * 8000 + passes
    accumulating = changed(config, data={"batch_rows": 2 * 3 * B}, train={"accumulate": 3})
    assert roofline.estimate_memory(accumulating, 1000, 2).total == memory.total + 4000


def test_logits_exist_for_a_chunk_of_the_positions_but_in_a_mesh_for_all():
    large = changed(PRIMES, data={"batch_rows": 1024})
    chunked = roofline.estimate_memory(large, 1000, 1)
    whole = roofline.estimate_memory(changed(large, parallel={"strategy": "mesh"}), 1000, 1)
    assert (chunked.chunks, chunked.logits) == (T, 4 * 1024 * V)
    assert (whole.chunks, whole.logits) == (1, 4 * 1024 * T * V)
    assert len({roofline.memory_traffic(large, memory) for memory in (chunked, whole)}) == 1


def test_what_saves_memory():
    deep = changed(PRIMES, model={"num_layers": 13})

    def activations(**model):
        return roofline.estimate_memory(changed(deep, model=model), 1000, 1).activations

    assert activations(remat=True) < activations() / 5
    assert activations(compute_dtype="bfloat16") < activations()
    stored = B * 13 * N * (S * S + T * T + T * S) * 8
    assert activations() - activations(attention="splash") == stored


# ----------------------------------------------------------------------------------------- exchange
PROGRAM = """
%body.7 (p: (s32[], f32[3])) -> (s32[], f32[3]) {
  %ar.1 = f32[3,5]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
}
ENTRY %main.9 (a: f32[2]) -> f32[2] {
  %w = (s32[], f32[3]) while(%t), condition=%cond.2, body=%body.7
  %2 = (f32[7], /*index=1*/bf16[2,11]{1,0:T(8)(2,1)S(1)}) all-reduce(%x), replica_groups=mesh['a'=4,'b'=2] {'a','b'}
  %ar.3 = f32[3,5]{1,0} all-reduce(%z), replica_groups=mesh['a'=4,'b'=2] {'b'}, to_apply=%add
  %ag = (f32[2,13]{1,0}, f32[8,13]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8]
  %done = f32[8,13]{1,0} all-gather-done(%ag)
  %rs = f32[17]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %cp = s32[19]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  %alone = f32[3,5]{1,0} all-reduce(%z), replica_groups=[8,1]<=[8], to_apply=%add
}
"""  # noqa: E501


def test_collectives_are_read_off_a_program():
    """A loop's are repeated, and those of single chips are none."""
    assert collectives(PROGRAM, chips=8, loops=3) == [
        Collective("all-reduce", 60, 2, False, times=3 + 1),
        Collective("all-reduce", 7 * 4 + 22 * 2, 8),
        Collective("all-gather", 8 * 13 * 4, 4, asynchronous=True),
        Collective("reduce-scatter", 4 * 17 * 4, 4),
        Collective("collective-permute", 76, 8),
    ]


def test_what_a_chip_sends():
    """A ring of k chips passes on (k - 1) pieces of 1/k; an all-reduce goes round twice."""
    assert Collective("all-reduce", 100, 5, times=3).sent == 3 * 2 * 4 * 20
    assert Collective("all-gather", 100, 5).sent == Collective("reduce-scatter", 100, 5).sent == 80
    assert Collective("collective-permute", 100, 5).sent == 100


# --------------------------------------------------------------------------------------------- time
def read(traffic):
    """Of memory that is read and written once in a step."""
    return roofline.Memory(0, 0, traffic / 2, 0, 0, 0, chunks=1)


def test_time_by_hand():
    chip = Chip("a chip", 1000.0, 500.0, 1e9, memory_speed=70.0, link_speed=11.0)
    machine = Accelerator("a machine", "tpu", chip, (2, 3), links=2)
    flops = size.step_flops(PRIMES)[0]
    exchanged = [Collective("all-reduce", 1100, 6), Collective("all-gather", 132, 6, True)]
    time = roofline.step_time(PRIMES, machine, read(1400), exchanged)
    assert time.compute == pytest.approx(flops / (6 * 500) / roofline.EFFICIENCY)
    assert time.memory == pytest.approx(20)
    blocking, beside = 1100 * 2 * 5 / 6 / (2 * 11), 132 * 5 / 6 / (2 * 11)
    assert time.exchange == pytest.approx(blocking + beside)
    assert time.exposed == pytest.approx(blocking)  # what the backward pass is long enough to hide
    assert time.step == pytest.approx(time.compute + blocking)
    assert time.step_at_best == pytest.approx(time.compute)
    mfu = roofline.utilisation(PRIMES, machine, time.compute)
    assert mfu == pytest.approx(roofline.EFFICIENCY)
    half = changed(PRIMES, model={"compute_dtype": "bfloat16"})
    assert roofline.step_time(half, machine, read(0), []).compute == pytest.approx(time.compute / 2)


def test_what_the_backward_pass_cannot_hide_is_exposed():
    chip = Chip("a chip", 1e30, 1e30, 1e9, memory_speed=100.0, link_speed=10.0)
    machine = Accelerator("a machine", "tpu", chip, (4,), links=1)
    waiting, beside = (Collective("all-reduce", 1000, 4, asynchronous=a) for a in (False, True))
    assert roofline.step_time(PRIMES, machine, read(900), [waiting]).step == pytest.approx(9 + 150)
    time = roofline.step_time(PRIMES, machine, read(900), [beside])
    assert time.step == time.step_at_best == pytest.approx(9 + 150 - 6)


# ------------------------------------------------------------------------------- compiled for TPUs
def tiny(**parallel):
    """What FLAGS make of the quickstart, with the rows of two chips that share parameters."""
    sections = {}
    for name, value in TINY.items():
        section, option = name.split(".")
        sections.setdefault(section, {})[option] = value
    sections["data"] |= {"batch_rows": 16, "source_row_length": 13, "target_row_length": 11}
    return changed(Config(), **sections, parallel=parallel)


def compiled():
    """{name: the program that libtpu compiles}, for a process with its environment."""

    def program(name, config):
        found = compile_program(config, find(name))
        return dataclasses.asdict(found) | {"total": found.total}

    huge = changed(tiny(), data={"batch_rows": 2**23}, train=dataclasses.asdict(TrainConfig()))
    try:
        error = program("v5litepod-1", huge)
    except OutOfMemory as e:
        error = str(e)
    return {
        "v5litepod-8": program("v5litepod-8", tiny()),
        "v4-16": program("v4-16", tiny(fsdp=2)),
        "huge": error,
    }


@pytest.fixture(scope="module")
def programs():
    path = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | accelerators.COMPILE_ONLY | {"PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, os.path.abspath(__file__)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PARAMETERS = 701 * 8 + 12 * 8 * 8 + 2 * (2 * 8 * 14 + 14 + 8) + 5 * 2 * 8


@needs_libtpu
def test_replicas_add_their_gradients_up(programs):
    """pmap's program for eight TPUs: all gradients, the loss and two counts, in float32."""
    program = programs["v5litepod-8"]
    assert program["devices"] == "8 TPU v5 lite devices, pmap"
    assert program["memory"]["parameters"] == 4 * PARAMETERS
    assert program["memory"]["optimiser state"] == 8 * PARAMETERS
    assert {c["kind"] for c in program["exchanged"]} == {"all-reduce"}
    assert {c["group"] for c in program["exchanged"]} == {8}
    sent = sum(c["size"] * c["times"] for c in program["exchanged"])
    assert sent == 4 * PARAMETERS + 3 * 4


@needs_libtpu
def test_a_mesh_shares_parameters_out(programs):
    program = programs["v4-16"]
    assert program["devices"] == "8 TPU v4 devices, jit over a mesh (data 4, fsdp 2, tensor 1)"
    small = 5 * 2 * 8 + 2 * 8 + 2 * 14  # norms, b2 and b1 are not cut
    assert program["memory"]["parameters"] == 4 * ((PARAMETERS - small) / 2 + small)
    kinds = {(c["kind"], c["group"]) for c in program["exchanged"]}
    assert kinds & {("all-gather", 2), ("all-reduce", 2), ("all-to-all", 2)}
    assert all(part > 0 for part in program["memory"].values())


@needs_libtpu
def test_the_compiler_reports_what_does_not_fit(programs):
    assert re.search(r"Ran out of memory .* exceeds available HBM \(15.75G\)", programs["huge"])


# ------------------------------------------------------------------------------- through launch.py
def launched(*arguments):
    done = launch("--mode=plan", *FLAGS, *arguments, real=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern, text):
    return float(re.search(pattern, text)[1].replace(",", ""))


@pytest.fixture
def tokenized(tmp_path):
    """A workdir with the tokens of four pairs: 3 + 2, 2 + 2, 1 + 2 and 9 + 1 of them."""
    folder = tmp_path / "tokens" / "0123abcd"
    folder.mkdir(parents=True)
    for side, offsets in (("source", [0, 3, 5, 6, 15]), ("target", [0, 2, 4, 6, 7])):
        np.save(folder / f"{side}.npy", np.full(offsets[-1], 5, np.int32))
        np.save(folder / f"{side}_offsets.npy", np.array(offsets))
    manifest.write(folder)
    (tmp_path / "training_data.sha256").write_text("0123abcd\n")
    return tmp_path


def test_the_share_of_padding_is_that_of_the_packed_text(tokenized):
    """In rows of 4 and 4, three of the pairs fill two rows: 12 of 16 positions."""
    config = changed(PRIMES, data={"source_row_length": 4, "target_row_length": 4})
    assert real_share(config, tokenized) == 0.75
    (tokenized / "tokens" / "0123abcd" / "source.npy").unlink()
    assert real_share(config, tokenized) is None
    assert real_share(config, tokenized / "tokens") is None


def test_a_plan_for_this_machine(tokenized):
    """One row of 48 and 64 positions, of which 22 are real."""
    report = launched("--accelerator=cpu", f"--workdir={tokenized}")
    assert "1 cpu device, jit" in report and "compiled for cpu" in report
    assert ": fits, " in report and "exchange between chips: none" in report
    padding = number(r"padding: ([\d.]+)% of positions \(in the workdir\)", report)
    assert padding == pytest.approx(100 * (1 - 22 / 112), abs=0.06)


@needs_libtpu
def test_a_plan_for_a_tpu(tmp_path):
    """One launch line, without one; nothing but the plan on standard output."""
    given = ["--accelerator=v5litepod-4", f"--workdir={tmp_path}", "--chip_hour_price=2.5"]
    report = launched(*given, "--config.train.steps=1000000000")
    assert report.startswith("quickstart on v5litepod-4: 4 TPU v5 lite devices, pmap\n")
    assert "of 16.00 GiB: fits" in report and "1 x all-reduce of" in report
    step = number(r"time per step: ([\d.e-]+) ms", report)
    hours = number(r"1,000,000,000 steps: ([\d.]+) hours", report)
    assert hours == pytest.approx(1e9 * step / 1000 / 3600, rel=0.01)
    assert number(r"([\d.]+) chip-hours", report) == pytest.approx(4 * hours, rel=0.01)
    assert number(r"cost ([\d.,]+)", report) == pytest.approx(2.5 * 4 * hours, rel=0.01)


def test_a_plan_for_a_gpu_is_from_shapes():
    """And for a batch that is too large it names the micro-batches that fit."""

    def planned(rows, micro=1, **model):
        data = {"vocab_size": 7001, "batch_rows": rows}
        config = changed(tiny(), data=data, train={"accumulate": micro}, model=model)
        return plan(config, "h100:8", workdir=NOWHERE, chip_hour_price=None)

    report = planned(16)
    assert "estimated from shapes, not compiled" in report and "cost" not in report
    assert "padding: 5.0% of positions (assumed)" in report
    asked = 8 * 7**8
    refused = planned(asked)
    assert f"does not fit with data.batch_rows={asked}: it needs" in refused
    micro = int(number(r"give train.accumulate=(\d+), which fits", refused))
    assert f"data.batch_rows={asked // micro}" in refused
    assert [": fits, " in planned(asked, n) for n in (micro // 7, micro)] == [False, True]
    assert ": fits, " in planned(asked // micro)
    assert "shard the parameters" in planned(16, d_ff=2**33)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("v5e-16", {}, r"v5litepod-\{1,4,8,.*h100:8, cpu \(did you mean v6e-16"),
        ("h100:8", {"data": {"batch_rows": 4}}, "data.batch_rows=4 is not divisible by 8 devices"),
        ("h100", {"parallel": {"fsdp": 2}}, "is planned from shapes"),
        (
            "h100",
            {
                "model": {"attention": "splash"},
                "data": {"source_row_length": 128, "target_row_length": 128},
            },
            "model.attention='splash' needs a TPU, and h100 is a GPU",
        ),
        ("v4-8", {"parallel": {"strategy": "single"}}, "all but one of the 4 chips of v4-8 idle"),
    ],
)
def test_what_cannot_be_planned(name, options, message):
    with pytest.raises(UserError, match=message):
        plan(changed(tiny(), **options), name, workdir=NOWHERE, chip_hour_price=None)


def test_a_plan_needs_an_accelerator():
    assert "--mode=plan needs --accelerator=…" in refusal("--mode=plan")


if __name__ == "__main__":
    print(json.dumps(compiled()))
