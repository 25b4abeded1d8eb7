"""Names of models in a table: those that were given, folders without what is the same in all of their paths."""

from vimss.named_models import short_names


def test_folders_are_named_by_where_their_paths_differ(tmp_path):
    models = [str(tmp_path / "study" / cell / "1f0c" / "model") for cell in ("motion,seed=0", "labels,seed=0")]
    for folder in models:
        (tmp_path / folder).mkdir(parents=True)
    registered = "models:/quickstart@champion"
    assert list(short_names([*models, registered]).values()) == [
        "motion,seed=0/1f0c/model",
        "labels,seed=0/1f0c/model",
        registered,
    ]


def test_no_folder_is_named_as_a_baseline_is(tmp_path):
    folders = [str(tmp_path / name) for name in ("mixture", "mine")]
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert list(short_names(folders).values()) == folders


def test_one_folder_keeps_its_path_and_so_does_one_that_holds_the_others(tmp_path):
    (tmp_path / "model" / "model").mkdir(parents=True)
    inner, outer = str(tmp_path / "model" / "model"), str(tmp_path / "model")
    assert short_names([inner]) == {inner: inner}
    assert short_names([inner, outer]) == {inner: "model", outer: outer}
