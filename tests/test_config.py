"""Settings: where they come from, which wins, and what a wrong one is told."""

from pathlib import Path

import pytest

from dolphin_agent import config
from dolphin_agent.errors import ConfigError

NEEDED = {"standalone": "true", "policies": "/p", "pods": "/f"}


def test_defaults():
    """Only the sources must be given."""
    found = config.load(NEEDED, {})
    assert found == config.Config(standalone=True, policies=Path("/p"), pods=Path("/f"))
    assert (found.listen, found.collect_interval) == (("0.0.0.0", 10001), 10.0)


def test_flag_wins_over_environment_and_that_over_file(tmp_path):
    """Each of three settings comes from another place."""
    file = tmp_path / "c.yaml"
    file.write_text("log-level: debug\nlog-format: console\ncollect-interval: 1s\n")
    found = config.load(
        {**NEEDED, "config": str(file), "collect_interval": "3s"},
        {"DOLPHIN_COLLECT_INTERVAL": "2s", "DOLPHIN_LOG_FORMAT": "json"},
    )
    assert (found.log_level, found.log_format, found.collect_interval) == ("debug", "json", 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"listen": "10001"}, '--listen "10001": allowed: HOST:PORT'),
        ({"listen": "0.0.0.0:99999"}, "allowed: HOST:PORT"),
        ({"collect_interval": "10"}, '--collect-interval "10": allowed: a positive number with a unit'),
        ({"collect_interval": "0s"}, "allowed: a positive number with a unit"),
        ({"log_level": "loud"}, "allowed: debug, info, warning, error"),
        ({"policies": None, "pods": None}, "--standalone needs --policies DIR and --pods FILE"),
        ({"standalone": None}, "--policies is for --standalone"),
        ({"standalone": None, "policies": None, "pods": None}, "NODE_NAME is not set"),
        ({"standalone": None, "policies": None, "pods": None, "node_name": "Worker_1"}, '--node-name "Worker_1"'),
    ],
)
def test_wrong_setting_is_named_with_what_is_allowed(arguments, message):
    """The message has the flag, the value and the remedy."""
    with pytest.raises(ConfigError) as caught:
        config.load({**NEEDED, **arguments}, {})
    assert message in str(caught.value)


def test_environment_fault_names_the_variable():
    """A user of the Helm chart sets variables, not flags."""
    with pytest.raises(ConfigError, match='DOLPHIN_LISTEN "x": allowed'):
        config.load(NEEDED, {"DOLPHIN_LISTEN": "x"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("log-levl: debug", 'unknown setting "log-levl"; did you mean log-level? (known: standalone, policies'),
        ("- a", "allowed: a mapping"),
        ("a: [", "--config"),
    ],
)
def test_wrong_file_is_refused(tmp_path, content, message):
    """Unknown keys are not ignored."""
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        config.load({**NEEDED, "config": str(file)}, {})
    assert message in str(caught.value)


def test_missing_file_is_named(tmp_path):
    """The path is in the message."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        config.load({**NEEDED, "config": str(tmp_path / "nowhere.yaml")}, {})


def test_limits_on_flows_are_parsed_and_bounded():
    """Whole numbers within bounds; anything else names the setting and what is allowed."""
    found = config.load({**NEEDED, "max_flows": "50", "flow_idle_timeout": "2s", "flow_ports": "all"}, {})
    assert (found.max_flows, found.flow_idle_timeout, found.flow_ports) == (50, 2.0, "all")
    for bad in ("0", "-1", "many", "1e3", "1000001"):
        with pytest.raises(ConfigError, match=r"--max-flows .*a whole number from 1 to 1000000"):
            config.load({**NEEDED, "max_flows": bad}, {})
