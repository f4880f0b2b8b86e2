"""`outrider completion`: the script that makes a shell complete verbs and options."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      outrider completion bash > /etc/bash_completion.d/outrider
      outrider completion zsh > "${fpath[1]}/_outrider"
      outrider completion fish > ~/.config/fish/completions/outrider.fish
    """
    from click.shell_completion import get_completion_class

    from deliver.cli.frame import outrider

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(outrider, {}, "outrider", "_OUTRIDER_COMPLETE").source())
