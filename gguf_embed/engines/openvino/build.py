"""A model from its file to an engine: the graph, compiled in a precision and for a number of streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from gguf_embed.engines.base import EngineInfo, LoadSpec, TextCodec
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.engines.cpu_info import cpu_flags
from gguf_embed.engines.openvino.calibration import Choice, calibrate
from gguf_embed.engines.openvino.engine import CompiledNetwork, OpenVinoEngine
from gguf_embed.engines.openvino.failures import openvino_errors
from gguf_embed.engines.openvino.mixed_precision import Layers, kept_in_words
from gguf_embed.engines.openvino.network import Network, build_network
from gguf_embed.engines.openvino.packing import Cost
from gguf_embed.engines.openvino.precision import keep_exact
from gguf_embed.engines.openvino.runtime import FULL, REDUCED, compile_graph, computes_bf16
from gguf_embed.engines.openvino.samples import SAMPLES
from gguf_embed.engines.openvino.stored_constants import StoredConstants
from gguf_embed.engines.openvino.support import DECODERS
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.errors import ConfigError
from gguf_embed.gguf_file.adapters import TaskRows, read_adapters
from gguf_embed.gguf_file.constants import VocabularyType
from gguf_embed.gguf_file.facts import (
    file_type_name,
    has_rank_head,
    n_parameters,
    pooling_type,
    rank_labels,
    tensor_bytes,
)
from gguf_embed.gguf_file.token_rows import PairRows, TokenRows, has_token_types

SAMPLE_TOKENS = 512
"""Longer samples are cut. One is longer than 256 tokens, because BF16 has no odd numbers over 256."""

BF16_ROWS = 16 if "amx_tile" in cpu_flags() else 8
"""The numbers of rows are multiples of it. AMX's tiles have 16."""

COSTS = {
    FULL: Cost(row_multiple=8, slot_multiple=8, sizes_per_doubling=16, part_tokens=48, slots_per_token=400),
    REDUCED: Cost(row_multiple=BF16_ROWS, slot_multiple=16, sizes_per_doubling=8, part_tokens=48, slots_per_token=400),
}
"""OpenVINO prepares kernels for every new shape: with BF16, a new number of rows takes 7 to 14 ms and about 1 MB per
worker, see `KEPT_KERNELS`. With these sizes there are fewer shapes, and on average 2 and 4 % of the rows are unused.
With BF16, 16 slots also make a text's vector the same alone and in any batch, bit by bit; otherwise sums of another
order are rounded differently (cosine 0.999993; with 8 slots 0.999996). Without AMX, with multiples of 8 rows instead of
16, a text of 21 tokens is computed a fifth faster."""


