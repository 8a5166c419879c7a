"""What a road no longer needs is given up on the way: weights that passes replace, moments."""

from pathlib import Path

import numpy as np
import pytest

from vit_opt.backends.reference import run_reference
from vit_opt.passes.calibrate import ValueStatistics
from vit_opt.passes.pipelines import passes_of, remaining
from vit_opt.tools.opt import VitOptMain
from vit_opt.tools.steps import import_onnx, new_context, provide_batches, run_pipeline
from vit_opt.tools.weights import referenced_digests, release_weights

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@pytest.mark.parametrize("release", [False, True])
def test_road_with_and_without_release(release: bool) -> None:
    context = new_context()
    module = import_onnx(DIGITS / "model.onnx", context=context)
    provide_batches(module, context, DIGITS / "calib.npz", count=4)
    floats = context.assets.nbytes
    run_pipeline(module, context, passes_of(remaining(module, "smooth")), release=release)
    kept = [s for s in context.assets.statistics.values() if isinstance(s, ValueStatistics)]
    assert any(each.moments is not None for each in kept)
    assert (context.assets.nbytes < 1.2 * floats) == release
    run_pipeline(module, context, passes_of(remaining(module, "verify-integer")), release=release)
    assert all(each.moments is None for each in kept)
    before = run_reference(module, context.assets, context.assets.batches[0]).codes

    context.assets.statistics.clear()
    release_weights(module, context.assets)
    assert set(context.assets.arrays) == referenced_digests(module, context.assets)
    assert context.assets.nbytes < 0.5 * floats
    after = run_reference(module, context.assets, context.assets.batches[0]).codes
    assert np.array_equal(before["logits"], after["logits"])


def test_vit_opt_releases(tmp_path: Path) -> None:
    calib, out = ["--calib", str(DIGITS / "calib.npz"), "--calib-images", "4"], tmp_path / "m.mlir"
    main = VitOptMain([str(DIGITS / "model.onnx"), "-p", "smooth", *calib, "-o", str(out)])
    main.run()
    used = sum(main.context.assets.arrays[digest].nbytes for digest in _saved(out))
    assert main.context.assets.nbytes < 1.2 * used


def _saved(path: Path) -> list[str]:
    with np.load(path.with_suffix(".weights.npz")) as saved:
        return list(saved.files)
