"""Blocks of the autoencoder: attention, spectral norm, norms that depend on a condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import processes

# Spectral norms and conditional batch norms of the published networks divide by a little more than
# the norm.
EPSILON = 1e-4
# Voxels below which upsampling and convolving one after the other is faster.
FEW = 256


class BatchNorm(nn.Module):
    """Batch normalisation with nothing but float tensors in its state."""

    epsilon = 1e-5

    def __init__(self, channels: int, affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and processes.count() > 1:
            return self._together(x)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            0.1,
            self.epsilon,
        )

    def _together(self, x: Tensor) -> Tensor:
        """By mean and variance over the batches of all processes.

        So they learn what one would from the whole.

        torch's SyncBatchNorm does this on GPUs only.
        """
        count = x.numel() / x.shape[1] * processes.count()
        mean = processes.total(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = processes.total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(variance * count / max(count - 1, 1), 0.1)
        found = centred * (variance + self.epsilon).rsqrt()[:, None, None]
        if self.weight is None or self.bias is None:
            return found
        return found * self.weight[:, None, None] + self.bias[:, None, None]


class VectorBlock(nn.Module):
    """Norm, ReLU, upsampling, convolution, norm, ReLU, convolution.

    Beside them upsampling and a 1 x 1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, told: int):
        super().__init__()
        self.norm0, self.norm1 = (
            self.conditional_norm(channels, told) for channels in (inputs, outputs)
        )
        self.conv0, self.conv1 = (
            _UpsamplingConv(inputs, outputs),
            SpectralConv(outputs, outputs, 3),
        )
        self.shortcut = SpectralConv(inputs, outputs, 1)

    def conditional_norm(self, channels: int, told: int) -> nn.Module:
        return _ConditionalNorm(
            channels, *(SpectralLinear(told, channels, bias=False) for _ in range(2))
        )

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        y = self.conv0(self.norm0(x, told).relu_())
        y = self.conv1(self.norm1(y, told, in_place=True).relu_())
        return y.add_(F.interpolate(self.shortcut(x), scale_factor=2, mode="nearest"))


class MapBlock(VectorBlock):
    def conditional_norm(self, channels: int, told: int) -> nn.Module:
        return _ConditionalNorm(
            channels, *(SpectralConv(told, channels, 1, bias=False) for _ in range(2))
        )


class _ConditionalNorm(BatchNorm):
    """Batch normalisation whose scale and shift are functions of what the block is told."""

    epsilon = EPSILON

    def __init__(self, channels: int, gamma: nn.Module, beta: nn.Module):
        super().__init__(channels, affine=False)
        self.gamma, self.beta = gamma, beta

    def forward(  # type: ignore[override]  # is told more
        self, x: Tensor, told: Tensor, in_place: bool = False
    ) -> Tensor:
        """The norm of x; ``in_place``: x is not needed again and, without gradients, holds it."""
        scale, shift = 1 + self.gamma(told), self.beta(told)
        if self.training:
            return _modulated(super().forward(x), scale, shift)
        mean, deviation = (
            t.view(-1, *[1] * (scale.ndim - 2))
            for t in (self.running_mean, (self.running_var + EPSILON).sqrt())
        )
        scale = scale / deviation
        return _modulated(x, scale, shift - mean * scale, in_place and not torch.is_grad_enabled())


def _modulated(x: Tensor, scale: Tensor, shift: Tensor, in_place: bool = False) -> Tensor:
    """x times scale plus shift.

    They are (N, C) or maps of a smaller size, each value for the square of voxels that it covers;
    ``in_place``: x holds it.
    """
    if scale.ndim == 2:
        scale, shift = scale[:, :, None, None], shift[:, :, None, None]
        return torch.addcmul(shift, x, scale, out=x if in_place else None)
    height, width = scale.shape[2:]
    squares = x.unflatten(3, (width, -1)).unflatten(2, (height, -1))
    scale, shift = scale[:, :, :, None, :, None], shift[:, :, :, None, :, None]
    if in_place:
        torch.addcmul(shift, squares, scale, out=squares)  # a view of x
        return x
    return torch.addcmul(shift, squares, scale).reshape(x.shape)


