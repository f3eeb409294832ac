"""KubeProxyConfiguration: kube-proxy's own file, read the way kube-proxy reads it.

`schema` is the data with its defaults, `decode` turns a document into it, `validate` says what may not be, `load` is
the door. Forbidden here: looking at the host.
"""

from ferrule.config.load import load_config
from ferrule.config.schema import Settings

__all__ = ["Settings", "load_config"]
