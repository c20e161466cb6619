"""Rules against their authors' own code or packages, and against optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import pytorch_optimizer as po
import schedulefree
import torch
from torch import Tensor, nn

from tuner import optimizers
from tuner.optimizers.curvature import hutchinson

EXACT = 1e-11
ANY = ((5, 3), (4, 4), (7,), (2, 3, 2, 2))
SQUARE = ((4, 4), (6, 6))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_soap_agrees_past_a_change_of_basis(problem: Any, decay: float) -> None:
    # pytorch-optimizer takes its QR in float32, hence the tolerance.
    ours, theirs = problem.weights(SQUARE), problem.weights(SQUARE)
    mine = optimizers.create("soap", ours, lr=0.01, refresh=4.0, weight_decay=decay)
    reference = po.SOAP(theirs, lr=0.01, precondition_frequency=4, weight_decay=decay)
    assert problem.gap(ours, mine.step, theirs, reference.step) < 1e-5


@pytest.mark.parametrize("power", [2.0, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_schedule_free_agrees_while_training_and_when_evaluated(
    problem: Any, power: float, decay: float
) -> None:
    ours, theirs = problem.weights(ANY), problem.weights(ANY)
    mine = optimizers.create(
        "schedule_free_adamw", ours, lr=0.01, weight_decay=decay, weight_lr_power=power, r=0.5
    )
    reference = schedulefree.AdamWScheduleFree(
        theirs, lr=0.01, weight_decay=decay, weight_lr_power=power, r=0.5
    )
    reference.train()

    def scheduled(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        rates = iter([0.001 * (1 + t % 7) for t in range(problem.steps)])

        def step() -> object:
            optimizer.param_groups[0]["lr"] = next(rates)
            return optimizer.step()

        return step

    problem.train(ours, scheduled(mine))
    problem.train(theirs, scheduled(reference))
    trained = [p.detach().clone() for p in ours]
    for p, q in zip(ours, theirs, strict=True):
        assert float((p - q).detach().abs().max()) <= EXACT
    mine.eval()
    reference.eval()
    for p, q in zip(ours, theirs, strict=True):
        assert float((p - q).detach().abs().max()) <= EXACT
    with pytest.raises(RuntimeError, match="train"):
        mine.step()
    mine.train()
    for p, q in zip(ours, trained, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sophia_h_agrees_with_pytorch_optimizer(problem: Any, decay: float) -> None:
    lr, p = 0.05, 0.01
    ours, theirs = problem.weights(ANY), problem.weights(ANY)
    mine = optimizers.create(
        "sophia_h", ours, lr=lr * p, beta1=0.96, gamma=p, eps=1e-12 * p, weight_decay=decay / p
    )
    reference = po.SophiaH(theirs, lr=lr, weight_decay=decay, p=p)

    def probe(params: list[nn.Parameter]) -> list[Tensor]:
        return [q.detach().square() - 0.1 for q in params]

    def step_ours() -> object:
        mine.update_hessian(probe(ours))
        return mine.step()

    def step_theirs() -> object:
        return reference.step(hessian=probe(theirs))

    assert problem.gap(ours, step_ours, theirs, step_theirs) <= EXACT


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sophia_g_agrees_with_the_authors_code(problem: Any, decay: float) -> None:
    """Liuhong99/Sophia keeps the batch size out of the average and multiplies it in at the step."""
    lr, (beta1, beta2), rho, size = 0.01, (0.965, 0.99), 0.04, 32
    ours, theirs = problem.weights(ANY), problem.weights(ANY)
    mine = optimizers.create("sophia_g", ours, lr=lr, weight_decay=decay)
    momenta = [torch.zeros_like(p) for p in theirs]
    hessians = [torch.zeros_like(p) for p in theirs]
    count = [0, 0]

    def sampled(params: list[nn.Parameter]) -> list[Tensor]:
        return [torch.sin(3 * p.detach()) * 0.1 for p in params]

    def step_ours() -> object:
        if count[0] % 10 == 0:
            kept = [p.grad for p in ours]
            for p, g in zip(ours, sampled(ours), strict=True):
                p.grad = g
            mine.update_hessian(batch_size=size)
            for p, g in zip(ours, kept, strict=True):
                p.grad = g
        count[0] += 1
        return mine.step()

    @torch.no_grad()
    def step_theirs() -> None:
        if count[1] % 10 == 0:
            for h, g in zip(hessians, sampled(theirs), strict=True):
                h.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        count[1] += 1
        for p, m, h in zip(theirs, momenta, hessians, strict=True):
            assert p.grad is not None
            p.mul_(1 - lr * decay)
            m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
            ratio = (m.abs() / (rho * size * h + 1e-15)).clamp(None, 1)
            p.addcmul_(m.sign(), ratio, value=-lr)

    assert problem.gap(ours, step_ours, theirs, step_theirs) <= EXACT


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_cautious_adamw_agrees_with_the_authors_code(problem: Any, decay: float) -> None:
    """kyleliang919/C-Optim, in float64."""
    lr, beta1, beta2, eps = 0.01, 0.9, 0.999, 1e-8
    ours, theirs = problem.weights(ANY), problem.weights(ANY)
    mine = optimizers.create("cautious_adamw", ours, lr=lr, weight_decay=decay)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in theirs]
    count = [0]

    @torch.no_grad()
    def step_theirs() -> None:
        count[0] += 1
        t = count[0]
        for p, (m, v) in zip(theirs, moments, strict=True):
            assert p.grad is not None
            p.mul_(1 - lr * decay)
            m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
            v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            denominator = (v / (1 - beta2**t)).sqrt() + eps
            mask = (m * p.grad > 0).to(p.dtype)
            mask.div_(mask.mean().clamp_(min=1e-3))
            p.sub_(lr * mask * m / (1 - beta1**t) / denominator)

    assert problem.gap(ours, mine.step, theirs, step_theirs) <= EXACT


def test_hutchinson_finds_no_curvature_in_a_line() -> None:
    p, idle = (nn.Parameter(torch.ones(3)) for _ in range(2))
    assert [t.tolist() for t in hutchinson((p * 2).sum(), [p, idle])] == [[0.0] * 3] * 2


def test_hutchinson_finds_the_diagonal_of_a_quadratic() -> None:
    generator = torch.Generator().manual_seed(0)
    diagonal = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    p = torch.randn(3, dtype=torch.float64, generator=generator, requires_grad=True)
    idle = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = 0.5 * (diagonal * p * p).sum()
    found, nothing = hutchinson(loss, [p, idle], generator)
    torch.testing.assert_close(found, diagonal)  # exact: a diagonal Hessian has no cross terms
    assert torch.equal(nothing, torch.zeros_like(idle))


def _optax(name: str, decay: float) -> tuple[Any, dict[str, Any]]:
    lr = 0.01
    shared = {"lr": lr, "weight_decay": decay}
    return {
        "sgd": (
            optax.chain(optax.add_decayed_weights(decay), optax.sgd(lr, momentum=0.9)),
            {**shared, "momentum": 0.9},
        ),
        "nag": (
            optax.chain(
                optax.add_decayed_weights(decay), optax.sgd(lr, momentum=0.9, nesterov=True)
            ),
            shared,
        ),
        "adam": (optax.chain(optax.add_decayed_weights(decay), optax.adam(lr)), shared),
        "adamw": (optax.adamw(lr, weight_decay=decay), shared),
        "lion": (optax.lion(lr, weight_decay=decay), shared),
        "lamb": (optax.lamb(lr, weight_decay=decay), shared),
        "sophia_h": (
            optax.contrib.sophia(lr, weight_decay=decay, hessian_diagonal_fn=_square()),
            {**shared, "debias": True, "eps": 1e-8},
        ),
    }[name]


def _square() -> Any:
    """A diagonal that both sides can compute: the square of the parameters."""

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        return jax.tree.map(lambda p: p * p, params), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["sgd", "nag", "adam", "adamw", "lion", "lamb", "sophia_h"])
def test_agrees_with_optax(problem: Any, name: str, decay: float) -> None:
    with jax.enable_x64(True):
        reference, settings = _optax(name, decay)
        ours, theirs = problem.weights(ANY), problem.weights(ANY)
        mine = optimizers.create(name, ours, **settings)
        tree = [jnp.asarray(p.detach().numpy()) for p in theirs]
        state = [reference.init(tree)]
        count = [0]

        def step_ours() -> None:
            probe = [p.detach().square() for p in ours]
            mine.step()
            if name == "sophia_h" and count[0] % 10 == 0:
                mine.update_hessian(probe)
            count[0] += 1

        def step_theirs() -> None:
            values = [jnp.asarray(p.detach().numpy()) for p in theirs]
            grads = [jnp.asarray(p.grad.numpy()) for p in theirs if p.grad is not None]
            updates, state[0] = reference.update(grads, state[0], values)
            with torch.no_grad():
                for p, new in zip(theirs, optax.apply_updates(values, updates), strict=True):
                    p.copy_(torch.from_numpy(np.array(new)))

        assert problem.gap(ours, step_ours, theirs, step_theirs) <= EXACT
