"""Every default of a classification run, once."""

from dataclasses import dataclass, field
from pathlib import Path

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
    part_seconds: float = 10.0
    """work that a killed run loses at the most, or 2 % of its time where that is more"""

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


@dataclass(frozen=True, slots=True)
class Tolerated:
    """How many rejected cutouts a run bears."""

    count: int = 0
    share: float = 1.0
    """of the cutouts done so far; of the first 1,000 while there are fewer"""

    def exceeded(self, rejected: int, done: int, total: int) -> bool:
        """Return whether `rejected` of `done` are too many, `total` being still to come."""
        return rejected > self.count + self.share * max(done, min(total, 1000))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is read of the inputs, and what is written beside one row a cutout."""

    band: str = ""
    """the band that is taken of cutouts with several: its number from 0, or an extension's name"""
    stacked: bool = False
    """whether each plane of a cube, and each image extension, is a cutout of its own"""
    null_separated: bool = False
    """whether a list of names has a NUL after each instead of a line end"""
    shard: tuple[int, int] = (1, 1)
    """(i, n): only the i-th of n equal parts of the listing, counted from 1"""
    encodings: Path | None = None
    """.npy file for the encodings (rows, D) float32, NaN where a row is rejected"""
    top: int = 0
    """how many of the best candidates get a table of their own"""
    max_fpr: float = 0.0
    """candidates are those above the threshold with this false positive rate in validation"""
    target: str = ""
    """class whose probability ranks candidates; "": lens, where the model has it"""
    max_bad: Tolerated = field(default_factory=Tolerated)
    """with more rejected cutouts the run stops"""
    retry: bool = False
    """whether rejected rows of what is finished are tried again"""

    def __post_init__(self) -> None:
        from stronglens.engine.errors import ConfigError  # as above

        i, n = self.shard
        if not 1 <= i <= n:
            raise ConfigError(f"shard {i}/{n}: the first of n is 1/n, the last n/n")
        if self.band and self.stacked:
            raise ConfigError(
                "a cube is either bands of one cutout or a stack of cutouts: not both"
            )
        if not (self.max_fpr == 0 or 0 < self.max_fpr < 1):
            raise ConfigError(f"a false positive rate of {self.max_fpr:g}: must be between 0 and 1")
        if self.top < 0:
            raise ConfigError(f"the best {self.top}: must be a whole number from 1 on")
        if self.encodings is not None and self.encodings.suffix.lower() != ".npy":
            raise ConfigError(f"{self.encodings}: encodings are written as .npy")
