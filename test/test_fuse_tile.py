"""`fuse` and `tile` change no bit of a result, whatever the graph."""

import numpy as np
import pytest
from random_graphs import RandomGraph, operations

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import run_main
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.evaluate import evaluator
from vit_opt.dialects.vit.ops.pipeline import LOOPS
from vit_opt.dialects.vit.targets import ACCEL_TARGETS, P2VIT, PORTABLE
from vit_opt.passes.blocking import Machine, best_lanes
from vit_opt.passes.fuse import fuse
from vit_opt.passes.prove_ranges import prove_ranges
from vit_opt.passes.tile import flatten, tile


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_give_the_same_integers(seed: int) -> None:
    graph = RandomGraph(seed)
    evaluate = evaluator(graph.store)
    inputs = [graph.inputs(), graph.inputs(extreme=True)]
    before = [run_main(graph.module, each, evaluate) for each in inputs]

    def same() -> None:
        graph.module.verify()
        for each, expected in zip(inputs, before, strict=True):
            after = run_main(graph.module, each, evaluate)
            for name, array in expected.items():
                np.testing.assert_array_equal(after[name], array)

    prove_ranges(graph.module, graph.store)
    fuse(graph.module, graph.store)
    same()
    count = len(operations(graph.module, ops.VitOp))
    for target in (*ACCEL_TARGETS, "c"):
        tile(graph.module, target)
        same()
        assert len(operations(graph.module, ops.VitOp)) == count
    flatten(graph.module)
    same()
    assert not operations(graph.module, ops.PipelineOp)
    assert not any(LOOPS in op.attributes for op in graph.module.walk())


def test_tiling_is_deterministic() -> None:
    texts: set[str] = set()
    for _ in range(3):
        graph = RandomGraph(3)
        tile(graph.module)
        texts.add(str(graph.module))
    assert len(texts) == 1
    assert operations(graph.module, ops.PipelineOp)


def test_unknown_targets_are_named() -> None:
    with pytest.raises(
        VitError,
        match="unknown target 'abacus'; known: c, edge, p2vit, p2vit-large, trio, trio-large",
    ):
        tile(RandomGraph(0).module, "abacus")


@pytest.mark.parametrize(
    ("size", "lanes"),
    [
        ((197, 192, 192), "columns"),  # 197 rows leave 5 of 256 lanes' worth, 192 columns nothing
        ((192, 197, 64), "rows"),
        ((1, 1000, 192), "columns"),
        ((256, 1, 192), "rows"),
        ((64, 64, 64), "columns"),  # a tie
    ],
)
def test_lanes_go_where_the_remainder_is_small(size: tuple[int, int, int], lanes: str) -> None:
    assert best_lanes(Machine.of(P2VIT), size) == lanes


@pytest.mark.parametrize("target", [*ACCEL_TARGETS.values(), PORTABLE], ids=lambda t: t.name)
@pytest.mark.parametrize("seed", range(5))
def test_blocks_fit_the_memories(target: object, seed: int) -> None:
    machine = Machine.of(target)  # pyright: ignore[reportArgumentType]
    graph = RandomGraph(seed, steps=20)
    tile(graph.module, target)  # pyright: ignore[reportArgumentType]
    for pipeline in operations(graph.module, ops.PipelineOp):
        for op in pipeline.regions[0].block.ops:
            loops = op.attributes.get(LOOPS)
            if isinstance(op, ops.LinearOp | ops.MatmulOp) and isinstance(loops, ops.LoopsAttr):
                m, n, k = loops.block_sizes
                assert n * k <= machine.weights
                assert 4 * m * n <= machine.results
