"""The GPU program: its report on a stored compiled text, and mistakes, without any GPU or its wheels."""

import json
import lzma
import re
import subprocess
import sys
from dataclasses import asdict, replace

import jax
import pytest

from benchmarks.gpu_program import compiling, guard, windows
from benchmarks.gpu_program.__main__ import GPUS, TASKS, main
from benchmarks.gpu_program.compiling import Resources, missing_wheels, read_resources
from benchmarks.gpu_program.report import by_family, by_product, figures, seconds_of, spills_text, sums
from benchmarks.gpu_program.steps import TASKS as WORKS
from benchmarks.gpu_program.steps import lowered_step, settings_of
from benchmarks.gpu_program.targets import LAUNCH_SECONDS, TARGETS, target_of
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts import gpu_memory
from sarwmix_jax.settings.model import published
from sarwmix_jax.tasks.gradients import make_mesh
from tests.benchmarks.gpu_programs import GIVEN, ROOT, SMALL, compiling_environment

TINY = [
    f"--config.model.{name}={value}"
    for name, value in {
        "embed_dim": 16,
        "num_heads": "1,2,4,8",
        "depths": "1,1,1,1",
        "decoder_dim": 32,
        "decoder_heads": 2,
        "decoder_depth": 1,
    }.items()
]


def test_figures_of_a_stored_program(small):
    assert figures(small, target_of("h200"), {"peak_bytes": 7}, 1) == {
        "kernels": 574,
        "bytes": 137_730_788,
        "operations": 884_211_712.0,
        "peak_bytes": 7,
        "float32_products": 5,
        "transposes_and_copies": 26,
        "collectives": 1,
        "collective_bytes": 1_581_772,
        "spilling_kernels": 1,
        "seconds_at_best": pytest.approx(1.14951505e-3),
    }


def test_products_of_a_stored_program(small):
    found = {name: (row.kernels, row.operations) for name, row in by_product(small, target_of("h200")).items()}
    assert found == {
        "bf16 x bf16 -> bf16, bfloat16, DEFAULT": (62, 530_317_312.0),
        "bf16 x bf16 -> bf16, bfloat16, BIAS": (24, 231_211_008.0),
        "bf16 x bf16 -> f32, bfloat16, DEFAULT": (1, 262_144.0),
        "f32 x f32 -> f32, tf32, DEFAULT": (3, 524_288.0),
        "f32 x f32 -> f32, float32, DEFAULT": (2, 121_896_960.0),  # the records are resized exactly
    }


def test_families_of_a_stored_program(small):
    found = {name: (row.kernels, row.bytes) for name, row in by_family(small, target_of("h200")).items()}
    assert sum(bytes for _, bytes in found.values()) == small.bytes
    expected = {
        "attention, forward": (10, 2_441_660),
        "attention, backward": (21, 11_132_660),
        "LayerNorm, forward": (22, 5_731_456),
        "LayerNorm, backward": (70, 21_119_104),
        "GELU, forward": (5, 5_832_704),
        "GELU, backward": (5, 7_839_744),
        "optimiser": (88, 11_077_764),
        "products, forward": (32, 16_023_424),
        "products, backward": (60, 21_206_016),
    }
    assert expected.items() <= found.items()


def test_own_kernels_and_the_collective_of_a_stored_program(small):
    own = sums(small.of_kind("own kernel"), target_of("h200"), lambda kernel: kernel.name)
    assert {name: row.kernels for name, row in own.items()} == {
        "window_attention": 4,
        "window_attention_backward": 4,
    }
    (reduced,) = small.of_kind("collective")
    assert (reduced.name, reduced.bytes, reduced.devices) == ("all-reduce f32", 4 * 395_443, 2)
    assert (small.kernels.index(reduced), reduced.done, len(small.kernels)) == (386, 390, 574)


