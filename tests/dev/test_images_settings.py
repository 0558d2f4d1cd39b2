from pathlib import Path

from dev.cluster.images.settings import CERTIFICATES, FIND_LINKS, derive, pip_settings

LISTING = """
global.index-url='https://mirror.example/simple'
global.cert='/etc/ca.pem'
:env:.index-url='https://other.example/simple'
:env:.find-links='/opt/wheels'
"""


def test_the_environment_wins_over_the_file():
    assert pip_settings(LISTING)["index-url"] == "https://other.example/simple"


def test_the_index_reaches_pip_and_uv():
    settings = dict(derive(pip_settings(LISTING), {}, {}).variables)
    assert settings["PIP_INDEX_URL"] == settings["UV_DEFAULT_INDEX"] == "https://other.example/simple"


def test_a_certificate_bundle_of_the_machine_becomes_a_secret_of_the_build():
    settings = derive(pip_settings(LISTING), {}, {})
    assert settings.certificates == Path("/etc/ca.pem")
    assert dict(settings.variables)["SSL_CERT_FILE"] == CERTIFICATES


def test_a_folder_of_wheels_is_mounted():
    settings = derive(pip_settings(LISTING), {}, {"/opt/wheels": True})
    assert settings.find_links == Path("/opt/wheels")
    assert dict(settings.variables)["UV_FIND_LINKS"] == FIND_LINKS


def test_docker_cannot_mount_a_folder_of_wheels_so_it_is_left_out():
    settings = derive(pip_settings(LISTING), {}, {"/opt/wheels": True}, can_mount=False)
    assert settings.find_links is None
    assert "UV_FIND_LINKS" not in dict(settings.variables)


def test_a_proxy_is_passed_on():
    assert dict(derive({}, {"https_proxy": "http://proxy:3128"}, {}).variables) == {"https_proxy": "http://proxy:3128"}


def test_a_plain_machine_passes_nothing():
    settings = derive({}, {"HOME": "/root"}, {})
    assert settings.shell() == ""
    assert settings.certificates is None


def test_values_survive_the_shell():
    settings = derive({"index-url": "https://user:p'w@mirror/simple"}, {}, {})
    assert "export PIP_INDEX_URL='https://user:p'\"'\"'w@mirror/simple'\n" in settings.shell()
