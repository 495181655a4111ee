"""Plans requests for vectors: checks options, adds the prompt, removes duplicate inputs, and tokenizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguf_embed.errors import EmbedError, InputTooLong, InvalidInput, InvalidRequest, NotSupported, WayOut
from gguf_embed.preprocessing import prompt_prefixes
from gguf_embed.preprocessing.abandoned import check_abandoned
from gguf_embed.preprocessing.late_interaction import TextForm, prepare_in_form
from gguf_embed.preprocessing.token_offsets import OffsetMapper, check_offset_budget
from gguf_embed.preprocessing.tokenizers import SpecialTokens, special_tokens_of
from gguf_embed.preprocessing.tokens import ANY_LENGTH, TokenizedText, check_characters, prepare, prepare_ends
from gguf_embed.preprocessing.windows import plan_windows
from gguf_embed.service.embed_checks import (
    check_bytes,
    check_combination,
    check_dimensions,
    check_scores,
    requested_limits,
    text_limits,
)
from gguf_embed.service.head_outputs import (
    HEAD_OUTPUTS,
    check_muvera,
    gives_only_multivectors,
    output_of_heads,
    row_width,
    text_form_of,
)
from gguf_embed.service.limits import explain
from gguf_embed.service.pipeline import PER_TOKEN, Plan, ServedModel, deduplicate
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.types import (
    MULTIVECTOR,
    SCORES,
    TOKENS,
    AppliedPrompt,
    EmbedRequest,
    Input,
    OutputSpec,
    Span,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedPlan(Plan):
    """Texts to embed."""

    request: EmbedRequest
    inputs: Sequence[Input]  # without duplicates, each with the prompt
    prompt: AppliedPrompt | None = None
    form: TextForm | None = None  # of multi-vectors
    is_heavy: bool = False  # assembling the result may take long: 1 GB of rows, or a million tokens with offsets

    @property
    def n_prefix(self) -> int:
        """Characters of the prompt before every text."""
        return len(self.prompt.text) if self.prompt is not None else 0

    def tokenize(self) -> Sequence[TokenizedText | EmbedError]:
        try:
            if self.finds_offsets or self.request.long_input == "chunk_mean" or self.request.on_error == "skip":
                return _DetailedTokenizer(self).tokenize_all()
            return self._prepare(self.inputs)
        except (InvalidInput, InputTooLong) as error:
            raise error.spread(self.index_of) from error

    def _prepare(self, inputs: Sequence[Input]) -> list[TokenizedText]:
        """Tokenize `inputs`. Raises the error of the first one that fails; its index counts within `inputs`."""
        model, request = self.served.model, self.request
        limits, truncate = model.limits, request.truncate
        if request.load.n_ctx is not None:
            limits = text_limits(request.load.n_ctx, limits)
        if request.max_tokens is not None:
            limits = requested_limits(request.max_tokens, limits, model.tokenizer)
        if truncate is None:
            truncate = model.config.truncate
        if self.request.long_input == "chunk_mean":
            check_characters(inputs, limits)
            limits, truncate = replace(limits, max_tokens=ANY_LENGTH), False
        if self.form is not None:
            return prepare_in_form(inputs, model.tokenizer, limits, self.form, truncate=truncate)
        if request.cut_start and truncate:
            return prepare_ends(inputs, model.tokenizer, limits, self.prompt.text if self.prompt else "")
        try:
            return prepare(inputs, model.tokenizer, limits, truncate=truncate)
        except InputTooLong as error:
            raise explain(error, request, self.served.info, model.tokenizer) from None

    def check_size(self, texts: Sequence[TokenizedText | EmbedError]) -> None:
        check_bytes(self._n_held_rows(texts), self.served.info.n_embd)

    def _n_held_rows(self, texts: Sequence[TokenizedText | EmbedError]) -> int:
        """Rows held until the reply is written: with spans, token rows plus one per span; else every input's own."""
        lengths = [len(text.tokens) if isinstance(text, TokenizedText) else 0 for text in texts]
        if self.request.spans:
            return sum(lengths) + sum(map(len, self.request.spans))
        return sum(lengths[at] for at in self.index_of)


def plan_embed(served: ServedModel, request: EmbedRequest) -> EmbedPlan:
    """Raises `InvalidRequest` or `NotSupported` for options that this model does not support or that conflict."""
    info = served.info
    output = request.output or info.output
    if output.kind == TOKENS and not request.spans and gives_only_multivectors(info):
        output = OutputSpec(MULTIVECTOR)
    if output.kind == SCORES:
        check_scores(request, info)
    if request.spans or request.cut_start or request.long_input != "error":
        check_combination(request, info, output)
    form = None
    if output.kind in HEAD_OUTPUTS:
        output = output_of_heads(request, info, output)
        form = text_form_of(served.model, output)
        check_muvera(request, served.model)
    if request.dimensions is not None:
        check_dimensions(request.dimensions, row_width(served.model, info, output))
    prompt, inputs, id_offset = None, request.inputs, 0
    if request.prompt is not None:
        prompt = prompt_prefixes.choose(request.prompt, info.prompts)
        inputs = prompt_prefixes.apply(prompt, inputs)
        id_offset = info.n_vocab * prompt_prefixes.task_of(prompt, info.tasks)
    distinct, index_of = deduplicate(inputs)
    needs_prompt_end = request.long_input == "chunk_mean" and prompt is not None and bool(prompt.text)
    computed = OutputSpec(TOKENS) if request.spans else output
    return EmbedPlan(
        served=served,
        output=computed,
        index_of=index_of,
        n_characters=sum(map(len, distinct)),
        finds_offsets=request.return_tokens or bool(request.spans) or needs_prompt_end,
        id_offset=id_offset,
        request=request,
        inputs=distinct,
        prompt=prompt,
        form=form,
        is_heavy=computed.kind in PER_TOKEN or request.return_tokens or request.long_input != "error",
    )


