"""The flags of `serve` that say how a model is computed: engine, threads, precision, GPU."""

from __future__ import annotations

import click

from gguf_embed.cli.command import in_group
from gguf_embed.cli.flag_types import EngineName, LayerCount, Number, option
from gguf_embed.engines.select import engines_in_words

THREADS = Number(1, 512)  # ggml's limit

COMPUTE = in_group(
    "Engine and processors",
    option("--engine", type=EngineName(), default="auto", envvar="GGUF_EMBED_ENGINE",
            help=f"{engines_in_words()}. auto: the faster one, measured when a model is first loaded."),
    option("--precision", type=click.Choice(["auto", "f32", "bf16"]), default="auto", envvar="GGUF_EMBED_PRECISION",
            help="Precision of matrix products. auto: bf16 where the CPU is faster with it, and a check at warm-up "
                 "finds the vectors nearly unchanged (cosine 0.99995), if need be with some layers in f32."),
    option("-t", "--threads", type=THREADS, envvar="LLAMA_ARG_THREADS",
            help="Total number of threads.  [default: the processors this process may use]"),
    option("-tb", "--threads-batch", type=THREADS, envvar="GGUF_EMBED_THREADS_BATCH",
            help="The same as -t, because embedding is batch work; takes precedence over -t."),
    option("--threads-alone", type=THREADS, envvar="GGUF_EMBED_THREADS_ALONE",
            help="Threads for a batch when no other batch is running.  [default: measured at warm-up]"),
    option("--workers", type=THREADS, envvar="GGUF_EMBED_WORKERS",
            help="Number of batches computed at the same time; they share the threads.  [default: measured, or one per "
                 "thread in llama.cpp; 1 on a GPU]"),
    option("-ub", "--ubatch-size", type=Number(1, 16384), envvar="LLAMA_ARG_UBATCH",
            help="Token budget of a batch.  [default: measured at warm-up]"),
    option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), is_flag=False, flag_value="on",
            default="auto", envvar="LLAMA_ARG_FLASH_ATTN",
            help="llama.cpp's flash attention. auto: where it is faster, measured at warm-up."),
    option("--weights", type=click.Choice(["auto", "file", "bf16"]), default="auto", envvar="GGUF_EMBED_WEIGHTS",
            help="llama.cpp's weights. auto: run F32 and F16 as BF16 on CPUs with AMX; file: never; bf16: always."),
    option("--amx/--no-amx", default=True, envvar="GGUF_EMBED_AMX",
            help="Let llama.cpp multiply BF16 weights with Intel AMX if the CPU has it."),
    option("--warmup/--no-warmup", default=True, envvar="LLAMA_ARG_WARMUP",
            help="Measure the fastest batch settings at the start (takes about 0.2 s for a small model)."),
)  # fmt: skip

GPU = in_group(
    "GPU",
    option("-ngl", "--gpu-layers", "--n-gpu-layers", "n_gpu_layers", type=LayerCount(), default="auto",
            envvar="LLAMA_ARG_N_GPU_LAYERS", help="Layers to run on the GPU; auto: all, if there is one."),
    option("-dev", "--device", metavar="NAME[,NAME]", envvar="LLAMA_ARG_DEVICE",
            help="Devices to use, by llama.cpp's names, or none."),
    option("-mg", "--main-gpu", type=Number(min=0), default=0, envvar="LLAMA_ARG_MAIN_GPU",
            help="The GPU to use with --split-mode none."),
    option("-sm", "--split-mode", type=click.Choice(["none", "layer", "row", "tensor"]), default="layer",
            envvar="LLAMA_ARG_SPLIT_MODE", help="How to split a model across several GPUs."),
    option("-ts", "--tensor-split", metavar="N,N,...", envvar="LLAMA_ARG_TENSOR_SPLIT",
            help="Proportion of the model on each GPU, e.g. 3,1."),
)  # fmt: skip
