"""Annealed descent and batched L-BFGS beside torch.optim's L-BFGS and Adam and SciPy's L-BFGS-B.

Loss and processor time are compared at equal numbers of network evaluations, on the network that
was trained without the person.

python Testing/benchmarks/optimisers.py [--evaluations 200] [--person pelvis] [--seed 0]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from fnmatch import fnmatchcase

import common
import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from NetInversionLib.core import devices
from NetInversionLib.ideal_input.settings import Settings
from NetInversionLib.optimise import descent, lbfgs
from NetInversionLib.optimise.objective import Objective, Terms

HISTORY = 20
OURS = "annealed descent (ours)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument(
        "--regions", type=int, default=4, help="of one person; each from three starts"
    )
    parser.add_argument("--person", choices=common.PEOPLE, default="pelvis")
    parser.add_argument("--seed", type=int, default=0, help="which regions")
    parser.add_argument("--networks", choices=common.NETWORKS, default=common.NETWORKS[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = devices.choose(options.device)
    objective, starts = problem(options, device)
    methods = {
        OURS: lambda: annealed(objective, starts, options.evaluations),
        "batched L-BFGS (ours)": lambda: batched(objective, starts, options.evaluations),
        "torch L-BFGS, strong Wolfe, one at a time": lambda: one_at_a_time(
            objective, starts, options.evaluations, "strong_wolfe"
        ),
        "torch L-BFGS, fixed step, one at a time": lambda: one_at_a_time(
            objective, starts, options.evaluations, None
        ),
        "torch L-BFGS, strong Wolfe, joint": lambda: joint(
            objective, starts, options.evaluations, "strong_wolfe"
        ),
        "torch L-BFGS, fixed step, joint": lambda: joint(
            objective, starts, options.evaluations, None
        ),
        "SciPy L-BFGS-B, one at a time": lambda: scipy_one_at_a_time(
            objective, starts, options.evaluations
        ),
        "Adam, rate 0.01": lambda: adam(objective, starts, options.evaluations, 0.01),
        "Adam, rate 0.05, cosine": lambda: adam(objective, starts, options.evaluations, 0.05, True),
    }
    methods = {n: m for n, m in methods.items() if any(fnmatchcase(n, p) for p in options.only)}
    objective.value_and_gradient(starts, torch.arange(len(starts), device=device))  # warm up
    times: dict[str, list[float]] = {name: [] for name in methods}
    losses = {}
    for _ in range(
        options.repeats
    ):  # in turn, so that a slow moment of the machine hits all of them
        for name, run in methods.items():
            seconds, losses[name] = timed(run, device)
            times[name].append(seconds)
            print(f"{name}: {losses[name].mean():.6f} in {seconds:.1f} s", flush=True)
    report(options, device, {n: min(t) for n, t in times.items()}, losses)


def problem(options: argparse.Namespace, device: torch.device) -> tuple[Objective, Tensor]:
    volumes, body = common.case_volumes(options.person)
    model = common.held_out_model(options.person, options.networks)
    model.network.to(device)
    inputs = [volumes[channel.role] for channel in model.card.inputs]
    patient, target = (
        model.normalise(inputs, model.scalings(inputs)),
        model.normalise_target([volumes["ct"]])[0],
    )
    cut = [
        (slice(r[0], r[1]), slice(None), slice(*r[2:4]), slice(*r[4:]))
        for r in common.regions(body, options.regions, options.seed)
    ]
    patient, target = (torch.cat([x[c] for c in cut]).to(device) for x in (patient, target))
    settings = Settings()
    noise = torch.rand(patient.shape, generator=torch.Generator().manual_seed(0)).to(device)
    objective = Objective(
        model,
        target,
        terms=Terms(settings.above, settings.below),
        multiple=model.card.size_multiple,
    )
    return objective, torch.cat([patient, torch.zeros_like(patient), noise])


def timed(run: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds of the processor (of a graphics card: of the clock), and the losses."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    losses = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began, losses


def annealed(objective: Objective, starts: Tensor, evaluations: int) -> Tensor:
    shares = torch.tensor([0.5, 1.0, 1.0]).repeat_interleave(len(starts) // 3).to(starts)
    options = descent.Options(max_evaluations=evaluations)
    return descent.minimize(objective.value_and_gradient, starts, options, shares=shares).loss.cpu()


def batched(objective: Objective, starts: Tensor, evaluations: int) -> Tensor:
    options = lbfgs.Options(max_evaluations=evaluations, history=HISTORY, stall_tolerance=0)
    return lbfgs.minimize(objective.value_and_gradient, starts, options).loss.cpu()


def one_at_a_time(
    objective: Objective, starts: Tensor, evaluations: int, search: str | None
) -> Tensor:
    return torch.cat(
        [
            _torch(
                objective,
                starts[n : n + 1],
                torch.tensor([n], device=starts.device),
                evaluations,
                search,
            )
            for n in range(len(starts))
        ]
    )


def scipy_one_at_a_time(objective: Objective, starts: Tensor, evaluations: int) -> Tensor:
    """scipy.optimize's L-BFGS-B without bounds; gives the loss of each at the best point seen."""
    return torch.tensor([_scipy(objective, starts, n, evaluations) for n in range(len(starts))])


