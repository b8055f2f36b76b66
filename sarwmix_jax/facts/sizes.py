"""Published model sizes and window tables."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSize:
    """Widths and depths of one published size; the encoder has four stages, the decoder one width."""

    embed_dim: int
    num_heads: tuple[int, ...]
    depths: tuple[int, ...] = (2, 2, 18, 2)
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16


SIZES = {
    "base": ModelSize(embed_dim=128, num_heads=(4, 8, 16, 32)),
    "large": ModelSize(embed_dim=192, num_heads=(6, 12, 24, 48)),
    "huge": ModelSize(embed_dim=352, num_heads=(11, 22, 44, 88)),
}

WINDOWS = {128: (8, 8, 8, 4), 384: (16, 16, 24, 12)}
"""Window side in tokens per stage, by image side in pixels."""
