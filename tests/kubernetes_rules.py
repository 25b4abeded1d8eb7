"""Rules of Kubernetes, of KubeRay's operator (v1.7) and of Kueue, and what VIMSS wants of its pods.

rayjob_errors(read_manifest(KUBERNETES / "search.yaml"))
"""

import json
import os
import re
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
from manifest_files import PLATFORM, Content, pinned, read_manifest, schema_errors, walk
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from vimss.runtime import TRIAL_SLOT, load_place

KUBERNETES = PLATFORM / "kubernetes"
KUBERNETES_VERSION = "1.37"

SCHEMA_VARIABLE = "VIMSS_KUBERAY_SCHEMA"
"""Names the file with the schema of RayJob, from KubeRay's CRD: it lies in no package."""


def kubernetes_errors(content: Content) -> Iterator[str]:
    """Objects of Kubernetes itself, with the pods that they make."""
    for document in content if isinstance(content, list) else [content]:
        name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
        yield from (f"{name}: {message}" for message in _object_errors(document))
        if document.get("kind") in {"StatefulSet", "Deployment"}:
            claims = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
            yield from (f"{name}: {message}" for message in _pod_errors(document["spec"]["template"], claims))


def _object_errors(document: Content) -> Iterator[str]:
    yield from _errors_of_object(json.dumps(document))


