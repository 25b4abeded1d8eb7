"""What this machine has, before a Ray is started on it.

machine_resources()  # {"CPU": 8.0, "GPU": 1.0}
"""


def machine_resources(with_gpus: bool = True) -> dict[str, float]:
    """The cores and GPUs that a Ray of our own would count here, without starting it; GPUs take PyTorch's import."""
    from ray._private.utils import get_num_cpus

    # Private, but the one function that knows how Ray counts in a container; a test compares it with a Ray that runs.
    found = {"CPU": float(get_num_cpus(override_docker_cpu_warning=True))}
    if with_gpus:
        import torch

        found["GPU"] = float(torch.cuda.device_count())
    return found
