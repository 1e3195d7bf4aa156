"""smart_optimizer, which gives each kind of parameter its group, and Muon.

Muon's steps are equally long in all directions of a weight matrix, so that few steps learn much: K. Jordan et al.,
Muon: An optimizer for hidden layers in neural networks, 2024 (kellerjordan.github.io/posts/muon).
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from utils.logger import LOGGER

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
    gram = x @ x.mT
    product = factor = polynomial(gram, *NEWTON_SCHULZ[0])
    for coefficients in NEWTON_SCHULZ[1:]:
        gram = factor @ gram @ factor
        factor = polynomial(gram, *coefficients)
        product = factor @ product
    return product @ x


def polynomial(gram: torch.Tensor, a: float, b: float, c: float) -> torch.Tensor:
    """Return a + b gram + c gram^2, for symmetric matrices [b, n, n]."""
    result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result


def block_rows(rows: int) -> int:
    """Return the largest divisor of `rows` that is at most BLOCK."""
    return next(size for size in range(min(rows, BLOCK), 0, -1) if rows % size == 0)


def parameter_groups(model: nn.Module) -> tuple:
    """Return all parameters as three lists: biases, norm weights, all the rest (which is decayed).

    With the norm weights go other vectors and scalars, and the weights of modules with `no_weight_decay`. Each
    parameter is in exactly one list, also if several modules share it.
    """
    undecayed = {id(p) for m in model.modules() if getattr(m, "no_weight_decay", False) for p in m.parameters(False)}
    biases, vectors, others = [], [], []
    for name, parameter in model.named_parameters():
        is_bias = name.rpartition(".")[2].endswith("bias")
        is_vector = parameter.ndim <= 1 or id(parameter) in undecayed
        (biases if is_bias else vectors if is_vector else others).append(parameter)
    return biases, vectors, others


def smart_optimizer(
    model: nn.Module, name="Adam", lr=0.001, momentum=0.9, decay=1e-5, slow=(), slow_part=1.0, outputs=()
) -> torch.optim.Optimizer:
    """SGD (Nesterov), Adam, AdamW, Muon or RMSProp. Groups: 0 biases, 1 norm weights, 2 the others, which alone decay.

    With Muon a fourth group has the matrices that it is for: of the others those that mix channels, except the
    parameters in `outputs`. With slow_part other than 1 the parameters in `slow` form as many more groups of the same
    order. A group's "lr_part" says which part of the learning rate it takes, "kind" is 0, 1 or 2.
    """
    biases, norms, weights = parameter_groups(model)
    matrices = matrices_of(weights, outputs) if name == "Muon" else []
    matrix_ids, slow_ids = {id(p) for p in matrices}, {id(p) for p in slow} if slow_part != 1 else set()
    kinds = [biases, norms, [p for p in weights if id(p) not in matrix_ids], *([matrices] if matrices else [])]
    groups = []
    for part, is_slow in ((1.0, False), (slow_part, True))[: 2 if slow_ids else 1]:
        for number, parameters in enumerate(kinds):
            members = [p for p in parameters if (id(p) in slow_ids) == is_slow]
            group = {"params": members, "weight_decay": decay if number > 1 else 0.0, "lr": lr * part, "lr_part": part}
            groups.append({**group, "kind": min(number, 2), "matrices": number == 3})
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())  # one kernel per step, much faster
    if name == "SGD":
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True, fused=fused)
    elif name in ("Adam", "AdamW"):
        optimizer = getattr(torch.optim, name)(groups, lr=lr, betas=(momentum, 0.999), fused=fused)
    elif name == "Muon":
        optimizer = Muon(groups, lr=lr, betas=(momentum, 0.999))
    elif name == "RMSProp":
        optimizer = torch.optim.RMSprop(groups, lr=lr, momentum=momentum)
    else:
        raise ValueError(f"optimizer '{name}': expected SGD, Adam, AdamW, Muon or RMSProp")
    check_covered(model, optimizer)
    counts = f"{len(biases)} biases, {len(norms)} norm weights, {len(weights)} weights (decay {decay:g})"
    LOGGER.info(f"optimizer: {name}, lr {lr:g}, {counts}" + (f", {len(matrices)} of them by Muon" if matrices else ""))
    return optimizer


def matrices_of(weights, outputs=()) -> list:
    """Return those of the weights that mix channels, so neither kernels of depthwise convolutions nor `outputs`."""
    output_ids = {id(p) for p in outputs}
    return [p for p in weights if p.ndim > 1 and p.shape[1] > 1 and id(p) not in output_ids]


def check_covered(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """ValueError unless every parameter of the model is in exactly one group of the optimizer, and nothing else is."""
    counts = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    wrong = [f"{name} (in {counts.get(id(p), 0)})" for name, p in model.named_parameters() if counts.get(id(p), 0) != 1]
    if wrong:
        raise ValueError(f"each parameter must be in exactly one optimizer group, but: {', '.join(wrong[:10])}")
    if len(counts) != sum(1 for _ in model.parameters()):
        raise ValueError(f"the optimizer has {len(counts)} parameters, the model {sum(1 for _ in model.parameters())}")
