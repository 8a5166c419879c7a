"""Options of passes as text: what is meant is taken, what is wrong is named."""

from __future__ import annotations

import argparse

import pytest
from xdsl.passes import PassPipeline

from vit_opt.dialects.errors import VitError
from vit_opt.passes import get_all_passes
from vit_opt.tools.command import UsageError
from vit_opt.tools.pass_options import checked_pipeline
from vit_opt.tools.weight_options import weight_passes

PASSES = get_all_passes()


def test_right_pipelines_stay_and_whole_numbers_become_real_ones() -> None:
    text = 'smooth{alpha=0.25 search=false},smooth{alpha=0.5},quantize{wide="gelu","norm"},fuse'
    assert checked_pipeline("-p", text, PASSES) == text
    meant = checked_pipeline("-p", "fill-grids{headroom=1},refine{sweeps=2}", PASSES)
    grids, refine = PassPipeline.parse_spec(PASSES, meant).passes
    assert vars(grids)["headroom"] == 1.0 and type(vars(grids)["headroom"]) is float
    assert vars(refine)["sweeps"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fill-grids{headroom=nan}", "-p: fill-grids: headroom is a number, not 'nan'"),
        ("fill-grids{headroom=inf}", "headroom is a number, not 'inf'"),
        ("fill-grids{headroom=1.1,1.2}", "headroom is a number, not '1.1,1.2'"),
        ("fill-grids{headroom}", "headroom is a number, not ''"),
        ("smooth{alpha=true}", "alpha is a number, not 'True'"),
        ("smooth{search=3}", "search is true or false, not '3'"),
        ("refine{sweeps=1.5}", "sweeps is a whole number, not '1.5'"),
        ("refine{sweeps=true}", "sweeps is a whole number"),
        ("quantize{wide=3}", "wide is words with commas between, not '3'"),
        ("pot-fold{rounding=1}", "rounding is a word, not '1'"),
        ("pot-fold{wieghts=nearest}", "pot-fold has no option 'wieghts'; did you mean 'weights'?"),
        ("fuse{x=1}", "fuse has no option 'x'; it has none"),
        (
            "fuse,smooth{alpha=0.5 alpha=0.25}",
            "-p: option 'alpha' is given twice, again in column 23",
        ),
        ("calibrate{moments moments=false}", "option 'moments' is given twice, again in column 19"),
        ("smoth", "there is no pass 'smoth'; did you mean 'smooth'?"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_pipeline("-p", text, PASSES)
    assert message in str(caught.value)


@pytest.mark.parametrize("budget", [0.0, -1.0, 2.0, float("nan"), float("inf")])
def test_budgets_that_are_no_share(budget: float) -> None:
    args = argparse.Namespace(
        weight_budget=budget, cycle_budget=None, weight_bits=None, weight_groups=False
    )
    with pytest.raises(UsageError, match=r"--weight-budget: .* is not above 0 and at most 1"):
        weight_passes(args)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("migrate", {"share": 2.0}, "migrate: share 2 is not between 0 and 1"),
        ("migrate", {"headroom": 0.0}, "migrate: headroom 0 is not from 1 to below 16"),
        ("fold-scales", {"headroom": 99.0}, "fold-scales: headroom 99 is not from 1 to below 16"),
        ("smooth", {"alpha": -1.0}, "smooth: alpha -1 is not between 0 and 1"),
        ("split-channels", {"gain": float("nan")}, "split-channels: gain nan is not 0 or more"),
        ("calibrate", {"augment": "x"}, "calibrate: augment 'x' is not one of none, flip, flips,"),
        ("calibrate", {"grid": "x"}, "calibrate: grid 'x' is not one of pot, real"),
        ("assign-bits", {"batches": -1}, "assign-bits: batches -1 is negative"),
        ("assign-bits", {"cost": "cycles", "arch": "x"}, "unknown architecture 'x'; known: edge"),
        ("quantize", {"gelu": "x"}, "quantize: gelu 'x' is not one of table"),
        ("pot-fold", {"bias": "x"}, "pot-fold: bias 'x' is not one of corrected"),
        ("refine", {"held": -1}, "refine: held -1 is negative"),
    ],
)
def test_values_out_of_range_are_named_before_anything_runs(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(VitError) as caught:
        PASSES[name]()(**options)
    assert str(caught.value).startswith(message)
