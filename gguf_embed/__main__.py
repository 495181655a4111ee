"""`python -m gguf_embed`, and `gguf-embed`, are the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run it. Ctrl-C while its modules are still being imported is one word too."""
    try:
        from gguf_embed.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