@cache
def _errors_of_object(text: str) -> tuple[str, ...]:
    try:
        kubernetes_validate.validate(json.loads(text), KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (f"{'.'.join(map(str, error.path))}: {error.message}",)
    return ()


@cache
def _documents() -> list[Content]:
    """Every object of the folder, but for the values of the chart and the place."""
    paths = [path for path in sorted(KUBERNETES.glob("*.yaml")) if path.name not in {"mlflow.yaml", "runtime.yaml"}]
    contents = [read_manifest(path) for path in paths]
    return [document for content in contents for document in (content if isinstance(content, list) else [content])]


def _declared(kind: str) -> set[str]:
    return {document["metadata"]["name"] for document in _documents() if document["kind"] == kind}


@cache
def _declared_secrets() -> set[str]:
    return set(re.findall(r"^create ([\w-]+)", (KUBERNETES / "make-secrets").read_text("utf-8"), re.MULTILINE))


def _reference_errors(content: Content) -> Iterator[str]:
    """Names of Secrets, volumes and priorities that nothing declares."""
    for where, key, value in walk(content):
        if key in {"secretKeyRef", "secretRef"} and value.get("name") not in _declared_secrets():
            yield f"{where}: the Secret '{value.get('name')}' must be one that make-secrets creates"
        if key == "claimName" and value not in _declared("PersistentVolumeClaim"):
            yield f"{where}: the volume claim '{value}' must be in namespace.yaml"
        if key == "priorityClassName" and value not in _declared("PriorityClass"):
            yield f"{where}: the priority class '{value}' must be in namespace.yaml"


def _pod_errors(template: Content, claims: Set[str] = frozenset()) -> Iterator[str]:
    """A pod's schema, its references, and what keeps it from more rights than it needs."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template.get("metadata", {})}}
    yield from _object_errors({**pod, "spec": template["spec"]})
    yield from _reference_errors(template)
    spec = template["spec"]
    names = [volume["name"] for volume in spec.get("volumes", [])]
    volumes = {*names, *claims}
    if len(volumes) < len(names) + len(claims):
        yield "spec.volumes: the names of volumes must differ"
    if not spec.get("securityContext", {}).get("runAsNonRoot"):
        yield "spec.securityContext: must have runAsNonRoot: true"
    is_ours = any(container["image"].rpartition("/")[2].startswith("vimss:") for container in spec["containers"])
    if is_ours and spec.get("securityContext", {}).get("runAsUser") != 1000:
        yield "spec.securityContext: must have runAsUser: 1000, the user of platform/Dockerfile"
    for container in spec["containers"]:
        context = container.get("securityContext", {})
        if not context.get("readOnlyRootFilesystem") or context.get("allowPrivilegeEscalation", True):
            yield f"{container['name']}: must have readOnlyRootFilesystem and no allowPrivilegeEscalation"
        wanted = container.get("resources", {})
        if wanted.get("requests", {}).get("nvidia.com/gpu") != wanted.get("limits", {}).get("nvidia.com/gpu"):
            yield f"{container['name']}: requests and limits of nvidia.com/gpu must be equal"
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            yield f"{container['name']}: mounts two volumes at {path}"
        for name in sorted({mount["name"] for mount in container.get("volumeMounts", [])} - volumes):
            yield f"{container['name']}: mounts '{name}', which is no volume of the pod"


def values_errors(content: Content) -> Iterator[str]:
    """Values of MLflow's chart, whose parts of a pod are checked as a pod."""
    known = {"fullnameOverride", "image", "server", "mlflow", "env", "envFrom", "extraVolumes", "extraVolumeMounts"}
    known |= {"podLabels", "podSecurityContext", "securityContext", "serviceAccount", "resources", "replicaCount"}
    for key in sorted(set(content) - known):
        yield f"{key}: must be a value of MLflow's chart"
    if not content["image"]["tag"].startswith(f"v{pinned('mlflow')}"):
        yield f"image.tag: must be v{pinned('mlflow')}, the version of the client"
    container = {"name": "mlflow", "image": f"{content['image']['repository']}:{content['image']['tag']}"}
    container |= {key: content[key] for key in ("env", "envFrom", "securityContext", "resources")}
    # The chart has these two where the root is read-only.
    container |= {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *content.get("extraVolumeMounts", [])]}  # noqa: S108
    spec = {"containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}, *content.get("extraVolumes", [])]}
    yield from _pod_errors({"spec": spec | {"securityContext": content["podSecurityContext"]}})
    yield from _reference_errors(content["mlflow"])
    host = load_place(str(KUBERNETES)).tracking_uri.removeprefix("http://")
    if host not in content["server"]["value_options"]["allowed_hosts"].split(","):
        yield f"server.value_options.allowed_hosts: must have {host}, where the place looks for MLflow"


def queue_errors(content: Content) -> Iterator[str]:
    """Kueue's objects, whose schema lies in no package: their names must fit together."""
    for document in content:
        name, spec = document["metadata"]["name"], document["spec"]
        if document["apiVersion"] != "kueue.x-k8s.io/v1beta2":
            yield f"{name}: apiVersion must be kueue.x-k8s.io/v1beta2"
        if document["kind"] == "LocalQueue" and spec["clusterQueue"] not in _declared("ClusterQueue"):
            yield f"{name}: '{spec['clusterQueue']}' must be a ClusterQueue"
        for group in spec.get("resourceGroups", []):
            for flavor in group["flavors"]:
                if flavor["name"] not in _declared("ResourceFlavor"):
                    yield f"{name}: '{flavor['name']}' must be a ResourceFlavor"
                if [quota["name"] for quota in flavor["resources"]] != group["coveredResources"]:
                    yield f"{name}: '{flavor['name']}' must have a quota for each of the coveredResources"


# KubeRay


@cache
def _rayjob_schema() -> Any:
    """KubeRay's schema of RayJob, closed to unknown keys, as the API server would be; pods are checked apart."""
    schema = json.loads(Path(os.environ[SCHEMA_VARIABLE]).read_text(encoding="utf-8"))
    for where, _, value in [("", "", schema), *walk(schema)]:
        if isinstance(value, dict) and isinstance(value.get("properties"), dict) and not where.endswith("metadata"):
            value.setdefault("additionalProperties", False)
    return schema


def rayjob_errors(content: Content) -> Iterator[str]:
    """A RayJob: KubeRay's schema where it is given, the rules of its operator and of Kueue, and our own."""
    if SCHEMA_VARIABLE in os.environ:
        yield from schema_errors(_rayjob_schema(), content)
    spec = content["spec"]
    cluster = spec["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    yield from _job_rules(content["metadata"]["name"], spec)
    yield from _cluster_rules(cluster)
    yield from _kueue_rules(content["metadata"], spec)
    yield from _our_rules(cluster)
    templates = {group["groupName"]: group["template"] for group in groups}
    templates |= {"head": cluster["headGroupSpec"]["template"], "submitter": spec.get("submitterPodTemplate")}
    for name, template in templates.items():
        if template:
            yield from (f"{name}: {message}" for message in _pod_errors(template))
    try:
        _derive_autoscaling_config_from_ray_cr({"metadata": content["metadata"], "spec": cluster})
    except Exception as error:  # a KeyError, ValueError or TypeError of whatever line it is that cannot read it
        yield f"rayClusterSpec: Ray's autoscaler cannot read it: {type(error).__name__} {error}"


def _job_rules(name: str, spec: Content) -> Iterator[str]:
    """What KubeRay's operator refuses of a job (v1.7, ValidateRayJobMetadata and ValidateRayJobSpec)."""
    if len(name) > 47:
        yield f"metadata.name: must have at most 47 characters; has {len(name)}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"metadata.name: '{name}' must be small letters, digits and -, beginning with a letter"
    shutdown, strategy = spec.get("shutdownAfterJobFinishes", False), spec.get("deletionStrategy", {})
    if spec.get("ttlSecondsAfterFinished", 0) and not shutdown:
        yield "ttlSecondsAfterFinished: needs shutdownAfterJobFinishes: true"
    if spec.get("suspend") and not shutdown:
        yield "suspend: needs shutdownAfterJobFinishes: true"
    if strategy.get("deletionRules") and shutdown:
        yield "deletionStrategy.deletionRules: exclude shutdownAfterJobFinishes"
    if spec.get("clusterSelector"):
        yield from (f"clusterSelector: excludes {key}" for key in ("suspend", "backoffLimit") if spec.get(key))
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}:
        yield f"submissionMode: '{mode}' is unknown"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit: excludes submissionMode InteractiveMode"
    if mode == "SidecarMode":
        used = [key for key in ("submitterPodTemplate", "submitterConfig") if key in spec]
        yield from (f"{key}: excludes submissionMode SidecarMode" for key in used)
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit: must not be negative"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "activeDeadlineSeconds: must be positive"
    if spec["rayClusterSpec"].get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth: is not for RayJob"


def _cluster_rules(cluster: Content) -> Iterator[str]:
    """What the operator refuses of a cluster (ValidateRayClusterSpec)."""
    head, scales = cluster["headGroupSpec"], cluster.get("enableInTreeAutoscaling", False)
    version = cluster.get("autoscalerOptions", {}).get("version")
    groups = {"head": head} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for name, group in groups.items():
        params = group.get("rayStartParams", {})
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(params):
            yield f"{name}: resources must be in rayStartParams or in `resources`, not in both"
        if "labels" in params:
            yield f"{name}: labels must be in `labels` of the group, not in rayStartParams"
        if scales and version == "v2" and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: restartPolicy must be Never with autoscaler v2"
        if scales and group.get("suspend"):
            yield f"{name}: a group cannot be suspended with the autoscaler"
        if name == "head":
            continue
        if not {"minReplicas", "maxReplicas"} <= set(group):
            yield f"{name}: must have minReplicas and maxReplicas"
        elif not group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]:
            yield f"{name}: replicas must lie from minReplicas to maxReplicas"
    names = [entry["name"] for entry in head["template"]["spec"]["containers"][0].get("env", [])]
    if version and "RAY_enable_autoscaler_v2" in names:
        yield "head: the autoscaler's version must be set by autoscalerOptions.version alone"
    for key, gate in (("networkPolicy", "RayClusterNetworkPolicy"), ("tlsOptions", "RayClusterMTLS")):
        if key in cluster:
            yield f"{key}: needs the operator's feature gate {gate}"
    if tuple(map(int, cluster.get("rayVersion", "0").split(".")))[:2] < (2, 52):
        yield "rayVersion: must be 2.52 or later for token authentication"


