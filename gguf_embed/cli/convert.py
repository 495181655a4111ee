"""`gguf-embed convert`: converts safetensors models and word vectors to GGUF."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gguf_embed.cli.command import Command
from gguf_embed.cli.flag_types import FilePath, NotEmpty
from gguf_embed.cli.standard_output import Use
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.partial_file import human_size
from gguf_embed.model_store.places import expanded

if TYPE_CHECKING:
    from gguf_embed.gguf_file.header import GgufHeader

OutTypeFlag = Literal["f32", "f16", "bf16", "q8_0", "auto"]

EXAMPLES = """\b
gguf-embed convert sentence-transformers/all-mpnet-base-v2
gguf-embed convert my-model/ -o my-model.gguf --outtype q8_0
"""
_GIGABYTE = 10**9
_PARTS_OF_FOLDERS = (".safetensors", ".json")
_MAX_NAMES_SHOWN = 8  # labels or prompts


@click.command(cls=Command, use=Use.REPORT, epilog=EXAMPLES)
@click.argument("source", type=NotEmpty("a folder, a file or ORG/REPO"), metavar="MODEL")
@click.option(
    "-o",
    "--output",
    type=FilePath(dir_okay=True),
    metavar="FILE",
    help="GGUF file to write.  [default: NAME-OUTTYPE.gguf in the current folder]",
)
@click.option(
    "--outtype",
    type=click.Choice(["f32", "f16", "bf16", "q8_0", "auto"]),
    default="auto",
    show_default=True,
    help="Type of the matrices. auto: bf16 for BF16 checkpoints, f16 for F16 and F32 ones. q8_0 is half the size; "
    "rows whose length is not a multiple of 32 become f16.",
)
@click.option(
    "--image-tower",
    type=NotEmpty("a folder or ORG/REPO"),
    metavar="DIR|ORG/REPO",
    help="Image tower in the model's vector space (nomic-embed-vision), for the same file, which then reads images.",
)
@click.option("--name", metavar="NAME", help="Model name stored in the file.  [default: the folder's or repository's]")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
def convert(
    source: str, output: Path | None, outtype: OutTypeFlag, image_tower: str | None, name: str | None, force: bool
) -> None:
    """Convert an original model to GGUF.

    MODEL is a folder with safetensors, config and tokenizer, as written by Hugging Face's save_pretrained, or a file
    of word vectors. A name from `list --catalog` or ORG/REPO is downloaded from the hub. Pooling, prompts and the
    maximum length are read from the sentence-transformers files. For an unsupported model, the error names it and
    lists the supported ones.
    """
    # imported here: gguf and numpy take a tenth of a second, which would delay `--help` and flag errors
    from gguf_embed.convert.convert import convert_directory
    from gguf_embed.gguf_file.towers import read_model

    folder, default_name = find_source(source)
    chosen_name = name or default_name
    target = output or Path(default_file(folder, chosen_name, outtype))
    if target.is_dir():
        raise ConfigError(f"{target} is a folder: give a file name with -o")
    if target.exists() and not force:
        raise ConfigError(f"{target} already exists: overwrite it with --force, or choose another file with -o")
    tower = find_source(image_tower)[0] if image_tower is not None else None
    with _shown() as (say, progress):
        convert_directory(folder, target, outtype, report=say, name=chosen_name, progress=progress, image_tower=tower)
    for line in summary(read_model(target)):
        click.echo(line)


@contextmanager
def _shown() -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Where the converter's lines and progress go: to a bar on a terminal, else to a line per gigabyte."""
    if not sys.stdout.isatty():
        yield click.echo, _lines_per_gigabyte()
        return
    from gguf_embed.cli.progress import Bar, per_second

    bar = Bar(sys.stdout)
    bar.begin("converting", speed=per_second)
    try:
        yield bar.say, bar.update_bytes
    finally:
        bar.stop()


def _lines_per_gigabyte() -> Callable[[int, int], None]:
    n_told = 0

    def tell(n_written: int, n_bytes: int) -> None:
        nonlocal n_told
        if n_written // _GIGABYTE > n_told:
            n_told = n_written // _GIGABYTE
            click.echo(f"written {n_written / _GIGABYTE:.1f} of {n_bytes / _GIGABYTE:.1f} GB")

    return tell


def find_source(text: str) -> tuple[Path, str]:
    """The folder or file to convert, downloaded if it is on the hub, and the model's default name.

    Raises `ConfigError` if it is neither on this machine nor a name of the catalog or a repository, `ModelFileError`
    if the hub fails.
    """
    path = expanded(Path(text))
    if path.suffix in _PARTS_OF_FOLDERS and path.is_file():
        raise ConfigError(
            f"{text} is only a part of an original model; `gguf-embed convert {path.parent}` converts all"
        )
    if path.suffix.lower() == ".gguf" and path.is_file():
        raise ConfigError(f"{text} is a GGUF already: serve it with gguf-embed serve -m {text}")
    if path.exists():
        return path, name_of_source(path.resolve())
    if text.startswith((".", "/", "~", "\\")):
        raise ConfigError(f"{text}: no such folder or file; give a model folder, or ORG/REPO on the hub")
    repo = _original(text)
    from gguf_embed.model_store.download import Hub, fetch_directory

    return fetch_directory(Hub(), repo, click.echo), repo.rpartition("/")[2]


