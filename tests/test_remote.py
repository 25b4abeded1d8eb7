"""Shards behind a URL, on a server that speaks S3: written, fetched, cached, checked, and what goes wrong there."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import s3fs
from s3_server import BUCKET, reset

from vimss import cli, doctor, storage
from vimss.errors import ConfigError, DataError, StorageError
from vimss.features import compute_features
from vimss.model import VisionConfig
from vimss.model.contexts import CONTEXTS
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.runtime import JOB_VARIABLE, Place, open_store, ray_running
from vimss.shards import cache
from vimss.shards.cache import FEATURES, FILES, local_shard
from vimss.shards.computed import available_features
from vimss.shards.manifest import open_manifest, open_shards
from vimss.shards.verify import check_shards
from vimss.shards.write import shards_folder, write_shards
from vimss.storage import LocalFolder, RemoteFolder, Store, folder_at
from vimss.stream.fixed import FOLDER as MIXTURES
from vimss.stream.read import read_clips


@pytest.fixture
def server(s3):
    cache._feature_digests.cache_clear()
    return s3


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", folder_at(f"s3://{BUCKET}/shards"))


@pytest.fixture
def remote(server, store, small_manifest):
    """The small corpus behind a URL, put there as `vimss shard` does."""
    home = store.shards / small_manifest.folder.name
    for path in sorted(small_manifest.folder.glob("*.*")):
        with home.atomic_write(path.name) as temporary:
            temporary.write_bytes(path.read_bytes())
    server.requests.clear()
    return home


def path_of(home: RemoteFolder, name: str) -> str:
    return f"/{home.url.removeprefix('s3://')}/{name}"


def damage(home: RemoteFolder, name: str) -> None:
    """Other bytes, as many as before."""
    content = bytearray(home.read_bytes(name))
    content[2000:2003] = b"\xff\x00\xff"
    with home.atomic_write(name) as temporary:
        temporary.write_bytes(content)


def test_shards_are_read_as_if_they_lay_here(remote, store, small_manifest):
    manifest = open_shards(remote, store)
    assert manifest.digest == small_manifest.digest and manifest.home == remote
    for far, near in zip(read_clips(manifest, "test"), read_clips(small_manifest, "test"), strict=True):
        assert far.key == near.key
        for one, other in zip(far.players, near.players, strict=True):
            np.testing.assert_equal(one.audio, other.audio)
    # What another process gets is a path.
    assert open_manifest(manifest.folder) == manifest


@pytest.mark.slow
def test_shards_are_written_behind_a_url(server, store, small_recipe, small_manifest, monkeypatch):
    written = write_shards(small_recipe, "small", store)
    assert written.digest == small_manifest.digest
    assert written.home == shards_folder(small_recipe, "small", store)
    there = (store.shards / small_manifest.folder.name).sizes()
    here = LocalFolder(small_manifest.folder).sizes()
    # Other tests keep what they made of these shards beside them.
    assert there == {name: size for name, size in here.items() if not name.startswith((FEATURES, MIXTURES))}
    server.requests.clear()
    assert write_shards(small_recipe, "small", store) == written
    assert "PUT" not in {method for method, _ in server.requests}


@pytest.mark.rare
def test_writing_after_a_kill_goes_on_and_ends_with_the_same_bytes(server, store, small_recipe, small_manifest):
    script = f"""
from pathlib import Path
from vimss.shards.recipe import Recipe
from vimss.shards.write import write_shards
from vimss.storage import Store, folder_at
recipe = Recipe.model_validate_json({small_recipe.model_dump_json()!r})
write_shards(recipe, "small", Store(Path({str(store.root)!r}), folder_at({store.shards.url!r})))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    shards = [("PUT", path_of(store.shards, f"{small_manifest.folder.name}/{s.name}")) for s in small_manifest.shards]
    while len(set(shards) & set(server.requests)) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    home = store.shards / small_manifest.folder.name
    assert "manifest.json" not in home.sizes()
    server.requests.clear()
    assert write_shards(small_recipe, "small", store).digest == small_manifest.digest
    # The first shard was finished, and its entry written, before the second began.
    assert len([request for request in server.requests if request in shards]) < len(shards)


