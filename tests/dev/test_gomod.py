from dev.cluster import versions
from dev.cluster.gomod import go_mod, staging_modules

KUBERNETES_GO_MOD = """
module k8s.io/kubernetes

require (
	github.com/spf13/cobra v1.10.2
	k8s.io/api v0.0.0
	k8s.io/client-go v0.0.0 // indirect
	k8s.io/kube-openapi v0.0.0-20260101000000-abcdefabcdef
)
require k8s.io/mount-utils v0.0.0
"""


def test_staging_modules_are_those_required_at_exactly_zero():
    assert staging_modules(KUBERNETES_GO_MOD) == ("k8s.io/api", "k8s.io/client-go", "k8s.io/mount-utils")


def test_every_staging_module_is_replaced_by_its_published_release():
    text = go_mod(versions.KUBE, staging_modules(KUBERNETES_GO_MOD))
    assert f"require k8s.io/kubernetes v{versions.KUBERNETES}\n" in text
    assert f"replace k8s.io/api => k8s.io/api v{versions.KUBERNETES_STAGING}\n" in text
    assert text.count("replace ") == 3


def test_a_tool_without_staging_modules_has_no_replacements():
    assert "replace" not in go_mod(versions.ETCD)


def test_the_server_says_its_true_version():
    assert f"gitVersion=v{versions.KUBERNETES}" in versions.KUBE.ldflags
    assert "0." + versions.KUBERNETES.partition(".")[2] == versions.KUBERNETES_STAGING