def test_the_least_time_of_a_kernel(small):
    target = target_of("h100")
    kernel = replace(small.kernels[0], kind="elementwise", product=None, operations=0.0, bytes=3_350_000_000)
    assert seconds_of(kernel, target) == pytest.approx(1e-3)
    assert seconds_of(replace(kernel, bytes=10), target) == LAUNCH_SECONDS
    product = next(each for each in small.kernels if each.product and each.product.arithmetic == "bfloat16")
    assert seconds_of(replace(product, operations=989e9, bytes=10), target) == pytest.approx(1e-3)
    single = next(each for each in small.kernels if each.product and each.product.arithmetic == "float32")
    assert seconds_of(replace(single, operations=66.9e9, bytes=10), target) == pytest.approx(1e-3, rel=1e-3)
    (reduced,) = small.of_kind("collective")
    for name, passes in (("all-reduce f32", 2 * 7 / 8), ("reduce-scatter f32", 7 / 8), ("all-gather f32", 7)):
        shared = replace(reduced, name=name, bytes=450_000_000, devices=8)
        assert seconds_of(shared, target) == pytest.approx(passes * 1e-3)


def test_the_report_of_a_stored_program(capsys):
    assert main([f"--read={SMALL}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("pretraining base, batch 8 on each of 2 h200, bfloat16, kernel fused, jax 0.10.2, ")
    assert "nothing was run" in printed
    assert "begins after 67.4% of the computation" in printed
    assert "at best 1.15 ms a step, 6,959 samples/s a device" in printed
    assert "574 kernels, 0.14 GB" in printed
    for title in ("kind of kernel", "part of the computation", "matrix products", "transposes and copies"):
        assert f"kernels     TFLOP        GB       ms  {title}\n" in printed


def test_a_stored_program_is_read_as_it_was_written(tmp_path, small):
    case, program = guard.read_stored(SMALL)
    assert (case.gpu, case.devices, case.batch, case.changes[1:]) == ("h200", 2, 8, tuple(TINY))
    text = lzma.decompress(SMALL.read_bytes()).decode()
    for path in (tmp_path / "a.txt", tmp_path / "b.txt.xz"):
        path.write_bytes(guard.as_text(case, text, path))
        assert guard.read_stored(path) == (case, program)


def test_registers_and_spills():
    log = """ptxas info    : Compiling entry function 'a_1' for 'sm_90a'
ptxas info    : Function properties for a_1
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers
ptxas info    : Compiling entry function 'b' for 'sm_90a'
ptxas info    : Function properties for b
    24 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 32 bytes smem"""
    found = read_resources(log)
    assert found == (Resources("a_1", 16, 0), Resources("b", 255, 20))
    assert "1 of 2 kernels spill" in spills_text(found) and "255 (b)" in spills_text(found)


def test_no_code_of_kernels_is_not_taken_for_no_spills(tmp_path):
    with pytest.raises(UserError, match="the compiler wrote no code of kernels"):
        compiling.assembled(tmp_path)


def test_what_fits_in_memory(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert gpu_memory.usable(1000) == 750
    assert gpu_memory.largest_batch(256, peak=3_000, state=1_000, available=9_000) == 1024
    assert gpu_memory.largest_batch(256, peak=3_000, state=1_000, available=900) == 0
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert gpu_memory.usable(1000) == 900


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--gpu is not given; use one of h100, h200"),
        (["--gpu=a100"], "--gpu: invalid choice: 'a100'"),
        (["--gpu=h200", "--task=segmentation"], "--task: invalid choice"),
        (["--gpu=h200", "--out=absent/a.json"], "absent/a.json cannot be written: there is no folder absent"),
        (["--gpu=h200", "--batch=0"], "--devices and --batch must be at least 1"),
        (["--gpu=h200", "--config=demo"], "the recipe is that of --task"),
        (["--gpu=h200", "--config.model.kernl=fused"], "--config.model.kernl"),
        (["--gpu=h200", "--config.model.image_size=130"], "image side 130 is not a multiple of 32"),
        (["--gpu=h200", "--batch=7"], "its middle image would mix with itself"),
        (["--gpu=h200", "--read=absent.txt"], "absent.txt cannot be read"),
        (["--read=a.txt", "--batch=8"], "--read takes the rest from its files; leave out --batch"),
        (["--check", "a.json", "--gpu=h100"], "--check takes the rest from its files; leave out --gpu"),
        (["--check", "a.json", "--config.model.scan=true"], "leave out --config"),
        (["--check", "absent.json"], "absent.json cannot be read"),
        (["--check", str(SMALL)], "is not a stored result"),
        (["--gpu=h200", f"--read={__file__}"], "it is cut off, or no program that --text wrote"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and printed[0].startswith("error: ") and words in printed[0]


def test_damaged_files_are_named(tmp_path, capsys):
    text = tmp_path / "cut.txt.xz"
    text.write_bytes(SMALL.read_bytes()[:5000])
    assert main(["--gpu=h200", f"--read={text}"]) == 2
    assert f"{text} is damaged" in capsys.readouterr().err
    whole = lzma.decompress(SMALL.read_bytes())
    text.write_bytes(lzma.compress(whole[:100_000]))
    assert main([f"--read={text}"]) == 2
    assert f"{text}: it is cut off" in capsys.readouterr().err
    text.write_bytes(lzma.compress(whole[:100_000] + whole[-600:]))
    assert main([f"--read={text}"]) == 2
    assert re.search(f"{text}: line \\d+ of the text|{text}: the text of the compiled", capsys.readouterr().err)
    result = tmp_path / "result.json"
    result.write_text(json.dumps(asdict(GIVEN) | {"case": {"gpu": "h200"}}))
    assert main(["--check", str(result)]) == 2
    assert f"{result} is not a stored result" in capsys.readouterr().err


WHEELS = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12")


@pytest.mark.parametrize(
    ("kernel", "versions", "words"),
    [
        ("xla", {}, f"{', '.join(WHEELS)} not installed; pip install '.[gpu-program]'"),
        ("xla", dict.fromkeys(WHEELS, "0.0.1"), f"jax-cuda12-plugin 0.0.1 does not belong to jax {jax.__version__}"),
        ("cudnn", dict.fromkeys(WHEELS, jax.__version__), "nvidia-cudnn-cu12 not installed; pip install nvidia-cudnn"),
    ],
)
def test_missing_wheels_are_named_before_anything_is_traced(kernel, versions, words, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "_version", versions.get)
    assert main(["--gpu=h200", f"--config.model.kernel={kernel}", *TINY]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and words in error


def test_the_command_knows_all_tasks_and_targets():
    assert tuple(WORKS) == TASKS and tuple(TARGETS) == GPUS
    with pytest.raises(UserError, match="the GPU 'a100' is unknown; use one of h100, h200"):
        target_of("a100")


@pytest.mark.parametrize(
    "task",
    ["inference", "flood", *(pytest.param(task, marks=pytest.mark.slow) for task in ("pretraining", "multilabel"))],
)
def test_the_steps_of_all_tasks_are_traced(task):
    settings = settings_of(task, "base", 2, 1, TINY)
    lowered, held = lowered_step(task, settings, make_mesh(jax.devices()[:1]))
    assert ("train_step" in lowered.as_text()[:200]) == WORKS[task].training
    assert held > 0


def test_every_form_of_attention_and_layer_norm_is_listed():
    names = [name for name, _, _ in windows.forms(published("huge", 384, dtype="bfloat16"))]
    some = {"stage 3, 2 windows of 288, 2 biases", "decoder, 2 windows of 144, 0 biases", "LayerNorm, width 5632"}
    assert some <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.slow
@pytest.mark.parametrize("side", [128, 384])
@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_the_kernels_compile_for_every_window(size, side):
    if reason := missing_wheels():
        pytest.skip(reason)
    command = [sys.executable, "-m", "benchmarks.gpu_program.windows", "--sizes", size, "--sides", str(side)]
    done = subprocess.run(command, cwd=ROOT, env=compiling_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^(\d+) of \1 forms compile, forward and backward$", done.stdout, re.MULTILINE)