def test_a_missing_or_short_object_is_an_error_when_the_manifest_is_opened(remote, store, small_manifest):
    whole = remote.read_bytes("train-000000.tar")
    with remote.atomic_write("train-000000.tar") as temporary:
        temporary.write_bytes(whole[:-1])
    with pytest.raises(
        DataError,
        match=rf"{remote}/train-000000.tar must have \d+ bytes, as in its manifest; got {len(whole) - 1} bytes",
    ):
        open_shards(remote, store)
    s3fs.S3FileSystem().rm(f"{remote.url}/train-000000.tar")
    with pytest.raises(DataError, match=r"train-000000.tar must have .*; got no such file"):
        open_shards(remote, store)
    s3fs.S3FileSystem().rm(f"{remote.url}/manifest.json")
    with pytest.raises(DataError, match=rf"{remote} must hold a manifest.json; got none.*vimss shard RECIPE"):
        open_shards(remote, store)


@pytest.mark.slow
def test_a_shard_is_fetched_once_for_all_processes(remote, store, server):
    manifest = open_shards(remote, store)
    script = f"""
from pathlib import Path
from vimss.shards.manifest import open_manifest
from vimss.stream.fixed import FOLDER as MIXTURES
from vimss.stream.read import read_clips
manifest = open_manifest(Path({str(manifest.folder)!r}))
input()
print(sum(1 for _ in read_clips(manifest, "valid")))
"""
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [int(process.communicate()[0]) for process in both] == [manifest.clips("valid")] * 2
    assert all(server.fetched(path_of(remote, shard.name)) == 1 for shard in manifest.of_split("valid"))


def test_processes_that_ask_at_once_wait_for_one_download(remote, store, server):
    manifest = open_shards(remote, store)
    (shard, *_) = manifest.of_split("train")
    ready = threading.Barrier(8)
    found = []

    def ask():
        ready.wait()
        found.append(local_shard(manifest, shard))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert server.fetched(path_of(remote, shard.name)) == 1


def cached(store):
    return {path.name.partition("-")[2] for path in store.cache.glob(f"*/{FILES}/*")}


def small_cache(remote, store, *shards):
    """The manifest with room for these shards and half of another one."""
    size = sum(shard.size for shard in shards) + min(shard.size for shard in shards) / 2
    return open_shards(remote, replace(store, cache_gigabytes=size / 1e9))


def test_the_least_recently_used_shard_makes_room(remote, store, server):
    one, two, three = sorted(open_shards(remote, store).shards, key=lambda shard: shard.size)[:3]
    manifest = small_cache(remote, store, two, three)
    for number, shard in enumerate((one, two)):
        os.utime(local_shard(manifest, shard), (number, number))
    for shard in (one, three):
        local_shard(manifest, shard)
    assert cached(store) == {one.name, three.name}
    local_shard(manifest, two)
    assert server.fetched(path_of(remote, two.name)) == 2


def test_fetched_shards_may_lie_on_a_disk_of_the_nodes_own(remote, store, monkeypatch, tmp_path):
    monkeypatch.setenv("VIMSS_CACHE", str(tmp_path / "fast"))
    one, two, three = sorted(open_shards(remote, store).shards, key=lambda shard: shard.size)[:3]
    manifest = small_cache(remote, store, two, three)
    for number, shard in enumerate((one, two, three)):
        os.utime(local_shard(manifest, shard), (number, number))
    kept = {path.name.partition("-")[2] for path in (tmp_path / "fast").glob(f"*/{FILES}/*")}
    assert kept == {two.name, three.name} and not cached(store)


def test_what_another_thread_may_be_about_to_open_stays(remote, store):
    one, two, three = sorted(open_shards(remote, store).shards, key=lambda shard: shard.size)[:3]
    manifest = small_cache(remote, store, two, three)
    go, end = threading.Event(), threading.Event()

    def ask():
        os.utime(local_shard(manifest, one), (1, 1))
        go.set()
        end.wait()

    thread = threading.Thread(target=ask)
    thread.start()
    go.wait()
    for shard in (two, three):
        local_shard(manifest, shard)
    # The older of the other two went, though it was used later.
    assert cached(store) == {one.name, three.name}
    end.set()
    thread.join()


def test_what_a_killed_download_left_is_removed(remote, store):
    manifest = open_shards(remote, store)
    one, two, *_ = manifest.shards
    left = local_shard(manifest, one).with_name(f"{storage.TEMPORARY}abcdef-gone.tar.123.abcdef")
    left.write_bytes(b"half")
    local_shard(manifest, two)
    assert not left.exists()


def test_a_download_that_breaks_off_is_tried_again(remote, store, server):
    manifest = open_shards(remote, store)
    shard = manifest.shards[0]
    server.broken[path_of(remote, shard.name)] = 2
    assert local_shard(manifest, shard).stat().st_size == shard.size
    assert server.fetched(path_of(remote, shard.name)) == 3


