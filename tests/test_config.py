import pytest

from vimss.config import Config, load_yaml, parse_config, parse_yaml, signature
from vimss.errors import ConfigError


class Inner(Config):
    width: int = 1


class Outer(Config):
    rate: float = 0.0
    word: str = ""
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("off", "off"),
        ("no", "no"),
        ("true", True),
        ("1:30", "1:30"),
        ("012", "012"),
        ("1_000", "1_000"),
    ],
)
def test_yaml_scalars_follow_yaml_1_2(text, value):
    assert parse_yaml(f"x: {text}", "test")["x"] == value


def test_a_repeated_key_is_an_error_with_its_line():
    with pytest.raises(ConfigError, match=r"the key 'rate' stands twice.*line 2"):
        parse_yaml("rate: 1\nrate: 2", "test")


def test_aliases_are_refused():
    with pytest.raises(ConfigError, match="aliases are not allowed"):
        parse_yaml("a: &x [1]\nb: *x", "test")


def test_python_objects_are_refused():
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        parse_yaml("a: !!python/object/apply:os.system ['true']", "test")


def test_an_unknown_key_names_the_nearest_legal_one():
    with pytest.raises(ConfigError, match=r"unknown key 'rat'.*did you mean 'rate'\?"):
        parse_config({"rat": 1}, Outer, "test")


def test_an_unknown_nested_key_names_the_nearest_of_its_group():
    with pytest.raises(ConfigError, match=r"unknown key 'inner.widht'.*did you mean 'width'\?"):
        parse_config({"inner": {"widht": 1}}, Outer, "test")


def test_a_wrong_type_names_file_key_and_value():
    with pytest.raises(ConfigError, match=r"here.yaml: inner.width: .*valid integer.*got 'two'"):
        parse_config({"inner": {"width": "two"}}, Outer, "here.yaml")


def test_a_missing_file_lists_its_neighbours(tmp_path):
    (tmp_path / "near.yaml").touch()
    with pytest.raises(ConfigError, match="choose one of near.yaml"):
        load_yaml(tmp_path / "far.yaml", Outer)


def test_overrides_reach_nested_keys(tmp_path):
    (tmp_path / "a.yaml").write_text("rate: 1", encoding="utf-8")
    loaded = load_yaml(tmp_path / "a.yaml", Outer, ["inner.width=3", "rate=2e-3"])
    assert (loaded.inner.width, loaded.rate) == (3, 2e-3)


def test_an_override_without_equals_says_how_to_write_it(tmp_path):
    (tmp_path / "a.yaml").write_text("rate: 1", encoding="utf-8")
    with pytest.raises(ConfigError, match="--set takes key=value"):
        load_yaml(tmp_path / "a.yaml", Outer, ["rate"])


def test_signature_ignores_order_and_sees_values():
    assert signature({"a": 1, "b": 2}) == signature({"b": 2, "a": 1}) != signature({"a": 1, "b": 3})
