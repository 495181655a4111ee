"""Text that UTF-8 can carry."""

from __future__ import annotations


def valid_unicode(text: str) -> str:
    """Join surrogate pairs and put U+FFFD for lone surrogates, which JSON can carry and UTF-8 cannot."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
