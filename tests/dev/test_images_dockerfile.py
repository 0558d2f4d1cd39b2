import pytest
from dev.cluster.images import build
from dev.cluster.images.dockerfile import inputs, instructions, stages
from dev.cluster.paths import REPOSITORY

DOCKERFILE = r"""
# a comment \
ARG BASE=debian
FROM ${BASE} AS base
RUN one \
 && two
FROM base AS packages
COPY pyproject.toml /tmp/
FROM base AS app
COPY --from=packages /opt/venv /opt/venv
COPY --chown=1000 src config /opt/
FROM base AS other
COPY elsewhere /opt/
"""


def test_a_line_may_go_on_and_comments_are_not_instructions():
    assert instructions(DOCKERFILE)[2] == "RUN one   && two"


def test_a_target_depends_on_what_its_stages_copy_also_by_way_of_others():
    assert inputs(DOCKERFILE, "app") == ("config", "pyproject.toml", "src")


def test_a_target_does_not_depend_on_another_target():
    assert inputs(DOCKERFILE, "other") == ("elsewhere",)


def test_an_unknown_target_is_refused_with_the_list_of_those_there_are():
    with pytest.raises(KeyError, match="base, packages, app, other"):
        inputs(DOCKERFILE, "nothing")


def _project():
    return (REPOSITORY / "Dockerfile").read_text()


def test_the_projects_own_dockerfile_has_both_targets_and_every_kept_stage():
    names = stages(_project())
    for target in build.TARGETS:
        assert {target, *build.STAGES[target]} <= set(names)


def test_the_runtimes_code_does_not_rebuild_the_operator_nor_the_other_way_round():
    assert "trainer_image/disttrain_runtime" not in inputs(_project(), "operator")
    assert "operator/disttrain_operator" not in inputs(_project(), "trainer")


def test_torch_lies_below_everything_of_the_project():
    assert inputs(_project(), "torch") == ()


def test_both_images_run_as_the_plain_user_and_forward_signals():
    final = _project().split("FROM operator-packages AS operator\n")[1].split("FROM torch AS trainer\n")
    for part in final:
        assert "\nUSER 1000:1000\n" in part
        assert '\nENTRYPOINT ["' in part


def test_what_the_dockerfile_copies_passes_the_dockerignore():
    allowed = {
        line.removeprefix("!")
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for target in build.TARGETS:
        for source in inputs(_project(), target):
            assert source.split("/")[0] in allowed
