"""The special tokens around a text and between the two texts of a pair, and llama.cpp's three flags for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gguf

from gguf_embed.convert.fast_tokenizer import FastTokenizer, steps


@dataclass(frozen=True, slots=True)
class SpecialTokensTemplate:
    """The ids in `opening A closing` and, for a pair, in `opening A *between B closing`."""

    opening: int | None
    closing: int | None
    between: tuple[int, ...]

    @property
    def separators(self) -> tuple[int, ...]:
        """The ids between the closing token of the first text and the second text."""
        if self.closing is not None and self.between[:1] == (self.closing,):
            return self.between[1:]
        return self.between


def read_special_tokens(fast: FastTokenizer) -> SpecialTokensTemplate:
    """Read the post-processor.

    Raises `ModelFileError` if it adds more than one token before or after a text: llama.cpp adds at most one.
    """
    found = [_read_step(fast, step) for step in steps(fast.post_processor, "processors")]
    templates = [template for template in found if template is not None]
    if len(templates) > 1:
        raise fast.refuse("a post-processor with several templates", "only one is possible")
    return templates[0] if templates else SpecialTokensTemplate(None, None, ())


def write_special_tokens(writer: gguf.GGUFWriter, template: SpecialTokensTemplate, roles: dict[str, int]) -> None:
    """Write the special ids and `add_bos_token`, `add_eos_token`, `add_sep_token`.

    llama.cpp adds the tokens it calls BOS and EOS, so the template's ids are preferred to the declared ones:
    Qwen3-Embedding ends texts with <|endoftext|> although its `eos_token` is <|im_end|>. llama.cpp can use only one
    separator token for a pair.
    """
    separators = template.separators
    ids = {
        "bos": _first(template.opening, roles.get("bos"), roles.get("cls")),
        "eos": _first(template.closing, roles.get("eos"), roles.get("sep")),
        "sep": _first(separators[0] if len(separators) == 1 else None, roles.get("sep"), template.closing),
        "unk": roles.get("unk"),
        "pad": roles.get("pad"),
        "mask": roles.get("mask"),
    }
    write_id = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "sep": writer.add_sep_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
        "mask": writer.add_mask_token_id,
    }
    for role, token in ids.items():
        if token is not None:
            write_id[role](token)
    writer.add_add_bos_token(template.opening is not None)
    writer.add_add_eos_token(template.closing is not None)
    writer.add_add_sep_token(len(separators) == 1)


def _first(*ids: int | None) -> int | None:
    return next((token for token in ids if token is not None), None)


def _read_step(fast: FastTokenizer, step: dict[str, Any]) -> SpecialTokensTemplate | None:
    kind = step["type"]
    if kind == "ByteLevel":  # changes only offsets
        return None
    if kind in ("BertProcessing", "RobertaProcessing"):
        opening, closing = int(step["cls"][1]), int(step["sep"][1])
        return SpecialTokensTemplate(opening, closing, (closing,) if kind == "BertProcessing" else (closing, closing))
    if kind == "TemplateProcessing":
        return _read_template(fast, step)
    raise fast.refuse(f"post-processor {kind!r}", "only ByteLevel, BertProcessing, RobertaProcessing and templates")


def _read_template(fast: FastTokenizer, step: dict[str, Any]) -> SpecialTokensTemplate:
    specials = {name: tuple(int(token) for token in entry["ids"]) for name, entry in step["special_tokens"].items()}
    before, after = _around(step["single"], "A", specials)
    if len(before) > 1 or len(after) > 1:
        raise fast.refuse(
            f"a template with {len(before)} tokens before and {len(after)} after a text", "at most one each"
        )
    between: tuple[int, ...] = ()
    if step.get("pair"):
        until_b, _ = _around(step["pair"], "B", specials)
        between = until_b[len(_around(step["pair"], "A", specials)[0]) :]
    return SpecialTokensTemplate(before[0] if before else None, after[0] if after else None, between)


def _around(
    template: list[dict[str, Any]], sequence: str, specials: dict[str, tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the special tokens before and after a sequence in a template."""
    before: list[int] = []
    after: list[int] = []
    seen = False
    for piece in template:
        if "Sequence" in piece:
            seen = seen or piece["Sequence"]["id"] == sequence
        else:
            (after if seen else before).extend(specials[piece["SpecialToken"]["id"]])
    return tuple(before), tuple(after)
