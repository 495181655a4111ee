"""Chooses the converter for an architecture, and says why some architectures have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gguf_embed.convert import (
    bert,
    clip,
    deberta_v2,
    decoders,
    gte,
    jina_v3,
    lfm2,
    modern_bert,
    nomic_bert,
    nomic_vision,
    siglip,
    t5,
)
from gguf_embed.convert.plan import ConversionPlan, OutType
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.errors import ModelFileError

_Planner = Callable[[ModelSourceDirectory, str, OutType], ConversionPlan]


def _unnamed(plan: Callable[[ModelSourceDirectory, OutType], ConversionPlan]) -> _Planner:
    """Of a converter to which all of its architectures are the same."""
    return lambda source, _, outtype: plan(source, outtype)


_CONVERTERS: tuple[tuple[tuple[str, ...], _Planner], ...] = (
    (bert.ARCHITECTURES, bert.plan_bert),
    (modern_bert.ARCHITECTURES, modern_bert.plan_modern_bert),
    (nomic_bert.ARCHITECTURES, nomic_bert.plan_nomic_bert),
    (gte.ARCHITECTURES, _unnamed(gte.plan_gte)),
    (deberta_v2.ARCHITECTURES, _unnamed(deberta_v2.plan_deberta_v2)),
    (t5.ARCHITECTURES, _unnamed(t5.plan_t5)),
    (decoders.ARCHITECTURES, _unnamed(decoders.plan_decoder)),
    (lfm2.ARCHITECTURES, lfm2.plan_lfm2),
    (clip.ARCHITECTURES, _unnamed(clip.plan_clip)),
    (siglip.ARCHITECTURES, _unnamed(siglip.plan_siglip)),
    (nomic_vision.ARCHITECTURES, _unnamed(nomic_vision.plan_nomic_vision)),
)
_PLANNERS: dict[str, _Planner] = {name: planner for names, planner in _CONVERTERS for name in names}

SUPPORTED = tuple(_PLANNERS)

_OWN_CONVERTER = "use a ready GGUF of this model, or llama.cpp's convert_hf_to_gguf.py"
_NO_LLAMA = "llama.cpp does not compute it; use another model"
_REFUSED = {
    "Electra": _NO_LLAMA,
    "Albert": _NO_LLAMA,
    "JinaBert": _OWN_CONVERTER,
    "CLIP": "only whole models are converted, with both towers (CLIPModel)",
}
"""Beginning of an architecture's name → why it is refused, and the way out."""

_BY_MODEL_TYPE = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
    "distilbert": "DistilBertModel",
    "mpnet": "MPNetModel",
    "t5": "T5EncoderModel",
    "deberta-v2": "DebertaV2Model",
    "new": "NewModel",
    "gte": "GteModel",
    "modernbert": "ModernBertModel",
    "nomic_bert": "NomicBertModel",
}
"""The architecture for a config that names none, by its model_type."""


def plan_model(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Plan the conversion of a transformer model.

    Raises `ModelFileError` with the architecture and the reason why it cannot be converted, or those that can.
    """
    if jina_v3.is_jina_v3(source):
        return jina_v3.plan_jina_v3(source, outtype)
    names = _declared(source)
    architecture = next((name for name in names if name in _PLANNERS), None)
    if architecture is not None:
        return _PLANNERS[architecture](source, architecture, outtype)
    found = ", ".join(names) or source.text("model_type") or "no architecture"
    raise ModelFileError(f"{source.path}: {found} cannot be converted{_reason(names)}")


def _declared(source: ModelSourceDirectory) -> tuple[str, ...]:
    declared = source.config.get("architectures")
    names = tuple(name for name in declared if isinstance(name, str)) if isinstance(declared, list) else ()
    by_type = _BY_MODEL_TYPE.get(source.text("model_type"))
    if "HF_ColBERT" in names:  # Stanford's name for an encoder of any type with its projection
        names = ()
    return names or ((by_type,) if by_type else ())


def _reason(names: Iterable[str]) -> str:
    for name in names:
        for beginning, reason in _REFUSED.items():
            if name.startswith(beginning):
                return f": {reason}"
    return f" (supported: {', '.join(SUPPORTED)}); {_OWN_CONVERTER}"
