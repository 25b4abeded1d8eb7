from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from vimss import yaml_files
from vimss.config import Config, differences, load_yaml, parse_config, parse_yaml, signature
from vimss.errors import ConfigError
from vimss.renamed import current_key, first_key, with_current_names
from vimss.yaml_files import find_yaml, is_path, known_names


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
    with pytest.raises(ConfigError, match=r"here.yaml: inner.width: must be an integer; got 'two'"):
        parse_config({"inner": {"width": "two"}}, Outer, "here.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"names": []}, r"names: must have at least 1 item; got \[\]"),
        ({"steps": 0}, "steps: must be greater than or equal to 1; got 0"),
        ({"steps": 1.5}, "steps: must be an integer; got 1.5"),
        ({"unit": "x"}, "unit: must be 's' or 'min'; got 'x'"),
    ],
)
def test_a_wrong_value_is_told_the_rule_in_the_words_of_our_own_errors(content, message):
    class Bounded(Config):
        names: tuple[str, ...] = Field(("a",), min_length=1)
        steps: int = Field(1, ge=1)
        unit: Literal["s", "min"] = "s"

    with pytest.raises(ConfigError, match=f"here: {message}"):
        parse_config(content, Bounded, "here")


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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (30, 30.0),
        ({"a": {"b": [1, 2.0]}}, {"a": {"b": (1.0, 2)}}),
        (-0.0, 0),
        (Outer(rate=30), Outer(rate=30.0)),
        (Outer(), Outer(rate=0, word="", inner=Inner(width=1))),
        (Outer(), Outer.model_validate({"inner": {"width": 1}})),
        ({"low": 1e-3, "high": 1.0}, {"high": 1, "low": 0.001}),
    ],
)
def test_equal_values_have_one_signature_however_they_are_written(one, other):
    assert signature(one) == signature(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (30, "30"), (0.1, 0.10000001), (None, 0), (Outer(), Outer(inner=Inner(width=2))), ([], {})],
)
def test_other_values_have_another_signature(one, other):
    assert signature(one) != signature(other)


class Later(Outer):
    """The same settings in a later version, which has more of them."""

    new: bool = False
    made: dict[str, int] = Field(default_factory=dict)
    follows: int = Field(default_factory=lambda settings: settings["inner"].width)


def test_a_new_setting_whose_default_means_as_before_keeps_every_signature():
    for content in ({}, {"rate": 2.5}, {"inner": {"width": 3}}):
        assert signature(Outer(**content)) == signature(Later(**content))
    assert signature(Outer()) != signature(Later(new=True)) != signature(Later(made={"a": 0}))
    assert signature(Later(inner=Inner(width=3), follows=3)) == signature(Later(inner=Inner(width=3)))
    assert signature(Later(inner=Inner(width=3), follows=1)) != signature(Later(inner=Inner(width=3)))


class Thin(Config):
    renamed: ClassVar = {"width": "breadth"}

    breadth: int = 1


class Renamed(Config):
    """The settings of Outer after two of them were renamed."""

    renamed: ClassVar = {"rate": "speed"}

    speed: float = 0.0
    word: str = ""
    inner: Thin = Thin()


def test_a_renamed_setting_is_signed_under_its_first_name():
    for content in ({}, {"rate": 2.5}, {"rate": 2.5, "inner": {"width": 3}}):
        now = Renamed.model_validate(with_current_names(content, Renamed))
        assert differences(now) == differences(Outer(**content)) and signature(now) == signature(Outer(**content))
    assert first_key(Renamed, "inner.breadth") == "inner.width" == first_key(Renamed, "inner.width")
    assert current_key(Renamed, "inner.width") == "inner.breadth" == current_key(Renamed, "inner.breadth")


def test_a_key_by_its_earlier_name_is_refused_with_the_current_one():
    for content, name in (({"rate": 1}, "speed"), ({"inner": {"width": 1}}, "breadth")):
        with pytest.raises(ConfigError, match=rf"unknown key '.*'. To fix: did you mean '{name}'\?"):
            parse_config(content, Renamed, "test")


class Narrow(Config):
    corner: Inner = Inner(width=5)
    required: int


def test_a_group_whose_default_is_its_owners_counts_where_it_differs_from_that():
    signatures = {signature(Narrow(required=1, corner=Inner(width=width))) for width in (1, 5, 6)}
    assert len(signatures) == 3 and signature(Narrow(required=1)) in signatures
    assert differences(Narrow(required=0)) == {"required": 0}


