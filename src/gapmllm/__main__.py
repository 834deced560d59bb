"""`python -m gapmllm …`: the commands without an install, where the package's folder is on the path."""

from gapmllm.cli.main import main

if __name__ == "__main__":  # worker processes import this file
    main()
