"""Every default of a classification run, once."""

from dataclasses import dataclass

DEVICES = ("auto", "cpu", "cuda", "tensorrt")
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
AUTO = 0
"""where a number may be chosen for the user"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How a run uses the machine; nothing here changes what a cutout's row says, but precision."""

    device: str = "auto"
    """auto: CUDA where there is a GPU and the runtime for it, else the CPU; tensorrt only when
    asked for, because it first compiles for minutes"""
    precision: str = "auto"
    """auto: the fastest that the device computes in and that passed the bundle's parity check"""
    batch_size: int = AUTO
    """cutouts the model gets at once; auto: what suits the device"""
    workers: int = AUTO
    """threads that read and prepare; auto: 2 on the CPU, where the model needs the cores, and
    up to 4 beside a GPU"""
    threads: int = AUTO
    """threads of the model on the CPU; auto: all cores"""
    ahead: int = 2
    """batches prepared while the model works on one"""

    def __post_init__(self) -> None:
        from stronglens.engine.errors import ConfigError  # numpy; --help does without

        for name, choices in (("device", DEVICES), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(f"{name} {value!r}: choose {', '.join(choices)}")
        limits = (
            ("batch_size", 0, 65536),
            ("workers", 0, 256),
            ("threads", 0, 1024),
            ("ahead", 1, 64),
        )
        for name, low, high in limits:
            if not low <= (value := getattr(self, name)) <= high:
                raise ConfigError(f"{name} {value}: must be between {low} and {high}")
