"""Special tokens: whether every text is surrounded by the tokens the model was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gguf_embed.doctor.effective_special_tokens import ADD_BOS, ADD_EOS, ADD_SEP, ID_KEYS, TEXTS, number
from gguf_embed.doctor.evidence import Evidence
from gguf_embed.doctor.findings import Change, Finding, flag, serious, sets, uint, warning
from gguf_embed.doctor.llama_facts import ENCODERS
from gguf_embed.doctor.pooling import has_head, intended_pooling, is_causal
from gguf_embed.gguf_file.rerank_prompt import RERANK_TEMPLATE
from gguf_embed.types import Pooling

_SPECIAL_TYPES = (2, 3, 4)  # unknown, control, user-defined: llama.cpp's llama_token_type
_KNOWN_TEXTS = frozenset(text for texts in TEXTS.values() for text in texts)
_ROBERTAS = ("bert", "jina-bert-v2", "modern-bert")  # encoders that may have a byte-level BPE vocabulary

_PAIR_FLAGS = {"wpm": (True, True, False), "ugm": (True, True, True), "bpe": (True, True, True)}
"""Flags (BOS, EOS, SEP) with which llama-server joins a pair as BERT ([CLS] q [SEP] d [SEP]) or RoBERTa
(<s> q </s></s> d </s>) expects it. It writes BOS q EOS SEP d EOS (`format_prompt_rerank` in tools/server)."""


@dataclass(frozen=True, slots=True)
class _Role:
    """One special token: what the file declares, and what llama.cpp uses."""

    name: str  # "bos", "sep"…
    declared: int | None  # the id in the file
    effective: int | None  # the id that llama.cpp uses; None: no such token
    is_used: bool  # in every text, or for every unknown word

    @property
    def key(self) -> str:
        return ID_KEYS[self.name]


@dataclass(frozen=True, slots=True)
class _Flaw:
    code: str
    message: str


def check_ids(evidence: Evidence) -> Iterator[Finding]:
    """Each special id: in range, naming a special token, and present if llama.cpp uses it."""
    vocabulary = evidence.vocabulary
    if not vocabulary.tokens:
        return
    used = used_roles(evidence)
    for name, key in ID_KEYS.items():
        declared = number(evidence.header.metadata, key)
        effective = declared if name == "cls" else vocabulary.special_tokens.ids.get(name)
        role = _Role(name, declared, effective, is_used=name in used)
        flaw = _find_flaw(evidence, role)
        if flaw is None:
            continue
        change = _find_by_text(evidence, name)
        fix = sets(*change) if change else f"--fix --set {key}=ID with the right token's id, or convert the model again"
        yield (serious if role.is_used else warning)(flaw.code, flaw.message, fix, *change)


def used_roles(evidence: Evidence) -> set[str]:
    """Roles whose token is in every text, or replaces every unknown word."""
    vocabulary = evidence.vocabulary
    if vocabulary.kind == "wpm":  # [CLS] and [SEP] are always added, regardless of the flags
        return {"bos", "sep", "unk"}
    used = {"unk"} if vocabulary.kind == "ugm" else set()
    if vocabulary.special_tokens.adds_bos:
        used.add("bos")
    if vocabulary.special_tokens.adds_eos:
        used.add("eos")
    return used


def _find_flaw(evidence: Evidence, role: _Role) -> _Flaw | None:
    """The problem with one role; None if there is none."""
    n_tokens = len(evidence.vocabulary.tokens)
    if role.declared is not None and role.declared >= n_tokens:
        return _out_of_range(evidence, role)
    if role.declared is None and role.name == "unk" and evidence.vocabulary.kind == "wpm":
        message = f"{role.key} is missing: the model's own tokenizer cannot be rebuilt without it"
        return _Flaw("special_id_missing", message)
    if role.effective is None:
        if not role.is_used:
            return None
        message = f"{role.key} is missing although it is used: llama.cpp ends the process on the first text"
        return _Flaw("special_id_missing", message)
    is_relevant = role.is_used or role.declared is not None
    if not is_relevant or _can_play(evidence, role.name, role.effective):
        return None
    cause = f"{role.key} is {role.declared}"
    if role.declared is None:
        cause = f"{role.key} is missing, so llama.cpp uses {role.effective}"
    return _Flaw("special_id_wrong", f"{cause}, which is {evidence.vocabulary.tokens[role.effective]!r}")


def _out_of_range(evidence: Evidence, role: _Role) -> _Flaw:
    tokens = evidence.vocabulary.tokens
    message = f"{role.key} is {role.declared}, but the vocabulary has {len(tokens)} tokens: llama.cpp ignores it"
    if role.name != "cls" and role.effective is not None:
        message += f" and uses {role.effective} ({tokens[role.effective]!r})"
    return _Flaw("special_id_range", message)


def _can_play(evidence: Evidence, role: str, token: int) -> bool:
    """Whether a token fits a role: it looks special, and not like another role's. True for an unread vocabulary."""
    if not evidence.vocabulary.tokens:
        return True
    word = evidence.vocabulary.tokens[token]
    is_bracketed = len(word) > 2 and word[0] + word[-1] in ("[]", "<>")
    if not is_bracketed and not _has_special_type(evidence, token):
        return False
    if role == "pad" or evidence.vocabulary.kind not in ("wpm", "ugm"):
        return True
    return word not in _KNOWN_TEXTS or word in TEXTS[role]


def _has_special_type(evidence: Evidence, token: int) -> bool:
    types = evidence.vocabulary.types
    return types is not None and token < len(types) and int(types[token]) in _SPECIAL_TYPES


