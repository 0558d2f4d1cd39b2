import io
import json
import tarfile

from dev.cluster import tiny
from dev.cluster.images.storage import digest_of


def _read(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def test_the_archive_is_an_image_layout_whose_every_digest_holds():
    files = _read(tiny.oci_archive(b"layer", {"pause": tiny.PAUSE, "tiny": tiny.SHELL}))
    for name, content in files.items():
        if name.startswith("blobs/sha256/"):
            assert digest_of(content) == "sha256:" + name.rpartition("/")[2]
    index = json.loads(files["index.json"])
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
    assert names == ["pause", "tiny"]
    for entry in index["manifests"]:
        manifest = json.loads(files["blobs/sha256/" + entry["digest"].removeprefix("sha256:")])
        assert "blobs/sha256/" + manifest["config"]["digest"].removeprefix("sha256:") in files


def test_both_images_share_the_one_layer():
    files = _read(tiny.oci_archive(b"layer", {"pause": tiny.PAUSE, "tiny": tiny.SHELL}))
    assert sum(content == b"layer" for content in files.values()) == 1
