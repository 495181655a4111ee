"""`python -m gguf_embed`, and `gguf-embed`, are the command line."""

from __future__ import annotations


def main() -> None:
    """Run it. Ctrl-C while its modules are still being imported is one word too."""
    try:
        from gguf_embed.cli.interrupts import quit_on_interrupt

        quit_on_interrupt()
        from gguf_embed.cli.main import main as run
    except KeyboardInterrupt:
        import os

        os.write(2, b"stopped\n")
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
