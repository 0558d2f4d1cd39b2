import pytest
from dev.cluster.command import Trouble
from dev.cluster.images.base import mirror_of, suite_of

TARGETS = """
http://mirror.example/debian-security/ bookworm-security
http://mirror.example/debian/ bookworm
http://mirror.example/debian/ bookworm-updates
"""


def test_the_suite_is_in_the_images_name():
    assert suite_of("docker.io/library/debian:bookworm-slim") == "bookworm"
    assert suite_of("debian:trixie") == "trixie"


@pytest.mark.parametrize("image", ["docker.io/library/python:3.12", "debian", "alpine:3"])
def test_an_image_that_debootstrap_cannot_make_is_refused(image):
    with pytest.raises(Trouble, match="BASE_IMAGE"):
        suite_of(image)


def test_the_machines_own_mirror_is_used():
    assert mirror_of(TARGETS, "bookworm") == "http://mirror.example/debian/"


def test_a_suite_the_machine_does_not_know_is_left_to_debootstrap():
    assert mirror_of(TARGETS, "trixie") is None
