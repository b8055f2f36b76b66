"""Residual connections: the sum of a stream and a branch, computed at once or left to the LayerNorm that follows."""

from typing import NamedTuple

from jaxtyping import Array, Float

from sarwmix_jax.models.state import keep


class Product(NamedTuple):
    """What a dense layer gives before its bias is added.

    Attributes:
        values: The matrix product.
        bias: The bias, in the type of the values.
    """

    values: Float[Array, "... width"]
    bias: Float[Array, " width"]


class Pending(NamedTuple):
    """The stream of a residual connection, and a branch that LayerNorm's own GPU kernel is to add to it.

    The sum is then written once and read no more before it is normalised, and the kernel that computes its gradient
    also sums that of the bias.

    Attributes:
        stream: The stream.
        branch: What is added.
    """

    stream: Float[Array, "... width"]
    branch: Product

    def reshape(self, shape: tuple[int, ...]) -> "Pending":
        """The same with other leading axes."""
        values, bias = self.branch
        return Pending(self.stream.reshape(shape), Product(values.reshape(shape), bias))


Stream = Float[Array, "..."] | Pending
"""Of a residual connection."""


def add(stream: Float[Array, "..."], branch: Float[Array, "..."] | Product) -> Stream:
    """A residual connection; of a product the sum is left to the LayerNorm that follows."""
    return Pending(stream, branch) if isinstance(branch, Product) else keep("residual", stream + branch)


def added(x: Stream) -> Float[Array, "..."]:
    """The sum, where no LayerNorm follows."""
    return x.stream + (x.branch.values + x.branch.bias) if isinstance(x, Pending) else x