def test_a_download_that_always_breaks_off_is_an_error_and_leaves_nothing(remote, store, server):
    manifest = open_shards(remote, store)
    shard = manifest.shards[0]
    server.broken[path_of(remote, shard.name)] = 1000
    with pytest.raises(StorageError, match=rf"{remote}/{shard.name} must be within reach; got"):
        local_shard(manifest, shard)
    assert not cached(store)


def test_wrong_content_is_an_error_and_leaves_nothing(remote, store):
    damage(remote, "train-000000.tar")
    manifest = open_shards(remote, store)
    with pytest.raises(DataError, match=rf"{remote}/train-000000.tar must have the SHA-256 .*--check"):
        list(read_clips(manifest, "train"))
    assert not cached(store)


def test_shards_written_anew_do_not_meet_their_old_copies(remote, store):
    manifest = open_shards(remote, store)
    shard = manifest.shards[0]
    old = local_shard(manifest, shard)
    new = shard.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DataError, match="must have the SHA-256"):
        local_shard(manifest, new)
    assert old.exists()


def test_no_bucket_is_told(server, store):
    with pytest.raises(StorageError, match=r"the bucket of s3://none/a/b/manifest.json must exist; got .*create it"):
        open_shards(folder_at("s3://none/a/b"), store)
    with pytest.raises(StorageError, match=r"the bucket of s3://none/a must exist"):
        folder_at("s3://none/a/").sizes()
    with (
        pytest.raises(StorageError, match=r"the bucket of s3://none/a/new must exist"),
        folder_at("s3://none/a").atomic_write("new") as temporary,
    ):
        temporary.touch()
    finding = doctor._shards(replace(store, shards_at=folder_at("s3://none/a")))
    assert not finding.ok and finding.fix == "create it, or correct the address"


def test_wrong_credentials_are_told(remote, store, server):
    reset(server, "reset-auth", b"0")
    try:
        with pytest.raises(
            StorageError, match=r"must be open to your credentials; got PermissionError.*AWS_ACCESS_KEY_ID"
        ):
            open_shards(remote, store)
        with (
            pytest.raises(StorageError, match=rf"{remote}/new must be open to your credentials; got PermissionError"),
            remote.atomic_write("new") as temporary,
        ):
            temporary.touch()
    finally:
        reset(server, "reset-auth", b"inf")


def test_no_credentials_are_told(remote, store, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"must be open to your credentials; got NoCredentialsError"):
        open_shards(remote, store)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told(server, store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"s3://music/a must be within reach; got .*127.0.0.1:9.*AWS_ENDPOINT_URL"):
        folder_at("s3://music/a").sizes()


def test_a_protocol_without_a_driver_is_told():
    with pytest.raises(ConfigError, match=r"nfs9://a must begin with a protocol .* such as s3://; got .*nfs9"):
        folder_at("nfs9://a").sizes()


def _reads(manifest, vision) -> str:
    """The folder that a context of features finds."""
    return CONTEXTS["features"](WaveUNetConfig(vision=vision), ()).prepare(manifest)


@pytest.mark.slow
def test_features_lie_beside_remote_shards(remote, store, server, small_manifest):
    vision = VisionConfig(network="resnet18", weights="random")
    manifest = open_shards(remote, store)
    name = compute_features(manifest, vision)
    there = (remote / FEATURES / name).sizes()
    assert len(there) == len(manifest.shards) + 1
    assert available_features(manifest) == (name,) and _reads(manifest, vision) == name
    server.requests.clear()
    clip = next(read_clips(manifest, "valid", parts=("features",), features=name))
    assert all(player.features.shape[1] == 512 for player in clip.players)
    shard = manifest.of_split("valid")[0]
    file = path_of(remote, f"{FEATURES}/{name}/{shard.name.replace('.tar', '.safetensors')}")
    assert [path for method, path in server.requests if method == "GET" and path.endswith(".safetensors")] == [file]
    damage(remote / FEATURES / name, file.rpartition("/")[2])
    for path in store.cache.glob(f"*/{FILES}/*.safetensors"):
        path.unlink()
    with pytest.raises(DataError, match=r"\.safetensors must have the SHA-256"):
        next(read_clips(manifest, "valid", parts=("features",), features=name))
    with pytest.raises(DataError, match=r"must hold the vision features .*run `vimss features small` first"):
        next(read_clips(manifest, "valid", parts=("features",), features="other"))


