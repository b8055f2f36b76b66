"""What is measured, in which order, and what the user may ask for."""

import pytest

from benchmarks.plan import Options, make_plan, names
from benchmarks.variants import PLAIN, PREDEFINED, parse_variant, parse_variants
from sarwmix_jax.errors import UserError


def test_gpu_plan_begins_with_what_matters_most():
    plan = make_plan(Options("gpu", fed=True, profile=True))
    assert names(plan)[:3] == [
        "pretrain base, batch 256, bfloat16: default, eager PyTorch, strong PyTorch, plain, strong PyTorch, products",
        "finetune base, batch 128, bfloat16: default, eager PyTorch, strong PyTorch, plain",
        "inference base, batch 256, bfloat16: default, eager PyTorch, strong PyTorch, plain",
    ]
    assert [contender.name for contender in plan[3].contenders] == ["default", *PREDEFINED]
    assert [contender.feed for contender in plan[4].contenders[:3]] == ["synthetic", "fed", "resident"]
    assert [(group.workload.size, group.workload.batch) for group in plan[5:]] == [
        ("large", 256),
        ("huge", 256),
        ("base", 64),
        ("base", 128),
        ("base", 512),
    ]
    assert [group.profile for group in plan] == [True] + [False] * 9


def test_cpu_plan_is_small():
    assert names(make_plan(Options("cpu"))) == ["pretrain base, batch 8, float32: default, eager PyTorch, plain"]


def test_asked_batches_are_measured_with_all_contenders():
    plan = make_plan(Options("cpu", sizes=("tiny",), batches=(4, 2), peers=(), variants=()))
    assert names(plan) == [
        "pretrain tiny, batch 4, float32: default, plain",
        "pretrain tiny, batch 2, float32: default, plain",
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"device": "tpu"}, "--device has 'tpu'; use one of cpu, gpu"),
        ({"tasks": ("train",)}, "--tasks has 'train'"),
        ({"sizes": ("small",)}, "--sizes has 'small'; use one of base, large, huge, tiny"),
        ({"peers": ("lazy",)}, "--peers has 'lazy'"),
        ({"dtype": "float16"}, "--dtype has 'float16'"),
        ({"batches": (8, 0)}, "--batches has 0"),
    ],
)
def test_wrong_options_are_told_in_one_line(wrong, words):
    with pytest.raises(UserError, match=words):
        Options(**({"device": "cpu"} | wrong))


def test_variants_from_text():
    variant = parse_variant("mine:kernel=fused,scan=true,decoder_depth=4,drop_path=0.5,xla=--a=1+--b=,attention=plain")
    assert variant.changes == {
        "kernel": "fused",
        "scan": True,
        "decoder_depth": 4,
        "drop_path": 0.5,
        "attention": "plain",
    }
    assert variant.xla_flags == ("--a=1", "--b=")
    assert parse_variants(["scan", "none:scan=false"])[0] == PREDEFINED["scan"]
    assert parse_variants(["none"]) == ()


@pytest.mark.parametrize("text", ["unheard", "name:", "name:scan", ":scan=true", "name:=3"])
def test_wrong_variants(text):
    with pytest.raises(UserError, match="--variants has"):
        parse_variant(text)


def test_plain_switches_off_every_shortcut():
    assert PLAIN.changes == {"attention": "plain", "decoder": "full"}