def _kueue_rules(metadata: Content, spec: Content) -> Iterator[str]:
    """What Kueue refuses of a job (its webhooks for RayJob and RayCluster)."""
    queue = metadata.get("labels", {}).get("kueue.x-k8s.io/queue-name")
    if queue not in _declared("LocalQueue"):
        yield f"metadata.labels: the queue '{queue}' must be a LocalQueue of queue.yaml"
    if not spec.get("suspend"):
        yield "suspend: must be true, for Kueue to start the job"
    elastic = metadata.get("annotations", {}).get("kueue.x-k8s.io/elastic-job") == "true"
    if spec["rayClusterSpec"].get("enableInTreeAutoscaling") and not elastic:
        yield 'metadata.annotations: a job with autoscaling must have kueue.x-k8s.io/elastic-job: "true"'
    names = [group["groupName"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]]
    if "head" in names or len(set(names)) < len(names):
        yield "workerGroupSpecs: names of groups must differ, and none be 'head'"


def _our_rules(cluster: Content) -> Iterator[str]:
    """What VIMSS wants of its nodes."""
    if cluster.get("rayVersion") != pinned("ray"):
        yield f"rayVersion: must be {pinned('ray')}, as constraints.txt says; is {cluster.get('rayVersion')}"
    auth = cluster.get("authOptions", {})
    if auth.get("mode") != "token" or auth.get("secretName") not in _declared_secrets():
        yield "authOptions: must have mode: token, and as secretName a Secret that make-secrets creates"
    head = cluster["headGroupSpec"]
    if json.loads(head["rayStartParams"].get("resources", '"{}"').strip('"').replace("\\", "")).get(TRIAL_SLOT) != 1000:
        yield f"head: must count trials by the resource {TRIAL_SLOT}: 1000"
    place = load_place(str(KUBERNETES))
    grace, shares_nothing = place.grace_seconds, all("://" in where for where in (place.shards, place.studies))
    for group in (head, *cluster["workerGroupSpecs"]):
        name, spec = group.get("groupName", "head"), group["template"]["spec"]
        if spec.get("terminationGracePeriodSeconds", 30) < 2 * grace:
            yield f"{name}: terminationGracePeriodSeconds must be at least twice grace_seconds: {grace:g} of the place"
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        at = {mount["mountPath"]: volumes.get(mount["name"], {}) for mount in spec["containers"][0]["volumeMounts"]}
        if at.get("/dev/shm", {}).get("emptyDir", {}).get("medium") != "Memory":  # noqa: S108
            yield f"{name}: /dev/shm must be an emptyDir in memory"
        if ("emptyDir" in at.get("/store", {})) != shares_nothing:
            where = "an emptyDir, since" if shares_nothing else "one that all pods share, or"
            yield f"{name}: /store must be {where} shards and studies of the place lie behind URLs"
        if group is not head and spec.get("automountServiceAccountToken", True):
            yield f"{name}: must have automountServiceAccountToken: false"
        gpu = "nvidia.com/gpu" in spec["containers"][0]["resources"]["limits"]
        if gpu and not any(toleration.get("key") == "nvidia.com/gpu" for toleration in spec.get("tolerations", [])):
            yield f"{name}: must tolerate nvidia.com/gpu, by which nodes with GPUs keep other pods away"
        if "spot" in name and group.get("minReplicas", 0) != 0:
            yield f"{name}: must start at 0 replicas"
