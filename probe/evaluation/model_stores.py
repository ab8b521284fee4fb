"""The stores of one model that a task or a comparison reads: always of the weights that the model's
folder holds now.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from probe.files import sha256_of_file
from probe.model_names import RANDOM, ModelName
from probe.models.sources.weights import sha256_on_disk
from probe.store.feature_store import FeatureStore
from probe.store.stores import select_store


def stores_under(
    features: Path, model: ModelName, view: str, conditions: Iterable[str], keys: Collection[str]
) -> dict[str, FeatureStore]:
    """Condition -> store, all of one model; see `probe.store.stores.select_store`.

    Raises:
        ProbeError: features are missing, of other weights than the checkpoint has now, or of
            several models of this name.
    """
    sha256 = ""
    if model.argument and Path(model.argument).is_file():
        sha256 = sha256_of_file(Path(model.argument))
    elif model.path and not model.revision:
        sha256 = sha256_on_disk(Path(model.path))
    return {
        condition: select_store(features, model, view, condition, keys, sha256)
        for condition in dict.fromkeys(conditions)
    }


def name_of(model: ModelName, store: FeatureStore) -> str:
    """What records call a model: the same whether its folder is still there or not."""
    if model.is_alias or model.is_here or store.spec != model.as_path:
        return model.name
    prefix = RANDOM if store.spec.startswith(RANDOM) else ""
    return prefix + Path(store.spec).name
