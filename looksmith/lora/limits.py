"""How much an adapter file may bring. Knows no file; the limits of the container itself are in header.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What an operator may tighten or relax. Workers must be able to serve whatever the registry lets pass."""

    file_bytes: int = 1 << 30
    """A rank 128 LoRA of every linear layer of SDXL and its encoders is below 1 GiB in 16 bits."""

    rank: int = 128
    """Adapters are padded to a rank class, so that a few of enormous rank would cost everyone memory."""

    scale: float = 64.0
    """Largest alpha / rank. Real files stay below 8; more is a mistaken alpha."""

    least_scale: float = 1e-6
    """Smallest alpha / rank. Real files stay above 1e-3; what is weaker vanishes in 16 bits, and was not meant."""

    problems: int = 16
    """Most problems reported at once: enough to see the pattern, little enough for an error message."""
