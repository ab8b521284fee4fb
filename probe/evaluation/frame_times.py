"""When a layer's frames are: the seconds of their centres.

Frame i of a layer is centred at ``i * hop + field / 2`` samples, where the field is what one frame
of the front-end hears: 400 samples at 16 kHz, 25 ms, in most families (wav2vec2's convolutions and
the spectral windows alike). A stored recipe has the hop, and the field where it is another; recipes
of earlier versions lack it, but the lengths of their utterances confine it to a few samples: where
those contradict 25 ms, the nearest value that they allow is taken. Transformer layers see more, but
their frame i stands where that of the front-end stands. Layers whose frames stand elsewhere
(`Features.on_grids`) are probed apart.
"""

from probe.evaluation.dataset import Features

FIELD_S = 0.025


def first_centre_s(features: Features) -> float:
    """Seconds from the start of the audio to the centre of the first frame."""
    if (field_s := features.store.field_s(features.layers[0])) is not None:
        return field_s / 2
    model = features.store.recipe["model"]
    rate_hz, hop = model["rate_hz"], model["hop_samples"]
    lengths = [
        (round(item.duration_s * rate_hz), item.n_frames)
        for (condition, _), item in features.stored.items()
        if features.stores[condition].stretch == 1
    ]
    usual = round(FIELD_S * rate_hz)
    if not lengths:
        return usual / 2 / rate_hz
    # frames = 1 + (samples - field) // hop, so each utterance leaves one hop's width of fields.
    low = max(samples - n_frames * hop for samples, n_frames in lengths) + 1
    high = min(samples - (n_frames - 1) * hop for samples, n_frames in lengths)
    field = min(max(usual, low), high) if low <= high else usual
    return field / 2 / rate_hz
