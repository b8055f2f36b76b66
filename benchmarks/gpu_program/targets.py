"""The GPUs for which steps can be compiled: what the compiler must know of them, and their peaks.

Numbers that a kernel can be held to are the manufacturer's; none of them was measured here.
"""

from dataclasses import dataclass

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.gpu_memory import MEMORY
from sarwmix_jax.training.resources import PEAK_FLOPS

LAUNCH_SECONDS = 2e-6
"""Assumed time between two kernels that follow each other; a kernel never counts less than this."""


@dataclass(frozen=True)
class Target:
    """A GPU.

    Attributes:
        device: Its name, as the driver gives it.
        bandwidth: Bytes per second between memory and chip (data sheet).
        link: Bytes per second to the other GPUs of a node in each direction (data sheet: NVLink, half of the sum).
        clock_ghz: Largest clock (target descriptions that come with XLA).
    """

    device: str
    bandwidth: float
    link: float = 450e9
    clock_ghz: float = 1.98

    def peak(self, arithmetic: str) -> float:
        """Dense operations per second of products in `bfloat16` (data sheet), `tf32` or `float32`.

        TF32 has half the rate of bfloat16. Float32 has the rate of the usual cores: 132 multiprocessors with 128 each.
        """
        bfloat16 = next(flops for name, flops in PEAK_FLOPS.items() if self.device.startswith(name))
        return {"tf32": bfloat16 / 2, "float32": 2 * 132 * 128 * self.clock_ghz * 1e9}.get(arithmetic, bfloat16)

    @property
    def memory(self) -> int:
        """Bytes of memory that the driver leaves to programs."""
        return MEMORY[self.device]

    @property
    def description(self) -> str:
        """The GPU as XLA describes targets, in its text form (`stream_executor.GpuTargetConfigProto`)."""
        return _HOPPER.format(name=self.device, memory=self.memory, bandwidth=int(self.bandwidth), clock=self.clock_ghz)


_HOPPER = """platform_name: "CUDA" device_description_str: "{name}" dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{ name: "{name}" device_vendor: "NVIDIA Corporation" device_memory_size: {memory}
cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }} memory_bandwidth: {bandwidth}
threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
shared_memory_per_block_optin: 232448 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 thread_dim_limit_x: 1024
thread_dim_limit_y: 1024 thread_dim_limit_z: 64 l2_cache_size: 52428800 clock_rate_ghz: {clock}
registers_per_core_limit: 65536 registers_per_block_limit: 65536 driver_version: "13.0.0"
runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0" device_address_bits: 64 }}"""
"""Compute capability 9.0, that of both GPUs below: limits of the CUDA programming guide, versions of the wheels."""

TARGETS = {
    "h100": Target("NVIDIA H100 80GB HBM3", bandwidth=3.35e12),
    "h200": Target("NVIDIA H200", bandwidth=4.8e12),
}
"""The GPUs by the name that the command takes: the SXM forms with 80 and with 141 GB."""


def target_of(name: str) -> Target:
    """The GPU of this name.

    Raises:
        UserError: There is none.
    """
    if name not in TARGETS:
        raise UserError(f"the GPU {name!r} is unknown; use one of {', '.join(TARGETS)}")
    return TARGETS[name]
