"""Digest of the code that a computation depends on: a module and every module of ours that it imports, at any depth.

Comments, docstrings and layout do not count, so that what was computed stays valid when only they change.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from bora_common.errors import ConfigError

SOURCE = Path(__file__).resolve().parents[1]
OURS = 'bora_'
LIBRARIES = ('mujoco', 'numpy', 'torch', 'transformers', 'opencv-python-headless')
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_digest(modules: Iterable[str], source: Path = SOURCE) -> str:
    """SHA-256 over the modules and what they import of ours. Raises ConfigError naming a module that is not in `source`."""
    digest = hashlib.sha256()
    for name, tree in sorted(reached(modules, source).items()):
        digest.update(f'{name}\n{ast.dump(tree)}\n'.encode())
    return digest.hexdigest()


def reached(modules: Iterable[str], source: Path = SOURCE) -> dict[str, ast.Module]:
    """The modules and those of ours that they import, parsed and without docstrings, by name."""
    waiting, trees = list(modules), {}
    for name in waiting:
        if _file(name, source) is None:
            raise ConfigError(f'code version: no module "{name}" in {source}')
    while waiting:
        name = waiting.pop()
        file = _file(name, source)
        if file is not None and name not in trees:  # else a name imported from a module, or one that was met before
            trees[name] = _parse(file, file.stat().st_mtime_ns)
            waiting += _imports(trees[name])
    return trees


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide about results."""
    return {name: metadata.version(name) for name in LIBRARIES}


@lru_cache(maxsize=512)
def _parse(file: Path, modified_ns: int) -> ast.Module:
    """A file's tree without docstrings; parsed once for all stages."""
    return _bare(ast.parse(file.read_text()))


def _file(module: str, source: Path) -> Path | None:
    path = source.joinpath(*module.split('.'))
    return next((p for p in (path.with_suffix('.py'), path / '__init__.py') if p.is_file()), None)


def _imports(tree: ast.Module) -> list[str]:
    """Names of ours that are imported anywhere in a module: modules, their packages, and names that may be modules."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
    ours = {name for name in found if name.startswith(OURS)}
    return sorted(ours | {name.rsplit('.', 1)[0] for name in ours if '.' in name})


def _bare(tree: ast.Module) -> ast.Module:
    """The tree without docstrings, in place."""
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
