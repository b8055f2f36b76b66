"""The reader of compiled programs, on a text with one kernel of each kind, on damaged ones, and on one from here."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.gpu_program.reader import Product, read_program
from benchmarks.hlo import bytes_of, condensed, read_module
from sarwmix_jax.errors import UserError

MODULE = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

FileNames
1 "/folder/layers.py"

FunctionNames
1 "Block.__call__"
2 "Mlp.__call__"
3 "LayerNorm.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=2 end_line=2 column=4 end_column=9}
2 {file_name_id=1 function_name_id=2 line=3 end_line=3 column=4 end_column=9}
3 {file_name_id=1 function_name_id=3 line=4 end_line=4 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}

%fused_mul (param_0: f32[8,4]) -> f32[8,4] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  ROOT %multiply.3 = f32[8,4]{1,0} multiply(%param_0, %param_0), metadata={op_name="jit(step)/mul" stack_frame_id=2}
}

%turned (param_0.1: f32[8,4]) -> f32[4,8] {
  %param_0.1 = f32[8,4]{1,0} parameter(0)
  ROOT %transpose.3 = f32[4,8]{1,0} transpose(%param_0.1), dimensions={1,0}
}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

%reduced (param_0.2: f32[8,4], param_1.2: f32[1024,4]) -> (f32[4], bf16[8,4]) {
  %param_0.2 = f32[8,4]{1,0} parameter(0)
  %param_1.2 = f32[1024,4]{1,0} parameter(1)
  %few = f32[2,4]{1,0} slice(%param_1.2), slice={[0:2], [0:4]}
  %zero = f32[] constant(0)
  %column = f32[4]{0} reduce(%param_0.2, %zero), dimensions={0}, to_apply=%sum, metadata={op_name="a" stack_frame_id=1}
  %small = bf16[8,4]{1,0} convert(%param_0.2), metadata={op_name="jit(step)/transpose(jvp())/mul" stack_frame_id=3}
  ROOT %both = (f32[4]{0}, bf16[8,4]{1,0}) tuple(%column, %small)
}

%replaced (param_0.3: f32[100,4], param_1.3: f32[1,4], param_2.3: s32[]) -> f32[100,4] {
  %param_0.3 = f32[100,4]{1,0} parameter(0)
  %param_1.3 = f32[1,4]{1,0} parameter(1)
  %param_2.3 = s32[] parameter(2)
  ROOT %update = f32[100,4]{1,0} dynamic-update-slice(%param_0.3, %param_1.3, %param_2.3, %param_2.3)
}

%body (carried: (f32[8,4])) -> (f32[8,4]) {
  %carried = (f32[8,4]{1,0}) parameter(0)
  %get-tuple-element.1 = f32[8,4]{1,0} get-tuple-element(%carried), index=0
  %loop_fusion = f32[8,4]{1,0} fusion(%get-tuple-element.1), kind=kLoop, calls=%fused_mul
  ROOT %tuple.1 = (f32[8,4]{1,0}) tuple(%loop_fusion)
}

ENTRY %main (p: f32[8,4], q: f32[1024,4], r: f32[100,4], s: f32[1,4], t: s32[]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %q = f32[1024,4]{1,0} parameter(1)
  %r = f32[100,4]{1,0} parameter(2)
  %s = f32[1,4]{1,0} parameter(3)
  %t = s32[] parameter(4)
  %gemm.7 = (f32[8,8]{1,0}, s8[4096]{0}) custom-call(%p, %p), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]},\
"precision_config":{"operand_precision":["DEFAULT","DEFAULT"]},"epilogue":"BIAS"}}
  %all-reduce-start.1 = f32[8,4]{1,0} all-reduce-start(%p), replica_groups={{0,1,2,3}}, to_apply=%sum
  %turn.2 = f32[4,8]{1,0} fusion(%p), kind=kInput, calls=%turned
  %own = bf16[8,4]{1,0} custom-call(%p), custom_call_target="__gpu$xla.gpu.triton", \
metadata={op_name="jit(step)/transpose(jvp(own_kernel))/pallas_call" stack_frame_id=3}, backend_config={ir = "ML\\EF(}"}
  %all-reduce-done.1 = f32[8,4]{1,0} all-reduce-done(%all-reduce-start.1)
  %many = (f32[4]{0}, /*index=1*/bf16[8,4]{1,0}) fusion(%p, %q), kind=kInput, calls=%reduced
  %put = f32[100,4]{1,0} fusion(%r, %s, %t), kind=kLoop, calls=%replaced
  %copy.1 = f32[8,4]{0,1} copy(%p)
  %tuple.2 = (f32[8,4]{1,0}) tuple(%copy.1)
  %while.1 = (f32[8,4]{1,0}) while(%tuple.2), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %subtract.9 = bf16[8,4]{1,0} subtract(%p, %copy.1)
}
"""