class Attention(nn.Module):
    """Each place looks at all places of the half-sized image, by likeness.

    It adds what it finds there.
    """

    def __init__(self, channels: int):
        super().__init__()
        few, half = max(channels // 8, 1), max(channels // 2, 1)
        self.theta, self.phi = (SpectralConv(channels, few, 1, bias=False) for _ in range(2))
        self.g, self.o_conv = (
            SpectralConv(channels, half, 1, bias=False),
            SpectralConv(half, channels, 1, bias=False),
        )
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.theta(x), F.max_pool2d(self.phi(x), 2), F.max_pool2d(self.g(x), 2)
        query, key, value = (t.flatten(2).transpose(1, 2) for t in (query, key, value))
        found = F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2)
        return x + self.gamma * self.o_conv(found.reshape(len(x), -1, *x.shape[2:]))


def beside(x: Tensor, condition: Tensor | None) -> Tensor:
    """The condition's voxels at x's size (every k-th one) as further channels.

    Args:
        x: Of shape (N, C, h, w).
        condition: Of shape (M, D, H, W), each serving several of x in turn; or None.

    Returns:
        Of shape (N, C + D, h, w).
    """
    if condition is None:
        return x
    step = condition.shape[2] // x.shape[2]
    return torch.cat(
        [x, condition[:, :, ::step, ::step].repeat_interleave(len(x) // len(condition), 0)], 1
    )


# Layers with spectral norm ------------------------------------------------------------------------


class Spectral(nn.Module):
    """A weight divided by an estimate of its largest singular value.

    The estimate is one power iteration from the vector u.

    Training keeps the iteration's result, so that the estimate becomes exact in time. Published
    weights come with vectors that were never iterated, and mean the estimate from those.
    """

    def __init__(self, *shape: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.register_buffer("u", _unit(torch.randn(shape[0])))
        self.folded = False

    def effective(self) -> Tensor:
        """The weight as the layer applies it."""
        if self.folded:
            return self.weight
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = _unit(matrix.T @ self.u)
            u = _unit(matrix @ v)
            if self.training:
                self.u.copy_(u)
        return self.weight / (u @ (matrix @ v))

    def fold(self) -> None:
        self.weight, self.folded = nn.Parameter(self.effective(), requires_grad=False), True


class SpectralLinear(Spectral):
    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(outputs, inputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective(), self.bias)


class SpectralConv(Spectral):
    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True):
        super().__init__(outputs, inputs, kernel, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.effective(), self.bias, padding=self.weight.shape[-1] // 2)


class _UpsamplingConv(Spectral):
    """Every voxel doubled in both directions, then a 3 x 3 convolution (see the file's top)."""

    _kernel: Tensor | None

    def __init__(self, inputs: int, outputs: int):
        super().__init__(outputs, inputs, 3, 3)
        self.register_buffer("_kernel", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] * x.shape[3] < FEW:
            return F.conv2d(
                F.interpolate(x, scale_factor=2, mode="nearest"),
                self.effective(),
                self.bias,
                padding=1,
            )
        return F.conv_transpose2d(x, self._upsampling_kernel(), self.bias, stride=2, padding=1)

    def _upsampling_kernel(self) -> Tensor:
        if self._kernel is not None:
            return self._kernel
        # Of three neighbours at the larger size two are the same voxel at the smaller one: their
        # weights are added.
        sums = self.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        kernel = torch.einsum("ap,oipq,bq->ioab", sums, self.effective(), sums)
        if self.folded:
            self._kernel = kernel
        return kernel


def _unit(vector: Tensor) -> Tensor:
    return vector / (vector.norm() + EPSILON)
