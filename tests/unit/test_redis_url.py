"""REDIS_URL: what is taken, what is refused, and that it is never shown."""

import pytest

from appliance.settings import SettingsError, load_settings

DATABASE = "postgresql://carillon@db/carillon"


def load(folder, **variables):
    return load_settings(folder, {"DATABASE_URL": DATABASE} | variables)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
def test_each_way_to_redis_is_taken_as_a_secret(tmp_path, scheme):
    url = f"{scheme}://:open-sesame@host/0"
    settings = load(tmp_path, REDIS_URL=url)
    assert settings.redis_url.reveal() == url
    assert "open-sesame" not in repr(settings)


def test_without_it_there_is_one_node(tmp_path):
    assert not load(tmp_path).redis_url


def test_another_kind_of_url_is_refused_without_being_shown(tmp_path):
    with pytest.raises(SettingsError, match="REDIS_URL: give redis://") as refused:
        load(tmp_path, REDIS_URL="http://:open-sesame@host")
    assert "open-sesame" not in str(refused.value)


def test_several_nodes_over_sqlite_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="set DATABASE_URL, too"):
        load(tmp_path, DATABASE_URL="", REDIS_URL="redis://host")
