"""Names as MLflow takes them."""

import re

_LONGEST_KEY = 250


def mlflow_key(name: str) -> str:
    """A name as MLflow accepts it in metrics, parameters and tags: `recall@1` becomes `recall_at_1`, the rest `_`."""
    return re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_"))[:_LONGEST_KEY]
