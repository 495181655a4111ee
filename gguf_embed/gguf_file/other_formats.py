"""What a file or folder is that was given for a GGUF but is none, and the way from it to one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

N_BYTES = 512
"""How much of a file's beginning `what_else` looks at."""

_CONVERT = "`gguf-embed convert {folder}` makes a GGUF of it"
_BY_SUFFIX = {
    ".safetensors": f"holds an original's weights; {_CONVERT}",
    ".bin": "holds an original's weights as PyTorch writes them; gguf-embed converts safetensors only, so get those, "
    "or a GGUF of the model",
    ".pt": "holds weights as PyTorch writes them; get the model's safetensors or a GGUF of it",
    ".pth": "holds weights as PyTorch writes them; get the model's safetensors or a GGUF of it",
    ".onnx": "is an ONNX model; get the original's safetensors, which gguf-embed converts, or a GGUF of the model",
    ".h5": "holds weights as Keras writes them; get the model's safetensors or a GGUF of it",
    ".tflite": "is a TensorFlow Lite model; get the original's safetensors or a GGUF of the model",
    ".npz": "holds numpy's arrays; get the model's safetensors or a GGUF of it",
    ".mlmodel": "is a Core ML model; get the original's safetensors or a GGUF of the model",
}
_SUFFIXES_OF_ARCHIVES = {".bin", ".pt", ".pth", ".npz"}  # written as zip archives, which hold no GGUF
_ARCHIVES = (
    (b"PK\x03\x04", "a zip archive", "unzip {file}"),
    (b"\x1f\x8b", "compressed with gzip", "gunzip {file}"),
    (b"BZh", "compressed with bzip2", "bunzip2 {file}"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unxz {file}"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd {file}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {file}"),
    (b"Rar!", "a rar archive", "unrar x {file}"),
)
_OLD_FORMATS = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # GGML, GGMF, GGJT, GGLA as they are stored
_UNFINISHED = re.compile(r"\.(part|partial|incomplete|crdownload|download|tmp|aria2|!qb)$", re.IGNORECASE)
_RAW_PART = re.compile(r"\.gguf[-._](part|split)?[-._]?(\d+(of\d+)?|[a-z]{1,2})$", re.IGNORECASE)


def what_else(path: Path, beginning: bytes) -> str | None:
    """What a file that does not begin like a GGUF is, as the rest of a sentence about it; None if it is not known."""
    sniffers: Sequence[Callable[[Path, bytes], str | None]] = (_pointer, _text, _weights, _archive, _incomplete)
    return next((found for sniff in sniffers if (found := sniff(path, beginning)) is not None), None)


def _pointer(path: Path, beginning: bytes) -> str | None:
    if beginning.startswith(b"version https://git-lfs.github.com/spec/"):
        size = re.search(rb"^size (\d+)$", beginning, re.MULTILINE)
        of = f" to {int(size[1]):,} bytes" if size else ""
        return f"is a Git LFS pointer{of}, not the model itself; run `git lfs pull` in {path.parent}"
    if beginning.startswith((b"/annex/objects/", b"../.git/annex/")):
        return f"is a git-annex pointer, not the model itself; run `git annex get {path.name}` in {path.parent}"
    return None


def _text(path: Path, beginning: bytes) -> str | None:
    start = beginning.lstrip(b"\xef\xbb\xbf \t\r\n")
    low = start[:64].lower()
    if low.startswith((b"<!doctype html", b"<html", b"<head")):
        title = re.search(rb"<title>([^<]{1,80})", beginning, re.IGNORECASE)
        named = f" ({title[1].decode('utf-8', 'replace').strip()!r})" if title else ""
        return f"is a web page{named}, not a model; download the file itself, on the hub with /resolve/ for /blob/"
    if low.startswith((b"<?xml", b"<error")):
        return f"is an XML document, as servers send for errors ({_quoted(start)}); download the model again"
    if path.suffix.lower() == ".json" or (start[:1] in b"{[" and start[:1] and _is_text(start)):
        return f"is a JSON document ({_quoted(start)}), not a model; download the .gguf file itself"
    if len(beginning) < N_BYTES and start and _is_text(start):
        return f"is a short text ({_quoted(start)}), as servers send for errors; download the model again"
    return None


