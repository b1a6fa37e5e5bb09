"""The learner: an update is a pure function of (state, batch); state is a dictionary of tensors.

    state = {"params":  {network: {name: tensor}},     targets are networks called target_<name>
             "buffers": {network: {name: tensor}},     normalisation statistics; never trained
             "adam":    {network: {"m", "v": {name: tensor}, "t": 0-d, "lr": 0-d}},
             "scalars": {name: 0-d}}             settings that may vary by run, and running numbers

Whatever may vary by step or by grid point is a 0-d tensor in the state, never a Python number, so
one compiled graph serves a whole run and `torch.func.vmap` serves many seeds.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue] (untyped)
from torch.func import functional_call, grad_and_value

from offrl.batch import Batch
from offrl.errors import NumericsError, OffrlError
from offrl.sampler import Sampler

if TYPE_CHECKING:  # the layer above; only its shape is needed here
    from offrl.algorithm import Algorithm

State = dict[str, Any]
Metrics = dict[str, Tensor]
Params = dict[str, dict[str, Tensor]]


class Nets:
    """`nets.policy(obs)` calls the module `policy` with the state's parameters."""

    def __init__(self, modules: Mapping[str, nn.Module], state: State, params: Params) -> None:
        self._modules, self._params, self._buffers = modules, params, state["buffers"]
        self._scalars: dict[str, Tensor] = state["scalars"]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        module = self._modules[name.removeprefix("target_")]
        tensors = {**self._params[name], **self._buffers[name]}
        return lambda *inputs: functional_call(module, tensors, inputs)

    def buffer(self, network: str, name: str) -> Tensor:
        """A normalisation statistic of a network."""
        return self._buffers[network][name]

    def scalar(self, name: str) -> Tensor:
        """A traced setting, or a running number of the algorithm, 0-d."""
        return self._scalars[name]


class Learner:
    """Modules and a state; every method returns a new learner and changes nothing."""

    def __init__(self, modules: Mapping[str, nn.Module], state: State) -> None:
        self.modules, self.state = modules, state

    @property
    def nets(self) -> Nets:
        """The networks with the parameters of this state."""
        return Nets(self.modules, self.state, self.state["params"])

    def scalar(self, name: str) -> Tensor:
        """A traced setting, or a running number of the algorithm, 0-d."""
        return self.state["scalars"][name]

    def count(self, network: str) -> Tensor:
        """Steps that Adam has taken with a network, 0-d: what a schedule is a function of."""
        return self.state["adam"][network]["t"]

    def descend(
        self,
        names: str | tuple[str, ...],
        loss: Callable[[Nets, Batch], tuple[Tensor, Metrics]],
        batch: Batch,
        *,
        at: "Learner | None" = None,
        max_norm: float | None = None,
        rate: float | Tensor = 1.0,
    ) -> "tuple[Learner, Metrics]":
        """One Adam step of the networks `names` on `loss(nets, batch) -> (scalar, metrics)`.

        Gradients flow into those networks only. `at` gives the parameters at which the loss is
        taken where the authors use older ones than those that are stepped. A network's gradient
        longer than `max_norm` is scaled down to it; `rate` multiplies the learning rate.
        """
        names = (names,) if isinstance(names, str) else names
        params: Params = (at or self).state["params"]

        # Quoted, since an annotation of an inner function is evaluated, which dynamo cannot trace.
        def objective(moving: "Params") -> "tuple[Tensor, Metrics]":
            return loss(Nets(self.modules, self.state, {**params, **moving}), batch)

        grads, metrics = gradients(objective, {n: params[n] for n in names})
        new_params, new_adam = dict(self.state["params"]), dict(self.state["adam"])
        for name in names:
            grad = grads[name]
            norm = torch.stack([g.square().sum() for g in grad.values()]).sum().sqrt()
            metrics = {**metrics, f"{name}/grad_norm": norm}
            if max_norm is not None:
                scale = (max_norm / (norm + 1e-6)).clamp(max=1)
                grad = {k: g * scale for k, g in grad.items()}
            new_params[name], new_adam[name] = adam(
                self.state["params"][name], grad, self.state["adam"][name], rate
            )
        return self._with(params=new_params, adam=new_adam), metrics

    def track(self, names: str | tuple[str, ...], rate: float | Tensor) -> "Learner":
        """Move target_<name> of each towards <name>: target <- (1 - rate) target + rate online.

        Parameters are interpolated; buffers never move. rate = 1 is a hard update, and a copy.
        """
        params: Params = dict(self.state["params"])
        for name in (names,) if isinstance(names, str) else names:
            online, target = params[name], params[f"target_{name}"]
            moved = {key: torch.lerp(target[key], online[key], rate) for key in target}
            params[f"target_{name}"] = moved
        return self._with(params=params)

    def copy(self, name: str, into: str) -> "Learner":
        """Give the network `into` the parameters of the network `name`, and a fresh Adam."""
        params, moments = self.state["params"], self.state["adam"]
        copied = {key: tensor.clone() for key, tensor in params[name].items()}
        adam = {**moments, into: _adam_state(copied, moments[into]["lr"])}
        return self._with(params={**params, into: copied}, adam=adam)

    def note(self, **scalars: Tensor) -> "Learner":
        """Set scalars of the state, each 0-d and of the name that `Algorithm.scalars` gave it."""
        return self._with(scalars={**self.state["scalars"], **scalars})

    def _with(self, **changes: Any) -> "Learner":
        return Learner(self.modules, {**self.state, **changes})


