"""Checks the shapes that vimss annotates while its tests run: of each argument and each result, and of dataclasses.

    check_shapes(["vimss.metrics"])     # before it is imported

The hook of jaxtyping would check all functions of these modules, of which two thirds have no shape, and would make the
checks of a function inside another one anew in each call: a small training took 0.76 s instead of 0.46 s. The types of
functions without shapes are mypy's; the shapes of functions inside others are not checked.
"""

import ast
from collections.abc import Iterable, Sequence

import beartype
from jaxtyping import _import_hook, install_import_hook

check = beartype.beartype


class _OnlyShapes(_import_hook.JaxtypingTransformer):
    """To be deleted once jaxtyping has an option for it."""

    def visit_Module(self, node: ast.Module) -> ast.Module:  # noqa: N802 - as ast calls it
        froms = [child for child in node.body if isinstance(child, ast.ImportFrom) and child.module == "jaxtyping"]
        self.shapes = {alias.name for child in froms for alias in child.names}
        # Types that a module makes of them, which stand before they are used.
        for child in node.body:
            if isinstance(child, ast.Assign) and self._name_a_shape([child.value]):
                self.shapes |= {target.id for target in child.targets if isinstance(target, ast.Name)}
        return super().visit_Module(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:  # noqa: N802 - as ast calls it
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
        if self._name_a_shape([node.returns, *(argument.annotation for argument in arguments)]):
            node.decorator_list.append(self._check(node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:  # noqa: N802 - as ast calls it
        if self._name_a_shape(child.annotation for child in node.body if isinstance(child, ast.AnnAssign)):
            node.decorator_list.insert(0, self._check(node))
        self.generic_visit(node)
        return node

    def _check(self, node: ast.AST) -> ast.expr:
        return ast.copy_location(self._typechecker.get_ast(), node)

    def _name_a_shape(self, annotations: Iterable[ast.expr | None]) -> bool:
        named = {part.id for each in annotations if each for part in ast.walk(each) if isinstance(part, ast.Name)}
        return bool(named & self.shapes)


def check_shapes(modules: Sequence[str]) -> None:
    """In modules that are imported from now on, and those below them."""
    _import_hook.JaxtypingTransformer = _OnlyShapes
    # jaxtyping keeps what it compiled by the name of the checker.
    install_import_hook(modules, "shape_checks.check")