class ModelBuilder:
    """Builds the graph of one model for each precision that is asked for, and compiles it until the best way is found.

    What asks for a graph first reads the weights, and raises `ModelFileError` that names a tensor or key that the graph
    cannot use.
    """

    def __init__(self, spec: LoadSpec, codec: TextCodec) -> None:
        self._codec, self._spec = codec, spec
        self._networks: dict[tuple[str, Layers], Network] = {}  # by precision and layers in float32

    def _network(self, precision: str, float32_layers: Layers) -> Network:
        """With BF16, matrices in float16 take less memory; in float32, OpenVINO has slower kernels for them.

        Raises `EngineFailure` if the graph for BF16 cannot be marked.
        """
        network = self._networks.get((precision, float32_layers))
        if network is None:
            header = self._spec.header
            weights = GraphWeights(header, for_bf16=precision == REDUCED)
            with openvino_errors(f"{header.path.name}: OpenVINO cannot build its graph"):
                network = build_network(
                    weights, self._n_vocab, rank_head=has_rank_head(header), float32_layers=float32_layers
                )
                if precision == REDUCED:
                    network = replace(network, model=keep_exact(network.model, network.marks))
                network = replace(network, constants=StoredConstants.of(network.model))
            self._networks[precision, float32_layers] = network
        return network

    @property
    def n_layer(self) -> int:
        return GraphWeights(self._spec.header).n_layer()

    def drop(self, precision: str) -> None:
        """Free the weights for this precision, once no engine uses them. They are read again if it is asked for."""
        for key in [key for key in self._networks if key[0] == precision]:
            del self._networks[key]

    def compile(
        self,
        precision: str,
        n_streams: int,
        float32_layers: Layers = (),
        *,
        alone: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> OpenVinoEngine:
        """Compile for `n_streams` batches at once; with `alone` also for one that has the machine to itself.

        With BF16, matrices of `float32_layers`, from 0, are multiplied in float32 all the same. `on_close` is called
        when the engine is closed.
        """
        self._spec.on_stage(f"computing in the engine openvino in {precision}{kept_in_words(float32_layers)}")
        network, compute = self._network(precision, float32_layers), self._spec.config.compute
        n_threads = threads_for(compute)
        share, alone_threads = max(1, n_threads // n_streams), compute.alone_threads or n_threads
        with openvino_errors(f"{self._spec.header.path.name}: OpenVINO cannot compile its graph"):
            shared = own = compile_graph(network.model, precision, n_streams, n_threads)
            if alone and alone_threads != share:
                own = compile_graph(network.model, precision, 1, alone_threads)
        rows, cost = self._rows, COSTS[precision]
        compiled = CompiledNetwork(shared, own, alone_threads, network.rank_pooling, rows, cost, network.constants)
        return OpenVinoEngine(self._read_info(network), compiled, on_close)

    def measured(self) -> Choice:
        """The best precision, streams and batch size for this machine. Takes about a second for a small model."""
        compute = self._spec.config.compute
        precision = compute.precision if self._wants_bf16() else "f32"
        n_threads = threads_for(compute)
        choice = calibrate(self, self._samples(), self._spec.output, n_threads, precision)
        if choice.bf16_failed:
            name = self._spec.header.path.name
            self._spec.report(f"{name} runs in float32: {choice.agreement.removeprefix(f'{name}: ')}")
        return choice

    def _wants_bf16(self) -> bool:
        """Whether BF16 is configured, or may be chosen."""
        config = self._spec.config
        if config.compute.precision != "auto":
            return config.compute.precision == REDUCED
        return config.warmup and config.compute.weights != "file" and computes_bf16()

    def check_precision(self) -> None:
        """Raises `ConfigError` if BF16 is configured, and the CPU has no instructions for it."""
        if self._spec.config.compute.precision == REDUCED and not computes_bf16():
            raise ConfigError(
                "--precision bf16: this CPU has no BF16 instructions (AVX-512 BF16, AMX or Arm's): "
                "use --precision auto or f32"
            )

    @property
    def _n_vocab(self) -> int:
        return len(self._codec.vocabulary().entries)

    @cached_property
    def _rows(self) -> TokenRows | PairRows | TaskRows:
        """What the ids of this file stand for, in all engines. Raises `ModelFileError`."""
        header = self._spec.header
        adapters = read_adapters(header)
        if adapters is not None:
            return TaskRows(header, adapters)
        return PairRows(header) if has_rank_head(header) and has_token_types(header) else TokenRows(header)

    def _samples(self) -> list[list[int]]:
        longest = min(SAMPLE_TOKENS, GraphWeights(self._spec.header).integer("context_length"))
        texts = [
            self._codec.tokenize(text, add_special=True, parse_special=False)[:longest]
            for text in (*SAMPLES, " ".join(SAMPLES))
        ]
        return [text for text in texts if text] or [[0]]

    def _read_info(self, network: Network) -> EngineInfo:
        header = self._spec.header
        vocabulary = self._codec.vocabulary()
        n_params = n_parameters(header)

        return EngineInfo(
            architecture=header.architecture,
            description=f"{header.architecture} {n_params / 1e6:.0f}M {file_type_name(header)}",
            n_embd=network.n_embd,
            n_vocab=self._rows.n_tokens,
            n_ctx_train=GraphWeights(header).integer("context_length"),
            n_params=n_params,
            size_bytes=tensor_bytes(header),
            pooling=pooling_type(header),
            causal=header.architecture in DECODERS,
            n_cls_out=network.n_scores,
            vocab_type=next((kind for kind in VocabularyType if kind.kind == vocabulary.kind), VocabularyType.NONE),
            bos_token=vocabulary.text_of(vocabulary.bos_id),
            eos_token=vocabulary.text_of(vocabulary.eos_id),
            labels=rank_labels(header) if network.n_scores else (),
            has_second_text=isinstance(self._rows, PairRows),
            reads_unattended=header.architecture not in DECODERS,
            tasks=self._rows.tasks if isinstance(self._rows, TaskRows) else (),
        )
