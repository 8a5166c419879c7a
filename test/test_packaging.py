"""What is installed is what is in the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from xdsl.passes import ModulePass

from vit_opt.passes import PASSES, pass_class
from vit_opt.tools.universe import VIT_UNIVERSE

ROOT = Path(__file__).parent.parent
FOLDERS = ("dialects", "passes", "frontends", "backends", "tools")


def packages_in_folders() -> set[str]:
    """Every folder with Python files, as an installed package."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {"vit_opt." + ".".join(path.parent.relative_to(ROOT).parts) for path in files}


def test_package_list_is_the_folders() -> None:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        listed = tomllib.load(stream)["tool"]["setuptools"]["packages"]
    assert set(listed) == packages_in_folders()


def test_every_package_has_an_init() -> None:
    for package in packages_in_folders():
        folder = ROOT / Path(*package.split(".")[1:])
        assert (folder / "__init__.py").exists(), folder


def test_every_pass_is_registered_by_its_name() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "passes").glob("*.py")}
    assert set(PASSES) <= files
    for name in files - set(PASSES):
        text = (ROOT / "passes" / f"{name.replace('-', '_')}.py").read_text()
        assert "(ModulePass)" not in text, f"{name} defines a pass that is not registered"
    for name in PASSES:
        pass_ = pass_class(name)
        assert issubclass(pass_, ModulePass)
        assert pass_.name == name
        assert (ROOT / "test" / "filecheck" / "passes" / f"{name}.mlir").exists(), name


def test_universe_is_published_and_complete() -> None:
    published = entry_points(group="xdsl.universe")["vit-opt"].load()
    assert published is VIT_UNIVERSE
    for name, factory in VIT_UNIVERSE.all_passes.items():
        assert factory().name == name
    for name, dialect in VIT_UNIVERSE.all_dialects.items():
        assert dialect().name == name
    for name, target in VIT_UNIVERSE.all_targets.items():
        assert target().name == name


def test_start_is_cheap() -> None:
    """`vit-opt --help` imports none of the heavy packages."""
    heavy = {"numpy", "onnx", "torch", "scipy", "PIL", "rich"}
    code = (
        "import sys\n"
        "from vit_opt.tools.opt import VitOptMain\n"
        "try: VitOptMain(['--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel, built from a copy so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source / name)
    command = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    (source / "dist").mkdir()
    subprocess.run([sys.executable, "-c", command], cwd=source, capture_output=True, check=True)
    [path] = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_wheel_holds_sources_and_kernels(wheel: set[str]) -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".c", ".h", ".typed") and "build" not in path.parts:
                assert f"vit_opt/{path.relative_to(ROOT)}" in wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_wheel_holds_nothing_else(wheel: set[str]) -> None:
    strays = {name for name in wheel if not name.startswith(("vit_opt/", "vit_opt-"))}
    assert not strays
    assert not any(name.startswith(("vit_opt/test", "vit_opt/examples")) for name in wheel)
