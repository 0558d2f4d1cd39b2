"""Who is speaking on a stream? The API server says, from the token: the message itself is never asked."""

from __future__ import annotations

from disttrain_contract import names
from disttrain_operator.channel.authentication import Authenticate, PodIdentity
from disttrain_operator.manifests import raw
from disttrain_operator.shell.kinds import TOKEN_REVIEWS, Api, Raw

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
ACCOUNT = "system:serviceaccount:"


def authenticator(api: Api) -> Authenticate:
    """Asks by a TokenReview; raises ClusterError when nobody answers."""

    async def authenticate(token: str) -> PodIdentity | None:
        return identity(await api.create(TOKEN_REVIEWS, review(token))) if token else None

    return authenticate


def review(token: str) -> Raw:
    """The question: only a token for our audience counts, or a pod's ordinary token could be replayed here."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "metadata": {},
        "spec": {"token": token, "audiences": [names.TOKEN_AUDIENCE]},
    }


def identity(answer: Raw) -> PodIdentity | None:
    """The pod that the token is bound to; None unless the API server vouches for all of it."""
    status = raw.obj(answer, "status")
    user = raw.obj(status, "user")
    account, extra = raw.text(user, "username") or "", raw.obj(user, "extra")
    name, uid = _only(raw.items(extra, POD_NAME)), _only(raw.items(extra, POD_UID))
    if status.get("authenticated") is not True or names.TOKEN_AUDIENCE not in raw.items(status, "audiences"):
        return None
    if not account.startswith(ACCOUNT) or name is None or uid is None:
        return None
    return PodIdentity(namespace=account.removeprefix(ACCOUNT).partition(":")[0], name=name, uid=uid)


def _only(values: list[object]) -> str | None:
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None
