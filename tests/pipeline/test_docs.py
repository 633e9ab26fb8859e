"""The files that docs/cluster.md tells users to write."""

import re
import tomllib

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tools.clone import ROOT

TEXT = (ROOT / "docs" / "cluster.md").read_text()
KUBERAY, CLOUD = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
# Of ray.io/v1, as KubeRay 1.6 documents it; those that we use, and the required ones.
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
HEAD, WORKERS = (
    {"rayStartParams", "template"},
    {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
)


def test_ray_accepts_the_cloud_cluster():
    validate_config(prepare_config(CLOUD))


def test_the_kubernetes_cluster_has_the_fields_that_kuberay_knows():
    assert (KUBERAY["apiVersion"], KUBERAY["kind"]) == ("ray.io/v1", "RayCluster")
    spec = KUBERAY["spec"]
    assert set(spec) == CLUSTER and spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group, fields in zip(groups, [HEAD, WORKERS, WORKERS], strict=True):
        assert set(group) == fields
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert all(isinstance(value, str) for value in container["resources"]["limits"].values())


def test_versions_are_those_of_the_project():
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (ray,) = re.findall(r"'ray\[tune\]==([\d.]+)'", str(pinned["project"]["dependencies"]))
    (dvc_s3,) = re.findall(r"'dvc-s3==([\d.]+)'", str(pinned["project"]["optional-dependencies"]["test"]))
    assert KUBERAY["spec"]["rayVersion"] == ray
    assert set(re.findall(r"(?:rayproject/ray:|ray\[default\]==)([\d.]+)", TEXT)) == {ray}
    assert set(re.findall(r"dvc-s3==([\d.]+)", TEXT)) == {dvc_s3}