def _original(text: str) -> str:
    """The repository of an original model: as it is written, or that of a name of the catalog. Raises `ConfigError`."""
    from gguf_embed.model_store.catalog import load_catalog
    from gguf_embed.model_store.names import parse_repo
    from gguf_embed.model_store.similar import did_you_mean, similar_names

    catalog = load_catalog()
    row = catalog.find(text)
    if row is not None and row.convert is not None:
        return row.convert
    if row is not None:
        raise ConfigError(f"{row.name} needs no conversion: gguf-embed pull {row.name} downloads its GGUF")
    try:
        repo, quant = parse_repo(text)
    except ConfigError as exc:
        names = [name for other in catalog.rows if other.convert is not None for name in other.names]
        guess = did_you_mean(similar_names(text, names)) or "; a hub repository is written ORG/REPO"
        raise ConfigError(f"{text}: no such folder or file, and no model that can be converted{guess}") from exc
    if quant is not None:
        raise ConfigError(f"{text}: original models have no :{quant}; choose the type with --outtype")
    return repo


def name_of_source(path: Path) -> str:
    """The folder's or file's name; for a folder that packages and the hub's cache name alike, that of what it is in."""
    if path.name == "model" and path.parent.name:
        return path.parent.name
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.rpartition("--")[2]
    return path.name.removesuffix(".gz")


def default_file(folder: Path, name: str, outtype: OutTypeFlag) -> str:
    """`NAME-OUTTYPE.gguf`; `NAME.gguf` for a static model that keeps its type."""
    from gguf_embed.convert.convert import choose_outtype
    from gguf_embed.convert.static import is_static

    stem = name.replace("/", "-")
    if outtype == "auto" and is_static(folder):
        return f"{Path(stem).stem if folder.is_file() else stem}.gguf"
    return f"{stem}-{choose_outtype(folder, outtype).upper()}.gguf"


def summary(header: GgufHeader) -> list[str]:
    """What was written, and the command that serves it."""
    from gguf_embed.gguf_file.facts import context_length, file_type_name, pooling_type, vector_width
    from gguf_embed.gguf_file.towers import BOTH, HAS_IMAGES, image_tower
    from gguf_embed.types import Pooling

    n_tensors = len(header.tensors)
    architecture, n_ctx, pooling = header.architecture, context_length(header), pooling_type(header)
    tensors = f"{n_tensors} tensor{'' if n_tensors == 1 else 's'}"
    size = human_size(header.size_bytes)
    wrote = f"wrote    {header.path}: {architecture}, {file_type_name(header)}, {tensors}, {size}"
    tower = image_tower(header) if architecture == BOTH else None
    if tower is not None:
        what = f"image tower, {vector_width(tower)} dimensions, for the text model in whose space it was trained"
        return [wrote, f"model    {what}", f"gguf-embed serve -m TEXT_MODEL.gguf --mmproj {header.path}"]
    facts = [f"{vector_width(header) or '?'} dimensions"]
    if n_ctx is not None:
        facts.append(f"context {n_ctx}")
    longest = header.get("gguf-embed.max_sequence_length", int)
    if longest is not None:
        facts.append(f"original truncates texts to {longest} tokens")
    if pooling is not None:
        facts.append(f"pooling {pooling}")
    if header.get(HAS_IMAGES, bool):
        facts.append("reads images")
    lines = [wrote, f"model    {', '.join(facts)}"]
    if pooling is Pooling.RANK:
        lines.append(f"scores   {_labels(header)}")
    prompts = [
        key.removeprefix("gguf-embed.prompt.") for key in header.metadata if key.startswith("gguf-embed.prompt.")
    ]
    if prompts:
        lines.append(f"prompts  {_shortened(prompts)}")
    if pooling is None and n_ctx is not None:
        lines.append("pooling  not declared by the model: serve it with --pooling mean, cls or last")
    return [*lines, f"gguf-embed serve -m {header.path}"]


def _labels(header: GgufHeader) -> str:
    labels = header.metadata.get(f"{header.architecture}.classifier.output_labels")
    names = [str(label) for label in labels] if isinstance(labels, tuple) else []
    return "one per pair" if len(names) < 2 else f"{len(names)} per pair: {_shortened(names)}"


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
    return ", ".join(names[:_MAX_NAMES_SHOWN]) + more
