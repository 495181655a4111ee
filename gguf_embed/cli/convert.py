"""`gguf-embed convert`: an original model's safetensors, or word vectors, become one GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gguf_embed.errors import ConfigError

if TYPE_CHECKING:
    from gguf_embed.gguf_file.header import GgufHeader

OutTypeFlag = Literal["f32", "f16", "bf16", "q8_0", "auto"]

_MAX_NAMED = 8  # labels or prompts that are written out


@click.command()
@click.argument("source", metavar="DIR|ORG/REPO")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="GGUF to write.  [default: NAME-OUTTYPE.gguf in this folder]",
)
@click.option(
    "--outtype",
    type=click.Choice(["f32", "f16", "bf16", "q8_0", "auto"]),
    default="auto",
    show_default=True,
    help="How matrices are stored. auto: bf16 for BF16 checkpoints, f16 for F16 and F32 ones. q8_0 takes half "
    "of that; rows that are no multiple of 32 become f16.",
)
@click.option("--name", metavar="NAME", help="The model's name in the file.  [default: the folder's or repository's]")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
def convert(source: str, output: Path | None, outtype: OutTypeFlag, name: str | None, force: bool) -> None:
    """Make a GGUF of an original model: safetensors with config and tokenizer, or a static model's word vectors.

    DIR is a folder as Hugging Face's save_pretrained writes it, or a file of word vectors; ORG/REPO is fetched from
    the hub. Pooling, prompts and the longest text are read from sentence-transformers' files. What cannot be
    converted is refused by name, with the list of what can be.
    """
    # imported here: gguf and numpy take a tenth of a second that `--help` and wrong flags need not wait for
    from gguf_embed.convert.convert import convert_directory
    from gguf_embed.gguf_file.header import read_header

    folder, default_name = find_source(source)
    chosen_name = name or default_name
    target = output or Path(default_file(folder, chosen_name, outtype))
    if target.is_dir():
        raise ConfigError(f"{target} is a folder: -o takes the name of a file")
    if target.exists() and not force:
        raise ConfigError(f"{target} exists: --force replaces it, -o FILE names another")
    convert_directory(folder, target, outtype, report=click.echo, name=chosen_name)
    for line in summary(read_header(target)):
        click.echo(line)


def find_source(text: str) -> tuple[Path, str]:
    """What to convert, fetched where it is a repository, and the name it has there.

    Raises `ConfigError` for what is neither on this machine nor a repository's name, `ModelFileError` from the hub.
    """
    path = Path(text).expanduser()
    if path.exists():
        return path, path.resolve().name.removesuffix(".gz")
    if text.startswith((".", "/", "~", "\\")):
        raise ConfigError(f"{text}: no such folder or file; name a model's folder, or ORG/REPO on the hub")
    from gguf_embed.model_store.names import parse_repo

    try:
        repo, quant = parse_repo(text)
    except ConfigError as exc:
        raise ConfigError(
            f"{text}: no such folder or file here, and a repository on the hub is named ORG/REPO"
        ) from exc
    if quant is not None:
        raise ConfigError(f"{text}: an original model has no :{quant}; --outtype says how matrices are stored")
    from gguf_embed.model_store.download import Hub, fetch_directory

    return fetch_directory(Hub(), repo, click.echo), repo.rpartition("/")[2]


def default_file(folder: Path, name: str, outtype: OutTypeFlag) -> str:
    """`NAME-OUTTYPE.gguf`; `NAME.gguf` for a static model whose own type is kept."""
    from gguf_embed.convert.convert import choose_outtype
    from gguf_embed.convert.static import is_static

    stem = name.replace("/", "-")
    if outtype == "auto" and is_static(folder):
        return f"{Path(stem).stem if folder.is_file() else stem}.gguf"
    return f"{stem}-{choose_outtype(folder, outtype).upper()}.gguf"


def summary(header: GgufHeader) -> list[str]:
    """What was written, and the line that serves it."""
    from gguf_embed.gguf_file.facts import context_length, file_type_name, pooling_type
    from gguf_embed.types import Pooling

    architecture, n_ctx, pooling = header.architecture, context_length(header), pooling_type(header)
    facts = [f"{header.get(f'{architecture}.embedding_length', int) or '?'} dimensions"]
    if n_ctx is not None:
        facts.append(f"context {n_ctx}")
    longest = header.get("gguf-embed.max_sequence_length", int)
    if longest is not None:
        facts.append(f"its makers cut texts to {longest} tokens")
    if pooling is not None:
        facts.append(f"pooling {pooling}")
    lines = [
        f"wrote    {header.path}: {architecture}, {file_type_name(header)}, {len(header.tensors)} tensors, "
        f"{header.size_bytes / 1e6:.1f} MB",
        f"model    {', '.join(facts)}",
    ]
    if pooling is Pooling.RANK:
        lines.append(f"scores   {_labels(header)}")
    prompts = [
        key.removeprefix("gguf-embed.prompt.") for key in header.metadata if key.startswith("gguf-embed.prompt.")
    ]
    if prompts:
        lines.append(f"prompts  {_shortened(prompts)}")
    if pooling is None and n_ctx is not None:
        lines.append("pooling  the model declares none: serve it with --pooling mean, cls or last")
    return [*lines, f"gguf-embed serve -m {header.path}"]


def _labels(header: GgufHeader) -> str:
    labels = header.metadata.get(f"{header.architecture}.classifier.output_labels")
    names = [str(label) for label in labels] if isinstance(labels, tuple) else []
    return "one per pair" if len(names) < 2 else f"{len(names)} per pair: {_shortened(names)}"


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
