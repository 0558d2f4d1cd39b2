from __future__ import annotations

from typing import Any

import pytest

from disttrain_operator.channel import PodIdentity
from disttrain_operator.shell.kinds import Kind, Raw
from disttrain_operator.shell.tokens import authenticator, identity, review
from support.fake_kube import FakeKube


def an_answer(**status: Any) -> Raw:
    extra = {
        "authentication.kubernetes.io/pod-name": ["mnist-0"],
        "authentication.kubernetes.io/pod-uid": ["uid-0"],
    }
    user = {"username": "system:serviceaccount:team:default", "extra": extra}
    return {"status": {"authenticated": True, "audiences": ["disttrain.dev/operator"], "user": user} | status}


def test_the_api_server_vouches_for_a_pod() -> None:
    assert identity(an_answer()) == PodIdentity(namespace="team", name="mnist-0", uid="uid-0")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({}, id="no answer at all"),
        pytest.param({"status": {"error": "expired"}}, id="expired"),
        pytest.param(an_answer(authenticated=False), id="not authenticated"),
        pytest.param(an_answer(authenticated="true"), id="not really authenticated"),
        pytest.param(an_answer(audiences=["https://kubernetes.default.svc"]), id="for another audience"),
        pytest.param(an_answer(audiences=None), id="for no audience"),
        pytest.param(an_answer(user={"username": "admin", "extra": an_answer()["status"]["user"]["extra"]}), id="a person"),
        pytest.param(an_answer(user={"username": "system:serviceaccount:team:default"}), id="not bound to a pod"),
    ],
)  # fmt: skip
def test_anything_less_is_nobody(answer: Raw) -> None:
    assert identity(answer) is None


def test_the_question_names_our_audience() -> None:
    assert review("abc")["spec"] == {"token": "abc", "audiences": ["disttrain.dev/operator"]}


async def test_no_token_is_not_worth_a_question() -> None:
    class Silent(FakeKube):
        async def create(self, kind: Kind, body: Raw) -> Raw:
            raise AssertionError("asked")

    assert await authenticator(Silent())("") is None
