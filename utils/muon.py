"""Muon: an optimizer whose steps are equally long in all directions of a weight matrix, so that few steps learn much.

K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024 (kellerjordan.github.io/posts/muon).
"""

from __future__ import annotations

from collections import defaultdict

import torch

# for five iterations x -> a x + b (x x') x + c (x x')^2 x, which take singular values of 0.002 to 1 to about 1
NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
STEP_RMS = 0.8  # root mean square of a step of learning rate 1; Adam's is 0.2 to 0.4 (arXiv 2502.16982)
BLOCK = 72  # most rows of a matrix that are taken together: the time of an iteration grows with their square


class Muon(torch.optim.AdamW):
    """AdamW that steps by Muon in the groups of parameters with "matrices": True.

    Such a parameter [out, ...] counts as the matrix [out, in * kernel]. Its rows are taken in blocks, so that the
    projections of an attention's heads are matrices of their own.
    """

    def step(self, closure=None):
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("matrices")]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("matrices"):
                self.step_matrices(group)
        return loss

    @torch.no_grad()
    def step_matrices(self, group: dict) -> None:
        """Make one step of Nesterov's momentum (beta1 of the group), made orthogonal."""
        momentum, decay = group["betas"][0], group["lr"] * group["weight_decay"]
        alike = defaultdict(list)  # blocks of one shape are orthogonalized together
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)  # AdamW looks for it in every state that it loads
                state["exp_avg"] = torch.zeros_like(parameter)
            mean = state["exp_avg"].lerp_(parameter.grad, 1 - momentum)
            matrix = parameter.grad.lerp(mean, momentum).flatten(1)
            blocks = matrix.reshape(-1, block_rows(len(matrix)), matrix.shape[1])
            alike[blocks.shape[1:]].append((parameter, blocks))
        for shape, members in alike.items():
            steps = orthogonalize(torch.cat([blocks for _, blocks in members]))
            length = group["lr"] * STEP_RMS * max(shape) ** 0.5
            for (parameter, _), step in zip(members, steps.split([len(blocks) for _, blocks in members])):
                parameter.mul_(1 - decay).add_(step.reshape(parameter.shape), alpha=-length)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Return [b, n, m] with the same singular vectors and singular values of about 1; zeros stay zeros.

    All factors of an iteration are polynomials of x x', so their product is gathered on its small side.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT).mT
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    gram, product = x @ x.mT, torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    for a, b, c in NEWTON_SCHULZ:
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ x


def block_rows(rows: int) -> int:
    """Return the largest divisor of `rows` that is at most BLOCK."""
    return next(size for size in range(min(rows, BLOCK), 0, -1) if rows % size == 0)
