"""What the examples' job files say is true of the examples."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from disttrain.api.job import DistTrainJob
from disttrain.sdk.check import check

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/job.yaml")), ids=lambda path: path.parent.name)
def test_a_job_file_is_valid_and_starts_what_is_there(path: Path) -> None:
    job = DistTrainJob.model_validate(yaml.safe_load(path.read_text()))
    if job.spec.entrypoint:
        module, _, function = job.spec.entrypoint.partition(":")
        source = (EXAMPLES / (module.replace(".", "/") + ".py")).read_text()
        assert function in {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    else:
        assert job.spec.command is not None
        assert (EXAMPLES.parent / Path(job.spec.command[1]).relative_to("/workspace")).is_file()


def test_the_job_in_the_readme_is_valid_and_asks_for_what_the_example_takes() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), flags=re.S)
    (shown,) = [found for found in map(yaml.safe_load, blocks) if found.get("kind") == "DistTrainJob"]
    (file,) = [yaml.safe_load(path.read_text()) for path in EXAMPLES.glob("digits/job.yaml")]
    assert check(shown) == [], "as the API server would say"
    assert {shown["spec"][key] == file["spec"][key] for key in ("image", "entrypoint", "workers")} == {True}
    tree = ast.parse((EXAMPLES / "digits" / "task.py").read_text())
    (build,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build"]
    options = {word for word in shown["spec"]["args"] if word.startswith("--")}
    assert options <= {f"--{argument.arg}" for argument in build.args.args}


def test_the_plain_script_knows_nothing_of_us() -> None:
    tree = ast.parse((EXAMPLES / "text" / "train.py").read_text())
    imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = {alias.name for n in imports for alias in n.names} | {
        n.module for n in imports if isinstance(n, ast.ImportFrom)
    }
    assert not [name for name in names if name and name.startswith("disttrain")]


def test_the_text_is_whole_and_small() -> None:
    text = (EXAMPLES / "text" / "alice.txt").read_text(encoding="ascii")
    assert "Down the Rabbit-Hole" in text
    assert text.rstrip().endswith("THE END")
    assert len(text) < 300_000


def test_the_digits_ship_with_a_package() -> None:
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    assert (Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz").is_file()
