import ast

import yaml

from nyquist.server.settings import read_settings
from tests.processes import ROOT


def test_what_ray_serve_is_told_of_the_server_is_what_the_server_takes() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    (served,) = config["applications"]
    (replica,) = served["deployments"]
    assert read_settings(served["args"]).threads == replica["ray_actor_options"]["num_cpus"]
    named = [
        served["import_path"].replace(":", "."),
        *config["grpc_options"]["grpc_servicer_functions"],
    ]
    for module, _, function in (name.rpartition(".") for name in named):
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        defined = {one.name for one in ast.parse(source).body if isinstance(one, ast.FunctionDef)}
        assert function in defined
