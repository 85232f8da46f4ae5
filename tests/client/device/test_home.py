"""A device's settings file."""

import pytest

from fedloom_client.device.home import DeviceSettings, ShardOf
from fedloom_edge.errors import InputError


def test_settings_come_back_as_they_were_saved(tmp_path):
    shard = ShardOf(partition="dirichlet:0.3", clients=3, seed=1, index=2)
    settings = DeviceSettings(coordinator="h:1", task='a "quoted"\ttask.py', trainer="torch", shard=shard)
    settings.save(tmp_path)
    assert DeviceSettings.load(tmp_path) == settings


def test_without_a_file_there_are_defaults(tmp_path):
    assert DeviceSettings.load(tmp_path) == DeviceSettings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("taks = 'digits'", "did you mean 'task'"),
        ("task = 3", "task is 3, of the wrong kind"),
        ("trainer = 'jax'", "unknown trainer"),
        ("task = ", "mend the file"),
        ("[shard]\nindxe = 1", "did you mean 'index'"),
    ],
)
def test_a_wrong_settings_file_is_named(tmp_path, text, said):
    (tmp_path / "device.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        DeviceSettings.load(tmp_path)
