"""The code against docs/ARCHITECTURE.md: layers, imports that point down, and what must not need torch or Beam."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = [
    {"tsae.config", "tsae.errors", "tsae.imports", "tsae.log", "tsae.paths", "tsae.progress"},
    {"tsae.images", "tsae.png", "tsae.metrics", "tsae.quantize", "tsae.entropy", "tsae.signs", "tsae.sheet"},
    {
        "tsae.archive",
        "tsae.inputs",
        "tsae.model_file",
        "tsae.latents",
        "tsae.originals",
        "tsae.selection",
        "tsae.model_facts",
        "tsae.zoo",
        "pipelines.options",
    },
    {"tsae.model", "tsae.fixed_point", "tsae.backends", "tsae.checkpoint", "tsae.classifier"},
    {"tsae.coding", "tsae.codec", "tsae.reader"},
    {
        "tsae.data",
        "tsae.training",
        "tsae.jobs",
        "tsae.evaluation",
        "tsae.demo",
        "tsae.on_demand",
        "tsae.overview",
        "tsae.serve",
        "tsae.web",
        "pipelines.transforms",
        "pipelines.engine",
        "pipelines.local",
        "pipelines.request",
    },
    {
        "tsae.cli",
        "tsae.completion",
        "tsae.__main__",
        "pipelines.compress",
        "pipelines.decompress",
        "pipelines.streaming",
        "pipelines.watch",
    },
]


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def level(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if room(module) in layer)


def modules() -> dict[str, ast.Module]:
    files = [file for package in ("tsae", "pipelines") for file in (ROOT / package).rglob("*.py")]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    return {name: ast.parse(file.read_text()) for file, name in names.items() if name not in ("tsae", "pipelines")}


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("tsae", "pipelines"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if room(name) in set.union(*LAYERS)}


def test_every_module_has_a_layer() -> None:
    homeless = {room(name) for name in modules()} - set.union(*LAYERS)
    assert not homeless


def test_imports_point_down() -> None:
    wrong = [
        f"{name} -> {target}"
        for name, tree in modules().items()
        for target in imports(tree)
        if room(target) != room(name) and level(target) > level(name)
    ]
    assert not wrong


def test_only_the_command_line_imports_pipelines_and_only_inside_functions() -> None:
    for name, tree in modules().items():
        if not name.startswith("tsae."):
            continue
        at_top = {target for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)) for target in imports(node)}
        assert not {target for target in at_top if target.startswith("pipelines")}, name
        if room(name) != "tsae.cli":
            assert not {target for target in imports(tree) if target.startswith("pipelines")}, name


def test_every_room_is_on_the_architecture_page() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for module in set.union(*LAYERS) - {"tsae.__main__"}:
        name = module.split(".")[1]
        assert f"{name}.py" in page or f"{name}/" in page, module


@pytest.mark.parametrize("module", sorted(name for layer in LAYERS[:3] for name in layer))
def test_what_can_live_without_torch_does(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules; assert 'apache_beam' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_process_that_plans_needs_no_heavy_package() -> None:
    code = "import sys, pipelines.compress, pipelines.decompress\n"
    code += "assert not {'torch', 'numba', 'apache_beam'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_words_need_no_third_party_package_but_two() -> None:
    code = "import sys, tsae.config, tsae.errors; assert not {'numpy', 'fsspec', 'tqdm', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
