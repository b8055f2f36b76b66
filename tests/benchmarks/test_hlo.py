"""Counts of compiled programs: of one written by hand, and of one from the compiler."""

import jax
import jax.numpy as jnp

from benchmarks.hlo import account, bytes_of

MODULE = """HloModule jit_step, is_scheduled=true

%fused_mul (param_0: f32[8,4]) -> f32[8,4] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  ROOT %multiply.3 = f32[8,4]{1,0} multiply(%param_0, %param_0), metadata={op_name="jit(step)/mul" stack_frame_id=4}
}

%turned (param_0: f32[8,4]) -> f32[4,8] {
  %param_0.1 = f32[8,4]{1,0} parameter(0)
  ROOT %transpose.3 = f32[4,8]{1,0} transpose(%param_0.1), dimensions={1,0}
}

%body (carried: (f32[8,4])) -> (f32[8,4]) {
  %carried = (f32[8,4]{1,0}) parameter(0)
  %get-tuple-element.1 = f32[8,4]{1,0} get-tuple-element(%carried), index=0
  %loop_fusion = f32[8,4]{1,0} fusion(%get-tuple-element.1), kind=kLoop, calls=%fused_mul
  ROOT %tuple.1 = (f32[8,4]{1,0}) tuple(%loop_fusion)
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %cublas-gemm.7 = (f32[8,8]{1,0}, s8[64]{0}) custom-call(%p, %p), custom_call_target="__cublas$gemm"
  %turn.2 = f32[4,8]{1,0} fusion(%p), kind=kInput, calls=%turned
  %copy.1 = f32[8,4]{0,1} copy(%p)
  %tuple.2 = (f32[8,4]{1,0}) tuple(%copy.1)
  %while.1 = (f32[8,4]{1,0}) while(%tuple.2), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %subtract.9 = bf16[8,4]{1,0} subtract(%p, %copy.1)
}
"""


def test_bytes_of_arrays_and_tuples():
    assert bytes_of("bf16[3,5]{1,0:T(8,128)}") == 30
    assert bytes_of("(f32[2]{0}, pred[7], s4[6], f8e4m3fn[9], u32[])") == 8 + 7 + 3 + 9 + 4


def test_account_counts_loops_once_for_each_trip():
    array = 8 * 4 * 4
    product, rearranged, loop, difference = 2 * array + 256 + 64, 4 * array, 5 * 2 * array, 2 * array + 64
    assert account(MODULE) == {
        "kernels": 1 + 2 + 5 + 1,
        "bytes": product + rearranged + loop + difference,
    }


def test_account_of_a_compiled_loop():
    def step(x):
        return jax.lax.scan(lambda a, _: (jnp.tanh(a @ a), None), x, None, length=7)[0]

    found = account(jax.jit(step).lower(jnp.ones((64, 64))).compile().as_text())
    assert found["kernels"] >= 2 * 7
    assert 7 * 4 * 64 * 64 * 4 < found["bytes"] < 7 * 40 * 64 * 64 * 4
