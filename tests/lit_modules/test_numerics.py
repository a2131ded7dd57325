"""What ``auto`` chooses, and that a run says it."""

import logging
import platform
import resource

import pytest
import torch
from torch import nn

from launch.validation import CHOICES
from lit_modules import numerics
from lit_modules.classifier import COMPILE, check_numerics
from models import ResNet


def resnet(norm):
    return ResNet(8, widths=(16, 32, 64), stem="cifar", norm=norm, in_channels=1, num_classes=10, image_size=28)


@pytest.fixture
def bfloat16(monkeypatch):
    monkeypatch.setattr(numerics, "cpu_has_bfloat16", lambda: True)


@pytest.mark.parametrize(
    ("norm", "memory_format"),
    [
        ("batch", "channels_last"),
        ("layer", "channels_last"),
        ("group", "contiguous_format"),
        ("instance", "contiguous_format"),
    ],
)
def test_channels_last_where_it_gains(norm, memory_format, bfloat16):
    chosen = numerics.fastest("cpu", resnet(norm))
    assert chosen == {"precision": "bf16-mixed", "memory_format": memory_format, "compile": False}


def test_a_cpu_that_would_emulate_bfloat16_keeps_float32(monkeypatch):
    monkeypatch.setattr(numerics, "cpu_has_bfloat16", lambda: False)
    assert numerics.fastest("cpu", nn.Identity())["precision"] == "32-true"


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_cuda_compiles_and_takes_the_half_precision_it_has(monkeypatch, native, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(numerics, "has_triton", lambda: native)  # the oldest cards have no compiler
    chosen = numerics.fastest("cuda", resnet("batch"))
    assert chosen == {"precision": precision, "memory_format": "channels_last", "compile": native}


@pytest.mark.parametrize(
    ("accelerator", "device"), [("auto", "cuda"), ("gpu", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")]
)
def test_the_device_is_the_trainers(monkeypatch, accelerator, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert numerics.device_type(accelerator) == device


def test_fast_replaces_auto_and_says_so(composed, caplog, bfloat16):
    cfg = composed("trainer=fast", "trainer.accelerator=cpu", "lit_module.compile=false")
    with caplog.at_level(logging.INFO):
        chosen = numerics.resolve_auto(cfg, resnet("batch"))
    assert cfg.trainer.precision == "auto"  # the run's config stays as it was
    cfg = chosen
    assert (cfg.trainer.precision, cfg.lit_module.memory_format) == ("bf16-mixed", "channels_last")
    assert cfg.lit_module.compile is False
    assert caplog.messages == ["chosen       precision=bf16-mixed memory_format=channels_last, for cpu"]


def test_without_auto_nothing_changes_or_is_said(composed, caplog):
    cfg = composed()
    assert numerics.resolve_auto(cfg, resnet("batch")) == cfg
    assert not caplog.messages


@pytest.mark.parametrize("precision", ["16", "16-mixed", "bf16-mixed"])
def test_clipping_in_mixed_precision_needs_an_optimizer_that_is_not_fused(composed, monkeypatch, precision):
    options = [f"trainer.precision={precision}", "trainer.gradient_clip_val=1.0"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(numerics, "has_triton", lambda: True)  # it asks the driver
    with pytest.raises(ValueError, match="optimizer.fused=false"):
        numerics.resolve_auto(composed(*options), resnet("batch"))
    numerics.resolve_auto(composed(*options, "optimizer.fused=false"), resnet("batch"))


def test_so_does_what_auto_makes_mixed(composed, monkeypatch):
    monkeypatch.setattr(numerics, "cpu_has_bfloat16", lambda: True)
    cfg = composed("trainer=fast", "trainer.accelerator=cpu", "trainer.gradient_clip_val=1.0")
    with pytest.raises(ValueError, match="with precision bf16-mixed needs optimizer.fused=false"):
        numerics.resolve_auto(cfg, resnet("batch"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_glibc_keeps_a_large_tensor_s_memory_for_the_next_one():
    assert numerics.keep_freed_memory()
    torch.ones(2**22)  # 16 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**22)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 5 * 2**24 / 4096 / 4


def test_what_is_checked_before_torch_is_imported_is_what_the_classifier_takes():
    assert set(CHOICES["lit_module.compile"]) == {*COMPILE, "auto"}
    for memory_format in CHOICES["lit_module.memory_format"][:-1]:
        check_numerics(memory_format, compile=False)


def test_torch_still_has_the_private_functions_that_numerics_calls():
    assert isinstance(numerics.has_triton(), bool)
    assert isinstance(numerics.cpu_has_bfloat16(), bool)
