"""Special tokens: whether every text gets the frame that the model was trained with."""

from __future__ import annotations

from collections.abc import Iterator

from gguf_embed.doctor.evidence import Evidence
from gguf_embed.doctor.findings import Change, Finding, flag, serious, sets, uint, warning
from gguf_embed.doctor.llama_facts import ENCODERS
from gguf_embed.doctor.pooling import RERANK_TEMPLATE, has_head, intended_pooling, is_causal
from gguf_embed.doctor.specials import ADD_BOS, ADD_EOS, ADD_SEP, ID_KEYS, TEXTS, number
from gguf_embed.types import Pooling

_SPECIAL_TYPES = (2, 3, 4)  # unknown, control, user-defined: llama.cpp's llama_token_type
_KNOWN_TEXTS = frozenset(text for texts in TEXTS.values() for text in texts)
_ROBERTAS = ("bert", "jina-bert-v2", "modern-bert")  # encoders that may have a byte-level BPE vocabulary

_PAIR_FRAMES = {"wpm": (True, True, False), "ugm": (True, True, True), "bpe": (True, True, True)}
"""Flags (BOS, EOS, SEP) that make llama-server join a pair as BERT ([CLS] q [SEP] d [SEP]) and RoBERTa
(<s> q </s></s> d </s>) want it: it writes BOS q EOS SEP d EOS (`format_prompt_rerank` in tools/server)."""


def check_ids(evidence: Evidence) -> Iterator[Finding]:
    """Each special id: in range, pointing at a special token, and there where llama.cpp will use it."""
    words = evidence.words
    if not words.tokens:
        return
    used = used_roles(evidence)
    for role, key in ID_KEYS.items():
        declared = number(evidence.header.metadata, key)
        in_force = declared if role == "cls" else words.specials.ids.get(role)
        flaw = _flaw(evidence, role, declared, in_force, role in used)
        if flaw is None:
            continue
        code, message = flaw
        change = _by_text(evidence, role)
        fix = sets(*change) if change else f"--fix --set {key}=ID with the right token's id, or convert the model again"
        yield (serious if role in used else warning)(code, message, fix, *change)


def used_roles(evidence: Evidence) -> set[str]:
    """Roles whose token stands in every text, or for every unknown word."""
    words = evidence.words
    if words.kind == "wpm":  # [CLS] and [SEP] are always added, whatever the flags say
        return {"bos", "sep", "unk"}
    used = {"unk"} if words.kind == "ugm" else set()
    used |= {"bos"} if words.specials.adds_bos else set()
    return used | ({"eos"} if words.specials.adds_eos else set())


def _flaw(
    evidence: Evidence, role: str, declared: int | None, in_force: int | None, used: bool
) -> tuple[str, str] | None:
    """What is wrong with one role, as code and message; None when nothing is."""
    key, tokens = ID_KEYS[role], evidence.words.tokens
    if declared is not None and declared >= len(tokens):
        instead = f"and takes {in_force} ({tokens[in_force]!r})" if role != "cls" and in_force is not None else ""
        return (
            "special_id_range",
            f"{key} is {declared}, the vocabulary has {len(tokens)}: llama.cpp drops it {instead}".strip(),
        )
    if declared is None and role == "unk" and evidence.words.kind == "wpm":
        return "special_id_missing", f"{key} is missing: the model's own tokenizer cannot be rebuilt without it"
    if used and in_force is None:
        return (
            "special_id_missing",
            f"{key} is missing, though it is used: llama.cpp ends the process over the first text",
        )
    if in_force is None or not (used or declared is not None) or _is_role(evidence, role, in_force):
        return None
    how = f"{key} is {declared}" if declared is not None else f"{key} is missing, so llama.cpp takes {in_force}"
    return "special_id_wrong", f"{how}, which is {tokens[in_force]!r}"


def _is_role(evidence: Evidence, role: str, token: int) -> bool:
    """Whether a token can play a role: it looks special, and not like that of another role."""
    word = evidence.words.tokens[token]
    bracketed = len(word) > 2 and word[0] + word[-1] in ("[]", "<>")
    if not bracketed and not _has_special_type(evidence, token):
        return False
    strict = evidence.words.kind in ("wpm", "ugm") and role not in ("pad",)
    return not (strict and word in _KNOWN_TEXTS and word not in TEXTS[role])


def _has_special_type(evidence: Evidence, token: int) -> bool:
    types = evidence.words.types
    return types is not None and token < len(types) and int(types[token]) in _SPECIAL_TYPES


