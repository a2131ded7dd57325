"""Resolve ``auto``: choose precision, memory format and compilation for a device and a network.

The choices are those that benchmarks/model.py found fastest on a CPU, and published advice on CUDA. They depend only on
device and network, with no trial at start-up, so every run makes the same choice.
"""

import ctypes
import logging
import platform

import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils._triton import has_triton  # private: no public function knows which GPUs Triton supports

log = logging.getLogger(__name__)


def resolve_auto(cfg: DictConfig, backbone: nn.Module) -> DictConfig:
    """A copy of a config with ``auto`` replaced for precision, memory format and compilation. Logs the choice.

    Args:
        backbone: the network to choose for.

    Raises: ValueError: the device does not support the precision, or not in this combination.
    """
    cfg = cfg.copy()
    device = device_type(cfg.trainer.accelerator)
    settings = fastest(device, backbone)
    if device == "cpu":
        keep_freed_memory()
    parts = {"precision": cfg.trainer, "memory_format": cfg.lit_module, "compile": cfg.lit_module}
    chosen = {name: settings[name] for name, part in parts.items() if part[name] == "auto"}
    for name, value in chosen.items():
        parts[name][name] = value
    check_precision(cfg.trainer.precision, device)
    if chosen:
        log.info(f"{'chosen':<12} {' '.join(f'{name}={value}' for name, value in chosen.items())}, for {device}")
    clipping, precision = cfg.trainer.get("gradient_clip_val"), str(cfg.trainer.precision)
    mixed = precision in ("bf16", "bf16-mixed") or device != "cpu" and precision in ("16", "16-mixed")
    if mixed and clipping and cfg.get("optimizer", {}).get("fused"):  # Lightning would raise in the first step
        raise ValueError(f"trainer.gradient_clip_val={clipping} with precision {precision} needs optimizer.fused=false")
    return cfg


def check_precision(precision: str | int, device: str) -> None:
    """Warn about a precision that the device only emulates.

    Raises: ValueError: the training would not run in this precision.
    """
    precision = str(precision)
    if precision.endswith("-true") and precision != "32-true" or precision == "64":
        raise ValueError(f"trainer.precision={precision}: images are float32; expected 32-true, bf16-mixed or 16-mixed")
    if device == "cpu" and precision in ("16", "16-mixed"):  # Lightning would silently take bf16-mixed
        raise ValueError(f"trainer.precision={precision} needs a GPU; expected 32-true or bf16-mixed on a CPU")
    if not precision.startswith("bf16"):
        return
    if device == "cpu" and not cpu_has_bfloat16():
        log.warning(f"trainer.precision={precision}: this CPU only emulates bfloat16; 32-true is faster")
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning(f"trainer.precision={precision}: this GPU only emulates bfloat16; 16-mixed is faster")


def device_type(accelerator: str) -> str:
    """``cuda``, ``mps`` or ``cpu``: where a Trainer with this ``accelerator`` would run."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def fastest(device: str, backbone: nn.Module) -> dict[str, str | bool]:
    """``precision``, ``memory_format`` and ``compile`` for a network on a device."""
    if device == "cuda":
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    elif device == "cpu" and cpu_has_bfloat16():
        precision = "bf16-mixed"
    else:  # emulated bfloat16 is slower; MPS was not measured
        precision = "32-true"
    # Group norm of several groups and instance norm are slow in channels_last; layer norm (one group) is not.
    slow = any(isinstance(m, nn.InstanceNorm2d) or getattr(m, "num_groups", 1) > 1 for m in backbone.modules())
    channels_last = device != "mps" and not slow
    return {
        "precision": precision,
        "memory_format": "channels_last" if channels_last else "contiguous_format",
        "compile": device == "cuda" and has_triton(),  # on a CPU it pays off only after thousands of steps, or never
    }


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions: AVX512-BF16 or AMX (private: torch has no public function)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step. Returns whether this C library can.

    Otherwise the kernel allocates and frees every large tensor page by page, which can cost a fifth of a step on a CPU.
    See ``man mallopt``.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    kept = mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)  # older versions allow at most 32 MiB
    return bool(kept and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