def test_a_check_of_whole_shards_finds_nothing(remote, small_manifest):
    found = check_shards(remote)
    assert not [sentence for shard in found for sentence in shard.wrong]
    assert {shard.shard: (shard.size, shard.clips) for shard in found} == {
        shard.name: (shard.size, shard.clips) for shard in small_manifest.shards
    }


def test_a_check_lists_everything_that_is_wrong(remote, small_manifest):
    one, two, three, four, *_ = [shard.name for shard in small_manifest.shards]
    damage(remote, one)
    s3fs.S3FileSystem().rm(f"{remote.url}/{two}")
    for name, content in ((three, b"no tar"), (four, with_another_member(remote.read_bytes(four)))):
        with remote.atomic_write(name) as temporary:
            temporary.write_bytes(content)
    wrong = [sentence for shard in check_shards(remote) for sentence in shard.wrong]
    for name, what in (
        (one, "has the SHA-256"),
        (two, "is missing"),
        (three, "has 6 bytes instead of"),
        (three, "is no whole tar file"),
        (four, "does not list player9.wav"),
    ):
        assert any(sentence.startswith(name) and what in sentence for sentence in wrong), (name, what, wrong)
    assert {sentence.partition(".tar")[0] + ".tar" for sentence in wrong} == {one, two, three, four}


def with_another_member(content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with tarfile.open(fileobj=buffer, mode="a:") as tar:
        key = tar.getnames()[0].partition(".")[0]
        about = tarfile.TarInfo(f"{key}.player9.wav")
        about.size = 3
        tar.addfile(about, io.BytesIO(b"abc"))
    return buffer.getvalue()


@pytest.fixture
def ray(server):
    """One Ray for several commands."""
    with ray_running(Place(name="local"), num_cpus=2):
        yield


@pytest.mark.slow
def test_the_command_line_writes_finds_and_checks_them(server, ray, tmp_path, small_recipe, monkeypatch, capsys):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    (tmp_path / "small.yaml").write_text(json.dumps(small_recipe.model_dump(mode="json")), encoding="utf-8")
    recipe, url = str(tmp_path / "small.yaml"), f"s3://{BUCKET}/by/hand"

    def says(*words):
        code = 0
        try:
            cli.main([*words])
        except SystemExit as end:
            code = end.code or 0
        return code, capsys.readouterr()

    code, said = says("shard", recipe, "--out", url, "--json")
    told = json.loads(said.out)
    assert code == 0 and told["folder"].startswith(f"{url}/small-") and told["missing"] == []
    assert says("shard", recipe, "--check")[0] == 1
    monkeypatch.setenv("VIMSS_SHARDS", url)
    server.requests.clear()
    assert json.loads(says("shard", recipe, "--json")[1].out) == told
    assert not [path for method, path in server.requests if method == "PUT"]
    code, said = says("shard", recipe, "--check")
    assert code == 0 and said.out.endswith("MB: no errors\n")
    home = folder_at(told["folder"])
    manifest = {**json.loads(home.read_bytes("manifest.json")), "missing": [f"piece{number}" for number in range(12)]}
    manifest |= {"odd_mixtures": ["p: the mix is silent"], "notes": ["[x] was left out"]}
    with home.atomic_write("manifest.json") as temporary:
        temporary.write_text(json.dumps(manifest), encoding="utf-8")
    assert "\n  missing: 12 pieces: piece0, piece1, " in says("shard", recipe)[1].out
    assert "piece9 and 2 more\n" in says("shard", recipe)[1].out
    told = json.loads(says("shard", recipe, "--json")[1].out)
    assert len(told["missing"]) == 12 and told["odd"] == ["p: the mix is silent", "[x] was left out"]
    assert "\n  odd: p: the mix is silent\n  odd: [x] was left out\n" in says("shard", recipe)[1].out
    damage(home, "train-000000.tar")
    code, said = says("shard", recipe, "--check", "--json")
    assert code == 1 and "train-000000.tar has the SHA-256" in json.loads(said.out)["wrong"][0]


def test_the_environment_goes_before_the_place_and_the_place_before_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path))
    assert open_store(Place(name="local")).shards == LocalFolder(tmp_path / "shards")
    place = Place(name="local", shards="s3://place/shards")
    assert open_store(place).shards == RemoteFolder("s3://place/shards")
    monkeypatch.setenv("VIMSS_SHARDS", "mine")
    assert open_store(place).shards == LocalFolder(Path("mine").absolute())
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    with pytest.raises(ConfigError, match="must have its shards at a URL or an absolute path; got 'mine'"):
        open_store(place)
