"""The cluster files for clouds are files that this version of Ray takes, and say what the page about them says."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import __version__ as ray_version
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "clusters" / "cloud"
PAGE = (ROOT / "docs" / "cloud.md").read_text()


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_rays_own_schema_takes_a_cloud_cluster(name: str) -> None:
    [given] = documents(name)
    config = prepare_config(given)
    validate_config(config)
    gpu = config["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 8)
    assert given["docker"]["image"].startswith(f"rayproject/ray:{ray_version}-py311")
    data = {"aws": "s3://my-bucket", "gcp": "/shared"}[name]  # where data, and what trials write, lie
    assert any(data in command for command in given["initialization_commands"])
    assert any(f"--artifacts-destination {data}/" in command for command in given["head_start_ray_commands"])
    text = (FOLDER / f"{name}.yaml").read_text()
    assert "spot" in text.lower()
    assert "0.0.0.0" not in text, "nothing listens to the world"
    assert (text.count("EDIT 1:"), text.count("EDIT 2:")) == (1, 1)
    assert ("IamInstanceProfile" in gpu["node_config"]) == (name == "aws"), "workers write to the bucket"


def test_a_misspelt_field_would_be_found() -> None:
    [given] = documents("aws")
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare_config(given | {"idle_timeout_minuts": 5}))


def test_ray_makes_a_cluster_of_the_kubernetes_file() -> None:
    cluster, shared, mlflow = documents("kuberay")
    assert (cluster["kind"], cluster["spec"]["rayVersion"]) == ("RayCluster", ray_version)
    config = _derive_autoscaling_config_from_ray_cr(cluster)  # checks it by the same schema
    types = config["available_node_types"]
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["max_workers"] == 8
    assert next(t for name, t in types.items() if name != "gpu")["resources"]["CPU"] == 0
    claims = {shared["metadata"]["name"]: shared, mlflow["metadata"]["name"]: mlflow}
    assert claims["parapet-shared"]["spec"]["accessModes"] == ["ReadWriteMany"]
    pods = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for pod in pods:
        volumes = {v["name"]: v for v in pod["template"]["spec"]["volumes"]}
        assert all(v["persistentVolumeClaim"]["claimName"] in claims for v in volumes.values())
        for container in pod["template"]["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()


@pytest.mark.parametrize("name", ["aws", "gcp", "kuberay"])
def test_the_page_names_every_file(name: str) -> None:
    assert f"clusters/cloud/{name}.yaml" in PAGE
