import base64
import json

import pytest
from dev.cluster.command import Trouble
from dev.cluster.images import storage
from dev.cluster.images.storage import chain_ids, digest_of

NAME = "docker.io/disttrain/trainer:dev"


@pytest.fixture
def root(tmp_path):
    """A storage with one image of two layers, as buildah leaves it."""
    diff_ids = [digest_of(b"lower"), digest_of(b"upper")]
    config = json.dumps({"rootfs": {"diff_ids": diff_ids}}).encode()
    manifest = json.dumps({"config": {"digest": digest_of(config)}}).encode()
    folder = tmp_path / "overlay-images" / "abc"
    folder.mkdir(parents=True)
    (folder / "manifest").write_bytes(manifest)
    (folder / f"={base64.b64encode(digest_of(config).encode()).decode()}").write_bytes(config)
    (tmp_path / "overlay-images" / "images.json").write_text(
        json.dumps([{"id": "abc", "names": [NAME], "layer": "two"}])
    )
    layers = [{"id": "one", "diff-digest": diff_ids[0]}, {"id": "two", "parent": "one", "diff-digest": diff_ids[1]}]
    (tmp_path / "overlay-layers").mkdir()
    (tmp_path / "overlay-layers" / "layers.json").write_text(json.dumps(layers))
    return tmp_path


def test_an_image_is_found_with_its_layers_from_the_bottom_up(root):
    image = storage.read(root, NAME)
    assert [layer.folder for layer in image.layers] == [root / "overlay" / name / "diff" for name in ("one", "two")]
    assert [layer.parent for layer in image.layers] == ["", image.layers[0].chain_id]
    assert image.digest == digest_of(image.manifest)


def test_an_image_that_was_not_built_says_how(root):
    with pytest.raises(Trouble, match="image-build"):
        storage.read(root, "docker.io/disttrain/other:dev")


def test_damage_is_noticed(root):
    (config,) = (root / "overlay-images" / "abc").glob("=*")
    config.write_bytes(config.read_bytes() + b" ")
    with pytest.raises(Trouble, match="damaged"):
        storage.read(root, NAME)


def test_layers_that_are_not_the_configurations_are_refused(root):
    layers = json.loads((root / "overlay-layers" / "layers.json").read_text())
    layers[0]["diff-digest"] = digest_of(b"another")
    (root / "overlay-layers" / "layers.json").write_text(json.dumps(layers))
    with pytest.raises(Trouble, match="layers"):
        storage.read(root, NAME)


def test_chain_ids_are_those_of_the_specification():
    first, second = digest_of(b"a"), digest_of(b"b")
    assert chain_ids([first]) == [first]
    assert chain_ids([first, second]) == [first, digest_of(f"{first} {second}".encode())]


def test_an_empty_storage_has_no_images(tmp_path):
    assert storage.image_id(tmp_path, NAME) is None
