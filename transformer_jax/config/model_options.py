"""The options of the architecture: the section `model` of a configuration."""

import dataclasses

from transformer_jax.config.metadata import RATE, Change, option

_AFTER_TRAINING = Change.AFTER_TRAINING
_DROPOUT = RATE | {"none_if_zero": True, "may_change": _AFTER_TRAINING}


@dataclasses.dataclass
class ModelConfig:
    """The architecture; the defaults are the paper's base model (Table 3)."""

    num_layers: int = option(6, "Layers of the encoder, and of the decoder.", above=0)
    num_encoder_layers: int = option(0, "Layers of the encoder; 0 = num_layers.", at_least=0)
    num_decoder_layers: int = option(
        0,
        "Layers of the decoder; 0 = num_layers, as in the paper. Each is run for every piece that "
        "is generated, so that few make translation fast.",
        at_least=0,
    )
    d_model: int = option(512, "Width of embeddings and of each sub-layer's output.", above=0)
    d_ff: int = option(2048, "Width of the feed-forward layer.", above=0)
    num_heads: int = option(8, "Attention heads.", above=0)
    d_key: int = option(0, "Width of a head's query and key; 0 = d_model / num_heads.", at_least=0)
    d_value: int = option(0, "Width of a head's value; 0 = d_model / num_heads.", at_least=0)
    dropout_rate: float = option(
        0.1, "Dropout on embeddings and on each sub-layer's output (section 5.4).", **_DROPOUT
    )
    attention_dropout_rate: float = option(
        0.0, "Dropout on attention weights, which the paper does not have.", **_DROPOUT
    )
    activation_dropout_rate: float = option(
        0.0,
        "Dropout after the activation of the feed-forward layer, as in fairseq; not in the paper.",
        **_DROPOUT,
    )
    activation: str = option(
        "relu",
        'Activation of the feed-forward layer: "relu" in the paper, "swish" in Marian.',
        choices=("relu", "gelu", "swish"),
    )
    norm: str = option(
        "post",
        '"post": LayerNorm(x + Sublayer(x)), as in the paper; "pre": x + Sublayer(LayerNorm(x)).',
        choices=("post", "pre"),
    )
    layer_norm_epsilon: float = option(
        1e-6, "Tensor2Tensor's epsilon of layer normalisation; PyTorch's default is 1e-5.", above=0
    )
    positions: str = option(
        "sinusoidal",
        '"sinusoidal", as in the paper; "learned", as in its Table 3, row E.',
        choices=("sinusoidal", "learned"),
    )
    sinusoid_layout: str = option(
        "interleaved",
        '"interleaved": the paper\'s formula; "halves": sines, then cosines, as in Marian.',
        choices=("interleaved", "halves"),
    )
    max_positions: int = option(1024, "Number of learned positions.", above=0)
    attention_bias: bool = option(
        False, "Biases in attention's projections, as in PyTorch and Marian; not in the paper."
    )
    tied_embeddings: str = option(
        "all",
        'Which embeddings are one table. "all": source, target and softmax, as in the paper '
        '(section 3.4). Separate vocabularies need "target_softmax" or "none".',
        choices=("all", "source_target", "target_softmax", "none"),
    )
    scale_embeddings: bool = option(True, "Embeddings times √d_model, as in section 3.4.")
    logits_bias: bool = option(False, "A bias on the logits, as in Marian; not in the paper.")
    kernel_init: str = option(
        "glorot_uniform",
        "Initialisation of projections; the default is Tensor2Tensor's and PyTorch's.",
        choices=("glorot_uniform", "glorot_normal", "lecun_normal"),
        may_change=_AFTER_TRAINING,
    )
    embedding_stddev: float = option(
        0.0,
        "Standard deviation of new embeddings; 0 = d_model^-0.5, as in Tensor2Tensor.",
        at_least=0,
        may_change=_AFTER_TRAINING,
    )
    pretrained_embeddings: str = option(
        "",
        "File of word vectors to start from, in word2vec's or GloVe's text form; empty = none.",
        may_change=_AFTER_TRAINING,
        may_move=True,  # The first checkpoint replaces it.
        is_path=True,
    )
    compute_dtype: str = option(
        "float32",
        "dtype of matrix products; parameters, softmax, statistics and loss are always float32.",
        choices=("float32", "bfloat16"),
        may_change=_AFTER_TRAINING,
    )
    attention: str = option(
        "xla",
        'What computes attention in training. "xla": the plain function; "cudnn" on NVIDIA GPUs '
        'and "splash" on TPUs never store the weights. All else uses the plain function.',
        choices=("xla", "cudnn", "splash"),
        may_change=_AFTER_TRAINING,
    )
    remat: bool = option(
        False,
        "Keep only the input of each layer for the gradient, and compute the rest again: less "
        "memory for the time of one more forward pass. XLA for CPUs undoes it.",
        may_change=_AFTER_TRAINING,
    )

    @property
    def encoder_depth(self) -> int:
        """The layers that the encoder has."""
        return self.num_encoder_layers or self.num_layers

    @property
    def decoder_depth(self) -> int:
        """The layers that the decoder has."""
        return self.num_decoder_layers or self.num_layers
