"""What `vimss doctor` finds."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from vimss import doctor
from vimss.runtime import JOB_VARIABLE, Node, Place, nodes, versions_here
from vimss.storage import Store
from vimss.train.device import has_bfloat16_units


def test_doctor_asks_the_cluster_of_a_place(vimss_says, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    (tmp_path / "runtime.yaml").write_text(f"ray_address: {address}", encoding="utf-8")
    code, out, _ = vimss_says("doctor", "--json", "--on", tmp_path)
    (ray,) = [finding for finding in json.loads(out) if finding["what"] == "Ray"]
    assert code == 1 and (ray["ok"], ray["fix"]) == (False, "start it, or use --on local")
    assert "Connection refused" in ray["found"]


def test_doctor_finds_a_tracking_server_that_is_down_and_a_temporary_folder_that_is_missing(
    vimss_says, tmp_path, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    (tmp_path / "runtime.yaml").write_text(f"tracking_uri: {address}", encoding="utf-8")
    monkeypatch.setenv("TMPDIR", "/nowhere")
    code, out, _ = vimss_says("doctor", "--json", "--on", tmp_path)
    findings = {finding["what"]: finding for finding in json.loads(out)}
    assert code == 1 and not findings["tracking"]["ok"] and "Connection refused" in findings["tracking"]["found"]
    assert findings["temporary files"]["fix"] == "set TMPDIR to a writable folder with free space"
    assert "/nowhere, where no file can be made" in findings["temporary files"]["found"]


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives every connection this answer; without one it connects, and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)
                connection.recv(1000) if not answer else None

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "found", "ok"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", ", which answers OK at /health", True),
        (b"", ": a connection, and no answer in 0 s", False),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", ": HTTP 404 at /health: another web server?", False),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", ": b'<html>' instead of OK at /health: another web server?", False),
        (b"no HTTP\r\n\r\n", ": no answer in HTTP, no HTTP", False),
    ],
    ids=["MLflow", "silent", "without /health", "another site", "no web server"],
)
def test_doctor_says_what_a_tracking_server_answers(monkeypatch, tmp_path, answer, found, ok):
    monkeypatch.setattr(doctor, "TRACKING_SECONDS", 0.3)
    with answering(answer) as address:
        finding = doctor._tracking(Place(name="far", tracking_uri=address), Store(tmp_path))
    assert (finding.found, finding.ok) == (f"{address}{found}", ok)
    assert ok or finding.fix.startswith("start the tracking server, or correct tracking_uri")


def test_doctor_refuses_a_tracking_server_without_http(tmp_path):
    finding = doctor._tracking(Place(name="far", tracking_uri="file:///etc"), Store(tmp_path))
    assert finding.found == "file:///etc: no address that begins with http:// or https://" and not finding.ok


def test_doctor_names_the_units_that_training_would_use(vimss_says):
    findings = {finding["what"]: finding["found"] for finding in json.loads(vimss_says("doctor", "--json")[1])}
    has_units = has_bfloat16_units(torch.device("cpu")) or torch.cuda.is_available()
    assert ("no units" in findings["bfloat16"]) != has_units
    assert torch.backends.cpu.get_cpu_capability() in findings["vector units"] or "NEON" in findings["vector units"]


AVX2 = {"avx2": True, "avx512_f": False, "avx512_bf16": False, "architecture": "x86_64"}
AVX512 = {**AVX2, "avx512_f": True, "avx512_bf16": True, "amx_bf16": True, "cpu_name": "bf16"}
ARM = {"neon": True, "bf16": True, "sve": False, "sve_max_length": 0}


@pytest.mark.parametrize(
    ("capabilities", "used", "found"),
    [
        (AVX512, "AVX512", "AVX-512, AVX2; torch computes with AVX512"),
        (AVX2, "AVX2", "AVX2; torch computes with AVX2"),
        (ARM, "DEFAULT", "NEON; torch computes with NEON"),
        ({**ARM, "sve": True}, "SVE256", "SVE, NEON; torch computes with SVE256"),
        ({}, "DEFAULT", "none known; torch computes without AVX2: training and separation are slow here"),
    ],
)
def test_doctor_names_the_vector_units(monkeypatch, capabilities, used, found):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    assert doctor.vector_units(capabilities, used) == doctor.Finding("vector units", found)


def test_doctor_names_the_variable_that_limits_torch_to_older_units(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    finding = doctor.vector_units(AVX512, "AVX2")
    assert finding.found == "AVX-512, AVX2; torch is limited to AVX2 by ATEN_CPU_CAPABILITY=avx2" and not finding.ok
    assert finding.fix.startswith("unset ATEN_CPU_CAPABILITY")


@pytest.mark.parametrize(
    ("capabilities", "on_gpu", "found"),
    [
        (AVX512, False, "AMX, AVX512_BF16: training.precision: bfloat16 and optimizer: muon have units"),
        (AVX512, True, "AMX, AVX512_BF16, GPU: training.precision: bfloat16 and optimizer: muon have units"),
        (ARM, False, "NEON bf16: training.precision: bfloat16 and optimizer: muon have units"),
        (AVX2, True, "GPU: training.precision: bfloat16 and optimizer: muon have units there, not on the cores"),
        (
            AVX2,
            False,
            "no units for it: training.precision must be float32, and optimizer: muon, which multiplies in bfloat16, "
            "takes longer per step",
        ),
    ],
)
def test_doctor_says_what_follows_from_the_units_for_bfloat16(capabilities, on_gpu, found):
    assert doctor.bfloat16_units(capabilities, on_gpu) == doctor.Finding("bfloat16", found)


def test_doctor_names_every_library_with_its_version_or_a_way_to_get_it(vimss_says):
    code, out, _ = vimss_says("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(out)}
    machine = {"Python", "cores", "GPUs", "bfloat16", "Ray", "codecs", "names", "temporary files", "store", "tracking"}
    assert set(doctor.LIBRARIES) | machine <= set(findings)
    assert code == (0 if all(finding["ok"] for finding in findings.values()) else 1)
    assert all(finding["found"] and (finding["ok"] or finding["fix"]) for finding in findings.values())


HERE = {"Python": "3.11.7", "Ray": "2.60.0", "PyTorch": "2.14.1", "VIMSS": "0.1.0 (code 0a1b2c3d)"}
HEAD = Node("10.0.0.1", {"CPU": 0.0, "trial_slot": 1000.0}, HERE)
H100 = Node("10.0.0.2", {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}, HERE)


def findings_of(*there: Node, **place: object) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor._nodes(Place(name="far", **place), there, HERE)}


def test_doctor_counts_the_nodes_of_a_place_with_their_gpus_and_the_trials_that_fit_there():
    findings = findings_of(HEAD, H100, H100, gpus_per_worker=1)
    assert findings["nodes"].found == "0 CPU; 2 x 8 CPU, 2 GPU (H100)"
    assert findings["trials"].found == "room for 4 at once"
    assert findings["versions on nodes"].found.endswith("VIMSS 0.1.0 (code 0a1b2c3d), as here")
    assert all(finding.ok for finding in findings.values())


@pytest.mark.parametrize(
    ("node", "what", "found", "fix"),
    [
        (Node("b", {"CPU": 1.0}, {}, error="no answer in 60 s"), "nodes", "b: no answer in 60 s", "look at its logs"),
        (
            Node("b", {"CPU": 1.0}, {**HERE, "VIMSS": "none"}),
            "versions on nodes",
            "b: VIMSS none",
            "have Python 3.11.7",
        ),
        (Node("b", {"CPU": 1.0}, HERE, store="No such file"), "store on nodes", "b: No such file", "mount the same"),
        (Node("b", {"CPU": 1.0}, HERE), "trials", "room for 0 workers: 0 CPU; 1 CPU", "lower cpus_per_worker to 1"),
    ],
    ids=["no answer", "another version", "another store", "no room"],
)
def test_doctor_names_the_node_that_lacks_something(node, what, found, fix):
    findings = findings_of(HEAD, node, cpus_per_worker=2 if what == "trials" else 1)
    assert {name for name, finding in findings.items() if not finding.ok} == {what}
    assert findings[what].found == found and findings[what].fix.startswith(fix)


def test_a_node_says_what_is_wrong_with_its_store(tmp_path):
    _, look_into = nodes._questions()
    (tmp_path / "mark").write_text("mine", encoding="utf-8")
    assert look_into(str(tmp_path / "mark"), "mine") == ""
    assert look_into(str(tmp_path / "mark"), "yours") == f"another file than here at {tmp_path}/mark"
    assert look_into(f"{tmp_path}/none/mark", "mine") == f"No such file or directory: {tmp_path}/none/mark"
    assert list(tmp_path.iterdir()) == [tmp_path / "mark"]


def test_the_version_of_vimss_tells_other_code(tmp_path):
    before = versions_here()
    shutil.copytree("vimss", tmp_path / "vimss", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "from vimss.runtime import versions_here; print(versions_here()['VIMSS'])"]
    found = []
    for addition in ("", "# another\n"):
        with (tmp_path / "vimss/errors.py").open("a", encoding="utf-8") as file:
            file.write(addition)
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True
        )
        found.append(done.stdout.strip())
    assert found[0] == before["VIMSS"] != found[1] and found[1].startswith(found[0].partition("(")[0])


def test_doctor_does_not_ask_a_cluster_without_the_secrets_of_its_place(monkeypatch):
    monkeypatch.delenv("ITS_PASSWORD", raising=False)
    place = Place(name="far", ray_address="127.0.0.1:1", secrets=("ITS_PASSWORD",))
    secrets, ray = doctor._ray(place)
    assert (secrets.found, secrets.ok, ray.ok) == ("no ITS_PASSWORD", False, False)
    assert secrets.fix.startswith("set them in the environment of this process")
    monkeypatch.setenv("ITS_PASSWORD", "never-shown")
    secrets, ray = doctor._ray(place)
    assert (secrets.found, secrets.ok) == ("ITS_PASSWORD: set", True) and "Connection refused" in ray.found


def test_doctor_names_the_shards_of_a_store(tmp_path):
    assert doctor._shards(Store(tmp_path)).found == f"none yet, at {tmp_path}/shards"
    for path in ("small-1/manifest.json", "small-1/train-0.tar", "begun-2/train-0.tar"):
        (tmp_path / "shards" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shards" / path).touch()
    assert doctor._shards(Store(tmp_path)).found == f"small-1, at {tmp_path}/shards"


def test_doctor_refuses_the_relative_store_of_a_job(monkeypatch, vimss_says):
    monkeypatch.setenv("VIMSS_STORE", "store")
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    monkeypatch.setattr(doctor, "_ray", lambda place: iter(()))
    code, out, _ = vimss_says("doctor", "--json")
    (store,) = [finding for finding in json.loads(out) if finding["what"] == "store"]
    assert code == 1 and store["found"].startswith("'store': a Ray job must have an absolute store") and not store["ok"]
