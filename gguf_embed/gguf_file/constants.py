"""The numbers a GGUF file uses for its value, tensor, file, pooling and vocabulary types, and what they mean.

Our own copy of `gguf.constants`: importing that package costs 70 ms of every start. A test checks that they agree.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from gguf_embed.types import Pooling

TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    # number: name, elements per block, bytes per block
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}

FILE_TYPES: dict[int, str] = {
    # general.file_type: the type of most matrices
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}

SCALAR_FORMATS: dict[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Metadata value type → its `struct` code. The other two types are below."""

STRING = 8
ARRAY = 9

POOLING_NUMBERS: Final[dict[Pooling, int]] = {
    Pooling.NONE: 0,
    Pooling.MEAN: 1,
    Pooling.CLS: 2,
    Pooling.LAST: 3,
    Pooling.RANK: 4,
}
"""`<architecture>.pooling_type`, llama.cpp's `llama_pooling_type`."""

RANK_HEADS: Final = ("cls.weight", "cls.output.weight")
"""The tensors of a classification head; llama.cpp runs pooling rank with either of them."""


class VocabularyType(IntEnum):
    """llama.cpp's `llama_vocab_type`: the family of a tokenizer."""

    NONE = 0
    SPM = 1  # SentencePiece BPE
    BPE = 2  # byte-level BPE
    WPM = 3  # WordPiece
    UGM = 4  # Unigram
    RWKV = 5
    PLAMO2 = 6

    @property
    def kind(self) -> str:
        """As in `Vocabulary.kind`: "spm", "bpe", "wpm"…"""
        return self.name.lower()


VOCABULARY_TYPES: Final[dict[str, VocabularyType]] = {
    "llama": VocabularyType.SPM,
    "gpt2": VocabularyType.BPE,
    "bert": VocabularyType.WPM,
    "t5": VocabularyType.UGM,
    "rwkv": VocabularyType.RWKV,
    "plamo2": VocabularyType.PLAMO2,
    "none": VocabularyType.NONE,
    "gemma4": VocabularyType.BPE,
    "hybriddna": VocabularyType.BPE,
    "whitespace": VocabularyType.BPE,
    "no_vocab": VocabularyType.NONE,
}
"""`tokenizer.ggml.model` → family (`llama_vocab::impl::load` in llama.cpp's src/llama-vocab.cpp); the usual name of a
family comes first."""
