"""What the llama.cpp in llama-cpp-python 0.3.36 knows: its names, and its defaults for files that declare nothing.

Sources: `LLM_ARCH_NAMES` in llama.cpp's src/llama-arch.cpp, `llama_vocab::impl::load` in src/llama-vocab.cpp.
A test looks these names up in the installed library.
"""

from __future__ import annotations

from dataclasses import dataclass

_ARCHITECTURES = """
    clip llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert modern-bert nomic-bert
    nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3
    qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp phi2 phi3 phimoe plamo plamo2 plamo3 codeshell
    orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma4-assistant gemma-embedding
    starcoder2 mamba mamba2 maple jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo olmo2 olmoe
    muse-glimmer openelm arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 chatglm glm4 glm4moe glm-dsa
    bitnet t5 t5encoder jais jais2 nemotron nemotron_h nemotron_h_moe exaone exaone4 exaone-moe rwkv6 rwkv6qwen2
    rwkv7 arwkv7 granite granitemoe granitehybrid graniteswitch granite_swa chameleon wavtokenizer-dec plm
    bailingmoe bailingmoe2 bailingmoe3 dots1 dots3note arcee afmoe laguna ernie4_5 ernie4_5-moe hunyuan-moe
    hunyuan-dense hunyuan_vl hy_v3 hy_v4 smollm3 gpt-oss lfm2 lfm2moe dream smallthinker llada llada-moe seed_oss
    grovemoe apertus minimax-01 hrm_text minimax-m2 minimax-m3 cogvlm rnd1 pangu-embedded mistral3 eagle3 dflash
    mistral4 paddleocr mimo2 step35 spark2_5 llama-embed maincoder kimi-linear kimi-k3 glm5-next talkie mellum
    nanbeige qwen3tts pockettts
"""
ARCHITECTURES = frozenset(_ARCHITECTURES.split())
"""The values of `general.architecture` that it loads."""

_PRE_TOKENIZERS = """
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
    deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon
    falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling granite-embed-multi-311m
    granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de jina-es jina-v1-en jina-v2-code
    jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna lfm2 llada-moe llama-bpe llama-v3
    llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral
    poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2
    starcoder superbpe talkie tekken tiny_aya trillion ufakzeka viking whitespace youtu
"""
PRE_TOKENIZERS = frozenset(_PRE_TOKENIZERS.split())
"""The values of `tokenizer.ggml.pre` that it knows; it refuses a byte-level BPE file with any other."""

ENCODERS = frozenset(
    ("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert")
)
"""Every token sees all others, regardless of the file's attention flag: llama_encode turns causal attention off."""

EMBEDDING_ARCHITECTURES = ENCODERS | {"gemma-embedding", "llama-embed", "t5encoder"}
"""Made only for vectors."""

NEEDS_TOKEN_TYPES = frozenset(("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v3"))
"""llama.cpp refuses these without `tokenizer.ggml.token_type_count`."""

_LIKE_LLAMA3 = (
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
)
ADDS_BOS_BY_PRE = frozenset((*_LIKE_LLAMA3, "tekken", "chameleon"))
FORCES_BOS_BY_PRE = frozenset(("gemma4", "granite-embed-multi-311m"))
ADDS_SEP_BY_PRE = frozenset(("jina-v1-en", "jina-v2-code", "roberta-bpe"))


@dataclass(frozen=True, slots=True)
class VocabularyDefaults:
    """Special ids and flags of one family, for files that declare none."""

    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    sep: int | None = None
    pad: int | None = None
    mask: int | None = None
    adds_bos: bool = False
    adds_eos: bool = False
    adds_sep: bool = False


DEFAULTS = {
    "spm": VocabularyDefaults(bos=1, eos=2, unk=0, adds_bos=True),
    "wpm": VocabularyDefaults(bos=101, unk=100, sep=102, pad=0, mask=103, adds_bos=True, adds_sep=True),
    "bpe": VocabularyDefaults(bos=11, eos=11),
    "ugm": VocabularyDefaults(eos=1, unk=2, pad=0, adds_eos=True),
    "plamo2": VocabularyDefaults(bos=1, eos=2, unk=0, pad=3),
}
