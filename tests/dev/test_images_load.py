import json
from pathlib import Path

from dev.cluster.images.load import nameless, upper_folder

LISTING = """
REF                            TYPE                                       DIGEST       SIZE    PLATFORMS   LABELS
docker.io/disttrain/app:dev    application/vnd.oci.image.manifest.v1+json sha256:new   1.9 MiB linux/amd64 a=b
sha256:config-new              application/vnd.oci.image.manifest.v1+json sha256:new   1.9 MiB linux/amd64 a=b
sha256:config-old              application/vnd.oci.image.manifest.v1+json sha256:old   1.9 MiB linux/amd64 a=b
""".strip()


def test_only_an_image_that_lost_its_name_is_dropped():
    assert nameless(LISTING) == ["sha256:config-old"]


def test_the_lowest_layer_is_filled_where_it_is_bound_from():
    assert upper_folder(json.dumps([{"Type": "bind", "Source": "/s/1/fs", "Options": ["rw"]}])) == Path("/s/1/fs")


def test_another_layer_is_filled_above_those_below():
    mount = {
        "Type": "overlay",
        "Source": "overlay",
        "Options": ["workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs"],
    }
    assert upper_folder(json.dumps([mount])) == Path("/s/2/fs")