def _by_text(evidence: Evidence, role: str) -> tuple[Change, ...]:
    """The id of the token that is written as this role is; empty when there is none."""
    found = next((text for text in TEXTS[role] if text in evidence.words.tokens), None)
    return () if found is None else (uint(ID_KEYS[role], evidence.words.tokens.index(found)),)


def check_frame(evidence: Evidence) -> Iterator[Finding]:
    """The BOS and EOS around a text. llama.cpp's default is no BOS for Unigram, and neither for byte-level BPE."""
    words, architecture = evidence.words, evidence.architecture
    model = evidence.header.get("tokenizer.ggml.model", str)
    framed = architecture in ENCODERS and (words.kind == "ugm" or (model == "gpt2" and architecture in _ROBERTAS))
    if framed and not words.specials.adds_bos:
        yield _not_added(evidence, "bos", ADD_BOS, f"a {architecture} model's texts begin with it (llama.cpp#14280)")
    if (framed or architecture == "t5encoder") and not words.specials.adds_eos:
        yield _not_added(evidence, "eos", ADD_EOS, f"a {architecture} model's texts end with it")
    if is_causal(evidence) and intended_pooling(evidence) is Pooling.LAST:
        yield from _check_last(evidence)


def _not_added(evidence: Evidence, role: str, key: str, why: str) -> Finding:
    in_force = evidence.words.specials.ids.get(role)
    wrong_id = in_force is None or not _is_role(evidence, role, in_force)
    changes = (flag(key, True), *(_by_text(evidence, role) if wrong_id else ()))
    return serious(f"{role}_not_added", f"{key} is {_said(evidence, key)}, but {why}", sets(*changes), *changes)


def _said(evidence: Evidence, key: str) -> str:
    return "false" if key in evidence.header.metadata else "missing"


def _check_last(evidence: Evidence) -> Iterator[Finding]:
    """Pooling last reads one row: that of the token the model was trained to end texts with."""
    words, expected = evidence.words, evidence.expected
    wanted = expected.ends_with if expected.ends_with in words.tokens else None
    found = words.specials.ids.get("eos")
    changes: tuple[Change, ...] = ()
    if wanted is not None and (found is None or words.tokens[found] != wanted):
        changes = (uint(ID_KEYS["eos"], words.tokens.index(wanted)),)
    if not words.specials.adds_eos:
        changes = (flag(ADD_EOS, True), *changes)
        message = f"{ADD_EOS} is {_said(evidence, ADD_EOS)}: the vector is read from the text's last word"
        if expected.ends_with is not None and expected.certain:
            message += f", not from {expected.ends_with} as {expected.because} wants it (llama.cpp#14234)"
            yield serious("eos_not_added", message, sets(*changes), *changes)
        else:
            by_hand = f"--fix --set {ADD_EOS}=bool:true, if its model card ends texts with EOS, as most such models do"
            yield warning("eos_not_added", message, by_hand)
    elif changes:
        ends = "no token" if found is None else repr(words.tokens[found])
        message = f"texts end with {ends}, {expected.because} ends them with {wanted} (llama.cpp#14314)"
        if expected.certain:
            yield serious("eos_wrong", message, sets(*changes), *changes)
        else:
            yield warning(
                "eos_wrong", message, f"compare with its model card; {sets(*changes).replace('sets', 'can set')}"
            )


def check_pairs(evidence: Evidence) -> Iterator[Finding]:
    """How a cross-encoder's query and document are joined by llama.cpp's flags."""
    words = evidence.words
    frame = _PAIR_FRAMES.get(words.kind)
    if evidence.architecture != "bert" or not has_head(evidence) or frame is None:
        return
    if RERANK_TEMPLATE in evidence.header.metadata:
        return
    found = (words.specials.adds_bos, words.specials.adds_eos, words.specials.adds_sep)
    keys = (ADD_BOS, ADD_EOS, ADD_SEP) if words.kind == "wpm" else (ADD_SEP,)  # the others have their own finding
    wanted = dict(zip((ADD_BOS, ADD_EOS, ADD_SEP), frame, strict=True))
    actual = dict(zip((ADD_BOS, ADD_EOS, ADD_SEP), found, strict=True))
    changes = tuple(flag(key, wanted[key]) for key in keys if wanted[key] != actual[key])
    if changes:
        shape = "[CLS] query [SEP] document [SEP]" if words.kind == "wpm" else "<s> query </s></s> document </s>"
        message = f"its flags do not join a pair as {shape}: llama-server's scores will be off"
        yield warning("pair_frame", message, sets(*changes), *changes)
