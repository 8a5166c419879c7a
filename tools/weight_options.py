"""Options of the commands for the bits of weights: short forms of the pass `assign-bits`."""

from __future__ import annotations

import argparse

from xdsl.passes import ModulePass, PassPipeline

from vit_opt.tools.command import UsageError


def add_weight_arguments(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:  # pyright: ignore[reportPrivateUsage]
    """The options that say how many bits weights have."""
    group.add_argument(
        "--weight-budget",
        type=float,
        metavar="SHARE",
        help="bytes of weights with their scales, relative to int8, for example 0.58: some layers "
        "get 4 bits, chosen on the calibration data",
    )
    group.add_argument(
        "--cycle-budget",
        type=float,
        metavar="SHARE",
        help="cycles that layers with weights take on the accelerator's array, relative to int8, "
        "for example 0.7: as --weight-budget, since 4-bit weights are multiplied twice as fast",
    )
    group.add_argument(
        "--weight-bits", type=int, choices=(4, 8), help="of all weights (default: 8)"
    )
    group.add_argument(
        "--weight-groups",
        action="store_true",
        help="4-bit weights share a shift in groups of eight, and bits are chosen by group, within "
        "either budget: more accurate",
    )


def weight_passes(args: argparse.Namespace) -> str:
    """The pass `assign-bits` with the options given, as in `-p`; nothing where none is given.

    Raises UsageError for groups without anything that makes weights narrow, for groups or a budget of
    cycles with dyadic scales, for a budget that is no share, and for more than one of a number of
    bits and the budgets.
    """
    given = _budget(args)
    if args.weight_bits is not None:
        given.append(f"bits={args.weight_bits}")
    if args.weight_groups:
        if not given and args.weight_bits != 4:
            raise UsageError("--weight-groups needs a budget or --weight-bits 4")
        if getattr(args, "scales", "pot") == "dyadic":
            raise UsageError("--weight-groups needs scales that are powers of two")
        given.append("form=group")
    return f"assign-bits{{{' '.join(given)}}}" if given else ""


def _budget(args: argparse.Namespace) -> list[str]:
    """The options of the pass that say what weights may cost."""
    from vit_opt.dialects.vit.targets import ACCEL_TARGETS

    budgets = {"--weight-budget": args.weight_budget, "--cycle-budget": args.cycle_budget}
    shares = {name: share for name, share in budgets.items() if share is not None}
    for name, share in shares.items():
        if not 0.0 < share <= 1.0:
            raise UsageError(f"{name}: {share:g} is not above 0 and at most 1")
        if args.weight_bits == 4:
            raise UsageError(f"{name} chooses the bits of every layer; leave --weight-bits out")
    if len(shares) > 1:
        raise UsageError("--weight-budget and --cycle-budget: one of the two, not both")
    if args.cycle_budget is None:
        return [f"budget={share!r}" for share in shares.values()]
    if getattr(args, "scales", "pot") == "dyadic":
        raise UsageError("--cycle-budget needs scales that are powers of two: the accelerator does")
    arch = getattr(args, "arch", "p2vit")
    if arch not in ACCEL_TARGETS:
        raise UsageError(
            f"--cycle-budget knows the cycles of {', '.join(sorted(ACCEL_TARGETS))}, not of {arch}"
        )
    return [f"budget={args.cycle_budget!r}", "cost=cycles", f'arch="{arch}"']


def weight_overrides(args: argparse.Namespace) -> dict[str, ModulePass]:
    """The same as an instance by name."""
    from vit_opt.passes import get_all_passes

    passes = PassPipeline.parse_spec(get_all_passes(), weight_passes(args)).passes
    return {each.name: each for each in passes}
