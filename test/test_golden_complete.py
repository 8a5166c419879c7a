"""No golden vector is forgotten: the replaying modules name every file of the set."""

import test_golden_fq_p2
import test_golden_ivit
import test_golden_standard
import test_golden_trio
from golden_vectors import VECTORS


def test_every_file_is_replayed() -> None:
    modules = (test_golden_ivit, test_golden_fq_p2, test_golden_trio, test_golden_standard)
    named = set().union(*(module.FILES for module in modules))
    assert named == {path.stem for path in VECTORS.glob("*.npz")}
