"""Fixtures that several files of tests share."""

import pytest
from c_vit import VitBuilder, VitShape


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries are compiled anew for this run of the tests, not taken from the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def vit():
    """A two-block ViT: its case with the input, its output, and the module."""
    builder = VitBuilder(VitShape())
    output = builder.build()
    return builder.case, output, builder.case.module(output)