def _find_by_text(evidence: Evidence, role: str) -> tuple[Change, ...]:
    """The id of the token that is spelled as this role usually is; empty if there is none."""
    for text in TEXTS[role]:
        if text in evidence.vocabulary.tokens:
            return (uint(ID_KEYS[role], evidence.vocabulary.tokens.index(text)),)
    return ()


def check_bos_and_eos(evidence: Evidence) -> Iterator[Finding]:
    """BOS and EOS around a text. By default llama.cpp adds no BOS for Unigram, and neither for byte-level BPE."""
    architecture, special_tokens = evidence.architecture, evidence.vocabulary.special_tokens
    needs_both = _needs_bos_and_eos(evidence)
    if needs_both and not special_tokens.adds_bos:
        why = f"the texts of a {architecture} model begin with it (llama.cpp#14280)"
        yield _not_added(evidence, "bos", ADD_BOS, why)
    if (needs_both or architecture == "t5encoder") and not special_tokens.adds_eos:
        yield _not_added(evidence, "eos", ADD_EOS, f"the texts of a {architecture} model end with it")
    if is_causal(evidence) and intended_pooling(evidence) is Pooling.LAST:
        yield from _check_last(evidence)


def _needs_bos_and_eos(evidence: Evidence) -> bool:
    """Whether it is an XLM-RoBERTa (Unigram) or a RoBERTa (byte-level BPE)."""
    if evidence.architecture not in ENCODERS:
        return False
    if evidence.vocabulary.kind == "ugm":
        return True
    return evidence.header.get("tokenizer.ggml.model", str) == "gpt2" and evidence.architecture in _ROBERTAS


def _not_added(evidence: Evidence, role: str, key: str, why: str) -> Finding:
    effective = evidence.vocabulary.special_tokens.ids.get(role)
    is_wrong = effective is None or not _can_play(evidence, role, effective)
    changes = (flag(key, True), *(_find_by_text(evidence, role) if is_wrong else ()))
    return serious(f"{role}_not_added", f"{key} is {_state(evidence, key)}, but {why}", sets(*changes), *changes)


def _state(evidence: Evidence, key: str) -> str:
    return "false" if key in evidence.header.metadata else "missing"


def _check_last(evidence: Evidence) -> Iterator[Finding]:
    """Pooling last reads one row: that of the token the model was trained to end texts with."""
    id_change = _eos_id_change(evidence)
    if not evidence.vocabulary.special_tokens.adds_eos:
        yield _eos_not_added(evidence, id_change)
    elif id_change:
        yield _eos_wrong(evidence, id_change)


def _eos_id_change(evidence: Evidence) -> tuple[Change, ...]:
    """The EOS that the model is known to end texts with; empty when it is set already, unknown or not in the file."""
    tokens, wanted = evidence.vocabulary.tokens, evidence.expected.ends_with
    if wanted is None or wanted not in tokens:
        return ()
    found = evidence.vocabulary.special_tokens.ids.get("eos")
    if found is not None and tokens[found] == wanted:
        return ()
    return (uint(ID_KEYS["eos"], tokens.index(wanted)),)


def _eos_not_added(evidence: Evidence, id_change: tuple[Change, ...]) -> Finding:
    expected = evidence.expected
    message = f"{ADD_EOS} is {_state(evidence, ADD_EOS)}: the vector comes from the text's last word"
    if expected.ends_with is not None and expected.certain:
        changes = (flag(ADD_EOS, True), *id_change)
        message += f", but {expected.because} takes it from {expected.ends_with} (llama.cpp#14234)"
        return serious("eos_not_added", message, sets(*changes), *changes)
    by_hand = f"--fix --set {ADD_EOS}=bool:true, if its model card ends texts with EOS, as most such models do"
    return warning("eos_not_added", message, by_hand)


def _eos_wrong(evidence: Evidence, id_change: tuple[Change, ...]) -> Finding:
    expected, found = evidence.expected, evidence.vocabulary.special_tokens.ids.get("eos")
    end = "no token" if found is None else repr(evidence.vocabulary.tokens[found])
    message = f"texts end with {end}, but {expected.because} ends them with {expected.ends_with} (llama.cpp#14314)"
    if expected.certain:
        return serious("eos_wrong", message, sets(*id_change), *id_change)
    by_hand = f"compare with its model card; {sets(*id_change).replace('sets', 'can set')}"
    return warning("eos_wrong", message, by_hand)


def check_pairs(evidence: Evidence) -> Iterator[Finding]:
    """How llama.cpp's flags join a cross-encoder's query and document."""
    vocabulary = evidence.vocabulary
    flags = _PAIR_FLAGS.get(vocabulary.kind)
    if evidence.architecture != "bert" or not has_head(evidence) or flags is None:
        return
    if RERANK_TEMPLATE in evidence.header.metadata:
        return
    special_tokens = vocabulary.special_tokens
    wanted = dict(zip((ADD_BOS, ADD_EOS, ADD_SEP), flags, strict=True))
    actual = {ADD_BOS: special_tokens.adds_bos, ADD_EOS: special_tokens.adds_eos, ADD_SEP: special_tokens.adds_sep}
    keys = wanted if vocabulary.kind == "wpm" else (ADD_SEP,)  # the others have their own finding
    changes = tuple(flag(key, wanted[key]) for key in keys if wanted[key] != actual[key])
    if changes:
        shape = "[CLS] query [SEP] document [SEP]" if vocabulary.kind == "wpm" else "<s> query </s></s> document </s>"
        message = f"its flags do not join a pair as {shape}: llama-server's scores will be off"
        yield warning("pair_frame", message, sets(*changes), *changes)
