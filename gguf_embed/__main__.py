"""`python -m gguf_embed` is the command line."""

from gguf_embed.cli.main import main

if __name__ == "__main__":
    main()
