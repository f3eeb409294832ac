"""Reads KubeProxyConfiguration, kube-proxy's own file, as kube-proxy does.

`schema` is the data with its defaults, `decode` decodes a document, `validate` checks it, `load` is the entry point.
This package does not inspect the host.
"""

from ferrule.config.load import load_config
from ferrule.config.schema import Settings

__all__ = ["Settings", "load_config"]
