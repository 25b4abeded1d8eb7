"""What all tests share: shapes are checked while they run, and one small corpus is written once."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

# Several test processes share the cores; before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each of them would compile vimss and all tests anew, which takes seconds, where PYTHONDONTWRITEBYTECODE is set.
sys.dont_write_bytecode = False

from shape_checks import check_shapes  # noqa: E402

# Every annotated shape in vimss is checked at run time, in tests only. Modules without shapes would only become slower.
HOME = Path(__file__).parents[1]
WITH_SHAPES = [
    ".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((HOME / "vimss").rglob("*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
check_shapes(WITH_SHAPES)

import pytest  # noqa: E402

from vimss import cli  # noqa: E402
from vimss.model.networks.wave_u_net.config import WaveUNetConfig  # noqa: E402
from vimss.shards.cache import FEATURES  # noqa: E402
from vimss.shards.instruments import INSTRUMENTS  # noqa: E402
from vimss.shards.manifest import Manifest, open_manifest  # noqa: E402
from vimss.shards.recipe import Recipe, load_recipe  # noqa: E402
from vimss.shards.write import write_shards  # noqa: E402
from vimss.storage import Store  # noqa: E402

pytest.register_assert_rewrite("searches")  # of tests/faults, which asserts for its tests

LONGEST = [
    "search",
    "chamber",  # does not wait for the small corpus, which another process writes meanwhile
    "trial",
    "quickstart",
    "cli",
    "search_top_k",
    "runtime",
    "jobs",
    "registry",
    "track",
    "evaluate",
]
"""Stages whose tests start Ray, MLflow or whole evaluations: their files come first, so that at the end no process is
left alone with one of them while the other has nothing to do."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Sort the tests by their files, in which they keep their order; what is rare, and each fault, is slow too."""
    for item in items:
        if item.get_closest_marker("rare") or item.get_closest_marker("faults"):
            item.add_marker("slow")
    places = {f"test_{stage}": place for place, stage in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip a test marked `gpu`, `gpu(2)` or `gpu("mps")` without a GPU, without two of them, without one of Apple's."""
    marker = item.get_closest_marker("gpu")
    if marker is None:
        return
    import torch

    needed = marker.args[0] if marker.args else 1
    if needed == "mps":
        missing = "" if torch.backends.mps.is_available() else "needs a Mac with an Apple GPU"
    else:
        found = torch.cuda.device_count()
        missing = "" if found >= needed else f"needs {needed} GPU{'s' * (needed > 1)}; PyTorch finds {found}"
    if missing:
        pytest.skip(missing)


def pytest_terminal_summary(terminalreporter):
    """A table of the faults that were tried, and how long a search took to report again."""
    found = [
        (*dict(report.user_properties)["fault"], outcome)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and "fault" in dict(report.user_properties)
    ]
    if found:
        terminalreporter.section("seconds from a fault to the next new report")
        for name, seconds, way, outcome in sorted(found):
            terminalreporter.write_line(f"{seconds:6.1f}  {way:20}  {name}{', then failed' * (outcome == 'failed')}")


@pytest.fixture(scope="module")
def shared_ray():
    """A Ray on two cores for the tests of a file that ask for it, since each start takes seconds."""
    from vimss.runtime import Place, ray_running

    with ray_running(Place(name="test"), num_cpus=2):
        yield


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that multiplies with all 24 bits, so that its results are those of the CPU; for tests marked `gpu`."""
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device("cuda")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Path, Callable[[Path], object]], Path]:
    """Makes a folder that takes seconds in the first process that asks for it by name; the others copy it."""
    # xdist gives each of its processes a folder in that of the run.
    ours = tmp_path_factory.getbasetemp()
    shared = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours

    def make(name: str, target: Path, fill: Callable[[Path], object]) -> Path:
        whole = shared / f"made-{name}"
        with (shared / f"made-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                begun = shared / f"begun-{name}"
                shutil.rmtree(begun, ignore_errors=True)
                begun.mkdir()
                fill(begun)
                begun.rename(whole)
        shutil.copytree(whole, target, dirs_exist_ok=True)
        return target

    return make


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """A minute of chamber music in 20 pieces: every split, every instrument."""
    return load_recipe(
        "quickstart",
        [
            "options={minutes: 1, piece_seconds: 3}",
            "picture={size: 32, frame_rate: 4}",
            "clip_seconds=3",
            f"labels=[{', '.join(INSTRUMENTS)}]",
        ],
    )


@pytest.fixture(scope="session")
def small_store(tmp_path_factory, made_once, small_recipe) -> Store:
    """The store that holds it."""

    def fill(folder: Path) -> None:
        write_shards(small_recipe, "small", Store(folder).make())

    return Store(made_once("small", tmp_path_factory.mktemp("store"), fill))


@pytest.fixture(scope="session")
def small_manifest(small_recipe, small_store) -> Manifest:
    """Its shards."""
    return write_shards(small_recipe, "small", small_store)


@pytest.fixture(scope="session")
def small_features(small_manifest, made_once) -> str:
    """The name of the features of its pictures, which a small untrained network has computed beside them."""
    from untrained_models import VISION

    from vimss.features import compute_features

    def fill(folder: Path) -> None:
        name = compute_features(small_manifest, VISION)
        shutil.copytree(small_manifest.folder / FEATURES / name, folder / name)

    made_once("features", small_manifest.folder / FEATURES, fill)
    return compute_features(small_manifest, VISION)


@pytest.fixture(scope="session")
def moving_manifest(made_once, tmp_path_factory) -> Manifest:
    """Shards of trios who move at each of their notes, in a store of their own."""
    from moving_players import moving_shards

    def fill(folder: Path) -> None:
        moving_shards(tmp_path_factory.mktemp("moving"), Store(folder).make())

    store = made_once("moving", tmp_path_factory.mktemp("store"), fill)
    (shards,) = (store / "shards").iterdir()
    return open_manifest(shards)


@pytest.fixture(scope="module")
def s3_of_module():
    """A server that speaks S3."""
    from s3_server import serving

    with serving() as server:
        yield server


@pytest.fixture
def s3(s3_of_module, monkeypatch):
    """An empty bucket on a server that the environment names."""
    import s3fs
    from s3_server import BUCKET, CONDITIONS, reset

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_of_module.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("vimss.storage.folders.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    s3_of_module.refused.clear()
    s3_of_module.is_away = False
    s3_of_module.conditions = CONDITIONS
    reset(s3_of_module)
    s3fs.S3FileSystem().mkdir(BUCKET)
    s3_of_module.requests.clear()
    s3_of_module.broken.clear()
    yield s3_of_module
    s3_of_module.is_away = False
    reset(s3_of_module)


@pytest.fixture
def files(tmp_path):
    """Three files, each a piece of one shard."""
    source = tmp_path / "source"
    source.mkdir()
    for name in "abc":
        (source / f"{name}.txt").write_text("500")
    return source


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory, made_once) -> Path:
    """The folder of MLflow's database, migrated."""
    from vimss.track import Tracking

    store = made_once(
        "migrated", tmp_path_factory.mktemp("store"), lambda folder: Tracking(Store(folder).make()).client()
    )
    return Tracking(Store(store)).folder


@pytest.fixture
def tracking(tmp_path, empty_database):
    """MLflow's database in a store of the test's own."""
    from vimss.track import Tracking

    tracking = Tracking(Store(tmp_path / "store"))
    shutil.copytree(empty_database, tracking.folder)
    return tracking


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A network's folder."""
    import torch

    from vimss.model.separator import Separator, save_separator

    torch.manual_seed(0)
    config = WaveUNetConfig(levels=2, filters=2, down_kernel=5, site="decoder", outputs="queries", padding="same")
    folder = tmp_path_factory.mktemp("models") / "small"
    save_separator(folder, Separator(config, ("vn", "vc", "fl"), 8000), {})
    return folder


@pytest.fixture
def vimss_says(monkeypatch, tmp_path, capsys):
    """Runs the command line in this process: exit code, output, errors. The store is an empty folder."""
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))

    def run(*arguments: object) -> tuple[object, str, str]:
        code: object = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