def gradients(
    objective: Callable[[Params], tuple[Tensor, Metrics]], params: Params
) -> tuple[Params, Metrics]:
    """Gradients of objective(params)[0], and its metrics, detached.

    Plain eager code takes torch's own tape, a quarter faster than `torch.func` at 2x256 and alike
    to the bit; inside `compile` or `vmap` only `torch.func` will do.
    """
    if torch.compiler.is_compiling() or _transformed():
        grads, (_, metrics) = grad_and_value(objective, has_aux=True)(params)
        return grads, metrics
    taped = {n: {k: p.detach().requires_grad_() for k, p in d.items()} for n, d in params.items()}
    loss, metrics = objective(taped)
    leaves = [p for d in taped.values() for p in d.values()]
    flat = iter(torch.autograd.grad(loss, leaves, materialize_grads=True))
    grads = {n: {k: next(flat) for k in d} for n, d in taped.items()}
    return grads, {name: value.detach() for name, value in metrics.items()}


def _transformed() -> bool:
    stack: Any = _functorch.peek_interpreter_stack()  # typed as never None, and None in plain code
    return stack is not None


_LOG_BETA_1, _LOG_BETA_2 = math.log(0.9), math.log(0.999)


def adam(
    params: dict[str, Tensor],
    grads: dict[str, Tensor],
    state: dict[str, Any],
    rate: float | Tensor = 1.0,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Adam with beta 0.9, 0.999 and epsilon 1e-8 (Kingma & Ba 2015, 1412.6980, algorithm 1)."""
    t = state["t"] + 1
    m = {k: state["m"][k].lerp(g, 0.1) for k, g in grads.items()}
    v = {k: state["v"][k].lerp(g * g, 0.001) for k, g in grads.items()}
    # exp and not **: a compiler for the CPU works a power out again for every few weights.
    root = (1 - (t * _LOG_BETA_2).exp()).sqrt()
    length = rate * state["lr"] * root / (1 - (t * _LOG_BETA_1).exp())
    small = 1e-8 * root
    new = {k: p - length * m[k] / (v[k].sqrt() + small) for k, p in params.items()}
    return new, {"m": m, "v": v, "t": t, "lr": state["lr"]}


def initial_state(
    modules: Mapping[str, nn.Module],
    targets: tuple[str, ...],
    learning_rates: Mapping[str, float],
    scalars: Mapping[str, float] | None = None,
) -> State:
    """The state of freshly made modules; a target starts equal to its network, never aliased."""

    def copies(pairs: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in pairs}

    params = {name: copies(module.named_parameters()) for name, module in modules.items()}
    buffers = {name: copies(module.named_buffers()) for name, module in modules.items()}
    adam_state = {
        name: _adam_state(params[name], _like(params[name], rate))
        for name, rate in learning_rates.items()
    }
    numbers = {k: _like(next(iter(params.values())), v) for k, v in (scalars or {}).items()}
    for name in targets:
        params[f"target_{name}"] = {k: p.clone() for k, p in params[name].items()}
        buffers[f"target_{name}"] = {k: b.clone() for k, b in buffers[name].items()}
    return {"params": params, "buffers": buffers, "adam": adam_state, "scalars": numbers}


def _adam_state(params: dict[str, Tensor], lr: Tensor) -> dict[str, Any]:
    return {
        "m": {k: torch.zeros_like(p) for k, p in params.items()},
        "v": {k: torch.zeros_like(p) for k, p in params.items()},
        "t": torch.zeros_like(lr),
        "lr": lr,
    }


def _like(tensors: dict[str, Tensor], value: float) -> Tensor:
    return next(iter(tensors.values())).new_tensor(value)


Update = Callable[[State, Batch, str], tuple[State, Metrics]]


def make_update(
    algorithm: "Algorithm[Any]", modules: Mapping[str, nn.Module], *, compiled: bool = False
) -> Update:
    """The algorithm's update as a function (state, batch, stage) -> (state, metrics).

    Compiled, each stage is one graph: forward, backward, optimiser and target update.
    """

    def update(state: State, batch: Batch, stage: str) -> tuple[State, Metrics]:
        learner, metrics = algorithm.update(Learner(modules, state), batch, stage)
        return learner.state, metrics

    if not compiled:
        return update
    import torch._dynamo as dynamo  # slow to import, and only where something is compiled
    from torch._dynamo.exc import TorchDynamoException

    dynamo.reset()
    # Silent fallback to eager would be a run at a third of the speed that nobody notices.
    dynamo.config.fail_on_recompile_limit_hit = True
    # What is compiled belongs to a code object, so each update has one of its own: the guards that
    # are left would not tell two algorithms apart.
    own = FunctionType(update.__code__.replace(), globals(), closure=update.__closure__)
    options: Any = {"guard_filter_fn": _of_inputs} if hasattr(torch.compiler, _SINCE) else None
    fast: Update = torch.compile(own, dynamic=False, fullgraph=True, options=options)

    def compiled_update(state: State, batch: Batch, stage: str) -> tuple[State, Metrics]:
        try:
            return fast(state, batch, stage)
        except TorchDynamoException as error:
            raise OffrlError(
                f"The update of {algorithm.name} cannot be compiled: {str(error).splitlines()[0]}",
                "Run it with --compile off.",
            ) from error

    return compiled_update


_SINCE = "skip_all_guards_unsafe"  # torch takes a filter of guards since it has this one


def _of_inputs(guards: Any) -> list[bool]:
    """Of what is looked at before every compiled step, keep what the update is a function of.

    Nine in ten guards are about modules, settings and code, which do not change within a run; of
    small networks they take longer than the arithmetic.
    """
    return [g.name.removeprefix("L['").startswith(("state", "batch", "stage")) for g in guards]


class Progress(NamedTuple):
    """The state after `step` gradient steps; `anchor` is the state of the last refresh."""

    step: int
    state: State
    anchor: State
    metrics: Metrics


def steps(
    algorithm: "Algorithm[Any]",
    modules: Mapping[str, nn.Module],
    sampler: Sampler,
    start: Progress,
    stop: int,
    update: Update | None = None,
) -> Iterator[Progress]:
    """Take gradient steps start.step .. stop - 1 and yield after each.

    Where the algorithm refreshes, the state takes its `turn` and columns are recomputed from it
    (the anchor), so a run that is resumed in mid-pass recomputes exactly what it had.

    Raises NumericsError before a step that is not finite: the last Progress yielded is good.
    """
    update = update or make_update(algorithm, modules)
    state, anchor, refreshed = start.state, start.anchor, False
    for step in range(start.step, stop):
        if algorithm.refreshes(step):
            state = algorithm.turn(Learner(modules, state), sampler.table, step).state
            anchor, refreshed = state, False
        if not refreshed:
            since = last_refresh(algorithm, step)
            columns = algorithm.columns(Learner(modules, anchor), sampler.table, since)
            sampler, refreshed = sampler.with_columns(columns), True
        new, metrics = update(state, sampler[step], algorithm.stage(step))
        check_finite(metrics, step)
        state = new
        yield Progress(step + 1, state, anchor, metrics)


def last_refresh(algorithm: "Algorithm[Any]", step: int) -> int:
    """The latest step, up to `step`, at which the algorithm refreshed its columns."""
    while step > 0 and not algorithm.refreshes(step):
        step -= 1
    return step


def check_finite(metrics: Metrics, step: int) -> None:
    """Raise NumericsError naming the first loss or gradient norm that is not finite."""
    watched = [k for k in metrics if k.endswith(("/loss", "/grad_norm"))]
    if watched and not math.isfinite(float(torch.stack([metrics[k] for k in watched]).sum())):
        for name in watched:
            if not bool(metrics[name].isfinite()):
                raise NumericsError(
                    f"{name} is {float(metrics[name])} at step {step}.",
                    "Look at the data with `offrl data check`, or lower the learning rate.",
                )
        raise NumericsError(
            f"The losses overflow when added up at step {step}.", "Scale the rewards down."
        )
