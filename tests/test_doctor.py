"""What `vimss doctor` finds."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from vimss import doctor
from vimss.runtime import Place
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
