"""Job files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from tests.sdk.conftest import job

from disttrain.sdk import BadInput
from disttrain.sdk.manifest import read


def test_a_job_is_read_from_yaml_json_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("---\n" + yaml.safe_dump(job()) + "---\n")
    assert read(str(path)) == job()
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(job())))
    assert read("-") == job()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "is not YAML: line 1, column 6"),
        ("", "holds no DistTrainJob: it is empty"),
        ("kind: Deployment", "holds no DistTrainJob but: Deployment"),
        ("hello", "holds no DistTrainJob but: str"),
        ("kind: DistTrainJob\n---\nkind: DistTrainJob", "holds 2 jobs"),
        ("kind: DistTrainJob\n---\nkind: ConfigMap", "holds more than the job: ConfigMap, DistTrainJob"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        read(str(path))
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_missing_or_binary_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read .*absent: No such file"):
        read(str(tmp_path / "absent"))
    with pytest.raises(BadInput, match="cannot read .*: Is a directory"):
        read(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is not"):
        read(str(tmp_path / "binary"))
