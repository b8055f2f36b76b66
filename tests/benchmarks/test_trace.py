"""The account of a trace: a recorded one of a CPU, and a GPU's form."""

import gzip
import json

import pytest

from benchmarks import hlo
from benchmarks.trace import account, cover, kernel_kind, kernels, read_events

MODULE = """HloModule jit_step, is_scheduled=true

FileNames
1 "models/attention.py"
2 "models/layers.py"

FunctionNames
1 "attend"
2 "Attention.__call__"
3 "Mlp.__call__"
4 "make_update.<locals>.train_step"
5 "LayerNorm.__call__"

FileLocations
1 {file_name_id=1 function_name_id=4 line=1 end_line=1 column=1 end_column=2}
2 {file_name_id=1 function_name_id=2 line=1 end_line=1 column=1 end_column=2}
3 {file_name_id=1 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
4 {file_name_id=2 function_name_id=3 line=1 end_line=1 column=1 end_column=2}
5 {file_name_id=2 function_name_id=5 line=1 end_line=1 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=2}
5 {file_location_id=5 parent_frame_id=2}

%fused_mul (param_0: f32[8,4]) -> f32[8,4] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  ROOT %multiply.3 = f32[8,4]{1,0} multiply(%param_0, %param_0), metadata={op_name="jit(step)/mul" stack_frame_id=4}
}

%turned (param_0: f32[8,4]) -> f32[4,8] {
  %param_0.1 = f32[8,4]{1,0} parameter(0)
  ROOT %transpose.3 = f32[4,8]{1,0} transpose(%param_0.1), dimensions={1,0}
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %dot.1 = f32[8,8]{1,0} dot(%p, %p), metadata={op_name="jit(step)/dot_general" stack_frame_id=3}
  %cublas-gemm.7 = (f32[8,8], s8[4]) custom-call(%p, %p), custom_call_target="__cublas$gemm", metadata={}
  %loop_fusion.12 = f32[8,4]{1,0} fusion(%p), kind=kLoop, calls=%fused_mul, metadata={op_name="x" stack_frame_id=4}
  %turn.2 = f32[4,8]{1,0} fusion(%p), kind=kInput, calls=%turned, metadata={op_name="x" stack_frame_id=4}
  %reduce.1 = f32[8]{0} reduce(%p), dimensions={1}, to_apply=%add, metadata={op_name="x" stack_frame_id=5}
  %all-reduce.1 = f32[8]{0} all-reduce(%reduce.1), to_apply=%add
  %while.1 = f32[8,4]{1,0} while(%p), condition=%c, body=%b
  ROOT %subtract.9 = f32[8,4]{1,0} subtract(%p, %p), metadata={op_name="jit(step)/sub" stack_frame_id=1}
}
"""

KINDS = {
    "dot_1": hlo.ATTENTION,
    "cublas_gemm_7": hlo.PRODUCTS,
    "loop_fusion_12": hlo.GELU,
    "turn_2": hlo.COPIES,
    "reduce_1": hlo.NORM,
    "all_reduce_1": hlo.COLLECTIVES,
    "subtract_9": hlo.OPTIMISER,
}


def gpu_events():
    """Two steps of 100 microseconds, 10 of them idle, as a GPU's profiler writes them."""
    named = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "pid": 1, "tid": 7, "name": "thread_name", "args": {"name": "Stream #7(Compute)"}},
        {"ph": "M", "pid": 1, "tid": 8, "name": "thread_name", "args": {"name": "XLA Ops"}},
        {"ph": "M", "pid": 2, "name": "process_name", "args": {"name": "/host:CPU"}},
    ]
    step = [
        ("gemm_a", 0, 40, {"hlo_op": "dot.1"}),
        ("loop_fusion_12", 40, 30, {}),  # a CUDA graph's kernel has its own name alone
        ("nvjet_hsh_128x256", 80, 20, {}),
    ]
    events = [
        {"ph": "X", "pid": 1, "tid": tid, "ts": 1000 + 100 * number + start, "dur": dur, "name": name, "args": args}
        for number in range(2)
        for tid in (7, 8)
        for name, start, dur, args in step
    ]
    host = {"ph": "X", "pid": 2, "tid": 1, "ts": 0, "dur": 5000, "name": "dispatch", "args": {"hlo_op": "dot.1"}}
    return [*named, *events, host, {}]


def test_instructions_have_their_kind():
    found = hlo.read_instructions(MODULE)
    assert {name: found[name].kind for name in KINDS} == KINDS
    assert found["dot_1"].functions == ("attend", "Attention.__call__", "make_update.<locals>.train_step")
    assert found["while_1"].opcode in hlo.CONTAINERS


def test_account_of_a_gpu():
    result = account(kernels(gpu_events()), hlo.read_instructions(MODULE), steps=2)
    assert result["kinds"] == pytest.approx({hlo.ATTENTION: 0.04, hlo.GELU: 0.03, hlo.PRODUCTS: 0.02})
    assert (result["span_ms"], result["idle_ms"], result["kernels"]) == pytest.approx((0.1, 0.01, 3))
    assert result["note"] == ""


def test_containers_do_not_count_twice():
    events = [
        {"ph": "X", "pid": 2, "tid": 1, "ts": 0, "dur": 100, "name": "while.1", "args": {"hlo_op": "while.1"}},
        {"ph": "X", "pid": 2, "tid": 1, "ts": 10, "dur": 50, "name": "dot.1", "args": {"hlo_op": "dot.1"}},
    ]
    result = account(kernels(events), hlo.read_instructions(MODULE), steps=1)
    assert result["kinds"] == pytest.approx({hlo.ATTENTION: 0.05})


def test_overlapping_intervals():
    assert cover([(0, 10), (5, 12), (20, 30), (22, 25)]) == (30, 22)
    assert cover([]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ncclDevKernel_AllReduce_Sum_f32", hlo.COLLECTIVES),
        ("sm90_xmma_gemm_bf16bf16_bf16f32", hlo.PRODUCTS),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", hlo.ATTENTION),
        ("MemcpyD2D", hlo.COPIES),
        ("something_else", hlo.UNKNOWN),
    ],
)
def test_kernels_by_name(name, kind):
    assert kernel_kind(name) == kind


def test_a_recorded_trace(tmp_path):
    """Record a small step here and account for it."""
    import jax
    import jax.numpy as jnp

    compiled = jax.jit(lambda x: jnp.tanh(x @ x).sum(axis=0)).lower(jnp.ones((200, 200))).compile()
    x = jax.random.normal(jax.random.key(0), (200, 200))
    jax.block_until_ready(compiled(x))
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(2):
            out = compiled(x)
        jax.block_until_ready(out)
    (path,) = tmp_path.rglob("*.trace.json.gz")
    found = kernels(read_events(path))
    assert found
    result = account(found, hlo.read_instructions(compiled.as_text()), steps=2)
    assert result["kinds"][hlo.PRODUCTS] > 0
    assert result["span_ms"] >= result["idle_ms"] >= 0
    assert json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
