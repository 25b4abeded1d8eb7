"""The public names of the package, as its docstring lists them."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import vimss


@pytest.mark.parametrize("name", vimss.__all__)
def test_every_public_name_resolves_to_what_its_module_defines(name):
    value = getattr(vimss, name)
    assert callable(value) and value.__module__.startswith("vimss.") and name in dir(vimss)


def test_no_public_name_hides_a_module():
    modules = {path.stem for path in Path(vimss.__file__).parent.iterdir()}
    assert not modules & set(vimss.__all__)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'vimss' has no attribute 'separat'"):
        vimss.separat  # noqa: B018


def test_the_docstring_lists_every_public_name_in_one_line():
    listed = re.findall(r"^    (\w+) {2,}\S.*$", vimss.__doc__.partition("From a notebook")[2], re.MULTILINE)
    assert listed == vimss.__all__


def test_the_example_of_the_docstring_calls_what_exists_with_arguments_it_takes():
    text = inspect.cleandoc(vimss.__doc__).partition("For example:\n")[2]
    calls = [node for node in ast.walk(ast.parse(inspect.cleandoc(text))) if isinstance(node, ast.Call)]
    ours = [call for call in calls if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "vimss"]
    for call in ours:
        signature = inspect.signature(getattr(vimss, call.func.attr))
        signature.bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
    assert len(ours) >= 6
