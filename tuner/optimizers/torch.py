"""The ordinary face of a rule: a ``torch.optim.Optimizer`` with groups, closures and a state dict.

A rule that looks at each coordinate by itself does not care where one tensor ends and the next
begins, so small tensors are gathered into one flat buffer and stepped at once; large ones step
where they lie. State of the small ones is flat too; ``optimizer.state[p]`` holds views of it.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any, ClassVar, Final, NamedTuple, overload

import torch
from torch import Tensor

from tuner.errors import InvalidInput
from tuner.optimizers.batches import (
    Batch,
    counted,
    flattened,
    gather_below,
    in_place,
    join,
    unflattened,
)
from tuner.optimizers.checkpoints import NOTES, settings_of, state_of
from tuner.optimizers.coefficients import CoefficientRows, working_dtype
from tuner.optimizers.compiled import Item
from tuner.optimizers.kernels import apply_, apply_all_
from tuner.optimizers.rule import Rule

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

_OWN: Final[Any] = object()
"""The rule's own default; None might be a setting that somebody forgot to read."""


_dtype = attrgetter("dtype")
_layout_of_grad = attrgetter("grad.layout")


class _Layout(NamedTuple):
    """How the parameters of a group were batched, and what of them that holds for."""

    key: tuple[object, ...]
    entries: list[dict[str, Any]]
    batches: list[Batch]


