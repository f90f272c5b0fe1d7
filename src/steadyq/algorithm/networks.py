"""The torsos of the recipes, each a serial of layers: what the published networks look like."""

from collections.abc import Callable

from steadyq.algorithm.nn import Init, Layer, dense, dropout, he_normal, layer_norm, orthogonal, relu, residual, serial


def input_norm(norm: Callable[[], Layer]) -> Layer:
    """A normalisation of the input, whose scale and shift are left to the linear layer that must follow it."""
    first = norm()
    return Layer(first.init, first.scaled or first.apply)


def mlp(*widths: int, norm: Callable[[], Layer] | None = None, init: Init | None = None) -> Layer:
    """Dense and ReLU per width; with `norm`, one at the input and one after each ReLU, as in CrossQ.

    The one at the input leaves its scale and shift to the first weights. What it hands on then holds no parameters: it
    is the same for all critics and for their target network, and needs no gradient, which saves a product.
    """
    layers = [input_norm(norm)] if norm else []
    for width in widths:
        layers += [dense(width, init=init), relu()]
        layers += [norm()] if norm else []
    return serial(*layers)


def pre_norm_mlp(*widths: int, norm: Callable[[], Layer]) -> Layer:
    """Per width a linear layer without bias, which the normalisation behind it makes redundant, and ReLU."""
    return serial(*(layer for width in widths for layer in (dense(width, bias=False), norm(), relu())))


def dropout_mlp(*widths: int, rate: float, init: Init) -> Layer:
    """Per width a linear layer, dropout, layer normalisation and ReLU, as in DroQ (Hiraoka et al. 2022)."""

    def block(width: int) -> Layer:
        return serial(dense(width, init=init), dropout(rate, width=width), layer_norm(eps=1e-5), relu())

    return serial(*map(block, widths))


def bro_net(width: int, *, blocks: int) -> Layer:
    """BroNet: a normalised layer, then residual blocks of two (Nauman et al. 2024, after the official code)."""

    def block() -> Layer:
        return residual(dense(width), layer_norm(), relu(), dense(width), layer_norm())

    return serial(dense(width), layer_norm(), relu(), *(block() for _ in range(blocks)))


def simba_net(width: int, *, blocks: int) -> Layer:
    """SimBa: a linear layer, pre-normalised residual blocks four times as wide inside, a normalisation.

    Lee et al. 2025, after the official code.
    """

    def block() -> Layer:
        wide = dense(4 * width, init=he_normal())
        return residual(layer_norm(), wide, relu(), dense(width, init=he_normal()))

    return serial(dense(width, init=orthogonal(1.0)), *(block() for _ in range(blocks)), layer_norm())