def _scipy(objective: Objective, starts: Tensor, number: int, evaluations: int) -> float:
    item, seen = torch.tensor([number], device=starts.device), [math.inf]

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        image = torch.from_numpy(x).to(starts).reshape(starts[:1].shape)
        value, gradient = objective.value_and_gradient(image, item)
        if len(seen) <= evaluations:  # its line search overshoots maxfun
            seen.append(float(value))
        return float(value), gradient.double().cpu().numpy().ravel()

    options = {"maxfun": evaluations, "maxiter": evaluations, "maxcor": HISTORY}
    options |= {"ftol": 0, "gtol": 0}
    start = starts[number].double().cpu().numpy().ravel()
    optimize.minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    return min(seen)


def joint(objective: Objective, starts: Tensor, evaluations: int, search: str | None) -> Tensor:
    return _torch(
        objective, starts, torch.arange(len(starts), device=starts.device), evaluations, search
    )


def _torch(objective, start, items, evaluations, search) -> Tensor:
    """torch.optim.LBFGS on the sum over ``items``; gives the loss of each at the best sum seen."""
    x = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [x],
        max_iter=10 * evaluations,
        max_eval=evaluations,
        history_size=HISTORY,
        line_search_fn=search,
        tolerance_grad=0,
        tolerance_change=0,
    )
    best, left = [torch.inf, None], [evaluations]

    def closure():
        value, x.grad = objective.value_and_gradient(x.detach(), items)
        total = value.sum()
        if left[0] > 0 and float(total) < best[0]:  # its line search overshoots max_eval
            best[:] = float(total), value.clone()
        left[0] -= 1
        return total

    while left[0] > 0:
        before = left[0]
        optimiser.step(closure)
        if before - left[0] <= 1:  # stuck: it evaluates once and gives up
            break
    return best[1].cpu()


def adam(
    objective: Objective, starts: Tensor, evaluations: int, rate: float, cosine: bool = False
) -> Tensor:
    x, items = starts.clone().requires_grad_(), torch.arange(len(starts), device=starts.device)
    optimiser = torch.optim.Adam([x], lr=rate, betas=(0.9, 0.99) if cosine else (0.9, 0.999))
    best = torch.full((len(x),), torch.inf, device=x.device)
    for number in range(evaluations):
        if cosine:
            fallen = 0.5 * (1 + math.cos(math.pi * number / evaluations))
            optimiser.param_groups[0]["lr"] = rate * fallen
        value, x.grad = objective.value_and_gradient(x.detach(), items)
        best = torch.minimum(best, value)
        optimiser.step()
    return best.cpu()


def report(options, device, times: dict[str, float], losses: dict[str, Tensor]) -> None:
    mean = {name: float(loss.mean()) for name, loss in losses.items()}
    count = len(next(iter(losses.values())))
    lines = [
        (
            f"{options.person}, regions of seed {options.seed}, networks of the {options.networks}"
            f" training: {count} tiles of {common.SIZE} x {common.SIZE}, {options.evaluations}"
            f" evaluations each, {devices.describe(device)}"
        ),
        "",
        "| optimiser | mean loss | seconds | patient / zeros / noise starts |",
        "|---|---|---|---|",
    ]
    for name in times:
        parts = " / ".join(f"{part.mean():.5f}" for part in losses[name].reshape(3, -1))
        lines.append(f"| {name} | {mean[name]:.6f} | {times[name]:.1f} | {parts} |")
    facts = {"tiles": count, "times": times, "losses": mean}
    if OURS in times and any("(ours)" not in name for name in times):
        lines += ["", against_the_best_rival(times, losses)]
    common.write("optimisers", facts, lines)


def against_the_best_rival(times: dict[str, float], losses: dict[str, Tensor]) -> str:
    """Ours beside the other that reaches the least mean loss, and start by start."""
    rivals = [name for name in times if "(ours)" not in name]
    best = min(rivals, key=lambda name: float(losses[name].mean()))
    cells = []
    for place in range(3):
        part = {name: float(losses[name].reshape(3, -1)[place].mean()) for name in times}
        cells.append(part[OURS] / min(part[name] for name in rivals))
    return (
        f"Ours against the best other ({best}): loss x"
        f" {float(losses[OURS].mean() / losses[best].mean()):.3f}, time x"
        f" {times[OURS] / times[best]:.3f}. Start by start against the best there (patient, zeros,"
        f" noise): loss x {', '.join(f'{cell:.3f}' for cell in cells)}."
    )


if __name__ == "__main__":
    main()