class Square(Config):
    side: float = 1.0


class Circle(Config):
    side: float = 1.0


class Triangle(Config):
    side: float = 1.0


class Shape(Config):
    shape: Square | Circle | Triangle = Square()


def test_kinds_of_one_group_differ_also_where_all_their_settings_are_defaults():
    assert signature(Shape(shape=Square())) == signature(Shape())
    assert len({signature(Shape(shape=kind())) for kind in (Square, Circle, Triangle)}) == 3


@pytest.fixture
def repository(monkeypatch, tmp_path) -> Path:
    """A repository with one recipe; the package lies in none."""
    monkeypatch.setattr(yaml_files, "PACKAGE_HOME", tmp_path / "wheel")
    root = tmp_path / "music [1]" / "vimss"
    (root / "shards").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / "shards" / "mine.yaml").touch()
    (root / "deep" / "down").mkdir(parents=True)
    return root


@pytest.mark.parametrize("folder", [".", "deep", "deep/down", "shards"])
def test_a_name_is_found_from_every_folder_of_the_repository(repository, monkeypatch, folder):
    monkeypatch.chdir(repository / folder)
    assert find_yaml("mine", "shards/*.yaml").samefile(repository / "shards" / "mine.yaml")


def test_a_name_is_found_where_the_package_lies(repository, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(yaml_files, "PACKAGE_HOME", repository)
    assert find_yaml("mine", "shards/*.yaml") == repository / "shards" / "mine.yaml"


def test_the_working_directory_goes_before_the_repository_around_it(repository, monkeypatch):
    (repository / "deep" / "shards").mkdir()
    (repository / "deep" / "shards" / "mine.yaml").touch()
    monkeypatch.chdir(repository / "deep")
    assert find_yaml("mine", "shards/*.yaml") == Path("shards/mine.yaml")


def test_a_folder_that_is_no_repository_is_passed_over(repository, monkeypatch):
    (repository / "deep" / "shards").mkdir()
    (repository / "deep" / "shards" / "mine.yaml").touch()
    monkeypatch.chdir(repository / "deep" / "down")
    assert find_yaml("mine", "shards/*.yaml") == repository / "shards" / "mine.yaml"


@pytest.mark.parametrize("path", ["mine.yaml", "./mine", "shards/mine.yml", "../mine", Path("mine"), "."])
def test_a_path_is_relative_to_the_working_directory(repository, monkeypatch, path):
    monkeypatch.chdir(repository)
    assert isinstance(path, Path) or is_path(path)
    assert find_yaml(path, "shards/*.yaml") == Path(path)


def test_a_name_that_means_nothing_lists_those_that_there_are(repository, monkeypatch):
    monkeypatch.chdir(repository / "deep")
    Path("other.yaml").touch()
    message = (
        r"shards/other.yaml must be .* got no such file. To fix: choose one of mine.yaml, or give .* as other.yaml$"
    )
    with pytest.raises(ConfigError, match=message):
        find_yaml("other", "shards/*.yaml")
    assert known_names("shards/*.yaml") == ["mine"]


def test_outside_of_a_repository_a_name_says_where_to_go(repository, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = (
        r"and no folder shards/ with others in or around /.* change into the root of the VIMSS repository, or give"
    )
    with pytest.raises(ConfigError, match=message):
        find_yaml("mine", "shards/*.yaml")


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("mine.yaml", "write mine, without .yaml, for shards/mine.yaml"),
        ("shards/mine", "write shards/mine.yaml"),
        ("shards", "check the path"),
        (".", "check the path"),
        ("shards/none.yaml", "choose one of mine.yaml"),
        ("nowhere/none.yaml", "check the path"),
        ("pyproject.toml/none.yaml", "check the path"),
        ("x" * 5000 + ".yaml", "check the path"),
    ],
)
def test_a_path_where_nothing_lies_says_what_to_write(repository, monkeypatch, path, fix):
    monkeypatch.chdir(repository)
    with pytest.raises(ConfigError, match=f"To fix: {fix}"):
        load_yaml(Path(path), Outer)


def test_what_no_file_sets_is_an_unknown_key(tmp_path):
    (tmp_path / "a.yaml").write_text("rate: 1\nword: mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="every key must be known; got the unknown key 'word'"):
        load_yaml(tmp_path / "a.yaml", Outer, known={"word": "a"})