class _DetailedTokenizer:
    """Tokenizes for a plan that needs offsets or windows, or that keeps the errors of single texts."""

    def __init__(self, plan: EmbedPlan) -> None:
        self._plan = plan
        self._tokenizer = plan.served.model.tokenizer
        n_ctx, limits = plan.request.load.n_ctx, plan.served.model.limits
        self._limit = (limits if n_ctx is None else text_limits(n_ctx, limits)).max_tokens
        self._offsets = OffsetMapper(self._tokenizer)

    def tokenize_all(self) -> list[TokenizedText | EmbedError]:
        """All inputs, in order. With on_error "skip", an error takes its text's place; else the first is raised."""
        inputs, plan = self._plan.inputs, self._plan
        if plan.request.return_tokens or plan.request.spans:
            check_offset_budget(inputs)
        special = self._special_tokens() if plan.request.long_input == "chunk_mean" else None
        texts: Sequence[TokenizedText | EmbedError]
        try:
            texts = plan._prepare(inputs)
        except (InvalidInput, InputTooLong):
            if plan.request.on_error != "skip":
                raise
            texts = [self._prepare_one(item, index) for index, item in enumerate(inputs)]
        return [
            text if isinstance(text, EmbedError) else self._with_details(item, text, special)
            for item, text in zip(inputs, texts, strict=True)
        ]

    def _special_tokens(self) -> SpecialTokens:
        special = special_tokens_of(self._tokenizer)
        if self._limit <= len(special.opening) + len(special.closing):
            raise NotSupported(
                f"the limit per text is {self._limit} tokens, which is too few for windows", [WayOut.LARGER_CONTEXT]
            )
        return special

    def _prepare_one(self, item: Input, index: int) -> TokenizedText | EmbedError:
        try:
            return self._plan._prepare([item])[0]
        except (InvalidInput, InputTooLong) as error:
            return error.for_input(index)

    def _with_details(self, item: Input, text: TokenizedText, special: SpecialTokens | None) -> TokenizedText:
        """The text with offsets if requested, and split into windows if it is too long. `special` is for windows."""
        check_abandoned()
        request = self._plan.request
        if request.return_tokens or request.spans:
            n_characters = len(valid_unicode(item)) - self._plan.n_prefix if isinstance(item, str) else 0
            text = replace(text, offsets=self._offsets_of(item, text), n_characters=n_characters)
        if special is None or len(text.tokens) <= self._limit:
            return text
        return self._in_windows(item, text, special)

    def _in_windows(self, item: Input, text: TokenizedText, special: SpecialTokens) -> TokenizedText:
        n_opening, n_closing = _n_around(text.tokens, special)
        if self._plan.n_prefix and isinstance(item, str):
            n_opening += self._n_prefix_tokens(item, n_opening, text.tokens)
        if n_opening + n_closing >= self._limit:
            raise InvalidRequest(
                f"the prompt leaves no room for the text in a window of {self._limit} tokens: send a shorter one",
                "prompt",
            )
        windows = plan_windows(text.n_tokens, n_opening, n_closing, self._limit)
        positions = [position for window in windows for position in window.positions]
        return replace(
            text,
            tokens=[text.tokens[position] for position in positions],
            offsets=[text.offsets[position] for position in positions] if text.offsets else (),
            windows=windows,
        )

    def _n_prefix_tokens(self, item: str, n_opening: int, tokens: Sequence[int]) -> int:
        """How many tokens after the opening ones belong to the prompt alone: every window begins with them."""
        n_prefix = self._plan.n_prefix
        if n_prefix > self._limit:  # perhaps too long for a window, and then there is no need to search for its end
            n_tokens = len(self._tokenizer.encode(item[:n_prefix], add_special=False))
            if n_tokens > self._limit:
                return n_tokens
        return self._offsets.count_within(item, n_prefix, n_opening, tokens)

    def _offsets_of(self, item: Input, text: TokenizedText) -> Sequence[Span | None]:
        """Offsets in the text as it was sent, without the prompt. All None for an input of token ids."""
        if not isinstance(item, str):
            return [None] * len(text.tokens)
        n_prefix = self._plan.n_prefix
        return [span and _without_prefix(span, n_prefix) for span in self._offsets.for_kept(item, text)]


def _n_around(tokens: Sequence[int], special: SpecialTokens) -> tuple[int, int]:
    """How many special tokens are at the beginning and the end. Token ids from a client may have none."""
    n_opening, n_closing = len(special.opening), len(special.closing)
    opens = tuple(tokens[:n_opening]) == special.opening
    closes = tuple(tokens[len(tokens) - n_closing :]) == special.closing
    return (n_opening if opens else 0), (n_closing if closes else 0)


def _without_prefix(span: Span, n_prefix: int) -> Span | None:
    start, end = max(span[0] - n_prefix, 0), span[1] - n_prefix
    return (start, end) if start < end else None
