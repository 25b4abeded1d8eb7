"""Seeded mistakes in what describes places: each is caught by name."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from manifest_files import PLATFORM, read_manifest
from manifests import manifest_errors
from test_manifests import NEEDS_SCHEMA

Edit = Callable[[Any], None]


def put(path: str, value: Any) -> Edit:
    """Set the value at a path such as services.head.image; the last key may be new."""

    def edit(content: Any) -> None:
        *parents, last = path.split(".")
        for key in parents:
            content = content[int(key) if isinstance(content, list) else key]
        content[int(last) if isinstance(content, list) else last] = copy.deepcopy(value)

    return edit


def drop(path: str) -> Edit:
    """Remove the key at a path."""

    def edit(content: Any) -> None:
        *parents, last = path.split(".")
        for key in parents:
            content = content[int(key) if isinstance(content, list) else key]
        del content[last]

    return edit


COMPOSE, AWS, HOSTS, JOB = "compose/compose.yaml", "cluster/aws.yaml", "cluster/hosts.yaml", "kubernetes/search.yaml"
HEAD = "spec.rayClusterSpec.headGroupSpec"
SPOT = "spec.rayClusterSpec.workerGroupSpecs.1"
POD = f"{SPOT}.template.spec"
CLAIM = {"name": "store", "persistentVolumeClaim": {"claimName": "stores"}}

MISTAKES = {
    "compose, key": (COMPOSE, put("services.head.helthcheck", {}), "'helthcheck' was unexpected"),
    "compose, duration": (COMPOSE, put("services.head.healthcheck.interval", 5), "5 is not of type 'string'"),
    "compose, secret": (
        COMPOSE,
        put("services.worker.secrets", ["ray_tokne"]),
        "worker: 'ray_tokne' must be one of the secrets that the file declares",
    ),
    "compose, unused secret": (COMPOSE, put("secrets.old", {"file": "./old"}), "secrets.old: no service uses it"),
    "compose, volume": (COMPOSE, drop("volumes.database"), "postgres: 'database' must be one of the volumes"),
    "compose, service": (
        COMPOSE,
        put("services.worker.depends_on", {"haed": {"condition": "service_healthy"}}),
        "worker: depends on 'haed', which is no service",
    ),
    "compose, health": (
        COMPOSE,
        drop("services.mlflow.healthcheck"),
        "head: waits until 'mlflow' is healthy, which has",
    ),
    "compose, port": (
        COMPOSE,
        put("services.head.ports", ["8265:8265"]),
        "head: the port 8265:8265 must be open to this",
    ),
    "compose, latest": (
        COMPOSE,
        put("services.postgres.image", "postgres:latest"),
        "postgres:latest must have a tag that",
    ),
    "compose, no tag": (COMPOSE, put("services.postgres.image", "postgres"), "the image postgres must have a tag that"),
    "compose, Ray": (
        COMPOSE,
        put("services.head.image", "vimss:0.1.0-ray2.59.0"),
        "vimss:0.1.0-ray2.59.0 must have the tag",
    ),
    "compose, token": (COMPOSE, drop("services.head.environment.RAY_AUTH_TOKEN_PATH"), "head: Ray must have its token"),
    "compose, plain secret": (
        COMPOSE,
        put("services.postgres.environment.POSTGRES_PASSWORD", "hunter2"),
        "services.postgres.environment.POSTGRES_PASSWORD: a secret must not stand in a file",
    ),
    "compose, address": (
        COMPOSE,
        put("services.mlflow.environment.MLFLOW_BACKEND_STORE_URI", "postgresql://mlflow:hunter2@postgres/mlflow"),
        "MLFLOW_BACKEND_STORE_URI: a password must not stand in an address",
    ),
    "compose, grace": (
        COMPOSE,
        put("services.worker.stop_grace_period", "30s"),
        "worker: stop_grace_period must be at least twice",
    ),
    "compose, rights": (COMPOSE, drop("services.head.cap_drop"), "head: must be read_only and drop all capabilities"),
    "ray up, key": (AWS, put("initialisation_commands", []), "'initialisation_commands' was unexpected"),
    "ray up, resource": (AWS, put("available_node_types.gpu-spot.resources.GPU", "1"), "'1' is not of type 'integer'"),
    "ray up, head": (AWS, put("head_node_type", "haed"), "head_node_type"),
    "ray up, workers": (
        AWS,
        put("available_node_types.gpu-spot.min_workers", 5),
        "gpu-spot: min_workers must not be more",
    ),
    "ray up, spot head": (
        AWS,
        put("available_node_types.head.node_config.InstanceMarketOptions", {"MarketType": "spot"}),
        "head: workers must be spot instances, and the head none",
    ),
    "ray up, studies": (
        AWS,
        put("docker.run_options", ["--volume /store:/store", "--env VIMSS_SHARDS=s3://vimss/shards"]),
        "must have --env VIMSS_STUDIES=s3://..., since nodes share no folder",
    ),
    "ray up, bucket": (
        AWS,
        drop("available_node_types.cpu-spot.node_config.IamInstanceProfile"),
        "cpu-spot: must have an IamInstanceProfile, to use the bucket",
    ),
    "ray up, trials": (
        HOSTS,
        put("head_start_ray_commands", ["ray start --head"]),
        "must count trials by --resources=",
    ),
    "ray up, dashboard": (
        HOSTS,
        put("head_start_ray_commands", ["ray start --head --dashboard-host=0.0.0.0"]),
        "the dashboard must listen on loopback",
    ),
    "ray up, token": (HOSTS, put("file_mounts", {}), "file_mounts: nodes must have the token of this machine"),
    "ray up, Ray": (HOSTS, put("docker.image", "here/vimss:0.1.0-ray2.61.0"), "must have the tag"),
    "job, name": (JOB, put("metadata.name", "s" * 48), "metadata.name: must have at most 47 characters; has 48"),
    "job, letters": (JOB, put("metadata.name", "2nd_search"), "metadata.name: '2nd_search' must be small letters"),
    "job, ttl": (JOB, drop("spec.shutdownAfterJobFinishes"), "ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"),
    "job, suspend": (JOB, put("spec.shutdownAfterJobFinishes", False), "suspend: needs shutdownAfterJobFinishes: true"),
    "job, rules": (
        JOB,
        put(
            "spec.deletionStrategy", {"deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]}
        ),
        "deletionStrategy.deletionRules: exclude shutdownAfterJobFinishes",
    ),
    "job, selector": (
        JOB,
        put("spec.clusterSelector", {"ray.io/cluster": "a"}),
        "clusterSelector: excludes backoffLimit",
    ),
    "job, interactive": (JOB, put("spec.submissionMode", "InteractiveMode"), "backoffLimit: excludes submissionMode"),
    "job, sidecar": (
        JOB,
        put("spec.submissionMode", "SidecarMode"),
        "submitterPodTemplate: excludes submissionMode Sidecar",
    ),
    "job, mode": (JOB, put("spec.submissionMode", "K8SJobMode"), "submissionMode: 'K8SJobMode' is unknown"),
    "job, deadline": (JOB, put("spec.activeDeadlineSeconds", 0), "activeDeadlineSeconds: must be positive"),
    "job, k8s token": (
        JOB,
        put("spec.rayClusterSpec.authOptions.enableK8sTokenAuth", True),
        "authOptions.enableK8sTokenAuth: is not for RayJob",
    ),
    "job, token": (JOB, put("spec.rayClusterSpec.authOptions.mode", "disabled"), "authOptions: must have mode: token"),
    "job, Ray": (JOB, put("spec.rayClusterSpec.rayVersion", "2.59.0"), "rayVersion: must be .*is 2.59.0"),
    "job, old Ray": (
        JOB,
        put("spec.rayClusterSpec.rayVersion", "2.51.1"),
        "rayVersion: must be 2.52 or later for token",
    ),
    "job, minimum": (JOB, drop(f"{SPOT}.minReplicas"), "gpu-spot: must have minReplicas and maxReplicas"),
    "job, maximum": (JOB, put(f"{SPOT}.replicas", 9), "gpu-spot: replicas must lie from minReplicas to maxReplicas"),
    "job, spot at zero": (JOB, put(f"{SPOT}.minReplicas", 1), "gpu-spot: must start at 0 replicas"),
    "job, restart": (
        JOB,
        put(f"{POD}.restartPolicy", "Always"),
        "gpu-spot: restartPolicy must be Never with autoscaler v2",
    ),
    "job, group": (JOB, put(f"{SPOT}.suspend", True), "gpu-spot: a group cannot be suspended with the autoscaler"),
    "job, autoscaler": (
        JOB,
        put(f"{HEAD}.template.spec.containers.0.env", [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]),
        "the autoscaler's version must be set by autoscalerOptions.version alone",
    ),
    "job, resources": (JOB, put(f"{HEAD}.resources", {"CPU": "1"}), "head: resources must be in rayStartParams or in"),
    "job, labels": (JOB, put(f"{SPOT}.rayStartParams", {"labels": "a=b"}), "gpu-spot: labels must be in `labels`"),
    "job, quotes": (
        JOB,
        put(f"{HEAD}.rayStartParams.resources", '{"trial_slot": 1000}'),
        "Ray's autoscaler cannot read it",
    ),
    "job, trials": (
        JOB,
        drop(f"{HEAD}.rayStartParams.resources"),
        "head: must count trials by the resource trial_slot",
    ),
    "job, gate": (
        JOB,
        put("spec.rayClusterSpec.networkPolicy", {}),
        "networkPolicy: needs the operator's feature gate",
    ),
    "job, queue": (JOB, put("metadata.labels", {}), "metadata.labels: the queue 'None' must be a LocalQueue"),
    "job, not suspended": (JOB, drop("spec.suspend"), "suspend: must be true, for Kueue to start the job"),
    "job, elastic": (
        JOB,
        put("metadata.annotations", {}),
        "a job with autoscaling must have kueue.x-k8s.io/elastic-job",
    ),
    "job, missing secret": (
        JOB,
        put(f"{POD}.containers.0.envFrom", [{"secretRef": {"name": "vimss-s3"}}]),
        "the Secret 'vimss-s3' must be one that make-secrets creates",
    ),
    "job, plain secret": (
        JOB,
        put(f"{POD}.containers.0.env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "hunter2"}]),
        "the secret AWS_SECRET_ACCESS_KEY must not stand in a file",
    ),
    "job, claim": (JOB, put(f"{POD}.volumes.0", CLAIM), "the volume claim 'stores' must be in namespace.yaml"),
    "job, store": (JOB, put(f"{POD}.volumes.0", CLAIM), "gpu-spot: /store must be an emptyDir, since shards and studi"),
    "job, mount": (JOB, put(f"{POD}.containers.0.volumeMounts.0.name", "stor"), "mounts 'stor', which is no volume"),
    "job, priority": (
        JOB,
        put(f"{POD}.priorityClassName", "high"),
        "the priority class 'high' must be in namespace.yaml",
    ),
    "job, GPU": (
        JOB,
        put(f"{POD}.containers.0.resources.limits", {"nvidia.com/gpu": "2"}),
        "nvidia.com/gpu must be equal",
    ),
    "job, taint": (JOB, put(f"{POD}.tolerations", []), "gpu-spot: must tolerate nvidia.com/gpu"),
    "job, shared memory": (
        JOB,
        put(f"{POD}.volumes.2.emptyDir", {}),
        "gpu-spot: /dev/shm must be an emptyDir in memory",
    ),
    "job, grace": (
        JOB,
        put(f"{POD}.terminationGracePeriodSeconds", 30),
        "gpu-spot: terminationGracePeriodSeconds must be",
    ),
    "job, account": (
        JOB,
        drop(f"{POD}.automountServiceAccountToken"),
        "gpu-spot: must have automountServiceAccountToken",
    ),
    "job, root": (
        JOB,
        put(f"{POD}.securityContext", {}),
        "gpu-spot: spec.securityContext: must have runAsNonRoot: true",
    ),
    "job, user": (
        JOB,
        put(f"{POD}.securityContext.runAsUser", 0),
        "gpu-spot: spec.securityContext: must have runAsUser: 1000",
    ),
    "job, rights": (
        JOB,
        put(f"{POD}.containers.0.securityContext", {}),
        "ray-worker: must have readOnlyRootFilesystem",
    ),
    "job, key of a pod": (JOB, put(f"{POD}.containers.0.volumeMount", []), "gpu-spot: .*'volumeMount' was unexpected"),
    "policy, key": (
        "kubernetes/network.yaml",
        put("1.spec.ingres", []),
        "NetworkPolicy ray: .*'ingres' was unexpected",
    ),
    "database, port": (
        "kubernetes/postgres.yaml",
        put("1.spec.template.spec.containers.0.ports.0.containerPort", "5432"),
        "StatefulSet postgres: .*'5432' is not of type",
    ),
    "database, secret": (
        "kubernetes/postgres.yaml",
        put("1.spec.template.spec.containers.0.env.3.valueFrom.secretKeyRef.name", "postgres"),
        "the Secret 'postgres' must be one that make-secrets creates",
    ),
    "chart, value": (
        "kubernetes/mlflow.yaml",
        put("extraVolume", []),
        "extraVolume: must be a value of MLflow's chart",
    ),
    "chart, volume": (
        "kubernetes/mlflow.yaml",
        put("extraVolumes", [{"name": "tmp", "emptyDir": {}}]),
        "spec.volumes: the names of volumes must differ",
    ),
    "chart, path": (
        "kubernetes/mlflow.yaml",
        put("extraVolumeMounts", [{"name": "tmp", "mountPath": "/tmp"}]),  # noqa: S108
        "mlflow: mounts two volumes at /tmp",
    ),
    "chart, MLflow": (
        "kubernetes/mlflow.yaml",
        put("image.tag", "v3.16.0-full"),
        "image.tag: must be v.*, the version of",
    ),
    "chart, host": (
        "kubernetes/mlflow.yaml",
        put("server.value_options.allowed_hosts", "localhost:5000"),
        "allowed_hosts: must have mlflow:5000, where the place looks for MLflow",
    ),
    "queue, flavor": (
        "kubernetes/queue.yaml",
        put("2.spec.resourceGroups.0.flavors.1.name", "spots"),
        "vimss: 'spots' must be a ResourceFlavor",
    ),
    "queue, quota": (
        "kubernetes/queue.yaml",
        put("2.spec.resourceGroups.0.flavors.1.resources", []),
        "vimss: 'spot' must have a quota for each of the coveredResources",
    ),
    "queue, name": (
        "kubernetes/queue.yaml",
        put("3.spec.clusterQueue", "vims"),
        "vimss: 'vims' must be a ClusterQueue",
    ),
}


def errors_after(file: str, edit: Edit) -> str:
    path = PLATFORM / file
    content = read_manifest(path)
    edit(content)
    return "\n".join(manifest_errors(path, content))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught_by_name(mistake):
    file, edit, message = MISTAKES[mistake]
    assert re.search(message, errors_after(file, edit))


@NEEDS_SCHEMA
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("spec.shutdownAfterJobFinish", True), "spec: .*'shutdownAfterJobFinish' was unexpected"),
        (put(f"{SPOT}.maxReplica", 4), "'maxReplica' was unexpected"),
        (put("spec.rayClusterSpec.authOptions.mode", "tokens"), "authOptions.mode: 'tokens' is not one of"),
        (put("spec.preRunningDeadlineSeconds", "9"), "preRunningDeadlineSeconds: '9' is not of type 'integer'"),
    ],
    ids=["key", "key of a group", "choice", "type"],
)
def test_a_mistake_is_caught_by_the_schema_of_kuberay(edit, message):
    assert re.search(message, errors_after(JOB, edit))
