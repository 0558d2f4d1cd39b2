"""What the operator and people may do, to the last verb."""

from __future__ import annotations

from typing import Any

from tests.helm.conftest import Objects, Render, of_kind, one

Grants = set[tuple[str, str, str]]

OPERATOR: Grants = {
    *(("disttrain.dev", "disttrainjobs", verb) for verb in ("get", "list", "watch", "delete")),
    ("disttrain.dev", "disttrainjobs/status", "update"),
    ("disttrain.dev", "disttrainjobs/finalizers", "update"),
    *(("", "pods", verb) for verb in ("get", "list", "watch", "create", "delete")),
    *(("", resource, verb) for resource in ("services", "persistentvolumeclaims") for verb in ("get", "create")),
    ("events.k8s.io", "events", "create"),
}
TOKENS: Grants = {("authentication.k8s.io", "tokenreviews", "create")}
LEASE: Grants = {("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "update")}


def grants(role: dict[str, Any]) -> Grants:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def bound(objects: Objects) -> dict[tuple[str, str], Grants]:
    """(kind of binding, namespace) → what the operator's account gets by it."""
    roles = {
        (r["kind"], r["metadata"].get("namespace", ""), r["metadata"]["name"]): grants(r)
        for r in of_kind(objects, "Role", "ClusterRole")
    }
    found: dict[tuple[str, str], Grants] = {}
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "disttrain", "namespace": "disttrain-system"}]
        namespace = binding["metadata"].get("namespace", "")
        ref = binding["roleRef"]
        of = roles[ref["kind"], namespace if ref["kind"] == "Role" else "", ref["name"]]
        found.setdefault((binding["kind"], namespace), set()).update(of)
    return found


def test_cluster_wide_it_gets_this_and_nothing_more(render: Render) -> None:
    assert bound(render()) == {
        ("ClusterRoleBinding", ""): OPERATOR | TOKENS,
        ("RoleBinding", "disttrain-system"): LEASE,
    }


def test_with_watched_namespaces_only_token_reviews_stay_cluster_wide(render: Render) -> None:
    assert bound(render(watchNamespaces=["team-a", "team-b"])) == {
        ("ClusterRoleBinding", ""): TOKENS,
        ("RoleBinding", "disttrain-system"): LEASE,
        ("RoleBinding", "team-a"): OPERATOR,
        ("RoleBinding", "team-b"): OPERATOR,
    }


def test_the_own_namespace_may_be_watched_too(render: Render) -> None:
    assert bound(render(watchNamespaces=["disttrain-system"])) == {
        ("ClusterRoleBinding", ""): TOKENS,
        ("RoleBinding", "disttrain-system"): LEASE | OPERATOR,
    }


def test_only_its_own_lease_may_be_changed(render: Render) -> None:
    objects = render(**{"leaderElection.leaseName": "mine"})
    create, change = one(objects, "Role", "-lease")["rules"]
    assert create["verbs"] == ["create"]
    assert change["resourceNames"] == ["mine"]
    env = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "DISTTRAIN_LEASE_NAME", "value": "mine"} in env


def test_nobody_gets_secrets_exec_or_wildcards(render: Render) -> None:
    everything = set().union(*(grants(role) for role in of_kind(render(), "Role", "ClusterRole")))
    assert not [
        g
        for g in everything
        if "*" in g or g[1] in ("secrets", "pods/exec", "pods/attach", "nodes", "namespaces", "serviceaccounts/token")
    ]
    assert not {g[2] for g in everything} & {"escalate", "bind", "impersonate"}


def test_people_have_three_roles_and_two_of_them_are_aggregated(render: Render) -> None:
    objects = render()
    roles = {name: one(objects, "ClusterRole", f"disttrain-{name}") for name in ("viewer", "editor", "debugger")}
    to = {
        name: {label.rsplit("-", 1)[1] for label in role["metadata"]["labels"] if "aggregate-to" in label}
        for name, role in roles.items()
    }
    assert to == {"viewer": {"view"}, "editor": {"edit", "admin"}, "debugger": set()}
    assert {verb for _, _, verb in grants(roles["viewer"])} == {"get", "list", "watch"}
    assert {resource for _, resource, _ in grants(roles["editor"])} == {"disttrainjobs", "disttrainjobs/status"}
    assert ("", "pods/log", "get") in grants(roles["debugger"])
    assert not [
        label
        for r in of_kind(render(**{"rbac.personas.aggregate": False}), "ClusterRole")
        for label in r["metadata"]["labels"]
        if "aggregate" in label
    ]


def test_the_release_test_runs_without_any_right(render: Render) -> None:
    objects = render()
    account = one(objects, "Pod")["spec"]["serviceAccountName"]
    assert account == one(objects, "ServiceAccount", "-test")["metadata"]["name"]
    bindings = of_kind(objects, "RoleBinding", "ClusterRoleBinding")
    assert account not in {subject["name"] for binding in bindings for subject in binding["subjects"]}
    given = render(**{"serviceAccount": {"create": False, "name": "theirs", "annotations": {}}})
    assert one(given, "Pod")["spec"]["serviceAccountName"] == "default"
    assert one(given, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "theirs"
    assert of_kind(given, "ServiceAccount") == []


def test_rbac_can_be_left_to_somebody_else(render: Render) -> None:
    assert not of_kind(render(**{"rbac.create": False}), "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
