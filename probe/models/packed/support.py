"""Which checkpoints the packed form is for, decided from the configuration alone."""

from typing import Any

FAMILIES = (
    *("wav2vec2", "data2vec-audio", "hubert", "wavlm", "unispeech", "unispeech-sat"),
    "whisper",
)
# Options that this code follows, with the values it knows; others mean the reference
# implementation.
VALUES: dict[str, tuple[Any, ...]] = {
    "model_type": FAMILIES,
    "hidden_act": ("gelu",),
    "activation_function": ("gelu",),  # Whisper's
    "feat_extract_activation": ("gelu",),
    "feat_extract_norm": ("group", "layer"),
    "do_stable_layer_norm": (True, False),
    "feat_proj_layer_norm": (True, False),
    "conv_pos_batch_norm": (True, False),
    "adapter_attn_dim": (None,),
    "add_adapter": (False,),
}
# Options that it follows whatever their value: sizes, which the weights' shapes say again.
_SIZES = """
    hidden_size num_hidden_layers num_attention_heads intermediate_size layer_norm_eps
    conv_dim conv_stride conv_kernel conv_bias num_feat_extract_layers num_conv_pos_embeddings
    num_conv_pos_embedding_groups conv_pos_kernel_size num_buckets max_bucket_distance
    d_model encoder_layers encoder_attention_heads encoder_ffn_dim num_mel_bins
    max_source_positions"""
SIZES = set(_SIZES.split())
# Beginnings of options that decide nothing in a forward pass without gradients: training, heads,
# adapters, decoders, file formats.
_ELSEWHERE = """
    hidden_dropout activation_dropout attention_dropout feat_proj_dropout feat_quantizer_dropout
    final_dropout layerdrop initializer_range mask_ apply_spec_augment ctc_ num_ctc_classes
    vocab_size num_codevector codevector_dim proj_codevector_dim contrastive_ num_negatives
    diversity_loss_weight use_weighted_layer_sum classifier_proj_size tdnn_ replace_prob
    num_clusters xvector_output_dim adapter_ num_adapter_layers output_hidden_size pad_token_id
    bos_token_id eos_token_id problem_type id2label label2id num_labels architectures
    transformers_version dtype torch_dtype return_dict output_ chunk_size_feed_forward
    is_encoder_decoder _ name_or_path tie_ gradient_checkpointing tokenizer_class
    decoder_ encoder_layerdrop dropout init_std scale_embedding max_target_positions use_cache
    suppress_tokens begin_suppress_tokens median_filter_width"""
ELSEWHERE = tuple(_ELSEWHERE.split())


def without_packed_form(config: Any) -> str:
    """Return why a checkpoint with this transformers configuration has no packed form; empty where
    it has one.

    Options that transformers' own class does not have are ignored, as that class ignores them; one
    that it has and this code does not know counts where it is not at the class's default.
    """
    for name, known in VALUES.items():
        if (value := getattr(config, name, known[0])) not in known:
            return f"{name} is {value!r}"
    if config.hidden_size % config.num_attention_heads:
        return f"{config.num_attention_heads} heads do not divide {config.hidden_size} dimensions"
    for name, default in type(config)().to_dict().items():
        is_known = name in VALUES or name in SIZES or name.startswith(ELSEWHERE)
        if not is_known and (value := getattr(config, name, default)) != default:
            return f"{name} is {value!r}, an option that this version does not know"
    return ""
