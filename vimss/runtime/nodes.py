"""What the nodes of a cluster have, asked on each of them: GPUs, versions, and whether the store is theirs too.

with ray_running(place):
    for node in look_at_nodes(store.root):
        print(node.address, node.versions, node.error)
"""

import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimss.storage import TEMPORARY, explain_os_errors

NODE_SECONDS = 60.0
"""How long a node may take to answer: it starts a process for the question."""


@dataclass(frozen=True)
class Node:
    """One node of a cluster."""

    address: str
    resources: Mapping[str, float]
    """As Ray counts them: CPU, GPU and others."""
    versions: Mapping[str, str]
    """Of Python, Ray, PyTorch and VIMSS; empty where the node did not answer."""
    error: str = ""
    """Why it did not answer."""
    store: str = ""
    """Why it cannot read in the store what this process has written there, or not write; empty where it can."""

    @property
    def gpus(self) -> str:
        """The kind of its GPUs, as Ray finds it; empty without any."""
        kinds = [name.partition(":")[2] for name in self.resources if name.startswith("accelerator_type:")]
        return ", ".join(sorted(kinds)) if self.resources.get("GPU") else ""


def look_at_nodes(store: Path) -> list[Node]:
    """Ask each node of the Ray that runs; one that does not answer in time is among them, with an error."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    find_versions, look_into = _questions()

    def ask(mark: str, content: str) -> tuple[dict[str, str], str]:
        return find_versions(), look_into(mark, content)

    task = ray.remote(num_cpus=0, max_retries=0)(ask)
    content = secrets.token_hex(16)
    with explain_os_errors(store), tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}nodes-", dir=store) as folder:
        mark = Path(folder) / "mark"
        mark.write_text(content, encoding="utf-8")
        asked = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked[task.options(scheduling_strategy=there).remote(str(mark), content)] = node
        ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        return [_node(node, answer) for answer, node in asked.items()]


def versions_here() -> dict[str, str]:
    """Those of this process: of Python, Ray, PyTorch and VIMSS, whose code counts too."""
    return _questions()[0]()


def _node(node: Mapping[str, Any], answer: Any) -> Node:
    import ray

    address, resources = str(node["NodeManagerAddress"]), node["Resources"]
    try:
        versions, store = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer, force=True)
        return Node(address, resources, {}, error=f"no answer in {NODE_SECONDS:.0f} s")
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Node(address, resources, {}, error=lines[-1].strip())
    return Node(address, resources, versions, store=store)


def _questions() -> tuple[Callable[[], dict[str, str]], Callable[[str, str], str]]:
    """What a node is asked, as functions that travel as code, since a node may have another VIMSS, or none.

    The first gives the versions there; the second what is wrong with the store, where a file has some content, or "".
    """

    def find_versions() -> dict[str, str]:
        import hashlib
        import importlib.util
        import platform
        from importlib import metadata
        from pathlib import Path

        versions = {"Python": platform.python_version()}
        for name, package in (("Ray", "ray"), ("PyTorch", "torch")):
            versions[name] = metadata.version(package) if importlib.util.find_spec(package) else "none"
        found = importlib.util.find_spec("vimss")
        if found is None or found.origin is None:
            return {**versions, "VIMSS": "none"}
        from vimss import __version__

        # Between two releases only the code tells one from another.
        home, code = Path(found.origin).parent, hashlib.sha256()
        for path in sorted(home.rglob("*.py")):
            code.update(str(path.relative_to(home)).encode() + path.read_bytes())
        return {**versions, "VIMSS": f"{__version__} (code {code.hexdigest()[:8]})"}

    def look_into(mark: str, content: str) -> str:
        import tempfile
        from pathlib import Path

        try:
            if Path(mark).read_text(encoding="utf-8") != content:
                return f"another file than here at {mark}"
            with tempfile.TemporaryFile(dir=Path(mark).parent):
                return ""
        except OSError as error:
            return f"{error.strerror}: {error.filename or Path(mark).parent}"

    return find_versions, look_into
