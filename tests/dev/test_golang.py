import pytest
from dev.cluster.golang import is_new_enough


@pytest.mark.parametrize(
    ("line", "enough"),
    [
        ("go version go1.26.8 linux/amd64", True),
        ("go version go1.27rc1 linux/arm64", True),
        ("go version go2.0 linux/amd64", True),
        ("go version go1.25.9 linux/amd64", False),
        ("go version devel", False),
    ],
)
def test_go_is_new_enough_from_the_release_kubernetes_asks_for(line, enough):
    assert is_new_enough(line) is enough
