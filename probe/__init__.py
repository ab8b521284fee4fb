"""layerprobe: per-layer features of pretrained speech models, probes on every layer, tables with
error bars.

    import probe
    storing = probe.Storing(view="meanstd")
    probe.extract("facebook/wav2vec2-base", "corpus.csv", "features/", storing=storing)
    layer = probe.open_store("features/", layer="6")           # layer.values, layer.keys
    probe.run("speaker-id", "facebook/wav2vec2-base", "corpus.csv", "features/", "results/")
    table = probe.read_records("results/")                     # a pandas DataFrame

Names are looked up when they are used, so ``import probe`` loads no heavy library.
"""

import importlib
from typing import TYPE_CHECKING, Any

from probe.version import __version__

if TYPE_CHECKING:
    from probe.data.corpus import load_corpus
    from probe.data.manifest import write_manifest
    from probe.data.overview import overview
    from probe.data.synthetic import write_synthetic_corpus
    from probe.demo import demo
    from probe.errors import ProbeError
    from probe.evaluation.layer_similarity import similarity
    from probe.evaluation.run import Training, run
    from probe.evaluation.similarity_sides import Comparing
    from probe.evaluation.trial_lists import Scope
    from probe.extraction.extract import extract
    from probe.extraction.settings import Decoding, Extracting, Running, Storing
    from probe.heads.ctc.ctc_probe import CTCProbe, CTCTraining
    from probe.heads.ctc.modules import HeadSettings
    from probe.heads.linear.linear_probe import LinearProbe, Solving, fit_layers, fit_strengths
    from probe.heads.linear.ridge import RidgeProbe, fit_ridge_strengths
    from probe.measures.comparison import paired_difference
    from probe.models.catalogue import open_model
    from probe.models.check import check_model
    from probe.models.plugins.hooks import HookedModule
    from probe.pipeline import bench
    from probe.records import read_records
    from probe.reporting.figures.plot import plot
    from probe.reporting.report.page import write_report
    from probe.reporting.tables.files import write_tables
    from probe.reporting.tables.similarity_tables import read_similarity
    from probe.store.export import export
    from probe.store.stores import find_stores, open_store

_HOMES = {
    "CTCProbe": "probe.heads.ctc.ctc_probe",
    "CTCTraining": "probe.heads.ctc.ctc_probe",
    "Comparing": "probe.evaluation.similarity_sides",
    "Decoding": "probe.extraction.settings",
    "Extracting": "probe.extraction.settings",
    "HeadSettings": "probe.heads.ctc.modules",
    "HookedModule": "probe.models.plugins.hooks",
    "LinearProbe": "probe.heads.linear.linear_probe",
    "ProbeError": "probe.errors",
    "RidgeProbe": "probe.heads.linear.ridge",
    "Running": "probe.extraction.settings",
    "Scope": "probe.evaluation.trial_lists",
    "Solving": "probe.heads.linear.linear_probe",
    "Storing": "probe.extraction.settings",
    "Training": "probe.evaluation.run",
    "bench": "probe.pipeline",
    "check_model": "probe.models.check",
    "demo": "probe.demo",
    "export": "probe.store.export",
    "extract": "probe.extraction.extract",
    "find_stores": "probe.store.stores",
    "fit_layers": "probe.heads.linear.linear_probe",
    "fit_ridge_strengths": "probe.heads.linear.ridge",
    "fit_strengths": "probe.heads.linear.linear_probe",
    "load_corpus": "probe.data.corpus",
    "open_model": "probe.models.catalogue",
    "open_store": "probe.store.stores",
    "overview": "probe.data.overview",
    "paired_difference": "probe.measures.comparison",
    "plot": "probe.reporting.figures.plot",
    "read_records": "probe.records",
    "read_similarity": "probe.reporting.tables.similarity_tables",
    "run": "probe.evaluation.run",
    "similarity": "probe.evaluation.layer_similarity",
    "write_manifest": "probe.data.manifest",
    "write_report": "probe.reporting.report.page",
    "write_synthetic_corpus": "probe.data.synthetic",
    "write_tables": "probe.reporting.tables.files",
}

__all__ = [
    "CTCProbe",
    "CTCTraining",
    "Comparing",
    "Decoding",
    "Extracting",
    "HeadSettings",
    "HookedModule",
    "LinearProbe",
    "ProbeError",
    "RidgeProbe",
    "Running",
    "Scope",
    "Solving",
    "Storing",
    "Training",
    "__version__",
    "bench",
    "check_model",
    "demo",
    "export",
    "extract",
    "find_stores",
    "fit_layers",
    "fit_ridge_strengths",
    "fit_strengths",
    "load_corpus",
    "open_model",
    "open_store",
    "overview",
    "paired_difference",
    "plot",
    "read_records",
    "read_similarity",
    "run",
    "similarity",
    "write_manifest",
    "write_report",
    "write_synthetic_corpus",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
