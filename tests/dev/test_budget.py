from dev.cluster import budget
from dev.cluster.versions import CLUSTER_TOOLS, USER_TOOLS

EVERYTHING = (*CLUSTER_TOOLS, *USER_TOOLS)


def test_everything_together_stays_within_25_gigabytes():
    assert budget.VENV_MEGABYTES + budget.needed_megabytes(EVERYTHING, images_built=False) <= 25_000


def test_what_is_there_already_is_not_asked_for_again():
    first = budget.needed_megabytes(EVERYTHING, images_built=False)
    assert budget.needed_megabytes((), images_built=False) < first
    assert budget.needed_megabytes((), images_built=True) == budget.STATE_MEGABYTES


def test_the_compilers_gigabytes_are_gone_before_images_are_built():
    compiling = sum(tool.megabytes for tool in EVERYTHING)
    assert budget.needed_megabytes(EVERYTHING, images_built=True) == compiling + budget.STATE_MEGABYTES
    images = budget.needed_megabytes((), images_built=False)
    assert budget.needed_megabytes(EVERYTHING, images_built=False) == images + budget.TOOLS_MEGABYTES


def test_enough_is_silent():
    assert budget.shortage(30_000, 20_000, "/cache") is None


def test_too_little_says_how_much_and_what_to_do():
    text = budget.shortage(5_000, 20_000, "/cache")
    assert text is not None
    assert "20.0 GB" in text
    assert "5.0 GB" in text
    assert "DISTTRAIN_CACHE" in text
