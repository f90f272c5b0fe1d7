"""The plan of the house: which room may import which, read off the imports themselves."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import steadyq

SOURCE = Path(steadyq.__file__).parent

GROUND = {"errors", "output", "progress"}
"""What every room may import."""

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "output": {"errors"},
    "progress": {"output"},
    "settings": {"errors", "algorithm"},
    "algorithm": {"errors"},
    "engine": {"algorithm"} | GROUND,
    "envs": {"algorithm", "settings"} | GROUND,
    "store": {"algorithm", "engine", "settings"} | GROUND,
    "examine": {"algorithm", "engine", "envs", "store", "settings"} | GROUND,
    "run": {"algorithm", "engine", "envs", "store", "examine", "settings"} | GROUND,
    "own_loop": {"algorithm", "engine", "store", "deploy", "settings"} | GROUND,
    "deploy": {"algorithm", "engine", "store"} | GROUND,
    "results": {"store", "settings", "algorithm"} | GROUND,
    "study": {"algorithm", "engine", "envs", "store", "run", "results", "settings"} | GROUND,
    "figures": {"results", "store"} | GROUND,
    "report": {"results", "store"} | GROUND,
}
"""By room, what it may import, as the page of each says. The rest, `cli` and the package's face, may import all."""

FORBIDDEN_IN_ALGORITHM = {
    "threading",
    "multiprocessing",
    "concurrent",
    "os",
    "io",
    "pathlib",
    "time",
    "datetime",
    "subprocess",
}
"""Threads, files and clocks."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports, functions' own imports and those for types included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    """A file's dotted name below the package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def own(path: Path) -> set[str]:
    """The files of this package that a file imports, by their dotted names."""
    found = set()
    for module in imports(path):
        parts = module.split(".")[1:] if module.split(".")[0] == "steadyq" else []
        while parts and ".".join(parts) not in FILES:  # the last part is a name inside
            parts = parts[:-1]
        if parts:
            found.add(".".join(parts))
    return found


def room(name: str) -> str:
    """The room of a file."""
    return name.split(".")[0]


@pytest.mark.parametrize("here", MAY_IMPORT)
def test_a_room_imports_what_its_page_allows(here: str) -> None:
    mine = [name for name in FILES if room(name) == here]
    assert mine
    for name in mine:
        strangers = {other for other in own(FILES[name]) if room(other) not in MAY_IMPORT[here] | {here}}
        assert not strangers, f"{name} imports {strangers}"


def test_a_study_starts_runs_as_processes() -> None:
    """Of the room `run` it has only what `steadyq train` checks before it starts, so as to refuse the same."""
    mine = [own(FILES[name]) for name in FILES if room(name) == "study"]
    assert {name for names in mine for name in names if room(name) == "run"} == {"run.choices", "run.conditions"}


def test_every_room_is_on_the_plan_and_says_what_it_is() -> None:
    rooms = {room(name) for name in FILES if name}
    assert rooms == MAY_IMPORT.keys() | {"cli", "__main__"}
    for name, path in FILES.items():
        if path.name == "__init__.py" and name:
            assert len((ast.get_docstring(ast.parse(path.read_text())) or "").split()) >= 10, name


def test_there_is_no_circle() -> None:
    """Not between rooms and not between files."""
    TopologicalSorter({name: own(path) - {name} for name, path in FILES.items()}).prepare()
    TopologicalSorter(MAY_IMPORT).prepare()


def test_the_mathematics_knows_no_threads_files_clocks_or_compilers() -> None:
    for name, path in FILES.items():
        if room(name) == "algorithm":
            for module in imports(path):
                top = module.split(".")[0]
                assert top not in FORBIDDEN_IN_ALGORITHM, f"{name} imports {module}"
                assert not module.startswith(("torch._inductor", "torch._dynamo", "torch.compile")), f"{name}: {module}"
                known = sys.stdlib_module_names | {"steadyq", "torch", "numpy", "jaxtyping"}
                assert top in known, f"{name} imports {module}"


def test_an_import_that_goes_up_is_seen() -> None:
    """The reader of imports itself: one inside a function, and one of a name that is no file."""
    assert "store.disk" in own(FILES["store.checkpoint"])
    assert "engine.machine" in own(FILES["store.replay"])