class RuleOptimizer(torch.optim.Optimizer):
    """A rule as an ordinary optimizer; ``tuner.optimizers.AdamW`` and its like derive from it.

    Each parameter counts its own steps, as in torch: one without a gradient is left alone. State of
    16-bit parameters is float32, and the step is computed in float32 and rounded once at its end.
    Rules that reduce over the model (Prodigy) do so over the parameters of a group that have a
    gradient, which must be of one type on one device, and count the steps of the group.

    Args:
        params: Parameters, groups (dicts with settings of their own), or named parameters.
        lr: The learning rate; the rule's own default unless given.
        maximize: Whether to climb instead of descend. May differ between groups.
        compiled: Whether element-wise rules run as one compiled pass, where a compiler works.
        **settings: Hyperparameters by their names in ``rule.hyper``, and options of the rule.

    Raises:
        InvalidInput: A setting is unknown, no number or illegal, a parameter is complex, or a
            group of a rule that reduces over the model mixes types or devices.
    """

    rule_class: ClassVar[type[Rule]]
    _unestimated: int | None = 0
    """Steps without any curvature estimate; None once one came, or the warning went out."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = _OWN,
        *,
        maximize: bool = False,
        compiled: bool = False,
        **settings: Any,
    ) -> None:
        if lr is not _OWN:
            settings["lr"] = lr
        accepted = inspect.signature(self.rule_class).parameters
        self.rule = self.rule_class(**{k: v for k, v in settings.items() if k in accepted})
        hyper = {k: v for k, v in settings.items() if k not in accepted}
        self.compiled = compiled
        self.training = True
        self._reset()
        defaults: dict[str, Any] = {name: h.default for name, h in self.rule.hyper.items()}
        self._check(hyper)
        super().__init__(params, defaults | hyper | {"maximize": maximize})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with settings of their own, checked as those of the constructor."""
        if isinstance(param_group, dict):  # torch refuses what is none
            self._check({k: v for k, v in param_group.items() if k not in NOTES})
        super().add_param_group(param_group)
        # Looked at once torch has made one list of all the forms that parameters may come in.
        params = self.param_groups[-1]["params"]
        try:
            if any(p.is_complex() for p in params):
                raise InvalidInput("params", "complex parameters are not supported")
            self._check_one_kind([p for p in params if p.requires_grad])
        except InvalidInput:
            del self.param_groups[-1]
            raise

    def _check_one_kind(self, params: Iterable[Tensor]) -> None:
        """Refuses parameters of a group over which the rule cannot sum."""
        if self.rule.granularity == "model" and len({(p.dtype, p.device) for p in params}) > 1:
            raise InvalidInput(
                "params",
                f"{self.rule.name} sums over a group, and these are of several types or on several "
                "devices; give each kind a group of its own",
            )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient.

        Args:
            closure: Computes the loss anew, with gradients; its value is returned.
        """
        if not self.training:
            raise RuntimeError("call train() before step(): the weights are those of eval()")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            self._step_group(index, group)
        if self.rule.needs:
            self._count_unestimated()
        return loss

    def _count_unestimated(self) -> None:
        if self._unestimated is None:
            return
        self._unestimated += 1
        if self._unestimated > self.rule.hessian_every:
            self._unestimated = None
            warnings.warn(
                f"{self.rule.name} has made {self.rule.hessian_every + 1} steps and seen no "
                "curvature: each coordinate moves by lr, however small its gradient; call "
                f"update_hessian() every {self.rule.hessian_every} steps or so",
                stacklevel=5,  # past torch's wrappers of step()
            )

    def _step_group(self, index: int, group: Mapping[str, Any]) -> None:
        alike: dict[object, list[Batch]] = {}
        for batch in self._batches(index, group):
            apart = id(batch) if self.rule.granularity != "element" else None
            alike.setdefault((batch.step, batch.types, apart), []).append(batch)
        for batches in alike.values():
            items: list[Item] = []
            for batch in batches:
                p, g = batch.gather()
                items.append((p, -g if group["maximize"] else g, batch.state))
            c = self._coefficients(index, group, batches[0].step, items[0][0])
            if self.rule.granularity == "element":
                apply_all_(self.rule, items, c, compiled=self.compiled)
            else:
                apply_(self.rule, *items[0], c, batches[0].dims, compiled=self.compiled)
            for batch in batches:
                batch.scatter()

    @torch.no_grad()
    def update_hessian(
        self, estimates: Sequence[Tensor] | None = None, *, batch_size: int = 1
    ) -> None:
        """Takes in a curvature estimate; call it every ``rule.hessian_every`` steps or so.

        Args:
            estimates: Of the Hessian's diagonal, one per parameter in order of the groups, such as
                :func:`tuner.optimizers.curvature.hutchinson` gives. None, for the
                Gauss-Newton-Bartlett rule: taken from the present gradients, those of the mean loss
                under labels drawn from the model.
            batch_size: Samples (tokens) that mean was taken over; only without ``estimates``.

        Raises:
            InvalidInput: The rule takes no estimate, or a Hutchinson rule is given none.
        """
        if not self.rule.needs:
            raise InvalidInput("estimates", f"{self.rule.name} takes no curvature estimate")
        if estimates is None and self.rule.needs != "gnb":
            raise InvalidInput(
                "estimates",
                f"{self.rule.name} needs them; see tuner.optimizers.curvature.hutchinson",
            )
        everything = list(chain.from_iterable(group["params"] for group in self.param_groups))
        if estimates is not None and len(estimates) != len(everything):
            raise InvalidInput(
                "estimates", f"{len(estimates)} estimates for {len(everything)} parameters"
            )
        self._unestimated = None
        given = dict(zip(everything, estimates or (), strict=False))
        for index, group in enumerate(self.param_groups):
            for p in group["params"]:
                if estimates is None and p.grad is None:
                    continue
                work = working_dtype(p.dtype)
                if estimates is None:  # whose square 16 bits may not hold
                    estimate = p.grad.to(work).square() * batch_size
                else:
                    estimate = given[p].to(work)
                entry = self._entry(p)
                wide = self._wide(p, entry)
                c = self._coefficients(index, group, entry["step"], p)
                for name, new in self.rule.refresh(wide, estimate.reshape(-1), c).items():
                    flattened(self.rule, name, entry[name]).copy_(new)

    @torch.no_grad()
    def eval(self) -> None:
        """Puts the weights to evaluate and ship into the parameters; :meth:`train` takes them out.

        Without effect for rules whose trained weights are those to evaluate.
        """
        if not self.training or not self.rule.eval_mode:
            return
        self.training = False
        for index, group in enumerate(self.param_groups):
            for p in group["params"]:
                entry = self.state.get(p)
                if not entry:
                    continue
                entry["train_params"] = p.detach().clone()
                wide = self._wide(p, entry)
                c = self._coefficients(index, group, entry["step"], p)
                shown = self.rule.eval_params(p.reshape(-1).to(working_dtype(p.dtype)), wide, c)
                p.copy_(shown.view(p.shape))

    @torch.no_grad()
    def train(self) -> None:
        """Puts the trained weights back, bit for bit."""
        self.training = True
        for p in chain.from_iterable(group["params"] for group in self.param_groups):
            if "train_params" in self.state.get(p, {}):
                p.copy_(self.state[p].pop("train_params"))

    def state_dict(self) -> dict[str, Any]:
        """As torch's; each group also says whose it is: the rule's name and options."""
        state = super().state_dict()
        own = {"rule": self.rule.name, **self.rule.options}
        return {**state, "param_groups": [{**g, **own} for g in state["param_groups"]]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state dict, as copies; float32 state of 16-bit parameters stays float32.

        One of the same optimizer in ``torch.optim`` is taken over too, where it means the same.

        Raises:
            InvalidInput: It is another optimizer's; names the setting or state that does not fit.
        """
        fitting: dict[str, Any] = {}

        def fit(_: object, given: dict[str, Any]) -> dict[str, Any]:
            fitting.update(self._fitting(given))
            return fitting

        # What the user's own hooks make of it is what fits or not, and the last word is theirs.
        hooks = (
            self.register_load_state_dict_pre_hook(fit),
            self.register_load_state_dict_post_hook(lambda _: self._loaded(fitting), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _loaded(self, state_dict: dict[str, Any]) -> None:
        """Takes the state in its own types, which torch has made those of the parameters."""
        self._reset()
        saved_ids = chain.from_iterable(g["params"] for g in state_dict["param_groups"])
        own = chain.from_iterable(g["params"] for g in self.param_groups)
        for key, p in zip(saved_ids, own, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor):
                    # torch's lies as the parameter did, such as channels last; ours in a row.
                    held = value.to(p.device, copy=True, memory_format=torch.contiguous_format)
                    self.state[p][name] = held
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self.training = not any("train_params" in entry for entry in self.state.values())
        if any(self.state.values()):
            self._unestimated = None  # the run that saved it may have been given some

    def _fitting(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The same in this rule's names; groups of other sizes as they are, for torch to refuse."""
        groups, states = [], dict(state_dict["state"])
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=False):
            fitting = settings_of(self.rule, saved, self._check)
            groups.append(fitting)
            momentum = float(fitting.get("momentum", group.get("momentum", 0.0)))
            for key, p in zip(saved["params"], group["params"], strict=False):
                if key in states:
                    fresh = functools.partial(self._fresh, p)
                    states[key] = state_of(self.rule, states[key], momentum, fresh)
        groups += state_dict["param_groups"][len(groups) :]
        return {**state_dict, "state": states, "param_groups": groups}

    def __getstate__(self) -> dict[str, Any]:
        kept = {
            "rule": self.rule,
            "compiled": self.compiled,
            "training": self.training,
            "_unestimated": self._unestimated,
        }
        base: dict[str, Any] = super().__getstate__()
        return base | kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset()

    def _reset(self) -> None:
        """Forgets what is only derived from state and settings."""
        self._layouts: dict[int, _Layout] = {}
        self._tables: dict[tuple[int, torch.dtype, torch.device], CoefficientRows] = {}

    def _check(self, hyper: Mapping[str, Any]) -> None:
        """Refuses what is no setting of the rule, no number, or outside its range, by name."""
        for name, value in hyper.items():
            if name not in self.rule.hyper:
                raise InvalidInput(name, self._unknown(name))
            self.rule.hyper[name].check(name, _number(name, value))

    def _unknown(self, name: str) -> str:
        """What to say of a setting that the rule lacks."""
        rule = self.rule
        if name in inspect.signature(self.rule_class).parameters:
            return f"{rule.name} takes it for the whole optimizer, not for one group"
        betas = [known for known in rule.hyper if re.fullmatch(r"beta\d", known)]
        if name == "betas" and betas:
            return f"{rule.name} has no such setting; use {', '.join(betas)}"
        return f"{rule.name} has no such setting; it has {', '.join(rule.hyper)}"

    def _coefficients(
        self, index: int, group: Mapping[str, Any], step: int, p: Tensor
    ) -> dict[str, Tensor]:
        key = (index, p.dtype, p.device)
        if key not in self._tables:
            self._tables[key] = CoefficientRows(self.rule, p.dtype, p.device)
        return self._tables[key].row(tuple(float(group[name]) for name in self.rule.hyper), step)

    def _entry(self, p: Tensor) -> dict[str, Any]:
        """The state of ``p``, made at first use; its tensors are shaped as ``p`` where they can."""
        entry: dict[str, Any] = self.state[p]
        if "step" not in entry:
            entry |= {"step": 0, **self._fresh(p)}
        return entry

    def _fresh(self, p: Tensor) -> dict[str, Tensor]:
        """The state of ``p`` before its first step."""
        start = p.detach().to(working_dtype(p.dtype))
        if self.rule.granularity == "tensor":
            return self.rule.init(*in_place(start))
        flat = self.rule.init(start.reshape(-1), (-1,))
        return {name: unflattened(self.rule, name, s, p.shape) for name, s in flat.items()}

    def _wide(self, p: Tensor, entry: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state of ``p``, flat, in the type it is computed in: a model may change its own."""
        work = working_dtype(p.dtype)
        return {n: flattened(self.rule, n, entry[n]).to(work) for n in self.rule.state}

    def _batches(self, index: int, group: Mapping[str, Any]) -> list[Batch]:
        """The group's parameters with gradients, batched; made anew when that set changes."""
        params = [p for p in group["params"] if p.grad is not None]
        # Read at every step for every parameter, hence by functions of C.
        key = (
            *map(id, params),
            *map(_dtype, params),
            *map(Tensor.is_contiguous, params),
            *map(_layout_of_grad, params),
        )
        known = self._layouts.get(index)
        if known and key == known.key and all(map(is_, map(self.state.get, params), known.entries)):
            return known.batches
        self._check_one_kind(params)  # again: they may have been moved, or frozen before
        together: dict[object, list[Tensor]] = {}
        for p in params:
            if _layout_of_grad(p) != torch.strided:
                raise InvalidInput("params", "sparse gradients are not supported")
            alone = self.rule.granularity == "tensor" or (
                self.rule.granularity == "element" and p.numel() >= gather_below(p.device)
            )
            # Parameters step together that have one past, or whatever they have, are one model.
            apart = alone or self.rule.granularity == "model"
            past = () if apart else counted(self.rule, self._entry(p))
            together.setdefault(id(p) if alone else (p.dtype, p.device, past), []).append(p)
        batches = [
            join(self.rule, members, [self._entry(p) for p in members])
            for members in together.values()
        ]
        self._layouts[index] = _Layout(key, [self.state[p] for p in params], batches)
        return batches


def _number(name: str, value: Any) -> float:
    """A setting as a number: a tensor of one element is one, text is not, though it reads so."""
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise InvalidInput(name, f"{value!r} is not a number")


@functools.cache
def face(rule: type[Rule]) -> type[RuleOptimizer]:
    """The ordinary optimizer class of a rule, under the rule's own class name."""
    doc = (
        f"{rule.summary}\n\nThe ordinary face of ``{rule.name}``: see its rule for the equations.\n"
    )
    members = {"rule_class": rule, "__doc__": doc, "__module__": "tuner.optimizers"}
    return type(rule.__name__, (RuleOptimizer,), members)