def _weights(path: Path, beginning: bytes) -> str | None:
    """Weights in another format, by their suffix, or by their first bytes under any name."""
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < 2**32:
        return _BY_SUFFIX[".safetensors"].format(folder=path.parent)
    if beginning.startswith(_OLD_FORMATS):
        return "is in GGML's format from before GGUF, which llama.cpp no longer reads; get a GGUF of the model"
    if beginning.startswith(b"\x89HDF"):
        return _BY_SUFFIX[".h5"]
    if beginning.startswith(b"PK\x03\x04") and b"/data.pkl" in beginning[:128]:
        return _BY_SUFFIX[".pt"]
    if beginning[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return _BY_SUFFIX[".pt"]
    by_suffix = _BY_SUFFIX.get(path.suffix.lower())
    is_archive = any(beginning.startswith(magic) for magic, _, _ in _ARCHIVES)
    if by_suffix is None or (is_archive and path.suffix.lower() not in _SUFFIXES_OF_ARCHIVES):
        return None
    return by_suffix.format(folder=path.parent)


def _archive(path: Path, beginning: bytes) -> str | None:
    for magic, what, command in _ARCHIVES:
        if beginning.startswith(magic):
            return f"is {what}; unpack it first, for example with `{command.format(file=path)}`"
    if beginning[257:262] == b"ustar":
        return f"is a tar archive; unpack it first with `tar -xf {path}`"
    return None


def _incomplete(path: Path, beginning: bytes) -> str | None:
    if _UNFINISHED.search(path.name):
        return "is the beginning of a download that has not finished; finish it, or download the model again"
    if _RAW_PART.search(path.name):
        return f"is a later piece of a file that was cut; join all pieces in order: {joined(path)}"
    if beginning and not beginning.strip(b"\x00"):
        return "begins with zeros only, as a download does that has reserved its space; download it again"
    return None


def raw_part(path: Path) -> str | None:
    """The same for a file that begins like a GGUF, ends too early, and is named like the first of several pieces."""
    if _RAW_PART.search(path.name):
        return f"is the first piece of a file that was cut; join all pieces in order: {joined(path)}"
    return None


def joined(path: Path) -> str:
    """The command that joins a cut file's pieces."""
    stem = path.name[: path.name.lower().rindex(".gguf") + len(".gguf")]
    return f"`cat {path.with_name(stem)}?* > {path.with_name(stem)}`"


def what_folder(path: Path) -> str:
    """What a folder that was given for a GGUF holds, as the rest of a sentence about it, with the way out."""
    names = sorted(entry.name for entry in path.iterdir())
    models = [name for name in names if name.lower().endswith(".gguf")]
    if len(models) == 1:
        return f"is a folder; name the file in it: {path / models[0]}"
    if models:
        more = f" and {len(models) - 3} more" if len(models) > 3 else ""
        return f"is a folder; name one of its files ({', '.join(models[:3])}{more}), or serve all with --models-dir"
    if any(name.endswith(".safetensors") for name in names):
        return f"is a folder with an original model; {_CONVERT.format(folder=path)}"
    for suffix in _BY_SUFFIX:
        if found := next((name for name in names if name.lower().endswith(suffix)), None):
            return f"is a folder without a GGUF; its {found} {_BY_SUFFIX[suffix].format(folder=path)}"
    return "is a folder without a GGUF in it; name a .gguf file"


def what_is_near(path: Path) -> str:
    """The way out for a path without a file: the name of one that is spelled almost like it."""
    from difflib import get_close_matches  # 3 ms, which only an error needs

    try:
        names = {entry.stem.lower(): entry.name for entry in path.parent.iterdir()}
    except FileNotFoundError:
        return f"there is no folder {path.parent} either"
    except OSError:
        return "check the path"
    found = get_close_matches(path.stem.lower(), names, 1, 0.7)
    return f"did you mean {path.with_name(names[found[0]])}?" if found else "check the path"


def _is_text(content: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in content)


def _quoted(content: bytes) -> str:
    words = " ".join(content[:120].decode("utf-8", "replace").split())
    return repr(words if len(words) <= 60 else words[:57] + "...")