ARRAY = 8 * 4 * 4


def test_bytes_of_arrays_and_tuples():
    assert bytes_of("bf16[3,5]{1,0:T(8,128)}") == 30
    assert bytes_of("(f32[2]{0}, pred[7], s4[6], f8e4m3fn[9], u32[], token[])") == 8 + 7 + 3 + 9 + 4


def test_one_kernel_of_each_kind():
    program = read_program(MODULE)
    assert [(each.name, each.kind, each.bytes, each.turns) for each in program.kernels] == [
        ("gemm.7", "product", 2 * ARRAY + 8 * 8 * 4, 1),  # without scratch memory
        ("all-reduce f32", "collective", ARRAY, 1),
        ("turn.2", "move", 2 * ARRAY, 1),
        ("own_kernel", "own kernel", ARRAY + ARRAY // 2, 1),
        ("many", "reduction", ARRAY + 2 * 16 + 16 + ARRAY // 2, 1),  # of the second operand only the slice
        ("put", "elementwise", 16 + 4 + 16, 1),  # in place
        ("copy.1", "move", 2 * ARRAY, 1),
        ("loop_fusion", "elementwise", 2 * ARRAY, 5),
        ("subtract.9", "elementwise", 2 * ARRAY + ARRAY // 2, 1),
    ]
    assert program.count == 8 + 5
    assert program.bytes == sum(each.bytes * each.turns for each in program.kernels)
    assert [each.name for each in program.kernels if each.transposes] == ["turn.2", "copy.1"]
    assert program.open_loops == 0


def test_products_and_their_operations():
    product, *others = read_program(MODULE).kernels
    assert product.product == Product("f32 x f32", "f32", "tf32", "BIAS")
    assert product.operations == 2 * 8 * 8 * 4
    assert read_program(MODULE.replace("DEFAULT", "HIGHEST")).kernels[0].product.arithmetic == "float32"
    assert not any(each.operations or each.product for each in others)


def test_collectives_have_a_place_in_the_schedule():
    program = read_program(MODULE)
    (reduced,) = program.of_kind("collective")
    assert (program.kernels.index(reduced), reduced.done, reduced.devices) == (1, 4, 4)
    same = MODULE.replace("{{0,1,2,3}}", "[2,8]<=[16]").replace("all-reduce-start(%p)", "all-reduce-start(%p, %q)")
    (reduced,) = read_program(same).of_kind("collective")
    assert (reduced.devices, reduced.bytes) == (8, ARRAY + 1024 * 16)


def test_the_part_of_the_computation_is_that_of_the_largest_result():
    parts = {each.name: (each.family, each.direction) for each in read_program(MODULE).kernels}
    assert parts["loop_fusion"] == ("GELU", "")
    assert parts["many"] == ("LayerNorm", "backward")
    assert parts["own_kernel"] == ("LayerNorm", "backward")
    assert parts["gemm.7"] == ("products", "")
    assert parts["copy.1"] == ("copies", "")
    assert parts["subtract.9"] == ("other", "")


def test_a_loop_of_unknown_length_is_counted_once_and_noted():
    program = read_program(MODULE.replace('backend_config={"known_trip_count":{"n":"5"}}', "x=1"))
    assert (program.count, program.open_loops) == (9, 1)


def test_condensed_is_the_same_program_without_folders_and_code():
    short = condensed(MODULE)
    assert read_program(short) == read_program(MODULE)
    assert read_module(short).places == read_module(MODULE).places
    assert len(short) < 0.8 * len(MODULE)
    assert "/folder" not in short and "ML" not in short and condensed(short) == short


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "", "does not begin with HloModule"),
        (lambda text: text[:-3], "its end is missing"),
        (lambda text: text[: text.index("ENTRY")], "its end is missing"),
        (lambda text: text.replace("%fused_mul (", "%other ("), "the computation fused_mul is missing"),
        (lambda text: text.replace("copy(%p)", "cop"), "is no instruction: '%copy.1 = f32[8,4]{0,1} cop'"),
    ],
)
def test_a_damaged_text_is_refused(damage, words):
    with pytest.raises(UserError) as raised:
        read_program(damage(MODULE))
    assert words in str(raised.value)


def test_a_loop_compiled_here_counts_once_for_each_turn():
    def step(x):
        return jax.lax.scan(lambda a, _: (jnp.tanh(a @ a), None), x, None, length=7)[0]

    found = read_program(jax.jit(step).lower(jnp.ones((64, 64))).compile().as_text())
    assert found.count >= 2 * 7
    assert 7 * 4 * 64 * 64 * 4 < found.bytes < 7 * 40 * 64 * 64 * 4
    assert found.operations == 7 * 2 * 64**3
