"""The rules of the architecture: imports point down, other packages' private members stay private."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = {"train", "evaluate", "predict", "export", "demo", "report"}
GROUPS = {"models", "datamodules", "lit_modules", "callbacks"}  # named after config groups
# What each package may import of this project, besides itself.
MAY_IMPORT = {
    **dict.fromkeys(GROUPS, {"results"}),
    "results": set(),
    "inference": {"results", *GROUPS},
    "launch": {"results", "models"},  # of models only the torch-free resnet_config
    "hydra_plugins": {"launch"},
}
MAY_BE_PRIVATE = {"launch/main.py", "lit_modules/numerics.py"}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).glob("*.py"))
OWN = {*MAY_IMPORT, *SCRIPTS}


def imported(tree: ast.AST) -> list[str]:
    """The modules that a file imports."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_the_root_has_six_scripts():
    assert {path.stem for path in ROOT.glob("*.py")} == SCRIPTS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    package = path.parent.name
    found = {name.partition(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
    assert found & OWN <= MAY_IMPORT[package] | {package}


def test_launch_imports_only_the_torch_free_part_of_models():
    for path in (ROOT / "launch").glob("*.py"):
        names = [name for name in imported(ast.parse(path.read_text(encoding="utf-8"))) if name.startswith("models")]
        assert set(names) <= {"models.resnet_config"}, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_private_members_of_other_packages_are_not_used(path):
    if path.relative_to(ROOT).as_posix() in MAY_BE_PRIVATE:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    private = [name for name in imported(tree) if re.search(r"(^|\.)_[a-z]", name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()") and node.attr not in ("_target_", "_replace", "_asdict"):
                private.append(f"{owner}.{node.attr}")
    assert not private


def foreign_names(tree: ast.AST) -> set[str]:
    """The names under which a file knows other packages and what it imports from them."""
    names = set()
    for node in ast.walk(tree):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if (module or alias.name).partition(".")[0] not in OWN:
                names.add(alias.asname or alias.name.partition(".")[0])
    return names


def test_no_attribute_of_another_package_is_replaced():
    """Except for two hooks that the standard library documents as such; launch/main.py gives the reasons."""
    replaced = set()
    for path in [*FILES, *ROOT.glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
        for target in targets:
            text = ast.unparse(target)
            if "." in text and re.split(r"[.\[(]", text)[0] in foreign_names(tree):
                replaced.add(text)
    allowed = {"sys.argv", "sys.argv[0]", "sys.argv[1:]", "os.environ"}
    assert {text for text in replaced if text not in allowed and not text.startswith("os.environ[")} == {
        "logging.raiseExceptions",
        "threading.excepthook",
    }
