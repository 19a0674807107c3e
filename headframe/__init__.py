"""The `headframe` command."""
