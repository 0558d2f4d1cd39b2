import pytest
from dev.cluster.images import inputs


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM x AS app\nCOPY src /opt/\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("one")
    return tmp_path


def test_nothing_changed_nothing_to_build(repository):
    assert inputs.digest(repository, "app", {}) == inputs.digest(repository, "app", {})


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "src" / "a.py").write_text("two"),
        lambda root: (root / "src" / "a.py").rename(root / "src" / "b.py"),
        lambda root: (root / "src" / "a.py").chmod(0o755),
        lambda root: (root / "src" / "new.py").write_text(""),
        lambda root: (root / "Dockerfile").write_text("FROM y AS app\nCOPY src /opt/\n"),
    ],
    ids=["a file's content", "a file's name", "a file's mode", "a new file", "the Dockerfile"],
)
def test_every_change_of_an_input_changes_the_digest(repository, change):
    before = inputs.digest(repository, "app", {})
    change(repository)
    assert inputs.digest(repository, "app", {}) != before


def test_what_is_not_copied_does_not_count_and_build_arguments_do(repository):
    before = inputs.digest(repository, "app", {})
    (repository / "README.md").write_text("new")
    (repository / "src" / "__pycache__").mkdir()
    (repository / "src" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    assert inputs.digest(repository, "app", {}) == before
    assert inputs.digest(repository, "app", {"TORCH_INDEX": "elsewhere"}) != before


def test_a_missing_source_is_said(repository):
    (repository / "src" / "a.py").unlink()
    (repository / "src").rmdir()
    with pytest.raises(FileNotFoundError, match="src"):
        inputs.digest(repository, "app", {})
