"""Where the API server is."""

import pytest

from dolphin_agent.errors import ConfigError
from dolphin_agent.kube.access import from_kubeconfig, in_cluster, namespace

VARIABLES = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def files(tmp_path):
    """A pod's ServiceAccount."""
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "ca.crt").write_text("x")
    (tmp_path / "namespace").write_text("dolphin-system")
    return tmp_path


def test_in_cluster(files):
    """The token is read anew each time: the kubelet replaces it."""
    access = in_cluster(VARIABLES, files)
    assert access.server == "https://10.96.0.1:443"
    assert access.token() == "one"
    (files / "token").write_text("two")
    assert access.token() == "two"
    assert namespace(files) == "dolphin-system"


def test_ipv6(files):
    variables = VARIABLES | {"KUBERNETES_SERVICE_HOST": "fd00::1"}
    assert in_cluster(variables, files).server == "https://[fd00::1]:443"


def test_no_pod(tmp_path):
    with pytest.raises(ConfigError, match="so this is no pod: give a --kubeconfig FILE"):
        in_cluster({}, tmp_path)
    assert namespace(tmp_path) is None


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_no_service_account(files, missing):
    (files / missing).unlink()
    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        in_cluster(VARIABLES, files)


def test_bad_authority(files):
    with pytest.raises(ConfigError, match=r"CA certificate .*ca\.crt"):
        in_cluster(VARIABLES, files).tls()


@pytest.mark.parametrize("text", [None, "", "just text", "apiVersion: v1\nkind: Config\n", "a: [", "contexts: 5"])
def test_bad_kubeconfig(tmp_path, text):
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=f"--kubeconfig {file}"):
        from_kubeconfig(file)
